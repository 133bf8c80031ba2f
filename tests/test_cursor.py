"""Cursors: read strictly, written back unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.cursor import START, Cursor, new_epoch, parse_cursor
from rt.errors import Refused


def test_a_cursor_is_an_epoch_and_a_seq() -> None:
    assert parse_cursor("0a1b2c3d:17") == Cursor("0a1b2c3d", 17)
    assert parse_cursor("e:0") == Cursor("e", 0)
    assert parse_cursor("0") == START


@given(st.from_regex(r"[0-9A-Za-z]{1,32}", fullmatch=True), st.integers(0, 2**53 - 1))
def test_a_cursor_survives_the_way_there_and_back(epoch: str, seq: int) -> None:
    assert parse_cursor(str(Cursor(epoch, seq))) == Cursor(epoch, seq)


def test_the_start_survives_it_too() -> None:
    assert parse_cursor(str(START)) == START


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "1", "00", "a", "a:", ":1", "a:b", "a:-1", "a:+1", "a: 1", "a:1 ", "a:1.0", "a:1e3", "a:0x1", "a b:1"),
        *("a:b:1", "a-b:1", "é:1", "a:١", "a:²", "a:" + "9" * 17, f"a:{2**53}", "a" * 33 + ":1", "a:1\n", "\x00:1"),
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="cursor") as refused:
        parse_cursor(text, "after")
    assert refused.value.code == "invalid_frame"
    assert refused.value.details is not None
    assert refused.value.details[0]["loc"] == ["after"]


@given(st.text(max_size=50))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        found = parse_cursor(text)
    except Refused:
        return
    assert 0 <= found.seq < 2**53


def test_a_new_epoch_is_a_word_that_a_cursor_may_hold() -> None:
    made = {new_epoch() for _ in range(100)}
    assert len(made) == 100
    for epoch in made:
        assert parse_cursor(f"{epoch}:1").epoch == epoch
