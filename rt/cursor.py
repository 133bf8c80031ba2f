"""A position in a stream: `"<epoch>:<seq>"`, the last event that was processed.

Why an epoch: Redis may come back with less than it had, or a stream may expire and begin again at 1. A bare number
would then point at other events than those the client has; the epoch makes the two logs different words.
"""

import secrets
from typing import NamedTuple

from rt.errors import Refused


class Cursor(NamedTuple):
    """`seq` 0 is the position before the first event. `epoch` "" means "whichever counts now", and goes with seq 0 alone: the start."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        """As `parse_cursor` reads it."""
        return f"{self.epoch}:{self.seq}" if self.epoch else "0"


START = Cursor("", 0)


def parse_cursor(text: str, field: str = "cursor") -> Cursor:
    """Reads `"<epoch>:<seq>"`, or `"0"` for the start.

    Raises Refused("invalid_frame"), which names `field`, for everything else, also for a seq of 2**53 and more (a JavaScript
    number could not hold it).
    """
    if text == "0":
        return START
    epoch, colon, digits = text.rpartition(":")
    # `isdecimal` alone admits other scripts' digits, which int() would read too.
    if not colon or not epoch.isalnum() or not epoch.isascii() or len(epoch) > 32 or not digits.isascii() or not digits.isdecimal():
        raise Refused.field("invalid_frame", field, 'a cursor is "<epoch>:<seq>", or "0" for the start')
    seq = int(digits) if len(digits) <= 16 else 2**53
    if seq >= 2**53:
        raise Refused.field("invalid_frame", field, "the seq of this cursor is too large")
    return Cursor(epoch, seq)


def new_epoch() -> str:
    """A random word of 8 hex digits: two epochs of one stream are the same once in 4 billion."""
    return secrets.token_hex(4)
