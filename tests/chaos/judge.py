"""The judge: holds what clients were given against what Redis has. It reads journals and streams, and never a log.

A `Ledger` is one client's journal of one stream, small enough to keep millions of events of; a `Record` is the stream
itself. What breaks the promise becomes a `Violation`, with the time of the event that it is about.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from tests.chaos.client import TERMINAL, Journal

Kind = Literal["lost", "repeated", "disordered", "terminals", "other"]
KINDS: tuple[Kind, ...] = ("lost", "repeated", "disordered", "terminals", "other")


class Violation(NamedTuple):
    """`count` events (or jobs, commands) that are not as promised. `at_ms` is Unix time."""

    kind: Kind
    where: str
    what: str
    at_ms: int
    count: int = 1


def digest(event: dict[str, Any]) -> int:
    """The same for the same event within this process."""
    return hash((event["seq"], event["type"], event["ts"], event.get("attempt"), event.get("final"), str(event["data"])))


class Ledger(Journal):
    """A journal that keeps a digest of each event instead of the event."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        #: The seq of the first digest; None: the first event that comes says so.
        self.start: int | None = None if stream.startswith("user:") else 1
        #: A digest for each seq from `start` on; None where nothing came.
        self.digests: list[int | None] = []
        self.violations: list[Violation] = []
        #: Announced losses that the judge has still to believe: the frame, and the cursor that it was given under.
        self.told: list[tuple[dict[str, Any], str, int]] = []
        self.excused: list[tuple[int, int]] = []
        self.attempt = 0
        self.worker = ""
        #: Set when it was judged to its end: digests are gone, and nothing new may come.
        self.sealed = False
        self._final: dict[str, Any] | None = None

    @property
    def final(self) -> dict[str, Any] | None:
        return self._final

    def gap(self, frame: dict[str, Any]) -> None:
        self.told.append((frame, self.epoch, self.seq))
        self.epoch, self._last_here = frame["epoch"], -1
        if "from" in frame:
            if self.start is not None:
                self.digests += [None] * (frame["to"] - self.seq)
            self.excused.append((frame["from"], frame["to"]))
            self.seq = max(self.seq, frame["to"])
        else:
            # Replay begins with the first event kept: what was given before is not in the log any more.
            self.seq, self.start, self.digests, self.excused = 0, None, [], []
            self._final, self.attempt = None, 0

    def placed(self, epoch: str, recovered: bool) -> None:
        if recovered or not self.epoch:
            self.epoch = epoch
        # Otherwise a gap follows, and is told under the epoch that was held.

    def take(self, event: dict[str, Any]) -> bool:
        """As `add`; whether the event was new."""
        seq, before, self._last_here = event["seq"], self._last_here, event["seq"]
        if self.start is None:
            self.start, self.seq = seq, seq - 1
        if before >= 0 and seq <= before and not self._missing(seq):
            self._broken("repeated", f"{seq} after {before} on one connection")
        if seq <= self.seq:
            if not self.sealed and seq >= self.start:
                if self._missing(seq):
                    self._broken("disordered", f"{seq} after {self.seq}")
                    self.digests[seq - self.start] = digest(event)
                elif self.digests[seq - self.start] != digest(event):
                    self._broken("disordered", f"another event under {self.epoch}:{seq}")
            self.repeated += 1
            return False
        if self._final is not None:
            self._broken("terminals", f"{event['type']} {seq} after the end")
        self.digests += [None] * (seq - self.seq - 1)  # a hole, unless they still come; the judge counts
        if not self.sealed:
            self.digests.append(digest(event))
        self.seq = seq
        attempt = event.get("attempt", self.attempt)
        if attempt < self.attempt:
            self._broken("disordered", f"{event['type']} {seq} of attempt {attempt} after one of {self.attempt}")
        self.attempt = max(attempt, self.attempt)
        if event["type"] == "job.started":
            self.worker = event["data"]["worker"]
        if event["type"] in TERMINAL:
            self._final = event
        return True

    def add(self, event: dict[str, Any]) -> None:
        self.take(event)

    def seal(self) -> None:
        self.sealed, self.digests = True, []

    def copy(self) -> "Ledger":
        """For another connection of the session, which goes on from here."""
        twin = Ledger(self.stream)
        twin.__dict__ |= self.__dict__
        twin.digests, twin.excused = list(self.digests), list(self.excused)
        twin.violations, twin.told = [], []
        twin.reconnected()
        return twin

    def _missing(self, seq: int) -> bool:
        """Whether a hole was left where this belongs."""
        if self.sealed or self.start is None or not self.start <= seq <= self.seq or self.digests[seq - self.start] is not None:
            return False
        return not any(first <= seq <= last for first, last in self.excused)

    def _broken(self, kind: Kind, what: str) -> None:
        self.violations.append(Violation(kind, self.stream, what, int(time.time() * 1000)))


class Record:
    """A stream as Redis has it. `events` are all that the log holds, in its order; `meta` is its hash, decoded."""

    def __init__(self, stream: str, events: Sequence[dict[str, Any]], meta: dict[str, str]) -> None:
        self.stream, self.meta = stream, meta
        self.exists = "epoch" in meta
        self.epoch = meta.get("epoch", "")
        self.top = int(meta.get("seq", 0))
        self.start = events[0]["seq"] if events else self.top + 1
        self.events = events
        self.digests = [digest(one) for one in events]
        self.past = dict(one.rsplit(":", 1) for one in meta.get("past", "").split())

    @classmethod
    def parse(cls, stream: str, raw: Iterable[bytes], meta: dict[bytes, bytes]) -> "Record":
        return cls(stream, [json.loads(one) for one in raw], {key.decode(): value.decode() for key, value in meta.items()})

    def standing(self) -> str:
        """The text that whoever does as `job.restarted` says ends up with."""
        kept: list[tuple[int, str]] = []
        for event in self.events:
            if event["type"] == "job.delta":
                data = event["data"]
                kept.append((event["seq"], data["text"] if "text" in data else data["data"]["w"]))
            elif event["type"] == "job.restarted":
                kept = [one for one in kept if one[0] <= event["data"]["discard_after"]]
        return "".join(text for _, text in kept)

    def violations(self) -> list[Violation]:
        """What is wrong with the log itself: seqs with holes, attempts that come back, events after the end."""
        out: list[Violation] = []
        attempt, ended = 0, False
        for number, event in enumerate(self.events, self.start):
            if event["seq"] != number:
                out.append(self._broken("lost", f"the log holds {event['seq']} in the place of {number}", event["ts"]))
                break
            if ended:
                out.append(self._broken("terminals", f"{event['type']} {number} after the end, in the log", event["ts"]))
            if event.get("attempt", attempt) < attempt:
                out.append(
                    self._broken("disordered", f"{number} of attempt {event['attempt']} after one of {attempt}, in the log", event["ts"])
                )
            attempt = max(attempt, event.get("attempt", 0))
            ended = ended or event["type"] in TERMINAL
        if self.events and self.events[-1]["seq"] != self.top:
            out.append(self._broken("lost", f"the log ends at {self.events[-1]['seq']}, and its top is {self.top}"))
        return out

    def _broken(self, kind: Kind, what: str, at_ms: int | None = None, count: int = 1) -> Violation:
        return Violation(kind, self.stream, what, int(time.time() * 1000) if at_ms is None else at_ms, count)


def judge(ledger: Ledger, record: Record, *, complete: bool) -> list[Violation]:
    """What one client was given of a stream, against the stream.

    With `complete` it must have come to the end; otherwise (an overtaken connection's) it is a beginning of it.
    """
    out = list(ledger.violations)
    out += [_unbelieved(frame, epoch, seq, record) for frame, epoch, seq in ledger.told if not _believed(frame, epoch, seq, record)]
    if ledger.sealed:
        return out
    start = record.start if ledger.start is None else ledger.start
    if complete and start > record.start and ledger.start is not None and not ledger.told:
        out.append(record._broken("lost", f"it begins at {start}, the log at {record.start}", count=start - record.start))
    for seq, have in enumerate(ledger.digests, start):
        i = seq - record.start
        if have is None:
            if not any(first <= seq <= last for first, last in ledger.excused):
                out.append(record._broken("lost", f"{seq} never came", record.events[i]["ts"] if 0 <= i < len(record.events) else None))
        elif i >= len(record.digests):
            beyond = len(ledger.digests) - (seq - start)
            out.append(record._broken("lost", f"{seq} and what follows came, and the log has it not", count=beyond))
            break
        elif i >= 0 and record.digests[i] != have:
            out.append(record._broken("disordered", f"another event under {seq} than the log's", record.events[i]["ts"]))
    if complete and ledger.seq < record.top:
        missing = record.top - max(ledger.seq, start - 1)
        i = len(record.events) - missing
        at_ms = record.events[i]["ts"] if 0 <= i < len(record.events) else None
        out.append(record._broken("lost", f"{ledger.seq} was the last that came, the top is {record.top}", at_ms, missing))
    return out


def _believed(frame: dict[str, Any], epoch: str, seq: int, record: Record) -> bool:
    """Whether a gap is true: a range only where the log begins later; a new epoch only where the old one, as Redis still
    knows it, ended before what the client had."""
    if "to" in frame:
        return bool(frame["to"] < record.start)
    return epoch not in record.past or int(record.past[epoch]) < seq


def _unbelieved(frame: dict[str, Any], epoch: str, seq: int, record: Record) -> Violation:
    said = f"gap {frame['reason']} {frame.get('from', '')}-{frame.get('to', '')} at {epoch}:{seq}, but nothing of it was lost"
    return record._broken("lost", said)


def judge_job(record: Record, text: str | None, ends: Iterable[str]) -> list[Violation]:
    """An accepted job's own stream: one terminal event, of one of the types `ends`, and (when completed) the `text` that it was to say."""
    out = record.violations()
    finals = [one for one in record.events if one["type"] in TERMINAL]
    if len(finals) != 1 or record.events[-1] is not finals[0]:
        said = f"{len(finals)} terminal events" if record.exists else "Redis does not know it"
        out.append(record._broken("terminals", f"an accepted job with {said}, status {record.meta.get('status')}"))
        return out
    type = finals[0]["type"]
    if type not in ends or type != f"job.{record.meta.get('status')}":
        out.append(record._broken("terminals", f"{type}, status {record.meta.get('status')}: {finals[0]['data']}"[:200], finals[0]["ts"]))
    elif type == "job.completed" and text is not None and (have := record.standing()) != text:
        kind: Kind = "lost" if len(have) < len(text) else "repeated" if len(have) > len(text) else "disordered"
        same = next((i for i, (a, b) in enumerate(zip(have, text, strict=False)) if a != b), min(len(have), len(text)))
        out.append(record._broken(kind, f"{len(have)} letters instead of {len(text)}, other ones from {same} on", finals[0]["ts"]))
    return out


def judge_effects(record: Record, which: Callable[[dict[str, Any]], str | None], answered: dict[str, int | None]) -> list[Violation]:
    """Commands that append to a stream: each at most once, an answered one exactly once, under the seq that was answered (0: not told).

    `which` says what command wrote an event, or None.
    """
    found: dict[str, list[int]] = {}
    for event in record.events:
        if (command := which(event)) is not None:
            found.setdefault(command, []).append(event["seq"])
    out = []
    for command, seq in answered.items():
        seqs = found.get(command, [])
        if len(seqs) > 1:
            out.append(record._broken("repeated", f"command {command} took effect at {seqs}", count=len(seqs) - 1))
        if seq is not None and not seqs:
            out.append(record._broken("lost", f"command {command} was answered, and had no effect"))
        elif seq and seq not in seqs:
            out.append(record._broken("disordered", f"command {command} was answered {seq}, and is at {seqs}"))
    return out
