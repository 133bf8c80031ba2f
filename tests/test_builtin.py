import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from rt.builtin import app, load_models
from rt.errors import JobError, Refused, TemporaryJobError
from rt.jobs.context import JobContext
from rt.jobs.job import Past
from rt.jobs.models import EmbeddedModel, close_model, load_model
from rt.settings import Settings


class Recorder:
    """Stands in for the worker: what a job emits, in order, and nothing else of a JobContext."""

    def __init__(self, past: Past = Past(), model: Any = None) -> None:  # noqa: B008 - frozen
        self.past = past
        self.model = model
        self.deltas: list[Any] = []
        self.progressed: list[tuple[float, float | None, str | None]] = []
        self.checkpoints: list[Any] = []
        self.usage: dict[str, Any] = {}

    @property
    def text(self) -> str:
        return "".join(self.deltas)

    async def emit(self, piece: Any) -> None:
        self.deltas.append(piece)

    async def progress(self, current: float, total: float | None = None, *, unit: str | None = None, message: str | None = None) -> None:
        self.progressed.append((current, total, unit))

    async def checkpoint(self, state: Any) -> None:
        assert not self.deltas
        self.checkpoints.append(state)

    def use(self, counters: dict[str, Any]) -> None:
        self.usage |= counters


async def run(name: str, job: Recorder, **inputs: Any) -> Any:
    """As a worker does it: what runs is what the job's model made of the input."""
    definition = app.jobs[name]
    checked = definition.check(inputs)
    return await definition.function(cast(JobContext, job), **{field: getattr(checked, field) for field in type(checked).model_fields})


@pytest.fixture(scope="module")
def trained() -> EmbeddedModel:
    model = EmbeddedModel()
    model.load()
    return model


@pytest.fixture
def embedded(trained: EmbeddedModel, monkeypatch: pytest.MonkeyPatch) -> EmbeddedModel:
    """The embedded model is the process's, as after `load_model`."""
    monkeypatch.setattr("rt.jobs.models._current", trained)
    return trained


# echo


@pytest.mark.parametrize("text", ["", " ", "word", "two words", "  led\tand \n\n trailed  \r\n", "🙂 wörld\u00a0x", "x" * 10_000])
async def test_echo_streams_exactly_its_text(text: str) -> None:
    job = Recorder()
    assert await run("echo", job, text=text) == {"text": text}
    assert job.text == text


async def test_echo_streams_word_by_word() -> None:
    job = Recorder()
    await run("echo", job, text=" one two  three\n")
    assert job.deltas == [" one", " two", "  three", "\n"]


@pytest.mark.parametrize("streamed", ["", "one", "one tw", "one two three"])
async def test_a_later_echo_goes_on_after_what_was_streamed(streamed: str) -> None:
    past = Past(text=streamed)
    assert app.jobs["echo"].keep(past)
    job = Recorder(past)
    assert await run("echo", job, text="one two three") == {"text": "one two three"}
    assert streamed + job.text == "one two three"


async def test_echo_does_not_go_on_from_another_text() -> None:
    job = Recorder(Past(text="two"))
    with pytest.raises(JobError) as caught:
        await run("echo", job, text="one two")
    assert caught.value.code == "not_resumable"
    assert job.deltas == []


async def test_echo_waits_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)

    monkeypatch.setattr("rt.builtin.asyncio.sleep", sleep)
    await run("echo", Recorder(), text="a b c", delay_ms=250)
    assert waits == [0.25, 0.25]


# sentiment


async def test_sentiment_scores_each_sentence_and_the_whole() -> None:
    job = Recorder()
    told = await run("sentiment", job, text="I love it. It is terrible! It is a table.")
    assert [(one["index"], one["text"], one["label"]) for one in job.deltas] == [
        (0, "I love it.", "positive"),
        (1, "It is terrible!", "negative"),
        (2, "It is a table.", "neutral"),
    ]
    assert job.progressed == [(1, 3, "sentences"), (2, 3, "sentences"), (3, 3, "sentences")]
    assert told["sentences"] == 3
    assert told["compound"] == pytest.approx(sum(one["compound"] for one in job.deltas) / 3, abs=1e-4)
    assert set(told) == {"label", "compound", "pos", "neu", "neg", "sentences"}


async def test_the_sentiment_of_nothing_is_neutral() -> None:
    job = Recorder()
    told = await run("sentiment", job, text=" ")
    assert (told["label"], told["sentences"], job.deltas) == ("neutral", 0, [])


async def test_the_progress_of_a_long_text_is_bounded_and_reaches_the_end() -> None:
    job = Recorder()
    await run("sentiment", job, text="It is good. " * 1050)
    assert len(job.deltas) == 1050
    assert len(job.progressed) <= 200
    assert job.progressed[-1] == (1050, 1050, "sentences")


# generate


async def test_generate_streams_what_it_returns(embedded: EmbeddedModel) -> None:
    job = Recorder(model=embedded)
    told = await run("generate", job, prompt="Return the", max_tokens=40, seed=1)
    assert told == {"text": job.text, "model": embedded.name, "finish_reason": "length", "seed": 1}
    assert job.checkpoints == [{"corpus": embedded.fingerprint, "seed": 1}]
    assert job.usage == {"input_tokens": 2, "output_tokens": 40}
    assert len(job.deltas) == 40
    assert job.progressed == [(count, 40, "tokens") for count in range(2, 41, 2)]


async def test_generate_waits_after_what_it_says_and_not_over_what_was_said(
    embedded: EmbeddedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Recorder(model=embedded)
    await run("generate", first, prompt="The", max_tokens=10, seed=1)
    waits: list[float] = []

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)

    monkeypatch.setattr("rt.builtin.asyncio.sleep", sleep)
    past = Past(checkpoint=first.checkpoints[0], text="".join(first.deltas[:7]))
    await run("generate", Recorder(past, embedded), prompt="The", max_tokens=10, delay_ms=40)
    assert waits == [0.04] * 3


async def test_without_a_seed_one_is_drawn_that_repeats_the_text(embedded: EmbeddedModel) -> None:
    first, second = Recorder(model=embedded), Recorder(model=embedded)
    told = await run("generate", first, prompt="The", max_tokens=40)
    assert first.checkpoints == [{"corpus": embedded.fingerprint, "seed": told["seed"]}]
    assert await run("generate", second, prompt="The", max_tokens=40, seed=told["seed"]) == told


@pytest.mark.parametrize("streamed", [0, 1, 25, 10_000])
async def test_a_later_attempt_goes_on_to_the_same_text(embedded: EmbeddedModel, streamed: int) -> None:
    first = Recorder(model=embedded)
    told = await run("generate", first, prompt="The", max_tokens=60)
    past = Past(checkpoint=first.checkpoints[0], text=first.text[:streamed])
    assert app.jobs["generate"].keep(past)
    second = Recorder(past, embedded)
    assert await run("generate", second, prompt="The", max_tokens=60) == told
    assert past.text + second.text == told["text"]
    assert second.checkpoints == []


async def test_a_later_attempt_with_another_corpus_starts_anew(embedded: EmbeddedModel) -> None:
    past = Past(checkpoint={"corpus": "of another Python", "seed": 7})
    assert not app.jobs["generate"].keep(past)
    job = Recorder(past, embedded)
    told = await run("generate", job, prompt="The", max_tokens=20, seed=7)
    assert told["text"] == job.text
    assert job.checkpoints == [{"corpus": embedded.fingerprint, "seed": 7}]


async def test_generate_does_not_go_on_from_another_text(embedded: EmbeddedModel) -> None:
    job = Recorder(Past(checkpoint={"corpus": embedded.fingerprint, "seed": 7}, text="\x00never written"), embedded)
    with pytest.raises(JobError) as caught:
        await run("generate", job, prompt="The", max_tokens=20)
    assert caught.value.code == "not_resumable"


async def test_the_embedded_model_answers_for_no_other(embedded: EmbeddedModel) -> None:
    with pytest.raises(JobError) as caught:
        await run("generate", Recorder(model=embedded), prompt="The", model="gpt-4o")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    "past", [Past(), Past(text="x"), Past(checkpoint=None, text="x"), Past(checkpoint={"corpus": "x", "seed": 1}, text="x")]
)
async def test_with_an_endpoint_a_later_attempt_starts_anew(past: Past) -> None:
    load_model(Settings(openai_base_url="http://127.0.0.1:1/v1"))
    assert not app.jobs["generate"].keep(past)
    await close_model()


class Remote:
    """A model that cannot repeat itself, and breaks off after two pieces."""

    name = "remote"
    fingerprint = None
    closed = False

    async def stream(self, prompt: str, *, report: dict[str, Any], **options: Any) -> AsyncGenerator[str, None]:
        self.options = options
        report |= {"model": "remote-1", "finish_reason": None, "usage": {"input_tokens": 5}}
        try:
            yield "one"
            yield " two"
            raise TemporaryJobError("model_truncated", "the model endpoint's answer broke off")
        finally:
            self.closed = True


async def test_a_remote_model_gets_no_seed_and_no_checkpoint_and_its_usage_counts_when_it_fails() -> None:
    remote = Remote()
    job = Recorder(model=remote)
    with pytest.raises(TemporaryJobError):
        await run("generate", job, prompt="The", max_tokens=9, model="big")
    assert remote.options == {"max_tokens": 9, "seed": None, "model": "big"}
    assert (job.text, job.checkpoints, job.usage) == ("one two", [], {"input_tokens": 5})


async def test_a_job_that_is_cancelled_in_an_emit_closes_the_stream() -> None:
    class Full(Recorder):
        """Its buffer never has room."""

        def __init__(self, model: Any) -> None:
            super().__init__(model=model)
            self.waits = asyncio.Event()

        async def emit(self, piece: Any) -> None:
            self.waits.set()
            await asyncio.Event().wait()

    remote = Remote()
    job = Full(remote)
    task = asyncio.create_task(run("generate", job, prompt="The"))
    await job.waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert remote.closed


async def test_models_load_at_worker_start_and_not_before() -> None:
    assert app.worker_start == [load_models]
    with pytest.raises(RuntimeError, match="load_model"):
        await load_models()
    model = cast(EmbeddedModel, load_model(Settings(openai_base_url="")))
    assert model._ngrams is None
    await load_models()
    assert model._ngrams is not None
    await close_model()


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("echo", {"text": "x" * 200_001}),
        ("echo", {"text": "x", "delay_ms": -1}),
        ("echo", {"text": "x", "delay_ms": 60_001}),
        ("echo", {}),
        ("sentiment", {"text": "x" * 200_001}),
        ("sentiment", {"text": None}),
        ("generate", {"prompt": ""}),
        ("generate", {"prompt": "x" * 100_001}),
        ("generate", {"prompt": "x", "max_tokens": 0}),
        ("generate", {"prompt": "x", "max_tokens": 4097}),
        ("generate", {"prompt": "x", "seed": -1}),
        ("generate", {"prompt": "x", "delay_ms": -1}),
        ("generate", {"prompt": "x", "seed": 2**53}),
        ("generate", {"prompt": "x", "model": ""}),
        ("generate", {"prompt": "x", "temperature": 1}),
    ],
)
def test_inputs_out_of_bounds_are_refused(name: str, inputs: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        app.jobs[name].check(inputs)
    assert caught.value.code == "invalid_input"
