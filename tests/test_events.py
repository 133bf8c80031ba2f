"""Typed events and their one encoding, which is asked questions without being parsed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rt import events
from rt.events import Event, created_job, encode, is_final, reserved, seq_of


def stored(raw: bytes, seq: int = 12) -> bytes:
    """What `append.lua` makes of an encoded event."""
    return b'{"seq":%d,' % seq + raw[1:]


def test_an_event_knows_its_type_and_refuses_unknown_members() -> None:
    class Ask(Event, type="ask"):
        question: str

    assert Ask.type == "ask"
    assert Ask(question="?").model_dump() == {"question": "?"}
    with pytest.raises(ValidationError):
        Ask(question="?", more=1)  # type: ignore[call-arg]


def test_an_event_may_have_a_field_called_type_no_less() -> None:
    class Shaped(Event, type="shaped.v2"):
        kind: str = "x"

    assert Shaped.type == "shaped.v2"
    assert Event.type == ""


def test_a_base_of_events_needs_no_type() -> None:
    class Base(Event):
        room: str

    class Said(Base, type="said"):
        text: str

    assert (Base.type, Said.type) == ("", "said")
    assert set(Said.model_fields) == {"room", "text"}


@pytest.mark.parametrize(
    "type",
    [
        *("", "1ask", ".ask", "as k", "ask\n", "ä", "a" * 65, "connect", "ack", "ping", "message", "notification", "error", "gap", "reply"),
        *("job.submit", "job.delta", "job.", "presence.joined", "token_expiring", "reconnect", "subscribed"),
    ],
)
def test_a_type_that_cannot_be_is_refused_with_the_class_statement(type: str) -> None:
    with pytest.raises(TypeError, match="cannot be an event's type"):

        class Bad(Event, type=type):  # type: ignore[call-arg]
            pass


@pytest.mark.parametrize("type", ["a", "a" * 64, "ask.v2", "A-b_c.d9", "jobs", "presenc"])
def test_every_other_type_is_taken(type: str) -> None:
    class Good(Event, type=type):  # type: ignore[call-arg]
        pass

    assert Good.type == type


def test_what_the_server_alone_writes_is_reserved() -> None:
    assert all(map(reserved, ["job.created", "job.anything", "presence.joined", "notification"]))
    assert not any(map(reserved, ["message", "ask", "jobs"]))


def test_the_members_stand_in_their_order() -> None:
    raw = encode("job.completed", "job:1", {"result": None}, 1_700_000_000_000, attempt=2)
    assert raw == b'{"type":"job.completed","stream":"job:1","ts":1700000000000,"attempt":2,"data":{"result":null},"final":true}'
    assert list(json.loads(encode("message", "room:a", 1, 5))) == ["type", "stream", "ts", "data"]


def test_the_three_terminal_types_are_final() -> None:
    for type in events.TERMINAL:
        assert is_final(stored(encode(type, "job:1", {}, 1)))
    assert not is_final(stored(encode("job.delta", "job:1", {}, 1)))


@given(
    st.recursive(
        st.sampled_from([True, "final", ',"final":true}', None]), lambda one: st.dictionaries(st.sampled_from(["final", "a"]), one)
    )
)
def test_no_data_makes_an_event_look_final(data: Any) -> None:
    assert not is_final(stored(encode("message", "room:a", data, 1)))
    assert is_final(stored(encode("job.failed", "job:a", data, 1)))


def test_a_job_created_names_its_job() -> None:
    raw = encode("job.created", "user:ann", {"job_id": "a b%/ü", "job": "echo"}, 1)
    assert created_job(stored(raw)) == "a b%/ü"
    assert created_job(stored(raw, seq=2**53)) == "a b%/ü"


def test_no_other_event_announces_a_job() -> None:
    for data in ({"job_id": "x"}, {"text": ',"type":"job.created",'}, ',"type":"job.created",'):
        assert created_job(stored(encode("message", "room:a", data, 1))) is None
    assert created_job(stored(encode("job.created.x", "room:a", {"job_id": "x"}, 1))) is None
    assert created_job(stored(encode("job.created", "room:a", {"job_id": 5}, 1))) is None


@given(st.integers(1, 2**53))
def test_the_seq_is_read_without_parsing(seq: int) -> None:
    assert seq_of(stored(encode("message", "room:a", {"seq": 3}, 1), seq)) == seq


def test_what_has_no_json_form_is_no_event() -> None:
    with pytest.raises(ValueError, match=r"\S"):
        encode("message", "room:a", object(), 1)
