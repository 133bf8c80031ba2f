"""The frames of clients: what is taken, what is refused, and that an error names the field and quotes nothing."""

from typing import Any

import pytest

from rt.actors.frames import BUILT_IN, Submit, check, command_id
from rt.errors import Refused

GOOD: list[dict[str, Any]] = [
    {"type": "connect"},
    {"type": "connect", "token": "t", "session": "s", "cursors": {"room:a": "e:0"}, "batch": True, "client": {"name": "js"}},
    {"type": "connect", "ticket": "w"},
    {"type": "ack", "cursors": {"room:a": 3, "room:b": "e:4"}},
    {"type": "ping"},
    {"type": "pong"},
    {"type": "subscribe", "id": "1", "stream": "room:a"},
    {"type": "subscribe", "id": "1", "stream": "room:a", "cursor": "0"},
    {"type": "unsubscribe", "id": "1", "stream": "room:a"},
    {"type": "publish", "id": "1", "stream": "room:a", "data": None},
    {"type": "publish", "id": "1", "stream": "room:a", "data": {"x": 1}, "event": "note", "idempotency_key": "k"},
    {"type": "job.submit", "id": "1", "job": "echo"},
    {"type": "job.submit", "id": "1", "job": "echo", "input": {}, "options": {"delay_s": 1, "timeout_s": 2.5, "stream": "room:a"}},
    {"type": "job.cancel", "id": "1", "job_id": "j"},
    {"type": "refresh", "id": "1", "token": "t"},
]


@pytest.mark.parametrize("frame", GOOD, ids=lambda frame: frame["type"])
def test_every_frame_of_the_protocol_is_taken(frame: dict[str, Any]) -> None:
    assert check(BUILT_IN[frame["type"]], frame).type == frame["type"]


@pytest.mark.parametrize("frame", GOOD, ids=lambda frame: frame["type"])
def test_a_field_that_the_protocol_does_not_name_is_an_error(frame: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        check(BUILT_IN[frame["type"]], frame | {"surprise": "SECRET"})
    assert refused.value.code == "invalid_frame"
    assert refused.value.details
    assert refused.value.details[-1]["loc"] == ["surprise"]
    assert "SECRET" not in str(refused.value.frame())


@pytest.mark.parametrize(
    ("frame", "loc"),
    [
        ({"type": "connect", "token": 5}, "token"),
        ({"type": "connect", "batch": "yes"}, "batch"),
        ({"type": "connect", "cursors": {"room:a": 5}}, "cursors.room:a"),
        ({"type": "connect", "client": {"name": "n" * 101}}, "client.name"),
        ({"type": "ack"}, "cursors"),
        ({"type": "ack", "cursors": []}, "cursors"),
        ({"type": "subscribe", "id": "", "stream": "room:a"}, "id"),
        ({"type": "subscribe", "id": "i" * 129, "stream": "room:a"}, "id"),
        ({"type": "subscribe", "stream": "room:a"}, "id"),
        ({"type": "subscribe", "id": 1, "stream": "room:a"}, "id"),
        ({"type": "publish", "id": "1", "stream": "room:a"}, "data"),
        ({"type": "publish", "id": "1", "stream": "room:a", "data": 1, "idempotency_key": "two words"}, "idempotency_key"),
        ({"type": "job.submit", "id": "1", "job": "j" * 201}, "job"),
        ({"type": "job.submit", "id": "1", "job": "echo", "input": []}, "input"),
        ({"type": "job.submit", "id": "1", "job": "echo", "options": {"delay_s": -1}}, "options.delay_s"),
        ({"type": "job.submit", "id": "1", "job": "echo", "options": {"delay_s": 1e12}}, "options.delay_s"),
        ({"type": "job.submit", "id": "1", "job": "echo", "options": {"timeout_s": 0}}, "options.timeout_s"),
        ({"type": "job.submit", "id": "1", "job": "echo", "options": {"timeout_s": "5"}}, "options.timeout_s"),
        ({"type": "job.submit", "id": "1", "job": "echo", "options": {"priority": "interactive"}}, "options.priority"),
        ({"type": "job.submit", "id": "1", "job": "echo", "options": {"colour": "red"}}, "options.colour"),
        ({"type": "job.cancel", "id": "1", "job_id": ""}, "job_id"),
        ({"type": "refresh", "id": "1"}, "token"),
    ],
)
def test_a_wrong_field_is_named(frame: dict[str, Any], loc: str) -> None:
    with pytest.raises(Refused) as refused:
        check(BUILT_IN[frame["type"]], frame)
    assert refused.value.code == "invalid_frame"
    assert refused.value.message.startswith(f"{loc}:")
    assert refused.value.details
    assert ".".join(refused.value.details[0]["loc"]).startswith(loc)


def test_an_error_lists_several_wrong_fields_and_stays_small_however_many_there_are() -> None:
    frame = {"type": "subscribe", "id": 5, "stream": 6} | {"SECRET"[:1] * 1000 + str(number): 1 for number in range(1000)}
    with pytest.raises(Refused) as refused:
        check(BUILT_IN["subscribe"], frame)
    assert refused.value.details
    assert [one["loc"] for one in refused.value.details[:2]] == [["id"], ["stream"]]
    assert len(str(refused.value.frame())) < 20_000


@pytest.mark.parametrize(
    ("frame", "id"),
    [({"id": "a"}, "a"), ({"id": ""}, None), ({"id": "a" * 129}, None), ({"id": 5}, None), ({}, None), ([], None), (None, None)],
)
def test_an_error_is_answered_with_the_commands_id_where_it_has_a_usable_one(frame: Any, id: str | None) -> None:
    assert command_id(frame) == id


def test_options_have_defaults() -> None:
    submit: Submit = check(Submit, {"type": "job.submit", "id": "1", "job": "echo"})
    assert (submit.input, submit.options.delay_s, submit.options.timeout_s, submit.options.stream) == ({}, 0, None, None)
