from collections.abc import AsyncIterator, Iterator

import pytest

from tests.chaos.stack import Stack
from tests.helpers import eventually


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two web processes and two workers for the tests of one file that kill none of them."""
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        stack.fresh = getattr(request.module, "FRESH", False)
        yield stack.start(webs=2, workers=2)


@pytest.fixture(scope="session")
def _weathered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    short = {"RT_ROOM_LENGTH": "100", "RT_USER_AGE_S": "2"}
    with Stack(tmp_path_factory.mktemp("stack"), "tests.chaos.jobs:app", proxied=True, **short) as stack:
        yield stack.start()


@pytest.fixture
async def weathered(_weathered: Stack) -> AsyncIterator[Stack]:
    """One web process and one worker that reach Redis through `network`, for tests that kill none of them."""
    yield _weathered
    _weathered.network.accept()
    _weathered.network.point(_weathered.redis_port)
    _weathered.network.set()
    _weathered.network.cut()
    async with _weathered.http() as http:

        async def ready() -> bool:
            return (await http.get("/readyz")).status_code == 200

        await eventually(ready)


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of the test's own, to break."""
    with Stack(tmp_path_factory.mktemp("stack"), "tests.chaos.jobs:app") as stack:
        yield stack
