"""History and live events → events, or a gap. Pure.

The whole recovery rests on two comparisons. `place` compares a cursor with a stream's head and says where reading
begins and what cannot be had. `join` compares a live announcement with the last event that was sent and says whether
it follows, repeats, or leaves a hole that the log must fill. Neither ever guesses: the head holds the first event
that can really be read.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rt.cursor import Cursor

Reason = Literal["trimmed", "expired", "epoch_changed", "overflow"]


class Head(NamedTuple):
    """What a stream looks like at one instant.

    `top` is the newest seq (0: no event yet), `first` the first that can be read (top + 1: none), `kept` the first that
    trimming left, `past` the earlier epochs, newest first, each with the seq it reached. `epoch` is "" for a stream that
    does not exist. `snapshot` is what is known of everything before `first`, where somebody may need it. `current`: whether
    its next event, if there is to be one, will be written under this epoch.
    """

    epoch: str
    top: int
    first: int
    kept: int
    past: tuple[Cursor, ...] = ()
    snapshot: dict[str, Any] | None = None
    current: bool = True


NOTHING = Head("", 0, 1, 1, current=False)


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that cannot be had: `first` to `last`, or an unknown number of them (None) when the epoch changed.

    `snapshot` stands for them: `{"seq", "data"}`, what they came to up to a seq.
    """

    reason: Reason
    first: int | None = None
    last: int | None = None
    snapshot: dict[str, Any] | None = None

    def frame(self, stream: str, epoch: str) -> dict[str, Any]:
        """The `gap` frame of the protocol; `epoch` is the one that counts from now on."""
        out: dict[str, Any] = {"type": "gap", "stream": stream, "epoch": epoch, "reason": self.reason}
        if self.first is not None:
            out |= {"from": self.first, "to": self.last}
        return out | ({"snapshot": self.snapshot} if self.snapshot else {})


@dataclass(frozen=True, slots=True)
class Place:
    """Reading goes on after `seq`, once `gap` (if any) was said. `moved`: under another epoch, and nothing was lost by it."""

    seq: int
    gap: Gap | None = None
    moved: bool = False


#: Where a reader goes on in the stream of a job that Redis has lost.
GONE = Place(0, Gap("epoch_changed"))


def place(cursor: Cursor, head: Head) -> Place:
    """Where a reader that has everything up to `cursor` goes on in a stream that looks like `head`."""
    if not cursor.epoch:  # from the start, whatever it is called now
        return _place(0, head, moved=False)
    if cursor.epoch == head.epoch:
        if cursor.seq > head.top:
            # The reader has events that this log does not: Redis lost them, and their numbers will be used again.
            return _anew(head)
        return _place(cursor.seq, head, moved=False)
    # An older epoch of the same log counts as far as it reached when it ended. What came after the reader's position
    # under that epoch is still there, with the same numbers.
    if any(cursor.epoch == past.epoch and cursor.seq <= past.seq for past in head.past):
        return _place(cursor.seq, head, moved=True)
    return _anew(head)


def unsure(cursor: Cursor, head: Head) -> Place:
    """As `place`, for a reader that may have more than what was stored of it, `cursor`, and does not say so.

    Where the epoch is another one by now, that may be what Redis lost, and the numbers were used again: as this cannot be
    ruled out, the reader is told to begin anew.
    """
    if cursor.epoch != head.epoch and head.past:
        return _anew(head)
    return place(cursor, head)


def _anew(head: Head) -> Place:
    return Place(head.first - 1, Gap("epoch_changed", snapshot=head.snapshot))


def _place(seq: int, head: Head, *, moved: bool) -> Place:
    if seq >= head.first - 1:
        return Place(seq, None, moved)
    # The log begins later than what trimming recorded: it vanished under its meta.
    reason: Reason = "trimmed" if head.first <= head.kept else "expired"
    return Place(head.first - 1, Gap(reason, seq + 1, head.first - 1, head.snapshot), moved)


Join = Literal["next", "old", "hole", "other"]


def join(epoch: str, sent: int, live_epoch: str, first: int, last: int) -> Join:
    """How a live announcement of `first` to `last` relates to a reader that has everything up to `sent` of `epoch`.

    next: it holds the next event (those at or below `sent` are dropped); old: it holds nothing new; hole: something
    between is missing; other: it is of another epoch.
    """
    if live_epoch != epoch:
        return "other"
    if last <= sent:
        return "old"
    return "next" if first <= sent + 1 else "hole"
