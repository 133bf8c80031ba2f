from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.browser.desk import ARGUMENTS, CHROMIUM, Desk, Dev


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One `rt dev` for all pages' tests."""
    one = Dev.start(tmp_path_factory.mktemp("dev"))
    yield one
    one.end()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all of them; tests that use it run in the session's loop."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def desk(browser: Browser, dev: Dev) -> AsyncIterator[Desk]:
    """Tabs of this test's own. At its end none of them may have met a fault."""
    one = Desk(browser, dev)
    yield one
    await one.close()
