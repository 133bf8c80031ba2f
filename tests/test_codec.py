"""JSON and MessagePack at the border: what passes, what is refused, and that no refusal quotes its input."""

import json
from dataclasses import dataclass
from typing import Any

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from rt.codec import (
    MAX_DEPTH,
    DecodeError,
    TooDeep,
    check_depth,
    from_json_bytes,
    join_json,
    join_msgpack,
    pack,
    to_json_bytes,
    transcode,
    unpack,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def nested(depth: int) -> Any:
    value: Any = 1
    for i in range(depth):
        value = [value] if i % 2 else {"a": value}
    return value


@given(JSON)
def test_json_survives_the_way_there_and_back(value: Any) -> None:
    raw = to_json_bytes(value)
    assert from_json_bytes(raw) == value
    assert b"\n" not in raw  # announcements join events with newlines


@given(JSON)
def test_messagepack_survives_the_way_there_and_back(value: Any) -> None:
    assert unpack(pack(value)) == value


@given(JSON)
def test_a_transcoded_event_is_the_same_value(value: Any) -> None:
    assert unpack(transcode(to_json_bytes(value))) == value


def test_integers_beyond_64_bits_become_what_javascript_makes_of_them() -> None:
    raw = b'{"n":[36893488147419103232,-36893488147419103232,1]}'
    assert unpack(transcode(raw)) == {"n": [2.0**65, -(2.0**65), 1]}


def test_large_events_are_transcoded_too() -> None:
    value = {"text": "x" * 10_000}
    assert unpack(transcode(to_json_bytes(value))) == value


@pytest.mark.parametrize("raw", [b"", b"{", b"nul", b"{'a':1}", b'{"a":1}x', b"\xff", b'"\xc3"', b"NaN", b"Infinity", b'{"a":-Infinity}'])
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        from_json_bytes(raw)


def test_a_refusal_does_not_quote_what_it_refuses() -> None:
    with pytest.raises(DecodeError) as refused:
        from_json_bytes(b'{"token": "my-secret" "x"}')
    assert "my-secret" not in str(refused.value)
    with pytest.raises(DecodeError) as refused:
        unpack(b"\xd9\xffmy-secret")
    assert "my-secret" not in str(refused.value)


def test_json_may_be_nested_64_deep_and_no_deeper() -> None:
    assert MAX_DEPTH == 64
    assert from_json_bytes(json.dumps(nested(64))) == nested(64)
    for depth in (65, 66, 500):
        with pytest.raises(TooDeep):
            from_json_bytes(json.dumps(nested(depth)).encode())
    with pytest.raises(TooDeep):
        from_json_bytes(b"[" * 100_000 + b"]" * 100_000)


def test_messagepack_may_be_nested_64_deep_and_no_deeper() -> None:
    assert unpack(pack(nested(64))) == nested(64)
    with pytest.raises(TooDeep):
        unpack(pack(nested(65)))


def test_many_brackets_are_not_depth() -> None:
    wide = [[1]] * 500
    assert from_json_bytes(json.dumps(wide)) == wide
    assert from_json_bytes(json.dumps("[" * 500)) == "[" * 500
    check_depth(wide)


@pytest.mark.parametrize(
    "raw",
    [
        ormsgpack.packb({1: 2}, option=ormsgpack.OPT_NON_STR_KEYS),
        ormsgpack.packb([b"bytes"]),
        ormsgpack.packb([float("nan")]),
        ormsgpack.packb([{"a": float("-inf")}]),
        b"\xc1",
        b"\x92\x01",
        b"",
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
    ],
)
def test_messagepack_that_json_has_not_is_refused(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        unpack(raw)


def test_models_and_dataclasses_have_a_json_form() -> None:
    class Model(BaseModel):
        a: int

    @dataclass
    class Data:
        b: str

    assert json.loads(to_json_bytes({"m": Model(a=1), "d": Data("x"), "t": (1, 2), "s": {3}})) == {
        "m": {"a": 1},
        "d": {"b": "x"},
        "t": [1, 2],
        "s": [3],
    }


def test_nan_is_written_as_null() -> None:
    assert to_json_bytes([float("nan"), float("inf")]) == b"[null,null]"


@pytest.mark.parametrize("value", [object(), {"a": object()}, "\ud800", lambda: 1])
def test_what_has_no_json_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        to_json_bytes(value)


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match=r"\S"):
        to_json_bytes(loop)


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 65_535, 65_536, 70_000])
def test_joined_frames_are_one_array(count: int) -> None:
    frames = [{"n": i} for i in range(count)]
    assert unpack(join_msgpack(list(map(pack, frames)))) == frames
    assert json.loads(join_json([to_json_bytes(one) for one in frames])) == frames
