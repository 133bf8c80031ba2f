"""Where one connection stands in one stream: what was sent, what is acknowledged, what is being read. Kept by the session, and pure."""

from dataclasses import dataclass

from rt.cursor import START, Cursor
from rt.streams.replay import Head


@dataclass(slots=True)
class Follow:
    """A stream that the session follows. `epoch` "" until its first page is read."""

    epoch: str
    sent: int
    top: int
    acked: int
    #: The `job.created` that announced it: stream and seq.
    origin: tuple[str, int] | None = None
    #: The seq of the terminal event, once it was seen.
    final: int | None = None
    watching: bool = False
    watched: bool = False
    #: The read under way, 0 for none. Numbers are the connection's own: the answer to an older question, or to one that was
    #: asked before the stream was left and followed again, is not looked at.
    ticket: int = 0
    #: Whether something newer than the read under way was announced: otherwise its page says what the top is.
    announced: bool = False
    #: Where the first read of a stream without an epoch begins.
    start: Cursor = START
    #: Up to where the log was looked at, while that is behind `sent`. What the client has already is not forwarded again,
    #: but it may say what to follow (a `job.created` whose follow a killed process never stored) or be a job's end.
    seen: int | None = None
    #: What the client said at `connect` that it has: counts as acknowledged once the log was looked at that far.
    claimed: int = 0
    #: How far the session has ever acknowledged it: a job that was announced up to here is followed already, or done with.
    settled: int = 0
    #: Up to where the client may have been given events before, under an epoch that counts no more.
    renewed: int = 0
    #: A job that the client may have events of, though neither it nor the session says so.
    doubted: bool = False
    #: What stands in the session until something is acknowledged after `gap epoch_changed`: that frame may never arrive.
    kept: Cursor | None = None
    pinged: int = 0

    @property
    def new(self) -> bool:
        """Whether nothing of it was read or given yet, here or before."""
        return not self.epoch and self.start == START and not self.doubted

    @property
    def read_from(self) -> int:
        return self.sent if self.seen is None else min(self.seen, self.sent)

    def begin_anew(self, cursor: Cursor, head: Head) -> None:
        """`gap epoch_changed` is said of `cursor`, which stays stored; not under the same epoch, where it would name other events."""
        self.renewed = head.top
        self.kept = cursor if cursor.epoch != head.epoch else None

    def stored(self) -> str:
        cursor = str(self.kept or Cursor(self.epoch, self.acked))
        return cursor if self.origin is None else f"{cursor} {self.origin[0]} {self.origin[1]}"
