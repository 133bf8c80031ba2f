"""The judge: holds what clients were given against what Redis ever had. It reads journals and histories, and never a log.

A `Ledger` is one client's journal of one stream, small enough to keep millions of events of; a `Record` is what is
known of the stream itself. What breaks the promise becomes a `Violation`, with the time of the event that it is about.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tests.chaos.archive import History, Written, digest
from tests.chaos.client import TERMINAL, Journal

Kind = Literal["lost", "repeated", "disordered", "terminals", "other"]
KINDS: tuple[Kind, ...] = ("lost", "repeated", "disordered", "terminals", "other")

#: A longer text is not told with a gap.
SNAPSHOT_BYTES = 128 * 1024


class Violation(NamedTuple):
    """`count` events (or jobs, commands) that are not as promised. `at_ms` is Unix time."""

    kind: Kind
    where: str
    what: str
    at_ms: int
    count: int = 1


class Told(NamedTuple):
    """An announced loss that the judge has still to believe: the frame, and the position that it was told at.

    `seq` is None where the client has nothing yet of an epoch. `named`: it says what it has when it comes back.
    """

    frame: dict[str, Any]
    epoch: str
    seq: int | None
    named: bool


class Part(NamedTuple):
    """What was given under one epoch, from a seq on, until that counted no more. A digest is None where nothing came."""

    epoch: str
    start: int
    digests: list[int | None]
    excused: list[tuple[int, int]]

    def is_excused(self, seq: int) -> bool:
        return any(first <= seq <= last for first, last in self.excused)


class Ledger(Journal):
    """A journal that keeps a digest of each event instead of the event."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        #: The seq of the first digest; None: the first event that comes says so.
        self.start: int | None = None if stream.startswith("user:") else 1
        #: A digest for each seq from `start` on; None where nothing came.
        self.digests: list[int | None] = []
        self.violations: list[Violation] = []
        self.told: list[Told] = []
        self.excused: list[tuple[int, int]] = []
        #: What counts no more, because an epoch changed.
        self.parts: list[Part] = []
        self.attempt = 0
        self.worker = ""
        #: Set when it was judged to its end: digests are gone, and nothing new may come.
        self.sealed = False
        #: Its client was answered that there is no such job.
        self.forgotten = False
        self._told_end = False
        #: It was asked for again from a cursor on, and this far had come when the answer did.
        self._again_upto = 0
        self._final: dict[str, Any] | None = None

    @property
    def final(self) -> dict[str, Any] | None:
        return self._final

    @property
    def over(self) -> bool:
        """Whether it has the job's end, or a snapshot that tells it: the end itself may be gone."""
        return self._final is not None or self._told_end

    @property
    def renewed(self) -> bool:
        """Whether it began anew under another epoch."""
        return any("to" not in one.frame for one in self.told)

    def gap(self, frame: dict[str, Any]) -> None:
        at = self.seq if self.start is not None else None
        # A client names no cursor of a job that has ended: it is told from what was acknowledged of it.
        if "from" in frame and (self._final is not None or frame["from"] <= self._again_upto):
            at = min(self.seq, frame["from"] - 1)
        named = self.seq > 0 and self._final is None
        self.told.append(Told(frame, self.epoch, at, named))
        if "from" in frame:
            if self.start is not None:
                self.digests += [None] * (frame["to"] - self.seq)
            self.excused.append((frame["from"], frame["to"]))
            self.seq = max(self.seq, frame["to"])
        else:
            # Replay begins with the first event kept: what was given before counts no more.
            if self.start is not None and not self.sealed:
                self.parts.append(Part(self.epoch, self.start, self.digests, self.excused))
            self.seq, self.start, self.digests, self.excused = 0, None, [], []
            self._final, self.attempt, self.sealed, self._again_upto = None, 0, False, 0
        self._told_end = f"job.{frame.get('snapshot', {}).get('data', {}).get('status')}" in TERMINAL
        self.epoch, self._last_here = frame["epoch"], -1

    def placed(self, epoch: str, recovered: bool) -> None:
        if recovered or not self.epoch:
            self.epoch = epoch
        # Otherwise a gap follows, and is told under the epoch that was held.

    def again(self) -> None:
        """The client asked for the stream again, from a cursor on which it may have passed since."""
        self._last_here, self._again_upto = -1, self.seq

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
        self.sealed, self.digests, self.parts = True, [], []

    def copy(self) -> "Ledger":
        """For another connection of the session, which goes on from here."""
        twin = Ledger(self.stream)
        twin.__dict__ |= self.__dict__
        twin.digests, twin.excused = list(self.digests), list(self.excused)
        twin.violations, twin.told, twin.parts = [], [], []
        twin.reconnected()
        return twin

    def _missing(self, seq: int) -> bool:
        """Whether a hole was left where this belongs."""
        if self.sealed or self.start is None or not self.start <= seq <= self.seq or self.digests[seq - self.start] is not None:
            return False
        return not any(first <= seq <= last for first, last in self.excused)

    def _broken(self, kind: Kind, what: str) -> None:
        self.violations.append(Violation(kind, self.stream, what, int(time.time() * 1000)))


@dataclass(frozen=True, slots=True)
class Said:
    """What a job's events come to up to some seq: the text that whoever does as `job.restarted` says ends up with.

    `tellable`: it may be told with a gap, being all text, not too long, and nothing discarded from within.
    """

    text: str
    tellable: bool


class Record:
    """A stream: its history, and `meta`, its hash in Redis, decoded. `events` are all that Redis did not lose, trimmed or not."""

    def __init__(self, history: History, meta: Mapping[str, str]) -> None:
        self.history, self.meta = history, meta
        self.stream = history.stream
        self.top = len(history.events)
        self.events = [one.event for one in history.events]

    def line(self, epoch: str) -> Sequence[Written]:
        """Seq by seq, what could ever be read under an epoch."""
        return self.history.lines.get(epoch, self.history.events)

    def said(self, upto: int | None = None) -> Said:
        kept: list[tuple[int, str]] = []
        plain, last = True, 0
        for event in self.events[:upto]:
            data = event["data"]
            if event["type"] == "job.delta":
                last, plain = event["seq"], plain and "text" in data
                kept.append((last, data["text"] if "text" in data else data["data"]["w"]))
            elif event["type"] == "job.restarted":
                after = data["discard_after"]
                plain = plain and (after == 0 or after >= last)
                kept = [one for one in kept if one[0] <= after]
        text = "".join(text for _, text in kept)
        return Said(text, plain and len(text) <= SNAPSHOT_BYTES)

    def violations(self) -> list[Violation]:
        """What is wrong with the stream itself: seqs with holes or given twice, attempts that come back, events after the end."""
        out = [self.broken("disordered", f"{fault}, in the log") for fault in self.history.faults]
        attempt, ended = 0, False
        for number, event in enumerate(self.events, 1):
            if event["seq"] != number:
                out.append(self.broken("lost", f"the log holds {event['seq']} in the place of {number}", event["ts"]))
                break
            if ended:
                out.append(self.broken("terminals", f"{event['type']} {number} after the end, in the log", event["ts"]))
            if event.get("attempt", attempt) < attempt:
                out.append(
                    self.broken("disordered", f"{number} of attempt {event['attempt']} after one of {attempt}, in the log", event["ts"])
                )
            attempt = max(attempt, event.get("attempt", 0))
            ended = ended or event["type"] in TERMINAL
        if self.meta and int(self.meta["seq"]) != self.top:
            out.append(self.broken("lost", f"{self.top} events were written, and its top is {self.meta['seq']}"))
        return out

    def broken(self, kind: Kind, what: str, at_ms: int | None = None, count: int = 1) -> Violation:
        return Violation(kind, self.stream, what, int(time.time() * 1000) if at_ms is None else at_ms, count)


def judge(ledger: Ledger, record: Record, *, complete: bool) -> list[Violation]:
    """What one client was given of a stream, against the stream.

    With `complete` it must have come to the end; otherwise (an overtaken connection's) it is a beginning of it.
    """
    out = list(ledger.violations)
    for told in ledger.told:
        out += _judge_gap(told, record)
    for part in ledger.parts:
        out += _judge_part(part, record, over=True)
    if ledger.sealed:
        return out
    history = record.history
    start = ledger.start
    if ledger.renewed and start is not None and start not in history.firsts:
        out.append(record.broken("lost", f"it begins anew at {start}, where the log never did", count=start - 1))
    out += _judge_part(Part(ledger.epoch, start or 1, ledger.digests, ledger.excused), record, over=False)
    if not complete:
        return out
    if ledger.seq > history.stands(ledger.epoch) and ledger.epoch in history.lines and history.lost:
        # What it has is lost, and it was not told; who has a job's end does not follow it any more.
        if not ledger.over and not (ledger.forgotten and history.is_lost):
            out.append(record.broken("lost", f"Redis lost what it has of {ledger.epoch} up to {ledger.seq}, and it was not told"))
    elif ledger.seq < record.top and not (ledger.over and history.lost):
        missing = record.top - max(ledger.seq, (start or 1) - 1)
        at_ms = record.events[record.top - missing]["ts"]
        out.append(record.broken("lost", f"{ledger.seq} was the last that came, the top is {record.top}", at_ms, missing))
    return out


def _judge_part(part: Part, record: Record, *, over: bool) -> list[Violation]:
    """Event by event. `over`: its epoch ended; a killed Redis may have answered what it never wrote down."""
    out = []
    line = record.line(part.epoch)
    for seq, have in enumerate(part.digests, part.start):
        written = line[seq - 1] if seq <= len(line) else None
        at_ms = written.event["ts"] if written else None
        if have is None:
            if not part.is_excused(seq):
                out.append(record.broken("lost", f"{seq} never came", at_ms))
        elif written is None:
            if not over:
                beyond = len(part.digests) - (seq - part.start)
                out.append(record.broken("lost", f"{seq} and what follows came, and the log has it not", count=beyond))
            break
        elif written.digest != have:
            out.append(record.broken("disordered", f"another event under {seq} than the log's", at_ms))
    return out


def _judge_gap(told: Told, record: Record) -> list[Violation]:
    """A range must begin with what the client had not and end where the log then began; a new epoch is told only to
    who has what Redis lost, or does not say what it has. A job's snapshot stands for exactly what was missed."""
    frame, epoch, seq, named = told
    history = record.history
    if "to" in frame:
        # Whoever has nothing yet of an epoch begins where the log did at some time.
        begins = frame["from"] == seq + 1 if seq is not None else frame["from"] in history.firsts
        true = begins and frame["from"] <= frame["to"] and frame["to"] + 1 in history.firsts
    else:
        true = (seq or 0) > history.stands(epoch) or (record.stream.startswith("job:") and not named)
    out = []
    if not true:
        said = f"gap {frame['reason']} {frame.get('from', '')}-{frame.get('to', '')} at {epoch}:{seq}"
        out.append(record.broken("lost", f"{said}, but nothing of it was lost"))
    elif "to" in frame and record.stream.startswith("job:"):
        out += _judge_snapshot(frame, record)
    return out


def _judge_snapshot(frame: dict[str, Any], record: Record) -> list[Violation]:
    history, to = record.history, frame["to"]
    snapshot = frame.get("snapshot")
    if snapshot is None:
        return [record.broken("lost", f"the gap to {to} says nothing of what was missed")]
    out, data = [], snapshot["data"]
    if snapshot["seq"] != to:
        out.append(record.broken("lost", f"the snapshot of the gap to {to} is of {snapshot['seq']}"))
    said = record.said(to)
    if "text" in data:
        if data["text"] != said.text:
            out.append(
                record.broken("disordered", f"the snapshot at {to} is another text than was said: {_differ(data['text'], said.text)}")
            )
    elif said.tellable and not history.by_hand and not history.lost:
        out.append(record.broken("lost", f"the snapshot at {to} has no text, and it could be told"))
    lowest = max((one.get("attempt", 0) for one in record.events[:to]), default=0)
    highest = max((one.get("attempt", 0) for one in record.events), default=0)
    if not history.lost and not lowest <= data["attempt"] <= highest + 1:
        out.append(record.broken("disordered", f"the snapshot at {to} is of attempt {data['attempt']}, not {lowest} to {highest}"))
    ended = f"job.{data['status']}" in TERMINAL
    final = next((one for one in record.events if one["type"] in TERMINAL), None)
    if not history.lost and ended and (final is None or final["type"] != f"job.{data['status']}"):
        out.append(record.broken("terminals", f"the snapshot at {to} says {data['status']}, which it was not"))
    elif ended and final is not None and "result" in data and data["result"] != final["data"].get("result"):
        out.append(record.broken("disordered", f"the snapshot at {to} has another result than the job"))
    elif not ended and data["status"] not in ("queued", "running", "retrying"):
        out.append(record.broken("disordered", f"the snapshot at {to} says {data['status']}, which is no status"))
    return out


def _differ(have: str, want: str) -> str:
    same = next((i for i, (a, b) in enumerate(zip(have, want, strict=False)) if a != b), min(len(have), len(want)))
    told = f"{have[max(0, same - 20) : same + 20]!r} for {want[max(0, same - 20) : same + 20]!r}"
    return f"{len(have)} letters instead of {len(want)}, other ones from {same} on: {told}"


def judge_job(record: Record, text: str | None, ends: Iterable[str]) -> list[Violation]:
    """An accepted job's own stream: one terminal event, of one of the types `ends`, and (when completed) the `text` that it was to say.

    Of one that Redis has lost nothing is asked.
    """
    if record.history.is_lost and "status" not in record.meta:
        return []
    out = record.violations()
    finals = [one for one in record.events if one["type"] in TERMINAL]
    if len(finals) != 1 or record.events[-1] is not finals[0]:
        said = f"{len(finals)} terminal events" if record.meta else "Redis does not know it"
        out.append(record.broken("terminals", f"an accepted job with {said}, status {record.meta.get('status')}"))
        return out
    type = finals[0]["type"]
    if type not in ends or type != f"job.{record.meta.get('status')}":
        out.append(record.broken("terminals", f"{type}, status {record.meta.get('status')}: {finals[0]['data']}"[:200], finals[0]["ts"]))
    elif type == "job.completed" and text is not None and (have := record.said().text) != text:
        kind: Kind = "lost" if len(have) < len(text) else "repeated" if len(have) > len(text) else "disordered"
        out.append(record.broken(kind, _differ(have, text), finals[0]["ts"]))
    return out


def judge_effects(record: Record, which: Callable[[dict[str, Any]], str | None], answered: Mapping[str, int | None]) -> list[Violation]:
    """Commands that append to a stream: each at most once, an answered one exactly once, under the seq that was answered (0: not told).

    `which` says what command wrote an event, or None. What Redis lost has no effect any more, or has it again.
    """
    found: dict[str, list[int]] = {}
    for event in record.events:
        if (command := which(event)) is not None:
            found.setdefault(command, []).append(event["seq"])
    lost = {which(one.event) for one in record.history.lost}
    out = []
    for command, seq in answered.items():
        seqs = found.get(command, [])
        if len(seqs) > 1:
            out.append(record.broken("repeated", f"command {command} took effect at {seqs}", count=len(seqs) - 1))
        if command in lost:
            continue
        if seq is not None and not seqs:
            out.append(record.broken("lost", f"command {command} was answered, and had no effect"))
        elif seq and seq not in seqs:
            out.append(record.broken("disordered", f"command {command} was answered {seq}, and is at {seqs}"))
    return out


def parse(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    """A hash as Redis answers it, decoded."""
    return {key.decode(): value.decode() for key, value in raw.items()}
