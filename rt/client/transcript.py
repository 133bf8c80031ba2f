"""What a job has said so far, as `job.restarted` leaves it. Pure."""

from rt.client.errors import EventsLost
from rt.client.events import Gap, StreamEvent


class Piece(str):
    """Text that stands from `start` on in the whole: `whole = whole[:piece.start] + piece`.

    `start` is less than what was there before where a restart took some of it back; otherwise a piece only goes on.
    """

    __slots__ = ("start",)
    start: int

    def __new__(cls, text: str, start: int) -> "Piece":
        piece = super().__new__(cls, text)
        piece.start = start
        return piece


class Transcript:
    """The text of one job's deltas."""

    def __init__(self) -> None:
        #: Text, the seq of the event that holds it, and whether it stands for others before it too.
        self._parts: list[tuple[str, int, bool]] = []
        self._length = 0
        #: Set where the text cannot be told whole.
        self.lost: EventsLost | None = None

    @property
    def text(self) -> str:
        return "".join(text for text, _, _ in self._parts)

    def take(self, item: StreamEvent | Gap) -> Piece | None:
        """What the next item changes in the text; None: nothing."""
        if isinstance(item, Gap):
            return self._gap(item)
        if item.type == "job.restarted":
            return self._restarted(item.data["discard_after"])
        return self._add(item.text, item.seq) if item.text else None

    def _add(self, text: str, seq: int, whole: bool = False) -> Piece:
        piece = Piece(text, self._length)
        self._parts.append((text, seq, whole))
        self._length += len(text)
        return piece

    def _restarted(self, discard_after: int) -> Piece | None:
        lost = self.lost
        # What was lost is thrown away with the rest, unless some of it stands.
        if lost and (discard_after == 0 or (lost.first is not None and discard_after < lost.first)):
            self.lost = None
        before = self._length
        while self._parts and self._parts[-1][1] > discard_after:
            text, seq, whole = self._parts.pop()
            self._length -= len(text)
            if whole and discard_after > 0:
                self.lost = EventsLost("", 1, seq)
        return Piece("", self._length) if self._length < before else None

    def _gap(self, gap: Gap) -> Piece | None:
        text = gap.snapshot["data"].get("text") if gap.snapshot else None
        if gap.snapshot is None or not isinstance(text, str):
            self.lost = EventsLost(gap.stream, gap.first, gap.last)
            return None
        had = self.text
        self._parts, self._length, self.lost = [], 0, None
        if text.startswith(had):
            self._add(text, gap.snapshot["seq"], whole=True)
            return Piece(text[len(had) :], len(had)) if len(text) > len(had) else None
        return self._add(text, gap.snapshot["seq"], whole=True)
