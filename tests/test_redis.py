"""The way to Redis, where the loop says of a lost connection what nobody else does."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
import uvloop

from rt.errors import Unavailable
from rt.redis import Store


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
