"""What Redis ever had, as its append-only file tells it: also what was trimmed since, and what it lost when it was set back.

Scripts reach the file as their effects, so every event stands in it as it was written, with every trim between. An
`Archive` reads the file while Redis writes it; it asks nothing of Redis, and nothing of what is judged.
"""

import asyncio
import json
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

#: How often the file is looked at, and how much of it is read between two turns of the loop.
LOOK_S = 0.1
_PIECE_BYTES = 256 * 1024


class Written:
    """An event as it was written, and where in the file."""

    __slots__ = ("_digest", "offset", "raw")

    def __init__(self, raw: bytes, offset: int) -> None:
        self.raw, self.offset = raw, offset
        self._digest: int | None = None

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.raw)
        return event

    @property
    def digest(self) -> int:
        if self._digest is None:
            self._digest = digest(self.event)
        return self._digest


def digest(event: dict[str, Any]) -> int:
    """The same for the same event within this process."""
    return hash((event["seq"], event["type"], event["ts"], event.get("attempt"), event.get("final"), str(event["data"])))


class History:
    """One stream's. Seqs count from 1, so that of seq n is `events[n - 1]`.

    `events` is what was written and not lost, whether it was trimmed or not; `first` the first that is not trimmed.
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.epoch = ""
        self.events: list[Written] = []
        #: By epoch, all that could ever be read under it.
        self.lines: dict[str, list[Written]] = {}
        self.lost: list[Written] = []
        #: What cannot be: seqs that are left out, or given twice under one epoch.
        self.faults: list[str] = []
        #: Whether events were taken out by another hand than the engine's; set by it.
        self.by_hand = False
        self._epochs: list[tuple[int, str]] = [(-1, "")]
        #: Where in the file, the first that was kept from there on, and when it was read (monotonic).
        self._firsts: list[tuple[int, int, float]] = [(-1, 1, 0.0)]

    @property
    def first(self) -> int:
        return self._firsts[-1][1]

    @property
    def firsts(self) -> dict[int, float]:
        """Every seq that was ever the first kept, and when that was read."""
        return {first: at for _, first, at in self._firsts}

    def begin(self, epoch: str, offset: int = 0, *, anew: bool = False) -> None:
        """From here on it is written under this epoch; `anew`: it did not exist, and counts from 1."""
        self.events = [] if anew else list(self.events)
        self.epoch, self.lines[epoch] = epoch, self.events
        self._epochs.append((offset, epoch))
        if anew and self.first > 1:
            self._firsts.append((offset, 1, time.monotonic()))

    def add(self, seq: int, raw: bytes, offset: int = 0) -> None:
        if seq != len(self.events) + 1:
            self.faults.append(f"{seq} was written after {len(self.events)}")
            return
        self.events.append(Written(raw, offset))
        line = self.lines.get(self.epoch, self.events)
        if line is not self.events:  # Redis was set back, and this was another event before
            self.faults.append(f"another event was written under {self.epoch}:{seq}")

    def trim(self, first: int, offset: int = 0) -> None:
        """Everything before `first` is gone."""
        if first > self.first:
            self._firsts.append((offset, first, time.monotonic()))

    def set_back(self, offset: int) -> None:
        """Nothing stands any more that was written from here on."""
        stand = bisect_left(self.events, offset, key=lambda one: one.offset)
        if stand < len(self.events):
            self.lost += self.events[stand:]
            self.events = self.events[:stand]
        self._epochs = list(takewhile(lambda one: one[0] < offset, self._epochs))
        self._firsts = list(takewhile(lambda one: one[0] < offset, self._firsts))
        self.epoch = self._epochs[-1][1]

    def stands(self, epoch: str) -> int:
        """Up to which seq everything that could be read under an epoch is still there, or was trimmed."""
        line = self.lines.get(epoch, [])
        if line is self.events:
            return len(line)
        return sum(1 for _ in takewhile(lambda pair: pair[0] is pair[1], zip(line, self.events, strict=False)))

    @property
    def ended(self) -> bool:
        """Whether its newest event is one after which nothing follows."""
        return bool(self.events) and b'"final":true' in self.events[-1].raw[-16:]

    @property
    def is_lost(self) -> bool:
        """Whether Redis has lost all of it."""
        return bool(self.lost) and not self.events


class Archive:
    """The histories of all streams of a Redis whose files are in `folder`; `follow()` in a task of its own.

    Redis must not rewrite its file meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._at = 0
        self._rest = b""
        #: What stands between a MULTI and its EXEC, which is nothing until that is there.
        self._held: list[tuple[list[bytes], int]] | None = None
        self._histories: dict[str, History] = {}
        self._forgotten: set[str] = set()
        #: The end of the last thing in the file that is whole.
        self.end = 0
        self.faults: list[str] = []

    @property
    def path(self) -> Path:
        """Raises RuntimeError when Redis has written its file anew."""
        paths = sorted(self._folder.glob("appendonlydir/*.incr.aof"))
        self._path = self._path or paths[0]
        if paths != [self._path]:
            raise RuntimeError(f"Redis has written its file anew: {paths}")
        return self._path

    def history(self, stream: str) -> History:
        if stream not in self._histories:
            self._histories[stream] = History(stream)
        return self._histories[stream]

    def forget(self, stream: str) -> None:
        """Nothing may be written to it any more, and nobody asks for it."""
        if self._histories.pop(stream, None):
            self._forgotten.add(stream)

    def is_forgotten(self, stream: str) -> bool:
        return stream in self._forgotten

    async def follow(self) -> None:
        """Reads all the time; until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(LOOK_S)

    async def wait(self, condition: Callable[[], object], limit_s: float) -> bool:
        """Whether it came true of what was read; Redis may write a second later what it has answered already."""
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end:
                return False
            if not await self.read():
                await asyncio.sleep(LOOK_S / 2)
        return True

    async def read(self) -> int:
        """Reads what is new. Returns how many bytes that were."""
        total = 0
        while piece := self._piece():
            total += len(piece)
            self._take(piece)
            await asyncio.sleep(0)
        return total

    def _piece(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self._at)
            piece = file.read(_PIECE_BYTES)
        self._at += len(piece)
        return piece

    async def set_back(self, offset: int) -> None:
        """Cuts the file of a Redis that does not run where something ended, and takes back what stood behind that."""
        await self.read()
        with self.path.open("r+b") as file:
            file.truncate(offset)
        for one in self._histories.values():
            one.set_back(offset)
        self.end = offset
        await self.restart()

    async def restart(self) -> None:
        """Redis was killed, and is to be started: it cuts off what is not whole at the end of its file."""
        await self.read()
        self._at, self._rest, self._held = self.end, b"", None

    def _take(self, piece: bytes) -> None:
        data = self._rest + piece
        base, at = self._at - len(data), 0
        while command := _command(data, at):
            words, end = command
            self._do(words, base + at, base + end)
            at = end
        self._rest = data[at:]

    def _do(self, words: list[bytes], offset: int, end: int) -> None:
        name = words[0].upper()
        if name == b"MULTI":
            self._held = []
        elif name == b"EXEC":
            held, self._held = self._held or [], None
            for one, began in held:
                self._apply(one, began)
        elif self._held is not None:
            self._held.append((words, offset))
        else:
            self._apply(words, offset)
        if self._held is None:
            self.end = end

    def _apply(self, words: list[bytes], offset: int) -> None:
        name = words[0].upper()
        if name == b"XADD" and (stream := _stream(words[1], b"log")):
            id, _, event = [one for one in words[2:] if one != b"NOMKSTREAM"][:3]
            if stream in self._forgotten:
                self.faults.append(f"{stream} was written to when everybody had its end: {event!r}")
            else:
                self.history(stream).add(_seq(id), event, offset)
        elif name == b"HSET" and b"epoch" in words[2::2] and (stream := _stream(words[1], b"meta")):
            fields = dict(zip(words[2::2], words[3::2], strict=True))
            self.history(stream).begin(fields[b"epoch"].decode(), offset, anew=fields.get(b"seq") == b"0")
        elif name == b"XTRIM" and (stream := _stream(words[1], b"log")) and stream not in self._forgotten:
            history = self.history(stream)
            limit = words[4] if words[3] in (b"=", b"~") else words[3]
            history.trim(_seq(limit) if words[2].upper() == b"MINID" else len(history.events) - int(limit) + 1, offset)
        elif name in (b"DEL", b"UNLINK"):
            for key in words[1:]:
                if (stream := _stream(key, b"log")) and stream in self._histories:
                    history = self.history(stream)
                    history.trim(len(history.events) + 1, offset)


def _command(data: bytes, at: int) -> tuple[list[bytes], int] | None:
    """The words of the command that begins at a place, and where it ends; None when it is not there as a whole."""
    head = data.find(b"\r\n", at)
    if head < 0:
        return None
    words = []
    count, at = int(data[at + 1 : head]), head + 2
    for _ in range(count):
        head = data.find(b"\r\n", at)
        if head < 0:
            return None
        at, size = head + 2, int(data[at + 1 : head])
        end = at + size
        if len(data) < end + 2:
            return None
        words.append(data[at:end])
        at = end + 2
    return words, at


def _stream(key: bytes, kind: bytes) -> str:
    """The stream whose key this is; "" for another key."""
    head, brace, tail = key.partition(b"{")
    name, close, end = tail.rpartition(b"}:")
    return name.decode() if head == b"rt:-:" and brace and close and end == kind else ""


def _seq(id: bytes) -> int:
    return int(id.partition(b"-")[0])


def of(stream: str, events: Sequence[dict[str, Any]], epoch: str) -> History:
    """A history of these events, written under one epoch."""
    history = History(stream)
    history.begin(epoch, anew=True)
    for event in events:
        history.add(event["seq"], json.dumps(event).encode(), event["seq"])
    return history
