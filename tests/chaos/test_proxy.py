"""The proxy does to connections what it says, and nothing else: the fault tests stand on it."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.proxy import FAIR, HALF_OPEN, HELD, Proxy
from tests.helpers import eventually

QUIET_S = 0.15


class Echo:
    """A server that sends back what it gets, and counts who came and how they left."""

    def __init__(self) -> None:
        self.open = self.ended = self.reset = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.writers.append(writer)
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            self.ended += 1
        except ConnectionError:
            self.reset += 1
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
        proxy.cut()
        await eventually(lambda: not echo.open)


@contextlib.asynccontextmanager
async def dialled(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def trip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = b"word") -> float:
    """Seconds until all of it was back."""
    began = time.monotonic()
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(len(data)), 10) == data
    return time.monotonic() - began


async def silent(reader: asyncio.StreamReader) -> bool:
    """Whether neither bytes nor an end come for a while."""
    try:
        await asyncio.wait_for(reader.read(1), QUIET_S)
    except TimeoutError:
        return True
    return False


async def test_bytes_pass_unchanged_both_ways_and_are_counted(proxy: Proxy) -> None:
    data = os.urandom(3_000_000)  # more than any buffer on the way holds
    async with dialled(proxy) as one:
        await trip(*one, data)
        told = proxy.statistics()
        assert (told.accepted, told.open, told.up, told.down, told.dropped) == (1, 1, len(data), len(data), 0)
    await eventually(lambda: proxy.statistics().open == 0)


async def test_an_end_passes_with_all_that_came_before_it(proxy: Proxy, echo: Echo) -> None:
    async with dialled(proxy) as (reader, writer):
        writer.write(b"x" * 1_000_000)
        writer.write_eof()
        assert len(await asyncio.wait_for(reader.read(-1), 10)) == 1_000_000
    await eventually(lambda: (echo.ended, proxy.statistics().open) == (1, 0))


async def test_a_delay_holds_back_each_direction_and_keeps_the_rate(proxy: Proxy) -> None:
    async with dialled(proxy) as one:
        proxy.set(up_ms=200)
        assert 0.2 <= await trip(*one) < 0.4
        proxy.set(down_ms=200)
        assert 0.2 <= await trip(*one) < 0.4
        proxy.set(up_ms=60, down_ms=60)
        # The way is long, not narrow: many chunks that follow one another take one delay.
        began = time.monotonic()
        for _ in range(20):
            one[1].write(b"x" * 10_000)
            await asyncio.sleep(0.001)
        await one[0].readexactly(200_000)
        assert 0.12 <= time.monotonic() - began < 1.2
        proxy.set()
        assert await trip(*one) < 0.12


async def test_a_throttle_makes_the_way_narrow(proxy: Proxy) -> None:
    async with dialled(proxy) as one:
        for weather in ({"up_rate": 100_000}, {"down_rate": 100_000}):
            proxy.set(**weather)
            assert 0.15 <= await trip(*one, b"x" * 20_000) < 1


async def test_what_a_throttle_holds_up_goes_at_once_when_it_is_lifted(proxy: Proxy) -> None:
    async with dialled(proxy) as (reader, writer):
        proxy.set(down_rate=1_000)
        writer.write(b"x" * 100_000)
        await reader.readexactly(50)
        proxy.set(FAIR)
        await asyncio.wait_for(reader.readexactly(99_950), 2)


async def test_a_throttled_way_keeps_no_more_than_its_bound(proxy: Proxy, echo: Echo) -> None:
    """The source is not read any more, so that it feels how narrow the way is."""
    async with dialled(proxy) as (reader, writer):
        proxy.set(down_rate=1)
        writer.write(b"x" * 30_000_000)
        await reader.readexactly(1)
        before = -1
        while proxy.statistics().up != before:
            before = proxy.statistics().up
            await asyncio.sleep(QUIET_S)
        assert before < 25_000_000


async def test_held_bytes_wait_and_then_all_of_them_go_on(proxy: Proxy) -> None:
    async with dialled(proxy) as (reader, writer):
        await trip(reader, writer)
        proxy.set(HELD)
        writer.write(b"abc")
        assert await silent(reader)
        writer.write(b"def")
        proxy.set()
        assert await asyncio.wait_for(reader.readexactly(6), 2) == b"abcdef"


async def test_a_cut_resets_both_sides(proxy: Proxy, echo: Echo) -> None:
    async with dialled(proxy) as (reader, writer), dialled(proxy) as (second, its):
        await trip(reader, writer)
        await trip(second, its)
        assert proxy.cut(lambda link: link.number == 1) == 1
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 2)
        await eventually(lambda: echo.reset == 1)
        await trip(second, its)
        told = proxy.statistics()
        assert (told.open, told.cut) == (1, 1)


async def test_a_reset_of_the_target_reaches_the_client(proxy: Proxy, echo: Echo) -> None:
    async with dialled(proxy) as (reader, writer):
        await trip(reader, writer)
        raw = echo.writers[0].get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        echo.writers[0].transport.abort()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 2)


async def test_new_connections_are_refused_and_old_ones_go_on(proxy: Proxy) -> None:
    async with dialled(proxy) as one:
        await trip(*one)
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        await trip(*one)
        proxy.accept()
        async with dialled(proxy) as other:
            await trip(*other)


async def test_half_open_connections_swallow_all_and_never_live_again(proxy: Proxy, echo: Echo) -> None:
    async with dialled(proxy) as old:
        await trip(*old)
        proxy.set(HALF_OPEN)
        async with dialled(proxy) as new:  # it connects, and that is all
            for reader, writer in (old, new):
                writer.write(b"lost")
                assert await silent(reader)
            assert proxy.statistics().dropped == 8
            proxy.set()
            for reader, writer in (old, new):
                writer.write(b"also lost: what came before it was")
                assert await silent(reader)
    # The clients are gone, and nobody told the server.
    await asyncio.sleep(QUIET_S)
    assert (echo.open, echo.reset, echo.ended) == (2, 0, 0)


async def test_one_direction_may_be_lost_alone(proxy: Proxy, echo: Echo) -> None:
    async with dialled(proxy) as (reader, writer):
        proxy.set(drop_down=True)
        writer.write(b"word")
        await eventually(lambda: proxy.statistics().dropped == 4)
        assert proxy.statistics().up == 4
        assert await silent(reader)


async def test_a_connection_is_chosen_by_what_it_said_first(proxy: Proxy) -> None:
    async with dialled(proxy) as one, dialled(proxy) as other:
        await trip(*one, b"SUBSCRIBE a")
        await trip(*other, b"GET b")
        proxy.set(which=lambda link: b"SUBSCRIBE" in link.opening, down_ms=200)
        assert await trip(*one) >= 0.2
        assert await trip(*other) < 0.2


async def test_a_target_that_is_away_or_another(proxy: Proxy, tmp_path: Path) -> None:
    here = Echo()
    path = str(tmp_path / "socket")
    async with dialled(proxy) as one:
        await trip(*one)
        proxy.point(path)
        async with dialled(proxy) as (reader, _):
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), 2)
        assert proxy.statistics().unreachable == 1
        async with await asyncio.start_unix_server(here.serve, path), dialled(proxy) as other:
            await trip(*other)
            await trip(*one)
            assert here.open == 1
    await eventually(lambda: not here.open)


def test_it_runs_on_a_thread_for_who_has_no_loop() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Proxy(listener.getsockname()[1]) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client,
        listener.accept()[0] as server,
    ):
        client.sendall(b"word")
        assert server.recv(4) == b"word"
        assert proxy.statistics().up == 4
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            server.recv(1)
