"""Language models: the one interface that jobs see, and the choice between what is embedded and what is remote.

A worker calls `load_model(settings)` once, before its start-up hooks, and `await close_model()` at its end; in
between, `current_model()` is the process's model, and `job.model` hands it to jobs. None of them is called at import.
"""

import asyncio
import secrets
import threading
from collections.abc import AsyncGenerator
from itertools import islice
from typing import Any, Protocol

from rt.errors import JobError
from rt.jobs.models import ngram
from rt.settings import Settings

#: The largest seed: above it, a JSON reader that has only floats (JavaScript's) would read another number.
MAX_SEED = 2**53 - 1


def draw_seed() -> int:
    """A seed by chance, 0..MAX_SEED."""
    return secrets.randbelow(MAX_SEED + 1)


class LanguageModel(Protocol):
    """Anything that goes on from a prompt: implement it, and `generate` runs on it."""

    @property
    def name(self) -> str:
        """The model that answers where a call names none."""

    @property
    def fingerprint(self) -> str | None:
        """Changes whenever the same prompt and seed would give another text; None when they may at any time.

        A job on a model that has one goes on in mid-text after it was interrupted; on another one it starts anew.
        """

    def load(self) -> None:
        """Does the slow part of getting ready, blocking: call it in a thread at start. `stream` does it where nobody has.

        Safe to call again, and from several threads.
        """

    def stream(
        self, prompt: str, *, max_tokens: int = 128, seed: int | None = None, model: str | None = None, report: dict[str, Any] | None = None
    ) -> AsyncGenerator[str, None]:
        """Yields the text piece by piece; joined, the pieces follow the prompt.

        `max_tokens` is 1..4096. Without a `seed` chance decides. `model` names another model of the same source.
        `report` is filled on the way: `model` (which one answered), `finish_reason` ("stop", "length" or the source's
        own word; None until it is known) and `usage` (`{"input_tokens": n, "output_tokens": n}`, as far as known).

        Raises JobError, or TemporaryJobError where another attempt may succeed. Cancelling is safe. A consumer that
        may stop early closes the generator (`contextlib.aclosing`), so that a remote model stops at once.
        """

    async def aclose(self) -> None:
        """Gives back what is open; the model cannot be used afterwards. Safe to call again."""


class EmbeddedModel:
    """`rt.jobs.models.ngram` as a LanguageModel: no network, repeatable under a seed."""

    #: Tokens per visit to the thread: well below a millisecond of work, and enough to make the visit worth it.
    _CHUNK = 16

    name = ngram.NAME

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ngrams: ngram.NGramModel | None = None

    @property
    def fingerprint(self) -> str:
        return f"{self.name}:{self._loaded().corpus_hash}"

    def load(self) -> None:
        self._loaded()

    def _loaded(self) -> ngram.NGramModel:
        with self._lock:
            if self._ngrams is None:
                self._ngrams = ngram.NGramModel(ngram.read_corpus())
            return self._ngrams

    async def stream(
        self, prompt: str, *, max_tokens: int = 128, seed: int | None = None, model: str | None = None, report: dict[str, Any] | None = None
    ) -> AsyncGenerator[str, None]:
        if model not in (None, self.name):
            raise JobError("model_not_found", f"only the embedded model {self.name!r} is here; RT_OPENAI_BASE_URL brings others")
        report = {} if report is None else report
        ngrams = await asyncio.to_thread(self._loaded)
        pieces = ngrams.generate(prompt, max_tokens, draw_seed() if seed is None else seed)
        usage = {"input_tokens": len(await asyncio.to_thread(ngram.tokens_of, prompt)), "output_tokens": 0}
        report |= {"model": self.name, "finish_reason": None, "usage": usage}
        while chunk := await asyncio.to_thread(lambda: list(islice(pieces, self._CHUNK))):
            for piece in chunk:
                usage["output_tokens"] += 1
                yield piece
        # A paragraph may end, but the model never has nothing more to say.
        report["finish_reason"] = "length"

    async def aclose(self) -> None:
        pass


_current: LanguageModel | None = None


def load_model(settings: Settings) -> LanguageModel:
    """Makes the process's language model: OpenAI-compatible when `openai_base_url` is set, else the embedded one.

    Cheap: the slow part is `LanguageModel.load`, which a worker does once its start-up hooks have run.
    Raises rt.settings.BadSettings for a base URL that cannot be used.
    """
    global _current
    if settings.openai_base_url:
        # Imported here because it brings an HTTP client, a tenth of a second that most workers do not need to spend.
        from rt.jobs.models.openai import OpenAIModel

        _current = OpenAIModel(settings)
    else:
        _current = EmbeddedModel()
    return _current


def current_model() -> LanguageModel:
    """The model that `load_model` made in this process. Raises RuntimeError when there is none."""
    if _current is None:
        raise RuntimeError("no language model: a worker calls rt.jobs.models.load_model(settings) before its start-up hooks")
    return _current


async def close_model() -> None:
    """Closes the process's model, if there is one; afterwards there is none."""
    global _current
    model, _current = _current, None
    if model is not None:
        await model.aclose()
