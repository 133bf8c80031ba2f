"""The life of a web process."""

import asyncio
import signal
import uuid
from collections.abc import Iterator

import pytest

from rt.api.serve import serve_web
from rt.app import App
from rt.settings import load_settings
from rt.streams.tail import Tail
from tests.conftest import SECRET


@pytest.fixture(autouse=True)
def _keeps_signals() -> Iterator[None]:
    """A process that has served hears none any more; this one goes on."""
    known = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in known.items():
        signal.signal(number, handler)


def test_a_web_process_of_which_a_part_broke_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It went on to listen and answered everybody with an error, alive to whoever might have started it anew."""

    async def broken(tail: Tail) -> None:
        while "ready http" not in capsys.readouterr().out:
            await asyncio.sleep(0.01)
        raise RuntimeError("no version of ours raises this")

    monkeypatch.setattr(Tail, "run", broken)
    settings = load_settings(REDIS_URL=f"memory://{uuid.uuid4().hex}", secret=SECRET, host="127.0.0.1", port=0, drain_s=1)
    assert serve_web(App(), settings) == 1
