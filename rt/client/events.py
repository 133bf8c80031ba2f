"""What a reader of a stream is given: its events, and what is said of those that are lost. Pure."""

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a stream. `ts` is Unix milliseconds; `attempt` is set where a job's run wrote it; nothing follows a `final` one."""

    type: str
    stream: str
    seq: int
    ts: int
    data: Any
    attempt: int | None = None
    final: bool = False

    @property
    def text(self) -> str:
        """The text of a `job.delta`; "" for everything else."""
        text = self.data.get("text", "") if self.type == "job.delta" and isinstance(self.data, dict) else ""
        return text if isinstance(text, str) else ""


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that cannot be had any more: `first` to `last`, or an unknown number of them (None) when the epoch changed.

    `reason` is the protocol's word. `snapshot` stands for them where the server has one: `{"seq", "data"}`, of a job
    `data: {status, attempt, text?, result?, error?}`. `final`: the end of a job is among what is lost, and nothing follows.
    """

    type: ClassVar[str] = "gap"

    stream: str
    epoch: str
    reason: str
    first: int | None = None
    last: int | None = None
    snapshot: dict[str, Any] | None = None
    final: bool = False


def event_of(frame: dict[str, Any]) -> StreamEvent:
    """The event that a frame is."""
    return StreamEvent(
        type=frame["type"],
        stream=frame["stream"],
        seq=frame["seq"],
        ts=frame.get("ts", 0),
        data=frame.get("data"),
        attempt=frame.get("attempt"),
        final=frame.get("final", False),
    )


def gap_of(frame: dict[str, Any], *, after: int | None, top: int) -> Gap:
    """The loss that a `gap` frame tells of. `after` is the seq that its reader has, so that no more is told than what it lacks;
    `top` the newest seq of the stream when that was last said."""
    first, last, snapshot = frame.get("from"), frame.get("to"), frame.get("snapshot")
    if first is not None and after is not None:
        first = max(first, after + 1)
    final = False
    if frame["stream"].startswith("job:"):
        # A job whose log is empty has nothing more to say: it is over, or the server has forgotten it altogether.
        status = snapshot["data"].get("status") if snapshot else None
        final = (status in _OVER and snapshot["seq"] >= top) if snapshot else (first is None and top == 0)
    return Gap(frame["stream"], frame["epoch"], frame.get("reason", ""), first, last, snapshot, final)


_OVER = frozenset({"completed", "failed", "cancelled"})
