"""The built-in application, so that a fresh checkout does real work: the jobs echo, sentiment and generate."""

import asyncio
import re
from contextlib import aclosing
from typing import Annotated, Any

from pydantic import Field

from rt.app import App
from rt.errors import JobError
from rt.jobs.context import JobContext
from rt.jobs.job import Past
from rt.jobs.models import MAX_SEED, current_model, draw_seed, sentiment
from rt.jobs.models.ngram import MAX_TOKENS

app = App()

Text = Annotated[str, Field(max_length=200_000)]

#: A word with the white space before it; joined, the pieces are the text.
_PIECE = re.compile(r"\s*\S+|\s+")

#: Steps of a long text's progress: each scores that part of its sentences in one visit to a thread.
_STEPS = 100
#: A model's progress is told this often: what stands between two texts keeps them from leaving as one event.
_PARTS = 20

Pause = Annotated[int, Field(ge=0, le=60_000)]


@app.on_worker_start
async def load_models() -> None:
    """Trains or connects what the jobs need, so that the first of them does not wait for it.

    Raises RuntimeError where the worker has not called `rt.jobs.models.load_model`.
    """
    model = current_model()
    await asyncio.gather(asyncio.to_thread(sentiment.load), asyncio.to_thread(model.load))


def _always(past: Past) -> bool:
    return True


@app.job(name="echo", keep=_always)
async def echo(job: JobContext, text: Text, delay_ms: Pause = 0) -> dict[str, Any]:
    """Streams the text back word by word, `delay_ms` apart; the deltas, joined, equal the text. Result: `{text}`.

    A later attempt goes on after what was streamed. Raises JobError("not_resumable") where that no longer stands.
    """
    said = job.past.text
    if not text.startswith(said):
        raise _not_resumable()
    for match in _PIECE.finditer(text, len(said)):
        if match.start() and delay_ms:
            await asyncio.sleep(delay_ms / 1000)
        await job.emit(match[0])
    return {"text": text}


@app.job(name="sentiment")
async def score_sentiment(job: JobContext, text: Text) -> dict[str, Any]:
    """Scores English text by VADER. Result: `{label, compound, pos, neu, neg, sentences}`, the means over the sentences.

    Every sentence is a data delta, `{index, text, label, compound, pos, neu, neg}`, and progress counts them. A later
    attempt starts anew. Text without a word is neutral, with 0 sentences.
    """
    sentences = await asyncio.to_thread(sentiment.sentences, text)
    scores: list[sentiment.Score] = []
    step = max(1, len(sentences) // _STEPS)
    for begin in range(0, len(sentences), step):
        some = sentences[begin : begin + step]
        for sentence, score in zip(some, await asyncio.to_thread(_score_all, some), strict=True):
            await job.emit({"index": len(scores), "text": sentence, **score})
            scores.append(score)
        await job.progress(len(scores), len(sentences), unit="sentences")
    return {**sentiment.mean(scores), "sentences": len(scores)}


def _score_all(sentences: list[str]) -> list[sentiment.Score]:
    return [sentiment.score(one) for one in sentences]


def _same_model(past: Past) -> bool:
    return isinstance(past.checkpoint, dict) and past.checkpoint.get("corpus") == current_model().fingerprint


@app.job(name="generate", keep=_same_model)
async def generate(
    job: JobContext,
    prompt: Annotated[str, Field(min_length=1, max_length=100_000)],
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 128,
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None,
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None,
    delay_ms: Pause = 0,
) -> dict[str, Any]:
    """Streams what a language model writes after the prompt. Result: `{text, model, finish_reason, seed}`.

    Progress counts the model's pieces, which most send by the token. `delay_ms` after each makes an answer that one can watch.
    The embedded model writes the same text for the same prompt and seed: a later attempt writes it again, in silence
    as far as it was streamed, and goes on. With another model, or another corpus, it starts anew. Without a seed one
    is drawn for the embedded model; a remote one draws its own, and `seed` is null. Usage: `input_tokens`,
    `output_tokens`. Raises the JobErrors of the model, and JobError("not_resumable") where what was streamed and what
    is written again differ.
    """
    source = job.model
    said = ""
    if source.fingerprint is not None:
        state = job.past.checkpoint
        if isinstance(state, dict) and state.get("corpus") == source.fingerprint:
            seed, said = state["seed"], job.past.text
        else:
            seed = draw_seed() if seed is None else seed
            # Before the first delta: whatever stands of this attempt, its seed stands as well.
            await job.checkpoint({"corpus": source.fingerprint, "seed": seed})
    report: dict[str, Any] = {}
    text = ""
    try:
        async with aclosing(source.stream(prompt, max_tokens=max_tokens, seed=seed, model=model, report=report)) as pieces:
            count, step = 0, max(1, max_tokens // _PARTS)
            async for piece in pieces:
                fresh = max(len(text), len(said))
                text += piece
                count += 1
                if not (text.startswith(said) or said.startswith(text)):
                    raise _not_resumable()
                await job.emit(text[fresh:])
                if len(text) <= fresh:
                    continue
                if count % step == 0:
                    await job.progress(min(count, max_tokens), max_tokens, unit="tokens")
                if delay_ms:
                    await asyncio.sleep(delay_ms / 1000)
    finally:
        # A cancelled job has cost something as well.
        job.use(report.get("usage", {}))
    return {"text": text, "model": report["model"], "finish_reason": report["finish_reason"], "seed": seed}


def _not_resumable() -> JobError:
    return JobError("not_resumable", "what was streamed before the interruption no longer fits; submit the job again")
