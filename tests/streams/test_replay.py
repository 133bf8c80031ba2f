"""The two comparisons on which every recovery rests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.cursor import START, Cursor
from rt.streams.replay import NOTHING, Gap, Head, Place, join, place

EPOCHS = st.sampled_from(["aa", "bb", "cc"])


@st.composite
def heads(draw: st.DrawFn) -> Head:
    """Any head that a log can have: what is kept begins at `kept` or, when the log vanished under it, later."""
    top = draw(st.integers(0, 30))
    kept = draw(st.integers(1, top + 1))
    first = draw(st.one_of(st.just(kept), st.integers(kept, top + 1)))
    epoch, *older = draw(st.permutations(["aa", "bb", "cc"]))
    past, reached = [], top
    for one in older[: draw(st.integers(0, 2))]:
        reached = draw(st.integers(0, reached))
        past.append(Cursor(one, reached))
    return Head(epoch, top, first, kept, tuple(past))


def test_a_reader_at_the_top_goes_on_without_a_gap() -> None:
    assert place(Cursor("aa", 7), Head("aa", 7, 3, 3)) == Place(7)
    assert place(Cursor("aa", 7), Head("aa", 7, 8, 8)) == Place(7)


def test_a_reader_inside_what_is_kept_goes_on_without_a_gap() -> None:
    assert place(Cursor("aa", 2), Head("aa", 7, 3, 3)) == Place(2)
    assert place(Cursor("aa", 5), Head("aa", 7, 3, 3)) == Place(5)


def test_a_reader_behind_what_is_kept_is_told_what_is_missing() -> None:
    assert place(Cursor("aa", 1), Head("aa", 7, 4, 4)) == Place(3, Gap("trimmed", 2, 3))


def test_what_vanished_under_the_meta_has_expired() -> None:
    assert place(Cursor("aa", 1), Head("aa", 7, 8, 1)) == Place(7, Gap("expired", 2, 7))
    assert place(Cursor("aa", 1), Head("aa", 9, 8, 3)) == Place(7, Gap("expired", 2, 7))


def test_a_cursor_above_the_top_is_of_another_history() -> None:
    assert place(Cursor("aa", 9), Head("aa", 7, 3, 3)) == Place(2, Gap("epoch_changed"))


def test_from_the_start_is_the_first_event_under_whatever_epoch() -> None:
    assert place(START, Head("aa", 7, 1, 1)) == Place(0)
    assert place(START, Head("aa", 7, 3, 3)) == Place(2, Gap("trimmed", 1, 2))
    assert place(START, NOTHING) == Place(0)


def test_a_cursor_before_the_first_event_is_a_place() -> None:
    assert place(Cursor("aa", 0), Head("aa", 7, 1, 1)) == Place(0)
    assert place(Cursor("aa", 0), Head("aa", 0, 1, 1)) == Place(0)


def test_an_older_epoch_counts_as_far_as_it_reached() -> None:
    head = Head("bb", 9, 1, 1, (Cursor("aa", 5),))
    assert place(Cursor("aa", 5), head) == Place(5, None, moved=True)
    assert place(Cursor("aa", 2), head) == Place(2, None, moved=True)
    assert place(Cursor("aa", 6), head) == Place(0, Gap("epoch_changed"))
    assert place(Cursor("zz", 2), head) == Place(0, Gap("epoch_changed"))


def test_an_older_epoch_may_have_been_trimmed_too() -> None:
    head = Head("bb", 9, 4, 4, (Cursor("aa", 5),))
    assert place(Cursor("aa", 1), head) == Place(3, Gap("trimmed", 2, 3), moved=True)


@pytest.mark.parametrize(
    "cursor",
    [START, Cursor("bb", 1), Cursor("bb", 10), Cursor("aa", 1), Cursor("aa", 6), Cursor("zz", 2)],
    ids=["from the start", "trimmed", "above the top", "trimmed before the epoch", "above an older epoch's", "of no known epoch"],
)
def test_what_is_known_of_lost_events_comes_with_whatever_gap(cursor: Cursor) -> None:
    head = Head("bb", 9, 4, 4, (Cursor("aa", 5),), {"seq": 3, "data": {"status": "running"}})
    found = place(cursor, head)
    assert found.seq == 3
    assert found.gap is not None
    assert found.gap.snapshot == head.snapshot


@given(st.builds(Cursor, EPOCHS, st.integers(0, 35)), heads())
def test_after_its_place_a_reader_misses_nothing_that_was_not_said(cursor: Cursor, head: Head) -> None:
    found = place(cursor, head)
    assert head.first - 1 <= found.seq <= head.top  # everything after it can be read
    if found.gap is None:
        assert found.seq == cursor.seq
        assert cursor.epoch == head.epoch or found.moved
    elif found.gap.reason == "epoch_changed":
        assert (found.gap.first, found.gap.last) == (None, None)
        assert not found.moved
        assert found.seq == head.first - 1
    else:
        assert (found.gap.first, found.gap.last) == (cursor.seq + 1, found.seq)
        assert found.gap.first is not None
        assert found.gap.first <= found.seq


@given(heads(), st.integers(0, 30))
def test_the_place_of_a_place_is_itself(head: Head, seq: int) -> None:
    found = place(Cursor(head.epoch, seq), head)
    assert place(Cursor(head.epoch, found.seq), head) == Place(found.seq)


def test_an_announcement_follows_repeats_or_leaves_a_hole() -> None:
    assert join("aa", 5, "aa", 6, 6) == "next"
    assert join("aa", 5, "aa", 6, 9) == "next"
    assert join("aa", 5, "aa", 4, 8) == "next"  # overlaps: what is known is dropped by seq
    assert join("aa", 5, "aa", 4, 5) == "old"
    assert join("aa", 5, "aa", 1, 1) == "old"
    assert join("aa", 5, "aa", 7, 7) == "hole"
    assert join("aa", 5, "bb", 6, 6) == "other"
    assert join("aa", 5, "bb", 1, 5) == "other"


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.data())
def test_whatever_announcements_are_lost_doubled_or_shuffled_the_reader_has_each_event_once(sizes: list[int], data: st.DataObject) -> None:
    batches, top = [], 0
    for size in sizes:
        batches.append((top + 1, top + size))
        top += size
    arriving = data.draw(st.lists(st.sampled_from(batches), max_size=20))
    got: list[int] = []
    written = 0  # how much of the log stood there when the announcement arrived
    for first, last in arriving:
        written = max(written, last)
        sent = got[-1] if got else 0
        match join("aa", sent, "aa", first, last):
            case "next":
                got += range(sent + 1, last + 1)
            case "hole":
                got += range(sent + 1, written + 1)  # read from the log
            case other:
                assert other == "old"
    assert got == list(range(1, written + 1))
