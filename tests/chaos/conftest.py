from collections.abc import Iterator

import pytest

from tests.chaos.stack import Stack


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two web processes and two workers for the tests of one file that kill none of them."""
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack.start(webs=2, workers=2)


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of the test's own, to break."""
    with Stack(tmp_path_factory.mktemp("stack"), "tests.chaos.jobs:app") as stack:
        yield stack
