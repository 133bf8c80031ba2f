"""A position in a stream: `"<epoch>:<seq>"`, the last event that was processed.

Why an epoch: Redis may come back with less than it had, or a stream may expire and begin again at 1. A bare number
would then point at other events than those the client has; the epoch makes the two logs different words.
"""

import secrets
from typing import NamedTuple


class Cursor(NamedTuple):
    """`seq` 0 is the position before the first event. `epoch` "" means "whichever counts now" (from the start)."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.seq}"


START = Cursor("", 0)


def parse_cursor(text: str) -> Cursor:
    """Reads `"<epoch>:<seq>"`, or `"0"` for the start.

    Raises ValueError for everything else, also for a seq above 2**53 (a JavaScript number could not hold it).
    """
    if text == "0":
        return START
    epoch, colon, digits = text.rpartition(":")
    # `isdecimal` alone admits other scripts' digits, which int() would read too.
    if not colon or not epoch.isalnum() or not epoch.isascii() or len(epoch) > 32 or not digits.isascii() or not digits.isdecimal():
        raise ValueError('a cursor is "<epoch>:<seq>", or "0" for the start')
    seq = int(digits) if len(digits) <= 16 else 2**53
    if seq >= 2**53:
        raise ValueError("the seq of this cursor is too large")
    return Cursor(epoch, seq)


def new_epoch() -> str:
    """A random word of 8 hex digits: two epochs of one stream are the same once in 4 billion."""
    return secrets.token_hex(4)
