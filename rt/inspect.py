"""Asking every process what it is doing now: connections, actors and runs live in memory, and nowhere else.

A question is one PUBLISH on a channel that each process hears beside what it listens to anyway, and Redis says how many
heard it. Each of them answers on the asker's own channel, with as much as the question allows. Nothing is written down:
it costs nothing while nobody asks, a process that was killed is missing at once, and one that hangs shows by its silence.
"""

import asyncio
import contextlib
import os
import resource
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rt import __version__, keys
from rt.codec import DecodeError, TooDeep, from_json_bytes, to_json_bytes
from rt.errors import Unavailable
from rt.redis import Store
from rt.telemetry import get_logger, metrics, numbers

log = get_logger("rt.inspect")

#: How long an asker waits for whoever has not answered.
ANSWER_S = 0.5
#: Questions that wait in one process; above it the next one stays unanswered.
WAITING = 32


@dataclass(frozen=True, slots=True)
class Question:
    """`about`: what is asked, `tenant`: on whose behalf, `args`: what belongs to it."""

    about: str
    tenant: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """`process`: who says it, `after_ms`: how long it took, `told`: what it says."""

    process: str
    kind: str
    after_ms: float
    told: dict[str, Any]


@dataclass(slots=True)
class Answers:
    """`asked`: how many processes heard the question. Fewer answers than that: somebody hangs, or died this moment."""

    asked: int = 0
    all: list[Answer] = field(default_factory=list)

    def items(self, kind: str) -> list[dict[str, Any]]:
        """The `items` of all processes of a kind, each with the process's name."""
        return [{**item, "process": one.process} for one in self.all if one.kind == kind for item in one.told.get("items", ())]

    def total(self, name: str) -> int:
        return sum(one.told.get(name, 0) for one in self.all)


@dataclass(slots=True)
class _Asking:
    began: float
    answers: Answers = field(default_factory=Answers)
    more: asyncio.Event = field(default_factory=asyncio.Event)


#: What a process says to a question: at once, and no more than a page of it.
Look = Callable[[Question], dict[str, Any]]


class Inspector:
    """One process's part: hears questions and answers them, and asks. Run `run()` in a task of its own.

    `kind` is "web" or "worker". `looks` has a function for each question that the process knows more of than itself.
    Whoever listens to Redis in this process gives what comes on `channels` to their functions.
    """

    def __init__(self, store: Store, kind: str, looks: Mapping[str, Look], name: str | None = None) -> None:
        self.name = name or f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(3)}"
        self.kind = kind
        self._store = store
        self._looks = looks
        self._born = time.monotonic()
        self._questions: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING)
        self._asking: dict[str, _Asking] = {}

    @property
    def channels(self) -> dict[str, Callable[[bytes], None]]:
        return {keys.QUESTIONS: self._hear_question, keys.answers(self.name): self._hear_answer}

    # asking

    async def ask(self, about: str, tenant: str, **args: Any) -> Answers:
        """What all processes answer within `ANSWER_S`. Raises Unavailable. Cancelling is safe."""
        number = secrets.token_hex(8)
        asking = self._asking[number] = _Asking(time.monotonic())
        question = {"number": number, "by": self.name, "about": about, "tenant": tenant, "args": args}
        try:
            asking.answers.asked = int(await self._store.call("PUBLISH", keys.QUESTIONS, to_json_bytes(question)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    while len(asking.answers.all) < asking.answers.asked:
                        asking.more.clear()
                        await asking.more.wait()
        finally:
            del self._asking[number]
        asking.answers.all.sort(key=lambda one: (one.kind, one.process))
        return asking.answers

    def _hear_answer(self, raw: bytes) -> None:
        try:
            told = from_json_bytes(raw)
            asking = self._asking.get(told["number"])
            if asking is not None:  # otherwise it is late
                after_ms = (time.monotonic() - asking.began) * 1000
                asking.answers.all.append(Answer(told["process"], told["kind"], round(after_ms, 1), told["told"]))
                asking.more.set()
        except (DecodeError, TooDeep, KeyError, TypeError) as error:
            log.warning("an answer that cannot be read", exc_info=error)

    # answering

    def _hear_question(self, raw: bytes) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._questions.put_nowait((time.monotonic(), raw))

    async def run(self) -> None:
        """Answers until cancelled; survives the loss of Redis, and a question that cannot be answered."""
        while True:
            at, raw = await self._questions.get()
            if time.monotonic() - at > ANSWER_S:
                continue  # nobody waits for it any more
            try:
                by, answer = self._answer(raw)
                await self._store.call("PUBLISH", keys.answers(by), to_json_bytes(answer))
            except Unavailable:
                metrics.redis_errors.labels("inspect").inc()
            except Exception as error:
                log.error("a question could not be answered", exc_info=error)

    def _answer(self, raw: bytes) -> tuple[str, dict[str, Any]]:
        asked = from_json_bytes(raw)
        question = Question(asked["about"], asked["tenant"], asked["args"])
        told = self._self() if question.about == "processes" else {}
        if look := self._looks.get(question.about):
            told |= look(question)
        return asked["by"], {"number": asked["number"], "process": self.name, "kind": self.kind, "told": told}

    def _self(self) -> dict[str, Any]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "version": __version__,
            "uptime_s": round(time.monotonic() - self._born, 1),
            "cpu_s": round(used.ru_utime + used.ru_stime, 3),
            "memory_bytes": _memory_bytes(used.ru_maxrss),
            "numbers": numbers(),
        }


def _memory_bytes(most: int) -> int:
    """What the process holds now; where the system does not say, the most that it held (`ru_maxrss`: KiB, on macOS bytes)."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return most if sys.platform == "darwin" else most * 1024
