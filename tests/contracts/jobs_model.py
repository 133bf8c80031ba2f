"""The reference model of jobs: what each script must answer, and what must then stand in Redis. No Redis, no clock.

A `Job` changes by the same few steps as the scripts make at once: written to, claimed, settled, ended. What only a
clock decides (is it due, has its lease lapsed, is it late) is read from Redis before a script runs, as a `Place`.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

ENDED = ("completed", "failed", "cancelled")


class Line(NamedTuple):
    """An event as the model knows it: type without `job.`, attempt (0: none), and the one word that tells it from others."""

    type: str
    attempt: int
    mark: str


@dataclass(frozen=True, slots=True)
class Place:
    """What the queue's keys say of a job at one instant. `due` and `lapsed`: its score, and its lease's, have come."""

    queued: bool
    due: bool
    #: Job.abort() of a deferred job has made it due, and not yet said why.
    put_first: bool
    leased: bool
    lapsed: bool
    locked: bool
    aborted: bool
    payload: bool
    late: bool
    deadline: bool


@dataclass(slots=True)
class Fate:
    """What a script does with a job that it looks at: `claim`, `end` (as status, with mark), or leave it."""

    does: Literal["claim", "end", "leave"]
    status: str = ""
    mark: str = ""


LEAVE = Fate("leave")


@dataclass(slots=True)
class Job:
    id: str
    tenant: str
    name: str
    ours: bool
    max: int | None
    reports: tuple[str, ...] = ()
    #: "": Redis knows nothing of it but what arq's keys say.
    status: str = ""
    attempt: int = 0
    tries: int = 0
    started: bool = False
    adopted: bool = False
    fence: str = ""
    cancel: str = ""
    settled: str = ""
    batch: int = 0
    batch_seqs: tuple[int, int] = (0, 0)
    checkpoint: tuple[str, int] | None = None
    lines: list[Line] = field(default_factory=list)
    #: Events at the front that were lost with their log.
    gone: int = 0
    #: The same id was queued again after arq forgot its result, and nobody has claimed it yet.
    again: bool = False
    #: Redis lost some of it: what is promised of a whole life holds no longer.
    damaged: bool = False

    @property
    def ended(self) -> bool:
        return self.status in ENDED and not self.again

    @property
    def unknown(self) -> bool:
        """A plain arq client's job that no worker has claimed yet, or one whose meta is lost."""
        return not self.status or self.again

    def forget(self) -> None:
        """As if it had never been: its stream begins anew."""
        self.status = self.fence = self.cancel = self.settled = ""
        self.attempt = self.tries = self.batch = self.gone = 0
        self.batch_seqs, self.checkpoint, self.lines = (0, 0), None, []
        self.started = self.adopted = self.again = False
        self.max = None

    def add(self, lines: list[Line]) -> tuple[int, int]:
        first = len(self.lines) + 1
        self.lines += lines
        return first, len(self.lines)

    def end(self, status: str, mark: str, attempt: int | None = None) -> None:
        if self.again:
            self.forget()
        self.add([Line(status, self.attempt if attempt is None else attempt, mark)])
        self.status, self.fence = status, ""

    # what the scripts decide

    def claimed(self, token: str) -> None:
        if self.again:
            self.forget()
        self.attempt += 1
        self.tries += 1
        self.status, self.started, self.batch = "running", True, 0
        self.fence = f"{self.attempt}:{token}"

    def append(self, fence: str, number: int, lines: list[Line], checkpoint: str) -> tuple[str, int, int]:
        """(verdict, first, last); the verdict of a cancelled one is who did it."""
        if self.fence != fence:
            return "fenced", 0, 0
        if number <= self.batch:
            return ("ok", *self.batch_seqs)
        if self.cancel:
            return f"cancelled by {self.cancel}", 0, 0
        if number > self.batch + 1:
            return "behind", 0, 0
        self.batch, self.batch_seqs = number, self.add(lines)
        if checkpoint:
            self.checkpoint = checkpoint, self.batch_seqs[1]
        return ("ok", *self.batch_seqs)

    def settle(self, fence: str, kind: str, lines: list[Line], mark: str, answered: int) -> str:
        """The kind that stands in the end, or "lost". `answered`: the attempt's last batch, as its worker knows."""
        if self.fence != fence:
            return kind if self.settled == f"{fence} {kind}" else "lost"
        if self.cancel and kind != "cancelled":
            return self.settle(fence, "cancelled", [], self.cancel, answered)
        if self.batch < answered and kind != "cancelled":
            kind, lines = "handed_back", []
        attempt = int(fence.partition(":")[0])
        self.add(lines if kind != "cancelled" else [])
        self.fence, self.settled = "", f"{fence} {kind}"
        if kind in ENDED or kind == "retrying":
            self.add([Line(kind, attempt, mark)])
            self.status = kind
        else:
            self.status = "queued"
            self.tries -= 1
        return kind

    def in_claim(self, at: Place) -> Fate:
        """What claim.lua makes of it, when it comes to it."""
        looked_at = at.queued and (at.due or at.lapsed)
        if not looked_at or at.locked or self.ended:
            return LEAVE
        if not at.payload:
            return Fate("end", "failed", "expired")
        if by := ("" if self.again else self.cancel) or ("arq" if at.aborted else ""):
            return Fate("end", "cancelled", by)
        if at.put_first:
            return LEAVE
        if self.again:
            return Fate("claim")
        if self.max is not None and self.tries >= self.max:
            return Fate("end", "failed", "lease_lost")
        if at.late:
            return Fate("end", "failed", "timeout" if self.started else "expired")
        return Fate("claim")

    def in_sweep(self, at: Place) -> Fate:
        """What sweep.lua makes of it."""
        if self.ended:
            return LEAVE
        if at.aborted and at.queued and not at.locked:
            return Fate("end", "cancelled", "arq")
        if at.lapsed and not at.locked and not self.unknown:
            if self.cancel:
                return Fate("end", "cancelled", self.cancel)
            if self.max is not None and self.tries >= self.max:
                return Fate("end", "failed", "lease_lost")
        if at.deadline and not self.unknown:
            if self.cancel:
                return Fate("end", "cancelled", self.cancel)
            return Fate("end", "failed", "timeout" if self.started else "expired")
        return LEAVE

    def in_cancel(self, tenant: str, by: str, at: Place) -> tuple[str, str] | str:
        """(status before, status now), or the refusal's code."""
        if tenant != self.tenant:
            return "not_found"
        if self.unknown:
            if tenant != "-" or not at.payload or not at.queued or (self.ours and not self.again):
                return "not_found"
            self.end("cancelled", by)
            return "queued", "cancelled"
        if self.status in ENDED:
            return ("cancelled", "cancelled") if self.status == "cancelled" else "conflict"
        before = self.status
        if self.fence:
            self.cancel = self.cancel or by
            return before, before
        self.end("cancelled", by)
        return before, "cancelled"

    def in_renewal(self, fence: str, at: Place) -> str:
        if self.fence != fence:
            return "lost"
        if not self.cancel and at.aborted:
            self.cancel = "arq"
        return f"cancel {self.cancel}" if self.cancel else "ok"
