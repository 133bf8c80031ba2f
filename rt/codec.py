"""JSON and MessagePack at the border; the only module that knows a library of either.

Both decoders refuse what could hurt behind them: nesting deeper than 64 (a later recursive walk must not overflow),
NaN and infinities (not JSON; they would come out as something else), and in MessagePack anything that JSON has not.
"""

import re
import secrets
import sys
from functools import lru_cache
from math import isfinite
from typing import Any

import ormsgpack
from pydantic_core import from_json, to_json

MAX_DEPTH = 64

#: Transcoded events above this size are not kept: 4,096 of them would be a gigabyte.
_CACHED_BYTES = 4096


# What may be a number beyond every float: "1e999", or 309 digits. The parser makes an infinity of it.
_HUGE = re.compile(rb"[eE]\+?\d{3}|\d{309}")
_HUGE_TEXT = re.compile(_HUGE.pattern.decode())

#: Put behind a MessagePack value to see whether anything stands between: the library ignores what follows a value.
_MARK = secrets.token_bytes(16)
_PACKED_MARK = ormsgpack.packb(_MARK)


class DecodeError(ValueError):
    """The bytes are not one value of the format; the text says why and never quotes them."""


class TooDeep(ValueError):
    """Nested deeper than `MAX_DEPTH`."""


def to_json_bytes(value: Any) -> bytes:
    """Compact JSON; pydantic models, dataclasses, datetimes and the like are written as pydantic would, NaN as null.

    Raises ValueError for what has no JSON form.
    """
    return to_json(value, inf_nan_mode="null")


def from_json_bytes(raw: bytes | str) -> Any:
    """Raises DecodeError, or TooDeep."""
    try:
        value = from_json(raw, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        text = str(error)
        if "recursion" in text:
            raise TooDeep(f"nested deeper than {MAX_DEPTH}") from None
        # The parser's text holds a position and a reason, and no content.
        raise DecodeError(f"not valid JSON: {text}") from None
    # Counting brackets is far cheaper than walking; only what could be too deep is walked.
    opened = raw.count(b"[") + raw.count(b"{") if isinstance(raw, bytes) else raw.count("[") + raw.count("{")
    if opened > MAX_DEPTH:
        check_depth(value)
    if _HUGE.search(raw) if isinstance(raw, bytes) else _HUGE_TEXT.search(raw):
        _check_json_like(value)
    return value


def pack(value: Any) -> bytes:
    return ormsgpack.packb(value)


def unpack(raw: bytes) -> Any:
    """Raises DecodeError, or TooDeep."""
    try:
        value, mark = ormsgpack.unpackb(b"\x92" + raw + _PACKED_MARK)  # an array of two
    except ValueError as error:
        raise DecodeError(f"not valid MessagePack: {error}") from None
    if mark != _MARK:
        raise DecodeError("more than one MessagePack value")
    check_depth(value)
    _check_json_like(value)
    return value


def transcode(raw: bytes) -> bytes:
    """One stored event, JSON to MessagePack; once per event and process for events of ordinary size."""
    return _transcode_cached(raw) if len(raw) <= _CACHED_BYTES else _transcode(raw)


def _transcode(raw: bytes) -> bytes:
    value = from_json(raw)
    try:
        return ormsgpack.packb(value)
    except TypeError:
        # JSON integers have no bound, MessagePack's end at 64 bits: beyond, a float is what JavaScript would make of it.
        return ormsgpack.packb(_bounded(value))


_transcode_cached = lru_cache(maxsize=4096)(_transcode)


def _bounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_bounded(one) for one in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        try:
            return float(value)
        except OverflowError:
            return sys.float_info.max if value > 0 else -sys.float_info.max
    return value


def check_depth(value: Any) -> None:
    """Raises TooDeep; walks level by level, so that it cannot overflow itself. An array or object in no other is 1 deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
        level = [one for one in below if isinstance(one, dict | list)]
        if not level:
            return
    raise TooDeep(f"nested deeper than {MAX_DEPTH}")


def _check_json_like(value: Any) -> None:
    if isinstance(value, dict):
        for key, one in value.items():
            if not isinstance(key, str):
                raise DecodeError("a map's keys must be strings")
            _check_json_like(one)
    elif isinstance(value, list):
        for one in value:
            _check_json_like(one)
    elif isinstance(value, float):
        if not isfinite(value):
            raise DecodeError("NaN and infinity have no place in a frame")
    elif not (value is None or isinstance(value, str | int | bool)):
        raise DecodeError(f"a {type(value).__name__} has no JSON form")


def join_json(frames: list[bytes]) -> bytes:
    """Encoded frames as one array, without parsing them."""
    return b"[" + b",".join(frames) + b"]"


def join_msgpack(frames: list[bytes]) -> bytes:
    """As `join_json`; the header of a MessagePack array says how many follow."""
    count = len(frames)
    if count < 16:
        head = bytes([0x90 | count])
    elif count < 1 << 16:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return head + b"".join(frames)
