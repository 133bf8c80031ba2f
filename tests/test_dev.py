"""`rt dev`: what it keeps, how it starts, how it brings children back, and that it leaves nothing behind."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from rt import children, dev
from rt.children import DevFailed
from rt.dev import Home, without_password
from rt.localredis import find_server
from rt.settings import load_settings
from rt.tokens import DEFAULT_SCOPES, mint
from tests.chaos.stack import ROOT

HAS_SERVER = find_server() is not None
HAS_WEB = all(importlib.util.find_spec(name) for name in ("rt.api.serve", "rt.api.app", "rt.jobs.worker"))

#: A child that does as web and worker do. Each of the others has one fault.
GOOD = """
import os, signal, socket, sys
def stop(*_):
    with socket.socket(socket.AF_UNIX) as s:
        print("redis is", "there" if not s.connect_ex(os.environ["SOCKET"]) else "gone", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("hello", flush=True)
print("ready", sys.argv[1], os.getpid(), flush=True)
while True: signal.pause()
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready x', flush=True)\nwhile True: signal.pause()"
NEVER_READY = "import signal; print('hello', flush=True); signal.pause()"
CRASHING = "import sys; print('my last words', flush=True); sys.exit(7)"
MISCONFIGURED = "import sys; print('error: RT_BLA is no setting', flush=True); sys.exit(2)"
WITH_A_CHILD = "import subprocess, sys; subprocess.Popen(['sleep', '60']); print('ready x', flush=True); sys.stdin.read(); sys.exit(7)"

#: Supervises the children that its arguments are the programs of.
DRIVER = """
import asyncio, os, sys
from pathlib import Path
from rt.children import DevFailed, Program, Redis, Supervisor, say
from rt.localredis import PrivateRedis, find_server
redis = PrivateRedis(Path.cwd()) if find_server() else None
env = {**os.environ, "SOCKET": str(Path.cwd() / "redis.sock")}
names = os.environ["NAMES"].split()
programs = [Program(name, [sys.executable, "-c", text, name], env) for name, text in zip(names, sys.argv[1:])]
try:
    asyncio.run(Supervisor(lambda: programs, Redis(redis) if redis else None, lambda: say("all ready")).run())
except DevFailed as error:
    say(f"error: {error}")
    sys.exit(error.exit_code)
"""


def until(condition: Callable[[], Any], limit_s: float = 20) -> Any:
    """Waits for a condition, not for a time; what it was in the end."""
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)
    return found


class Command:
    """A command in a session of its own, as in a terminal of its own."""

    def __init__(self, args: list[str], folder: Path, **env: str) -> None:
        dropped = ("RT_", "REDIS_", "PORT", "WEB_CONCURRENCY")
        self.log = folder / f"{time.monotonic_ns()}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                args,
                cwd=folder,
                env={name: value for name, value in os.environ.items() if not name.startswith(dropped)} | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def line(self, start: str, limit_s: float = 20) -> str:
        """The first line that starts so, once it is there."""

        def find() -> str | None:
            found = next((line for line in self.text().splitlines() if line.startswith(start)), None)
            assert found or self.process.poll() is None, f"it ended with {self.process.poll()}: {self.text()}"
            return found

        return str(until(find, limit_s))

    def ctrl_c(self) -> None:
        """SIGINT to the foreground group, as a terminal sends it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, limit_s: float = 20) -> int:
        return self.process.wait(limit_s)

    def left(self) -> dict[int, str]:
        """The living processes of its session, and their programs."""
        out = {}
        for entry in Path("/proc").iterdir():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid and fields[0] not in "ZX":
                    out[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except (OSError, IndexError, ValueError):
                continue
        return out

    def kill_all(self) -> None:
        for pid in [self.process.pid, *self.left()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


Supervise = Callable[..., Command]


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    """What a test starts is ended, however the test ends."""
    started: list[Command] = []
    yield started
    for one in started:
        one.kill_all()


@pytest.fixture
def supervise(tmp_path: Path, commands: list[Command]) -> Supervise:
    def start(*programs: str, names: str = "c0 c1") -> Command:
        commands.append(Command([sys.executable, "-c", DRIVER, *programs], tmp_path, NAMES=names))
        return commands[-1]

    return start


@pytest.fixture
def rt(tmp_path: Path, commands: list[Command]) -> Callable[..., Command]:
    def start(*args: str, **env: str) -> Command:
        commands.append(Command([sys.executable, "-P", "-m", "rt.cli", *args], tmp_path, **env))
        return commands[-1]

    return start


linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")


# The folder .rt


def test_the_secret_is_made_once_and_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home.make()
    secret = home.make_secret()
    assert len(secret) == 64
    assert Home.make().make_secret() == secret
    assert stat.S_IMODE((tmp_path / ".rt").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / ".rt/secret").stat().st_mode) == 0o600
    assert (tmp_path / ".rt/.gitignore").read_text() == "*\n"


def test_a_running_dev_is_found_from_below_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home.make()
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    found = Home.find()
    assert found == home
    with home.announced("http://127.0.0.1:8000", "unix:///redis.sock"):
        running = found.running()
        assert running is not None
        assert (running.pid, running.url, running.redis_url) == (os.getpid(), "http://127.0.0.1:8000", "unix:///redis.sock")
        assert stat.S_IMODE((home.path / "dev.json").stat().st_mode) == 0o600
    assert found.running() is None


def test_a_file_that_a_killed_dev_left_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home.make()
    gone = subprocess.Popen(["true"])
    gone.wait()
    for text in (json.dumps({"pid": gone.pid, "url": "http://x", "redis_url": ""}), "{", "{}", "[]"):
        (home.path / "dev.json").write_text(text)
        assert home.running() is None


def test_a_second_one_in_the_same_folder_is_refused_and_told_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rt: Callable[..., Command]
) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home.make()
    with home.lock(), home.announced("http://127.0.0.1:8123", ""):
        second = rt("dev", "--port", "0")
        assert second.end() == 1
    assert second.text().startswith("error: ")
    assert f"pid {os.getpid()}" in second.text()
    assert "http://127.0.0.1:8123" in second.text()
    with home.lock():
        pass


def test_a_url_is_shown_without_its_password() -> None:
    assert without_password("rediss://user:p%40ss@host:6380/1?password=x") == "rediss://host:6380/1"
    assert without_password("unix:///run/redis.sock") == "unix:///run/redis.sock"
    sentinels = "rediss+sentinel://one:1,two:2/main/0"
    assert without_password(f"{sentinels.replace('one', 'user:p@one')}?sentinel_password=x") == sentinels
    for unescaped in "/?#":
        assert without_password(f"redis://:hunter{unescaped}2@host/0") == "(not a URL)"
    assert without_password("redis://[::1") == without_password("hunter2") == "(not a URL)"


# The supervisor


@linux
def test_children_s_lines_carry_their_names_and_ready_is_said_once_for_all(supervise: Supervise) -> None:
    command = supervise(GOOD, GOOD)
    command.line("all ready")
    assert {"c0     │ hello", "c1     │ hello"} <= set(command.text().splitlines())
    assert "ready c" not in command.text()


@linux
@pytest.mark.skipif(not HAS_SERVER, reason="no redis or valkey server")
def test_ctrl_c_ends_the_children_first_and_redis_last_and_leaves_nothing(supervise: Supervise, tmp_path: Path) -> None:
    command = supervise(GOOD, GOOD)
    command.line("all ready")
    assert len(command.left()) == 4
    command.ctrl_c()
    assert command.end() == 0
    assert command.text().count("redis is there") == 2
    assert "Traceback" not in command.text()
    assert command.left() == {}
    assert not (tmp_path / "redis.sock").exists()


@linux
def test_ctrl_c_during_the_start_ends_it_without_a_traceback(supervise: Supervise) -> None:
    command = supervise(NEVER_READY, NEVER_READY)
    command.line("c0     │ hello")
    command.ctrl_c()
    assert command.end() == 0
    assert "Traceback" not in command.text()
    assert command.left() == {}


@linux
def test_a_second_ctrl_c_does_not_wait(supervise: Supervise) -> None:
    command = supervise(STUBBORN)
    command.line("all ready")
    began = time.monotonic()
    command.ctrl_c()
    while command.process.poll() is None:  # one that comes before the first was taken is lost
        command.ctrl_c()
        time.sleep(0.01)
    assert command.end() == 0
    assert "Traceback" not in command.text()
    assert time.monotonic() - began < children.STOP_S / 2
    assert command.left() == {}


@linux
def test_a_killed_child_comes_back(supervise: Supervise) -> None:
    command = supervise("import os; print('pid', os.getpid(), flush=True)\n" + GOOD, GOOD)
    command.line("all ready")
    os.kill(int(command.line("c0     │ pid").split()[-1]), signal.SIGKILL)
    command.line("c0 was killed by SIGKILL; starting it again")
    command.line("c0 is ready again")
    assert command.text().count("all ready") == 1


@linux
def test_sigusr1_kills_the_worker_which_is_no_death_that_counts(supervise: Supervise) -> None:
    command = supervise(GOOD, "import os; print('pid', os.getpid(), flush=True)\n" + GOOD, names="web worker")
    command.line("all ready")
    for time_ in range(1, children.QUICK_DEATHS + 2):
        command.process.send_signal(signal.SIGUSR1)
        until(lambda time_=time_: command.text().count("worker is ready again") == time_)
    assert command.text().count("worker killed (SIGUSR1), starting another") == time_
    assert len({line for line in command.text().splitlines() if "│ pid" in line}) == time_ + 1
    assert "SIGKILL" not in command.text()
    command.ctrl_c()
    assert command.end() == 0


@linux
@pytest.mark.skipif(not HAS_SERVER, reason="no redis or valkey server")
def test_a_killed_redis_comes_back(supervise: Supervise) -> None:
    command = supervise(GOOD)
    command.line("all ready")
    os.kill(next(pid for pid, program in command.left().items() if "-server" in program), signal.SIGKILL)
    command.line("redis was killed by SIGKILL; starting it again")
    until(lambda: any("-server" in one for one in command.left().values()))
    command.ctrl_c()
    assert command.end() == 0
    assert command.left() == {}


@linux
def test_a_child_that_dies_again_and_again_is_given_up(supervise: Supervise) -> None:
    command = supervise(GOOD, CRASHING)
    assert command.end() == 1
    assert command.text().count("my last words") == children.QUICK_DEATHS
    assert "error: c1 ended with exit code 7, the 5th time" in command.text()
    assert command.left() == {}


@linux
def test_a_child_that_refuses_its_settings_is_not_started_again(supervise: Supervise) -> None:
    command = supervise(GOOD, MISCONFIGURED)
    assert command.end() == 2
    assert command.text().count("error: RT_BLA is no setting") == 1
    assert command.left() == {}


@linux
def test_a_grandchild_that_holds_the_output_does_not_hide_a_child_s_end(supervise: Supervise) -> None:
    command = supervise(WITH_A_CHILD)
    command.line("c0 ended with exit code 7; starting it again")


@linux
def test_nothing_outlives_a_supervisor_that_is_killed(supervise: Supervise) -> None:
    command = supervise(GOOD, STUBBORN)
    command.line("all ready")
    command.process.kill()
    command.end()
    until(lambda: command.left() == {})


@linux
def test_it_ends_when_nobody_reads_its_output_any_more(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, GOOD],
        cwd=tmp_path,
        env={**os.environ, "NAMES": "c0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.wait(20) == 0
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


# The command


def test_a_port_that_is_taken_is_said_and_nothing_is_left(tmp_path: Path, rt: Callable[..., Command]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = rt("dev", "--port", str(port))
        assert command.end() == 1
    assert command.text() == f"error: port {port} is taken; name another one: rt dev --port {port + 1}, or --port 0 for any free one\n"
    assert command.left() == {}
    assert not (tmp_path / ".rt/dev.json").exists()


def test_a_host_that_is_not_ours_is_said(rt: Callable[..., Command]) -> None:
    command = rt("dev", "--port", "0", "--host", "203.0.113.1")
    assert command.end() == 1
    assert command.text().startswith("error: cannot listen on 203.0.113.1")


def test_a_mistyped_setting_is_refused_before_anything_starts(rt: Callable[..., Command]) -> None:
    command = rt("dev", RT_LEASE="5")
    assert command.end() == 2
    assert command.text() == "error: RT_LEASE is no setting; did you mean RT_LEASE_S?\n"


def test_without_any_redis_one_process_serves_from_memory_and_says_so_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("RT_SECRET", "s" * 32)
    monkeypatch.setattr(dev, "find_server", lambda: None)
    seen: dict[str, str] = {}

    def serve_here(env: dict[str, str]) -> int:
        home = Home.find()
        assert home
        running = home.running()
        assert running
        assert running.url == f"http://127.0.0.1:{env['PORT']}"
        seen.update(env)
        return 0

    assert dev.run("some:app", "127.0.0.1", 0, reload=True, serve_here=serve_here) == 0
    assert (seen["REDIS_URL"], seen["RT_SECRET"], seen["RT_HOST"], seen["RT_DEV"]) == ("memory://", "s" * 32, "127.0.0.1", "1")
    assert "NOTHING IS KEPT" in capsys.readouterr().out


@linux
def test_a_job_that_heeds_no_cancel_does_not_keep_the_one_process_from_exiting(rt: Callable[..., Command]) -> None:
    secret = "s" * 32
    command = rt(
        "dev", "tests.chaos.jobs:app", "--port", "0", REDIS_URL="memory://", RT_SECRET=secret, RT_DRAIN_S="0", PYTHONPATH=str(ROOT)
    )
    command.line("ready worker")
    headers = {"Authorization": f"Bearer {mint(secret, 'ann', DEFAULT_SCOPES, 60)}"}
    with httpx2.Client(base_url=command.line("ready http").split()[1], headers=headers, trust_env=False) as http:
        ids = [http.post("/v1/jobs", json={"job": name, "input": {}}).json()["job_id"] for name in ("deaf", "deaf_thread")]
        until(lambda: all(http.get(f"/v1/jobs/{id}").json()["status"] == "running" for id in ids))
    command.ctrl_c()
    assert command.end() == 0
    assert "Traceback" not in command.text()


def test_the_environment_s_redis_goes_before_a_private_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RT_REDIS_URL", "redis://elsewhere:6379")
    monkeypatch.setattr(dev, "find_server", lambda: pytest.fail("looked for a server"))
    started: list[dict[str, str]] = []

    async def supervise(app: str, env: dict[str, str], private: object, *_: object) -> int:
        assert private is None
        started.append(env)
        return 0

    monkeypatch.setattr(dev, "_supervise", supervise)
    assert dev.run("some:app", "127.0.0.1", 0, reload=True, serve_here=lambda env: 1) == 0
    # One name for one thing: a second one, of higher rank, would contradict it.
    assert (started[0]["REDIS_URL"], "RT_REDIS_URL" in started[0]) == ("redis://elsewhere:6379", False)
    monkeypatch.setenv("RT_DEV", started[0]["RT_DEV"])
    assert load_settings().dev is True


def test_a_lock_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Home.make().lock(), pytest.raises(DevFailed, match="runs in this folder already"), Home.make().lock():
        pass


@linux
@pytest.mark.skipif(not (HAS_WEB and HAS_SERVER), reason="needs rt.api and a redis or valkey server")
def test_from_nothing_to_a_finished_job_and_back_to_nothing(tmp_path: Path, rt: Callable[..., Command]) -> None:
    command = rt("dev", "--port", "0")
    url = command.line("ready http://127.0.0.1:", limit_s=60).split()[1]
    assert len(command.text()[: command.text().index("ready http://")].splitlines()) <= 12
    job = rt("job", "submit", "echo", "text=hello there", "--json")
    assert job.end(30) == 0
    events = [json.loads(line) for line in job.text().splitlines()]
    assert "".join(event["data"]["text"] for event in events if event["type"] == "job.delta") == "hello there"
    assert events[-1]["type"] == "job.completed"
    doctor = rt("doctor", "--json")
    assert doctor.end(30) == 0, doctor.text()
    assert {one["name"]: one["status"] for one in json.loads(doctor.text())["checks"]}["test event"] == "ok"
    listed = rt("job", "ls", "--url", url)
    assert listed.end(30) == 0
    assert "\techo\tcompleted\t" in listed.text()
    command.ctrl_c()
    assert command.end(30) == 0
    assert "Traceback" not in command.text()
    assert command.left() == {}
    assert not (tmp_path / ".rt/dev.json").exists()
