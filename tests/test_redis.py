"""The way to Redis: what a lost connection looks like to the loop, and scripts that Redis has forgotten."""

import asyncio
import contextlib
import hashlib
import socket
import struct
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from rt.errors import Unavailable
from rt.redis import Script, Store


@pytest.fixture
def greets_and_resets() -> Iterator[int]:
    """The port of a server that answers a greeting's commands, and resets the connection in the same moment."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = listener.accept()
                with one:
                    one.recv(4096)
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    one.sendall(b"+OK\r\n" * 2)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def test_a_connection_that_is_lost_in_its_greeting_is_a_redis_that_is_away(greets_and_resets: int) -> None:
    """uvloop says it with a RuntimeError, which ended tasks that live through everything, and so whole processes."""

    async def run() -> None:
        store = Store(f"redis://127.0.0.1:{greets_and_resets}/0")
        for _ in range(200):
            with pytest.raises(Unavailable):
                await store.call("PING")
        await store.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.fixture
def counts() -> Script:
    """A script that no server knows yet; it adds one to its key."""
    text = f"-- {uuid.uuid4().hex}\nreturn redis.call('INCR', KEYS[1])"
    return Script("counts", text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


async def test_a_script_that_redis_has_forgotten_is_sent_again_and_runs_once(
    store: Store, counts: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, said = store.call, []

    async def listened(*command: Any) -> Any:
        said.append(command[0])
        return await call(*command)

    monkeypatch.setattr(store, "call", listened)
    ran = [await store.run(counts, ["n"]) for _ in range(2)]
    await call("SCRIPT", "FLUSH")
    ran += [await store.run(counts, ["n"]) for _ in range(2)]
    assert ran == [1, 2, 3, 4]
    # Known by its digest, until it is not.
    assert said == ["EVALSHA", "EVAL", "EVALSHA"] * 2


async def test_a_thread_sends_a_forgotten_script_again_too(store: Store, counts: Script) -> None:
    client = store.thread_client()

    async def run() -> Any:
        return await asyncio.to_thread(client.run, counts, ["n"])

    assert [await run(), await run()] == [1, 2]
    assert await store.call("SCRIPT", "EXISTS", counts.sha) == [1]
    await store.call("SCRIPT", "FLUSH")
    assert await store.call("SCRIPT", "EXISTS", counts.sha) == [0]
    assert [await run(), await run()] == [3, 4]
    client.close()
