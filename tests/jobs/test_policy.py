"""The application's own word on streams: asked at every boundary, closed when it breaks, never above a scope."""

import pytest

from rt.app import App
from rt.errors import Refused
from rt.jobs.access import Access
from rt.jobs.policy import StreamRequest
from rt.jobs.queue import JobQueue
from rt.keys import parse_stream
from rt.redis import Store
from rt.settings import Settings
from rt.streams.sessions import open_session
from rt.tokens import DEFAULT_SCOPES, Claims
from tests.helpers import TENANT, Jobs

asked: list[StreamRequest] = []
app = App()


@app.policy
async def may(request: StreamRequest) -> bool:
    asked.append(request)
    if request.name == "broken":
        raise RuntimeError("a secret of the application")
    if request.name == "told":
        raise Refused("forbidden", "members only")
    if request.kind == "room":
        return request.name == "open" or request.subject == "member"
    return request.allowed or request.name == "shared"


@app.job
async def work(job: object) -> None: ...


@pytest.fixture
def access(store: Store, queue: JobQueue) -> Access:
    asked.clear()
    return Access(store, queue, app.stream_policy)


def claims(subject: str = "ann", *scopes: str) -> Claims:
    return Claims(subject, TENANT, frozenset(scopes or DEFAULT_SCOPES), 2**40)


async def granted(access: Access, how: str, stream: str, who: Claims) -> bool:
    try:
        await getattr(access, how)(who, parse_stream(stream))
    except Refused as error:
        refused = error
    else:
        return True
    assert refused.code == "forbidden"
    assert "secret" not in refused.message
    return False


@pytest.mark.parametrize(("how", "action"), [("read_stream", "read"), ("publish", "publish"), ("report_to", "report")])
async def test_it_is_asked_for_each_kind_of_access(access: Access, how: str, action: str) -> None:
    assert await granted(access, how, "room:open", claims())
    assert not await granted(access, how, "room:closed", claims())
    assert await granted(access, how, "room:closed", claims("member"))
    assert asked[0] == StreamRequest(action, "room", "open", "ann", TENANT, frozenset(DEFAULT_SCOPES), True)  # type: ignore[arg-type]


async def test_it_may_say_more_than_the_rules_and_knows_what_they_say(access: Access) -> None:
    assert await granted(access, "read_stream", "user:shared", claims())
    assert not await granted(access, "read_stream", "user:bob%2Fx", claims())
    assert await granted(access, "read_stream", "user:ann", claims())
    assert [(one.name, one.allowed) for one in asked] == [("shared", False), ("bob/x", False), ("ann", True)]


async def test_a_missing_scope_is_missing_whatever_it_says(access: Access) -> None:
    for how in ("read_stream", "publish", "report_to"):
        assert not await granted(access, how, "room:open", claims("ann", "jobs:read"))
    assert asked == []


async def test_one_that_breaks_grants_nothing_and_one_that_refuses_says_why(access: Access) -> None:
    assert not await granted(access, "read_stream", "room:broken", claims("member"))
    with pytest.raises(Refused, match="members only"):
        await access.read_stream(claims("member"), parse_stream("room:told"))


async def test_what_is_not_true_is_no(store: Store, queue: JobQueue) -> None:
    for said in (None, 1, "yes", False):
        access = Access(store, queue, lambda _, said=said: said)  # type: ignore[misc]
        assert not await granted(access, "read_stream", "room:open", claims())


async def test_a_job_that_reports_to_a_room_is_read_by_who_may_read_the_room(access: Access, store: Store, settings: Settings) -> None:
    job_id = await Jobs(app, store, settings).submit("work", owner="ann", reports=("room:closed",))
    await access.read_job(claims("member"), job_id)
    await access.read_job(claims("ann"), job_id)  # her own
    with pytest.raises(Refused) as refused:
        await access.read_job(claims("bob"), job_id)
    assert refused.value.code == "not_found"


async def test_a_job_is_followed_by_whoever_may_read_what_it_reports_to_also_after_a_resume(
    store: Store, settings: Settings, queue: JobQueue
) -> None:
    access = Access(store, queue, lambda one: one.allowed or (one.kind, one.name, one.subject) == ("user", "bob", "boss"))
    job = f"job:{await Jobs(app, store, settings).submit('work', owner='bob', reports=('user:bob',))}"
    assert await access.no_longer_reads(claims("boss"), ["user:bob", job]) == {}
    await access.read_stream(claims("boss"), parse_stream(job))
    assert list(await access.no_longer_reads(claims("ann"), [job])) == [job]


async def test_one_s_own_job_is_followed_after_a_resume_without_the_right_to_read_others(
    store: Store, settings: Settings, queue: JobQueue
) -> None:
    job = f"job:{await Jobs(app, store, settings).submit('work', owner='ann')}"
    access = Access(store, queue, lambda one: one.allowed)
    assert await access.no_longer_reads(claims("ann", "jobs:write"), [job]) == {}


async def test_a_resume_leaves_what_may_not_be_read_any_more(access: Access, store: Store, settings: Settings, queue: JobQueue) -> None:
    session = await open_session(store, settings, TENANT, "ann", None)
    job_id = await Jobs(app, store, settings).submit("work", owner="bob", reports=("room:closed",))
    # What is forgotten is not forbidden: the session has to say that it is lost.
    followed = ["room:open", "room:closed", f"session:{session.id}", f"job:{job_id}", "job:forgotten"]
    assert list(await access.no_longer_reads(claims(), followed)) == ["room:closed", f"job:{job_id}"]
    assert await Access(store, queue).no_longer_reads(claims(), followed) == {}


def test_an_application_has_one_policy() -> None:
    with pytest.raises(ValueError, match="already"):
        app.policy(lambda request: True)
    assert App(policy=may).stream_policy is may
