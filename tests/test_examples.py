"""The examples, run as their readers run them: against a real `rt dev`, by their documented commands."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rt.localredis import find_server
from rt.tokens import DEFAULT_SCOPES, mint
from tests.chaos.stack import ROOT
from tests.jobs.models.test_openai import DONE, END, STREAM, Endpoint, part, piece
from tests.test_dev import Command, until

SECRET = "s" * 32
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.skipif(sys.platform != "linux" or find_server() is None, reason="needs Linux and a redis or valkey server")


class Dev:
    """A `rt dev`, and what its users type."""

    def __init__(self, folder: Path, *app: str, **env: str) -> None:
        self.folder = folder
        rt = [sys.executable, "-P", "-m", "rt.cli", "dev", *app, "--port", "0", "--no-reload"]
        self.command = Command(rt, folder, RT_SECRET=SECRET, PYTHONPATH=str(ROOT), **env)
        self.url = self.command.line("ready http://", 60).split()[1]
        self.users: list[subprocess.Popen[str]] = []

    def user(self, *args: str, scopes: tuple[str, ...] = ("jobs:write", "jobs:read"), token: str | None = None, **env: str) -> "Popen":
        """Somebody runs an example in a terminal of its own."""
        own = {"RT_URL": self.url, "RT_TOKEN": mint(SECRET, "ann", scopes, 600) if token is None else token, "PYTHONPATH": str(ROOT)}
        one = subprocess.Popen(
            [sys.executable, *args],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"} | own | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.users.append(one)
        return one

    def close(self) -> None:
        for one in self.users:
            one.kill()
            one.communicate()
        self.command.kill_all()


Popen = subprocess.Popen[str]
Start = Callable[..., Dev]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """A `rt dev` of an example's application; each is started once."""
    known: dict[tuple[str, ...], Dev] = {}

    def of(*app: str, **env: str) -> Dev:
        if app not in known:
            known[app] = Dev(tmp_path_factory.mktemp("example"), *app, **env)
        return known[app]

    yield of
    for dev in known.values():
        dev.close()


@pytest.fixture
def dev(start: Start) -> Dev:
    """The built-in application."""
    return start()


def end(user: Popen, code: int = 0) -> tuple[str, str]:
    """What it said, once it has ended."""
    user.wait(60)  # its input is open until then, as a terminal's is
    out, err = user.communicate()
    assert user.returncode == code, (out, err)
    assert "Traceback" not in err
    return out, err


def line(user: Popen) -> str:
    """Its next line of output."""
    assert user.stdout
    return user.stdout.readline()


def test_every_example_is_listed_and_says_how_it_is_run() -> None:
    names = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py")}
    assert set(re.findall(r"\]\(([^)]+\.py)\)", (EXAMPLES / "README.md").read_text())) == names
    for name in names:
        text = (EXAMPLES / name).read_text()
        assert len(text.splitlines()) <= 81, name
        assert re.search(rf"^    .*examples[./]{name.removesuffix('.py').replace('/', '.')}\b", text.split('"""')[1], re.MULTILINE), name


# batch.py


@pytest.fixture
def documents(dev: Dev) -> list[str]:
    names = [f"{n}.txt" for n in range(20)]
    for n, name in enumerate(names):
        (dev.folder / name).write_text("I love it. " * (n + 1) + "I hate it.")
    return names


def test_a_batch_that_is_killed_is_taken_up_by_the_same_command(dev: Dev, documents: list[str]) -> None:
    batch = str(EXAMPLES / "batch.py")
    killed = dev.user(batch, "--json", *documents)
    first = json.loads(line(killed))
    killed.kill()
    killed.communicate()

    out, err = end(dev.user(batch, "--json", *documents))
    rows = [json.loads(one) for one in out.splitlines()]
    assert rows[0] == first
    assert [row["file"] for row in rows] == documents
    assert [row["sentences"] for row in rows] == list(range(2, 22))
    assert "20 documents submitted, 20 of them before" in err
    assert "20 of 20 done, 0 failed" in err

    out, err = end(dev.user(batch, *documents[:2]))
    assert out.splitlines()[1] == "1.txt: positive (+0.23), 3 sentences"
    assert "2 documents submitted, 2 of them before" in err


def test_a_batch_shows_its_progress_and_says_what_is_wrong(dev: Dev) -> None:
    batch = str(EXAMPLES / "batch.py")
    (dev.folder / "long.txt").write_text("I love it. " * 5000)
    _, err = end(dev.user(batch, "long.txt"))
    assert re.search(r"^0/1 done; long.txt: \d+/5000 sentences$", err, re.MULTILINE)
    (dev.folder / "too long.txt").write_text("I love it. " * 20_000)
    assert "error: input.text: String should have at most 200000 characters" in end(dev.user(batch, "too long.txt"), 1)[1]
    (dev.folder / "binary").write_bytes(b"\xff\xfe")
    assert "binary: 'utf-8' codec can't decode" in end(dev.user(batch, "binary"), 2)[1]
    assert "none.txt" in end(dev.user(batch, "none.txt"), 2)[1]
    assert "error: " in end(dev.user(batch, "long.txt", token="wrong"), 1)[1]
    assert "--json" in end(dev.user(batch, "--help"))[0]


# feed.py


def test_a_follower_of_the_feed_has_its_history_and_goes_on_where_it_stopped(dev: Dev) -> None:
    feed = str(EXAMPLES / "feed.py")

    def publish(count: int) -> list[int]:
        out, _ = end(dev.user(feed, "publish", "--count", str(count), "--every", "0", scopes=("streams:publish",)))
        return [int(one.split()[-1]) for one in out.splitlines()]

    def follow(last: int) -> list[int]:
        """Reads up to a point, and presses Ctrl-C."""
        user = dev.user(feed, "follow", "--state", "ann.json", scopes=("streams:read",))
        seqs = [0]
        while seqs[-1] < last:
            seqs.append(int(line(user).split()[0]))
        user.send_signal(signal.SIGINT)
        end(user)
        return seqs[1:]

    first = publish(3)
    assert follow(first[-1]) == first
    later = publish(2)
    # What was shown last may be shown again: nobody had said that it was done with.
    assert follow(later[-1]) in (later, [first[-1], *later])
    assert "lacks the scope streams:publish" in end(dev.user(feed, "publish", "--count", "1", scopes=("streams:read",)), 1)[1]


# plain_arq.py


def test_a_plain_arq_service_gets_its_result(dev: Dev) -> None:
    plain = str(EXAMPLES / "plain_arq.py")
    redis = f"unix://{dev.folder}/.rt/redis.sock"
    out, _ = end(dev.user(plain, "I love this day.", REDIS_URL=redis))
    assert out == "positive (+0.64)\n"
    assert "usage: " in end(dev.user(plain), 1)[1]
    assert "error: http://127.0.0.1" in end(dev.user(plain, "x", REDIS_URL="http://127.0.0.1"), 1)[1]
    assert "error: unix:///nowhere" in end(dev.user(plain, "x", REDIS_URL="unix:///nowhere"), 1)[1]


# ai_chat.py


@pytest.fixture(scope="module")
def model() -> Iterator[Endpoint]:
    """An OpenAI-compatible endpoint on a loop of its own. It never ends an answer to "go on"."""

    class Chat(Endpoint):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            while head := await self._head(reader):
                size = int(head.decode().lower().partition("content-length:")[2].split()[0])
                self.requests.append((head.decode(), {}, asked := json.loads(await reader.readexactly(size))))
                writer.write(STREAM + part(piece("Hello ") + piece("there.")))
                if "go on" not in json.dumps(asked):
                    writer.write(part(piece(None, "stop") + DONE) + END)
            self.left.set()
            writer.close()

    writers: list[asyncio.StreamWriter] = []
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    one = Chat(b"")
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(one.serve, "127.0.0.1", 0), loop).result()
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    yield one

    async def close() -> None:
        server.close()
        for writer in writers:
            writer.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*serving)

    asyncio.run_coroutine_threadsafe(close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_chat_streams_what_the_model_says_and_ctrl_c_stops_an_answer(start: Start, model: Endpoint) -> None:
    dev = start("examples.ai_chat:app", RT_OPENAI_BASE_URL=model.url, RT_OPENAI_MODEL="llama")
    user = dev.user("-m", "examples.ai_chat")
    assert user.stdin
    print("Who are you?", file=user.stdin, flush=True)
    assert line(user) == "> Hello there.\n"
    print("Please go on for ever", file=user.stdin, flush=True)
    said = ""
    while not said.endswith("> Hello there."):
        assert user.stdout
        said += user.stdout.read(1)
    model.left.clear()
    user.send_signal(signal.SIGINT)
    assert line(user) == " (stopped)\n"
    until(model.left.is_set)  # the model was told as well
    print("", file=user.stdin, flush=True)
    end(user)
    asked = model.requests[1][2]
    assert asked["model"] == "llama"
    assert asked["messages"][-1]["content"] == "user: Who are you?\nassistant: Hello there.\nuser: Please go on for ever\nassistant:"

    user = dev.user("-m", "examples.ai_chat", token="wrong")
    assert user.stdin
    print("x", file=user.stdin, flush=True)
    assert "error: " in end(user, 1)[1]


# rooms


def test_a_room_shows_who_comes_what_is_said_and_one_answer_to_all(start: Start, model: Endpoint) -> None:
    dev = start("examples.rooms.app:app", RT_OPENAI_BASE_URL=model.url)

    def enter(subject: str, room: str = "lobby") -> Popen:
        return dev.user("-m", "examples.rooms.client", room, token=mint(SECRET, subject, DEFAULT_SCOPES, 600))

    def say(user: Popen, text: str) -> None:
        assert user.stdin
        print(text, file=user.stdin, flush=True)

    ann = enter("ann")
    assert line(ann) == "(ann has joined)\n"
    bob = enter("bob")
    assert [line(bob), line(bob)] == ["(ann has joined)\n", "(bob has joined)\n"]
    say(bob, "hello")
    say(bob, "?Who is there")
    heard = ["bob: hello\n", "bob asks: Who is there\n", "AI: Hello there.\n"]
    assert [line(bob) for _ in range(3)] == heard
    assert [line(ann) for _ in range(4)] == ["(bob has joined)\n", *heard]
    say(bob, "")
    end(bob)
    ann.send_signal(signal.SIGINT)
    end(ann)

    eve = enter("eve")  # she reads what was said before she came
    while heard:
        if (said := line(eve)) in heard:
            heard.remove(said)
    say(eve, "?" + "why " * 600)
    assert "error: " in end(eve, 1)[1]
    assert "error: " in end(enter("eve", "staff"), 1)[1]
    assert "usage: " in end(dev.user("-m", "examples.rooms.client"), 1)[1]
