"""A host whose clock is wrong: `python -m tests.chaos.clock …` is `rt …` with its wall clock moved by the seconds in the file $CLOCK.

The file holds a double, and is mapped: it is looked at with every look at the clock, which so may jump while the process
runs. Steady clocks are left alone: a host's are.
"""

import datetime
import mmap
import os
import struct
import sys
import time
from pathlib import Path


class Clock:
    """The wall clock of the processes that are started with it."""

    def __init__(self, path: Path, offset_s: float = 0) -> None:
        self.path = path
        self.offset_s = offset_s
        path.write_bytes(struct.pack("d", offset_s))

    def set(self, offset_s: float) -> None:
        self.offset_s = offset_s
        with self.path.open("r+b") as file:
            file.write(struct.pack("d", offset_s))


def _go_astray(path: Path) -> None:
    """From now on, for everything that is imported later."""
    real_time, real_time_ns, real_datetime = time.time, time.time_ns, datetime.datetime

    with path.open("rb") as file:
        offset = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)

    def offset_s() -> float:
        return float(struct.unpack_from("d", offset)[0])

    class Astray(real_datetime):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return cls.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> datetime.datetime:
            return cls.now(datetime.UTC).replace(tzinfo=None)

    time.time = lambda: real_time() + offset_s()
    time.time_ns = lambda: real_time_ns() + int(offset_s() * 1e9)
    datetime.datetime = Astray  # type: ignore[misc]


if __name__ == "__main__":
    _go_astray(Path(os.environ["CLOCK"]))
    from rt.cli import main

    sys.exit(main())
