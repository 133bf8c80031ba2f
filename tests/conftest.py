"""What every test may ask for: a store (fakeredis and a real server in turn), and the parts that stand on it."""

import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from rt.jobs.queue import JobQueue
from rt.localredis import PrivateRedis
from rt.redis import Store, forget_memory
from rt.settings import Settings, load_settings
from rt.streams.log import StreamLog

SECRET = "a secret of the tests that is long enough to sign"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would every process that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What a test has to tell (`record_property("told", …)`), and what could not be tested here, where nobody overlooks it."""
    reports = [one for some in terminalreporter.stats.values() for one in some if isinstance(one, pytest.TestReport)]
    for text in dict.fromkeys(text for one in reports for name, text in one.user_properties if name == "told"):
        terminalreporter.write_line(str(text))
    skipped = [str(one.longrepr[2]) for one in reports if one.skipped and isinstance(one.longrepr, tuple)]
    for reason in dict.fromkeys(one.removeprefix("Skipped: ") for one in skipped if "NOT TESTED" in one):
        terminalreporter.write_line(reason, red=True, bold=True)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith("RT_") or name in ("REDIS_URL", "REDIS_TLS_URL", "PORT", "WEB_CONCURRENCY"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def real_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one real server for the whole run of this process; each test finds it empty."""
    with PrivateRedis(tmp_path_factory.mktemp("redis"), aof=False) as server:
        yield server.url


@pytest.fixture(params=["fake", "real"])
def redis_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def redis_url(redis_kind: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A store's URL: of a fakeredis of this test's own, then of the real server, flushed."""
    if redis_kind == "real":
        yield request.getfixturevalue("real_redis")
        return
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    forget_memory(url)


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return load_settings(REDIS_URL=redis_url, secret=SECRET, lease_s=1, drain_s=1)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    store = Store(redis_url)
    await store.call("FLUSHALL")
    yield store
    await store.close()


@pytest.fixture
def streams(store: Store, settings: Settings) -> StreamLog:
    return StreamLog(store, settings)


@pytest.fixture
def queue(store: Store, streams: StreamLog, settings: Settings) -> JobQueue:
    return JobQueue(store, streams, settings)
