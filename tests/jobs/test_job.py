"""What a job is, without anything running."""

from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from rt.app import App
from rt.errors import JobError, Refused, TemporaryJobError
from rt.jobs.context import JobContext
from rt.jobs.job import Failed, JobDef, Past, Retry, Retrying, define, failure, outcome_of


class Point(BaseModel):
    x: int
    y: int = 0


async def draw(job: JobContext, at: Point, colour: Literal["red", "blue"] = "red", *, size: Annotated[int, Field(ge=1)] = 1) -> None: ...


def test_the_signature_is_the_input_s_model() -> None:
    job = define("draw", draw)
    assert job.named((1, "red", 2, 3), {"more": 4}) == {"at": 1, "colour": "red", "size": 2, "argument 4": 3, "more": 4}
    checked = job.check({"at": {"x": "3"}})
    assert checked.__dict__ == {"at": Point(x=3), "colour": "red", "size": 1}


@pytest.mark.parametrize(
    ("input", "loc"),
    [
        ({}, ["input", "at"]),
        ({"at": {}}, ["input", "at", "x"]),
        ({"at": {"x": "no number"}}, ["input", "at", "x"]),
        ({"at": {"x": 1}, "colour": "green"}, ["input", "colour"]),
        ({"at": {"x": 1}, "size": 0}, ["input", "size"]),
        ({"at": {"x": 1}, "more": 1}, ["input", "more"]),
    ],
)
def test_a_wrong_input_is_refused_with_the_field_s_name(input: dict[str, Any], loc: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        define("draw", draw).check(input)
    assert refused.value.code == "invalid_input"
    assert refused.value.details is not None
    assert [one["loc"] for one in refused.value.details] == [loc]
    assert refused.value.message.startswith(".".join(loc))


def test_a_refused_input_is_not_quoted() -> None:
    with pytest.raises(Refused) as refused:
        define("draw", draw).check({"at": {"x": "my-secret"}, "colour": "my-secret"})
    assert "my-secret" not in str(refused.value.frame())


async def no_context() -> None: ...
async def keyword_context(*, job: JobContext) -> None: ...
async def untyped(job: JobContext, text) -> None: ...  # type: ignore[no-untyped-def]
async def starred(job: JobContext, *texts: str) -> None: ...
async def double_starred(job: JobContext, **texts: str) -> None: ...
async def positional(job: JobContext, text: str, /) -> None: ...


@pytest.mark.parametrize("function", [no_context, keyword_context, untyped, starred, double_starred, positional])
def test_a_signature_that_cannot_be_validated_is_refused_at_once(function: Any) -> None:
    with pytest.raises(TypeError, match=function.__name__):
        App().job(function)


def test_a_name_is_registered_once() -> None:
    app = App()
    app.job(draw)
    with pytest.raises(ValueError, match="draw"):
        app.job(draw)
    app.job(name="draw2", timeout_s=5, max_attempts=1)(draw)
    assert (app.jobs["draw2"].timeout_s, app.jobs["draw2"].max_attempts, app.jobs["draw"].max_attempts) == (5, 1, 3)
    assert app.job_named(draw) is app.jobs["draw"]
    assert app.job_named("draw2") is app.jobs["draw2"]
    assert app.job_named("nothing") is None


def test_past_is_false_only_when_there_is_none() -> None:
    assert not Past()
    assert all([Past(checkpoint=0), Past(text="x"), Past(deltas=(None,))])


# Another attempt, and when


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.001, 10), st.floats(0.001, 100))
def test_a_delay_is_between_nothing_and_its_cap(tries: int, drawn: float, base_s: float, cap_s: float) -> None:
    assert 0 <= Retry(base_s=base_s, cap_s=cap_s).delay_s(tries, draw=lambda: drawn) <= cap_s


def test_delays_double_up_to_their_cap() -> None:
    retry = Retry(base_s=1, cap_s=10)
    assert [retry.delay_s(tries, draw=lambda: 1.0) for tries in (1, 2, 3, 4, 5, 50)] == [1, 2, 4, 8, 10, 10]


def test_an_error_s_own_delay_wins() -> None:
    assert Retry().delay_s(9, TemporaryJobError("busy", "later", retry_after_s=2.5)) == 2.5
    assert Retry().delay_s(1, TemporaryJobError("busy", "later", retry_after_s=0)) == 0.0
    assert Retry().delay_s(1, TemporaryJobError("busy", "later", retry_after_s=-5)) == 0.0
    for odd in (float("inf"), float("nan")):  # no delay that could be waited for: the backoff's own
        assert Retry().delay_s(1, TemporaryJobError("busy", "later", retry_after_s=odd), draw=lambda: 1.0) == 1.0


class Flaky(Exception):
    temporary = True


class Odd(Exception):
    temporary = "yes"


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (TemporaryJobError("a", "b"), True),
        (ConnectionResetError(), True),
        (Flaky(), True),
        (JobError("a", "b"), False),
        (ValueError(), False),
        (TimeoutError(), False),
        (Odd(), False),
    ],
)
def test_what_is_temporary_is_tried_again(error: Exception, again: bool) -> None:
    assert Retry().covers(error) is again
    assert isinstance(outcome_of(error, define("draw", draw), tries=1), Retrying if again else Failed)


def test_a_job_says_itself_what_is_worth_another_attempt() -> None:
    assert Retry(on=(KeyError,)).covers(KeyError())
    assert not Retry(on=(KeyError,)).covers(ConnectionError())
    assert Retry(on=()).covers(TemporaryJobError("a", "b"))  # it says so itself


def test_the_last_attempt_that_counts_ends_the_job() -> None:
    job = JobDef("draw", draw, Point, max_attempts=3)
    error = TemporaryJobError("busy", "later")
    assert [type(outcome_of(error, job, tries)) for tries in (1, 2, 3, 4)] == [Retrying, Retrying, Failed, Failed]


def test_only_a_job_error_s_text_is_told() -> None:
    assert failure(JobError("no_money", "top up first")) == {"code": "no_money", "message": "top up first", "temporary": False}
    assert failure(TemporaryJobError("busy", "later"))["temporary"] is True
    told = failure(ValueError("postgres://user:password@host"))
    assert told == {"code": "internal", "message": "the job raised ValueError", "temporary": False}
    outcome = outcome_of(ConnectionError("password"), define("draw", draw), 1)
    assert "password" not in str(outcome)
