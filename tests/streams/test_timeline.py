"""A stream's events as a person looks through them."""

from typing import Any

from rt.codec import to_json_bytes
from rt.streams.timeline import SHOWN_BYTES, excerpt, timeline


def event(seq: int, type: str, data: Any, attempt: int | None = None) -> bytes:
    return to_json_bytes(
        {"seq": seq, "type": type, "stream": "job:1", "ts": 1000 + seq} | ({"attempt": attempt} if attempt else {}) | {"data": data}
    )


def test_what_a_job_says_in_a_row_is_one_line_with_its_last_progress() -> None:
    lines = timeline(
        [
            event(1, "job.queued", {"job": "echo"}),
            event(2, "job.delta", {"text": "ä "}, 1),
            event(3, "job.delta", {"text": "b"}, 1),
            event(4, "job.progress", {"current": 1}, 1),
            event(5, "job.progress", {"current": 2}, 1),
            event(6, "job.delta", {"data": {"n": 1}}, 1),
            event(7, "job.started", {"worker": "w"}, 2),
            event(8, "job.progress", {"current": 1}, 2),
            event(9, "job.progress", {"current": 2}, 2),
        ]
    )
    assert lines == [
        {"seq": 1, "type": "job.queued", "ts": 1001, "data": excerpt(b'{"job":"echo"}')},
        {
            "seq": 2,
            "to": 6,
            "type": "job.delta",
            "ts": 1002,
            "to_ts": 1006,
            "attempt": 1,
            "data": {"bytes": 12, "text": 'ä b{"n":1}\n'},
            "progress": excerpt(b'{"current":2}'),
        },
        {"seq": 7, "type": "job.started", "ts": 1007, "attempt": 2, "data": excerpt(b'{"worker":"w"}')},
        {"seq": 8, "to": 9, "type": "job.progress", "ts": 1008, "to_ts": 1009, "attempt": 2, "data": excerpt(b'{"current":2}')},
    ]


def test_a_hole_and_another_attempt_begin_another_line() -> None:
    deltas = [event(1, "job.delta", {"text": "a"}, 1), event(3, "job.delta", {"text": "b"}, 1), event(4, "job.delta", {"text": "c"}, 2)]
    assert [(one["seq"], one["data"]["text"]) for one in timeline(deltas)] == [(1, "a"), (3, "b"), (4, "c")]


def test_what_is_long_is_cut_between_two_characters_and_says_how_long_it_was() -> None:
    told = excerpt(("a" + "€" * 1000).encode())
    assert told["bytes"] == 3001
    assert told["text"] == "a" + "€" * ((SHOWN_BYTES - 1) // 3)
    (line,) = timeline([event(n, "job.delta", {"text": "word " * 100}, 1) for n in range(1, 11)])
    assert (line["data"]["bytes"], len(line["data"]["text"])) == (5000, SHOWN_BYTES)


def test_a_stream_without_events_has_no_lines() -> None:
    assert timeline([]) == []
