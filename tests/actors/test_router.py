"""The router: what an application registered is checked at start; what clients send is checked field by field."""

from typing import Any

import pytest

from rt.actors.frames import Ping, Submit
from rt.actors.router import Handled, Router, Unroutable
from rt.app import App
from rt.errors import Refused
from rt.events import Event


class Ask(Event, type="ask"):
    question: str
    limit: int = 3


def app_with(handler: Any, event: type[Event] = Ask) -> App:
    app = App()
    app.on(event)(handler)
    return app


async def answer(conn: Any, event: Ask) -> None:
    """A handler as it should be."""


def not_async(conn: Any, event: Ask) -> None:
    """Would never be awaited."""


async def of_one(conn: Any) -> None:
    """Takes no event."""


async def of_three(conn: Any, event: Ask, more: int) -> None:
    """Wants what nobody gives."""


async def with_default(conn: Any, event: Ask, more: int = 1) -> None:
    """May be called with two."""


@pytest.mark.parametrize("handler", [not_async, of_one, of_three])
def test_a_handler_that_could_not_be_called_is_refused_at_start_by_its_events_name(handler: Any) -> None:
    with pytest.raises(Unroutable, match="'ask'"):
        Router(app_with(handler))


@pytest.mark.parametrize("handler", [answer, with_default])
def test_a_handler_of_two_arguments_is_routed_to(handler: Any) -> None:
    routed = Router(app_with(handler)).route({"type": "ask", "id": "1", "data": {"question": "why"}})
    assert isinstance(routed, Handled)
    assert (routed.id, routed.event, routed.handler) == ("1", Ask(question="why"), handler)


@pytest.mark.parametrize("word", ["job.submit", "subscribe"])
def test_a_type_that_is_a_frame_of_the_protocol_is_refused_at_start(word: str) -> None:
    app = App()
    app.handlers[word] = (Ask, answer)
    with pytest.raises(Unroutable, match="frame of the protocol"):
        Router(app)


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_a_jobs_name_that_no_frame_could_carry_is_refused_at_start(name: str) -> None:
    app = App()

    @app.job(name="fine")
    async def job(job: Any) -> None: ...

    app.jobs[name] = app.jobs.pop("fine")
    with pytest.raises(Unroutable, match="job name"):
        Router(app)


def test_frames_of_the_protocol_become_their_models() -> None:
    router = Router(App())
    assert isinstance(router.route({"type": "ping"}), Ping)
    submit = router.route({"type": "job.submit", "id": "1", "job": "echo", "input": {"text": "hi"}})
    assert isinstance(submit, Submit)
    assert submit.input == {"text": "hi"}


@pytest.mark.parametrize("value", [None, 1, "ping", [], {}, {"type": 1}, {"type": None}, {"kind": "ping"}])
def test_what_is_no_frame_is_refused_naming_type(value: Any) -> None:
    with pytest.raises(Refused) as refused:
        Router(App()).route(value)
    assert refused.value.code == "invalid_frame"
    assert refused.value.details == [{"loc": ["type"], "msg": "a frame is an object with a string `type`"}]


def test_an_unknown_type_is_said_so() -> None:
    router = Router(App())
    with pytest.raises(Refused) as refused:
        router.route({"type": "x" * 500})
    assert refused.value.code == "unknown_type"
    assert len(refused.value.message) < 200
    assert router.knows("ping")
    assert not router.knows("x")


@pytest.mark.parametrize(
    ("frame", "code", "loc"),
    [
        ({"type": "ask", "data": {"question": 5}}, "invalid_input", ["data", "question"]),
        ({"type": "ask", "data": {}}, "invalid_input", ["data", "question"]),
        ({"type": "ask", "data": {"question": "SECRET", "limit": "SECRET"}}, "invalid_input", ["data", "limit"]),
        ({"type": "ask", "data": {"question": "SECRET", "more": "SECRET"}}, "invalid_input", ["data", "more"]),
        ({"type": "ask", "id": 5, "data": {"question": "SECRET"}}, "invalid_frame", ["id"]),
        ({"type": "ask", "data": {"question": "SECRET"}, "stream": "SECRET"}, "invalid_frame", ["stream"]),
        ({"type": "ask", "data": ["SECRET"]}, "invalid_frame", ["data"]),
    ],
)
def test_errors_of_an_event_name_the_field_and_quote_no_value(frame: dict[str, Any], code: str, loc: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        Router(app_with(answer)).route(frame)
    assert refused.value.code == code
    assert refused.value.details
    assert loc in [one["loc"] for one in refused.value.details]
    assert "SECRET" not in str(refused.value.frame("1"))
    assert refused.value.__cause__ is None
