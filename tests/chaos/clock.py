"""A host whose clock is wrong: `python -m tests.chaos.clock …` is `rt …` with its wall clock moved by the seconds in the file $CLOCK.

The file is read at every look at the clock, which so may jump while the process runs. Steady clocks are left alone: a host's are.
"""

import datetime
import os
import sys
import time
from pathlib import Path


class Clock:
    """The wall clock of the processes that are started with it."""

    def __init__(self, path: Path, offset_s: float = 0) -> None:
        self.path = path
        self.set(offset_s)

    def set(self, offset_s: float) -> None:
        self.offset_s = offset_s
        new = self.path.with_suffix(".new")
        new.write_text(str(offset_s))
        new.replace(self.path)


def _go_astray(path: Path) -> None:
    """From now on, for everything that is imported later."""
    real_time, real_time_ns, real_datetime = time.time, time.time_ns, datetime.datetime

    def offset_s() -> float:
        return float(path.read_text())

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
