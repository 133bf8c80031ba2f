"""What a save does under `rt dev`: the new code serves, nobody loses anything, and code that does not start changes nothing."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from rt.client import StreamEvent, connect
from rt.localredis import find_server
from rt.sources import Sources
from rt.tokens import DEFAULT_SCOPES, mint
from tests.helpers import eventually
from tests.test_dev import Command, until

SECRET = "s" * 32

APP = """
import asyncio
from rt import App, Connection, Event, JobContext

app = App()
VERSION = "{version}"

@app.job(keep=lambda past: True)
async def speak(job: JobContext, until: str = VERSION) -> str:
    await job.emit(f"{{VERSION}} begins. ")
    while VERSION != until:
        await job.emit("on and on. ")
        await asyncio.sleep(0.005)
    return VERSION

class Which(Event, type="which"): pass

@app.on(Which)
async def which(conn: Connection, event: Which) -> str:
    return VERSION
"""

needs_server = pytest.mark.skipif(sys.platform != "linux" or find_server() is None, reason="needs Linux and a redis or valkey server")


class Dev:
    """A real `rt dev` of an application in a file, and its user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saves = 0
        self.version = "first"
        self.write("first")
        self.command = Command(
            [sys.executable, "-P", "-m", "rt.cli", "dev", "app:app", "--port", "0"],
            folder,
            RT_SECRET=SECRET,
            RT_ACCEPT_RATE="10000",
            PYTHONDONTWRITEBYTECODE="",  # a developer has it seldom
        )
        self.url = self.command.line("ready http://", 60).split()[1]
        self.token = mint(SECRET, "ann", DEFAULT_SCOPES, 600)
        self._read = 0

    def write(self, version: str, more: str = "") -> None:
        """As an editor saves: whole, and at once. Every save within one second, which is all that Python's compiled files know."""
        new = self.folder / "new"
        new.write_text(APP.format(version=version) + more)
        self._saves += 1
        os.utime(new, ns=(0, 1_750_000_000 * 10**9 + self._saves))
        new.rename(self.folder / "app.py")

    def line(self, start: str) -> str:
        """The next line that starts so, of those that come after the last one that was asked for."""

        def find() -> str:
            at = 0
            for line in (text := self.command.text())[self._read :].splitlines(keepends=True):
                at += len(line)
                if line.startswith(start) and line.endswith("\n"):
                    self._read += at
                    return line
            assert self.command.process.poll() is None, text
            return ""

        return str(until(find, 60)).rstrip()

    def save(self, version: str) -> None:
        self.write(version)
        self.line("reloaded app.py in ")
        self.version = version

    def serving(self) -> set[int]:
        """The processes of web and worker."""
        return {pid for pid, program in self.command.left().items() if " web app" in program or " worker app" in program}


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One for those tests that leave it as they found it: at work."""
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith(("RT_", "REDIS_"))]:
            environment.delenv(name)
        one = Dev(tmp_path_factory.mktemp("dev"))
    try:
        yield one
    finally:
        one.command.kill_all()


async def versions(dev: Dev) -> tuple[str, str]:
    """The code that web and worker run."""
    async with connect(dev.url, token=dev.token) as rt:
        return await rt.call("which", {}), await rt.submit("speak").result()


@needs_server
async def test_a_client_in_mid_answer_loses_nothing_and_is_answered_by_the_new_code(dev: Dev) -> None:
    # The other code is as long as the first, and of the same second.
    old, before = dev.version, dev.serving()
    answers: list[int | str] = []
    enough = threading.Event()

    def knock() -> None:
        """Somebody new connects all the time."""
        while not enough.wait(0.01):
            with contextlib.closing(HTTPConnection(dev.url.removeprefix("http://"), timeout=20)) as http:
                try:
                    http.request("GET", "/readyz")
                    answers.append(http.getresponse().status)
                except (OSError, HTTPException) as error:
                    answers.append(repr(error))

    events: list[StreamEvent] = []
    async with connect(dev.url, token=dev.token) as rt, asyncio.timeout(60):
        knocking = asyncio.create_task(asyncio.to_thread(knock))
        try:
            job = rt.submit("speak", {"until": "other"})
            async for event in job:
                assert isinstance(event, StreamEvent)
                events.append(event)
                if len(events) == 30:
                    dev.write("other")
            assert await rt.call("which", {}) == "other"
            await asyncio.to_thread(dev.line, "reloaded app.py in ")
            dev.version = "other"
        finally:
            enough.set()
            await knocking
        assert await job.result() == "other"
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events if event.final] == ["job.completed"]
    assert [event.data["reason"] for event in events if event.type == "job.restarted"] == ["deploy"]
    said = "".join(event.text for event in events)
    assert said.startswith(f"{old} begins. on and on. ")
    assert said.endswith("on and on. other begins. ")
    assert set(answers) == {200}
    assert len(dev.serving() - before) == 2
    assert not dev.serving() & before


@needs_server
async def test_code_that_does_not_start_is_shown_and_changes_nothing(dev: Dev) -> None:
    before = dev.serving()

    dev.write("broken", "\n@app.on_worker_start\ndef load(): raise OSError('no model here')\n")
    told = await asyncio.to_thread(dev.line, "app.py: ")
    assert told == "app.py: worker ended with exit code 1; still running the code from before"
    assert "worker │ error: OSError: no model here" in dev.command.text()

    dev.write("broken", "\ndef fail(): return 1 / 0\nfail()\n")
    told = await asyncio.to_thread(dev.line, "app.py: ")
    assert told == "app.py: ZeroDivisionError: division by zero; still running the code from before"
    trace = dev.command.text().rpartition("Traceback")[2]
    assert "in fail" in trace
    assert "importlib" not in trace

    dev.write("broken", "\ndef hello(:\n")
    told = await asyncio.to_thread(dev.line, "app.py: ")
    assert told == "app.py: SyntaxError: invalid syntax; still running the code from before"
    assert "    def hello(:\n" in dev.command.text()

    assert dev.serving() == before
    assert await versions(dev) == (dev.version, dev.version)

    # The old code cannot be started again, and nobody is given up for that.
    dev.command.process.send_signal(signal.SIGUSR1)
    told = await asyncio.to_thread(dev.line, "worker ended with")
    assert told.endswith("exit code 2; its last lines say why. It is started again when a file is saved")
    dev.write("broken", "\ndef good_bye(:\n")
    told = await asyncio.to_thread(dev.line, "app.py: SyntaxError")
    assert told.endswith("still waiting for code that starts")
    await asyncio.to_thread(dev.save, "better")
    assert await versions(dev) == ("better", "better")


@needs_server
async def test_a_save_during_a_reload_begins_it_anew(dev: Dev) -> None:
    mark = dev.folder / "imported"
    # Its import never ends, and then its worker's start.
    dev.write("stuck", f"\nimport time; open({str(mark)!r}, 'w').close(); time.sleep(600)\n")
    await eventually(mark.exists)
    dev.write("stuck", "\nimport time; app.on_worker_start(lambda: time.sleep(600))\n")
    await eventually(lambda: len(dev.serving()) == 4)
    said = dev.command.text().count("reloaded")
    await asyncio.to_thread(dev.save, "last")
    assert await versions(dev) == ("last", "last")
    assert dev.command.text().count("reloaded") == said + 1
    assert len(dev.command.left()) == 4  # itself, Redis, web, worker


@needs_server
def test_ctrl_c_during_a_reload_leaves_nothing(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    try:
        dev.write("second", "\nimport time; app.on_worker_start(lambda: time.sleep(600))\n")
        until(lambda: len(dev.serving()) == 4)
        dev.command.ctrl_c()
        assert dev.command.end(30) == 0
        assert "Traceback" not in dev.command.text()
        assert "reloaded" not in dev.command.text()
        assert dev.command.left() == {}
    finally:
        dev.command.kill_all()


# The files


async def test_what_is_somebody_else_s_is_not_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("app.py", "pkg/deep/jobs.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in (".rt/x.py", "env/pyvenv.cfg", "env/lib/x.py", "node_modules/x.py", "site-packages/x.py", "pkg/__pycache__/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    sources = Sources.of("app:app")
    waiting = asyncio.create_task(sources.wait_change())
    for name in (".rt/x.py", "env/lib/x.py", "node_modules/x.py", "site-packages/x.py", "pkg/__pycache__/x.py", "notes.txt"):
        (tmp_path / name).write_text("another")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.5)
    assert not waiting.done()
    (tmp_path / "app.py").write_text("1")
    (tmp_path / "pkg/deep/jobs.py").unlink()
    (tmp_path / "pkg/new.py").touch()
    assert await waiting == ["app.py", "pkg/deep/jobs.py", "pkg/new.py"]


async def test_a_module_that_lives_elsewhere_is_watched_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there/shop").mkdir(parents=True)
    (tmp_path / "there/shop/__init__.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path / "there")
    sources = Sources.of("shop.app:app")
    (tmp_path / "there/shop/app.py").touch()
    assert await sources.wait_change() == ["../there/shop/app.py"]
