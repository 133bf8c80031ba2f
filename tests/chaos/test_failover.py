"""Another Redis takes over that has less than was acknowledged: what it lacks is said, and no cursor means another event."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rt import keys
from rt.cursor import Cursor
from rt.errors import Unavailable
from rt.keys import parse_stream
from rt.localredis import PrivateRedis, die_with_parent, find_server
from rt.redis import Store, load_script
from rt.settings import load_settings
from rt.streams.log import StreamLog
from rt.streams.replay import Gap, place
from tests.chaos.proxy import HELD, Proxy
from tests.chaos.scene import Scene
from tests.chaos.stack import Stack, free_port
from tests.helpers import eventually

ROOM = parse_stream("room:lobby")
TENANT = keys.DEFAULT_TENANT
CERTIFICATE = Path(__file__).with_name("localhost.pem")


class Replica:
    """A server that copies another one through a `link` of its own, which can be held up: then it lags."""

    def __init__(self, folder: Path, primary: PrivateRedis, port: int) -> None:
        folder.mkdir()
        self.port = free_port()
        self.primary, self.server = primary, PrivateRedis(folder, port=self.port)
        self.link = Proxy(port)

    async def follow(self) -> None:
        await copy(self.server, self.primary, self.link.port)
        await eventually(self.in_step)

    async def in_step(self) -> bool:
        known: Any = await command(self.server, "INFO", "replication")
        return known["master_link_status"] == "up" and not known["master_sync_in_progress"]


@asynccontextmanager
async def replica_of(primary: PrivateRedis, port: int, folder: Path) -> AsyncIterator[Replica]:
    replica = Replica(folder / "replica", primary, port)
    with replica.server:
        async with replica.link:
            await replica.follow()
            yield replica


async def copy(server: PrivateRedis, primary: PrivateRedis, port: int) -> None:
    """Makes `server` a replica of `primary`, which it reaches at `port`."""
    await command(primary, "CONFIG", "SET", "repl-diskless-sync-delay", 0)  # which waits for more replicas to come
    await command(server, "REPLICAOF", "127.0.0.1", port)


async def command(server: PrivateRedis, *words: Any) -> Any:
    async with Redis.from_url(server.url) as redis:
        return await redis.execute_command(*words)


async def test_a_lagging_replica_takes_over(weathered: Stack, tmp_path: Path) -> None:
    stack = weathered
    async with replica_of(stack.redis, stack.redis_port, tmp_path) as replica, Scene(stack, tmp_path) as scene:
        away = scene.clients[0]
        replica.link.set(HELD)
        await scene.live(2)  # the replica has none of this
        # One job is accepted that the replica never hears of.
        lost = await scene.clients[1].submit("count", until=str(tmp_path / "end"), every_ms=20)
        await scene.clients[1].until(lambda: "job.delta" in lost.types())
        await away.cut()
        held = scene.journals[0].cursor
        await command(replica.server, "REPLICAOF", "NO", "ONE")
        stack.network.point(replica.port)
        stack.network.cut()
        await scene.redis.aclose()
        scene.redis = Redis.from_url(replica.server.url)
        await away.reopen()
        await asyncio.gather(scene.ready(True, 2), scene.live(2))
        await scene.clients[1].until(lambda: lost.gaps, 5)
        assert not scene.journals[0].cursor.startswith(held.split(":")[0])
        assert [[gap["reason"] for gap in one.gaps] for one in (*scene.journals, lost)] == [["epoch_changed"]] * 4
        async with stack.http(scopes=("admin",)) as http:
            answer = await http.get(f"/v1/jobs/{lost.stream.removeprefix('job:')}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        await scene.finish()
        await scene.judge(whole=False)


async def test_a_primary_that_comes_back_after_two_failovers_is_another_incarnation(tmp_path: Path) -> None:
    """The same process with the same run id: what it lost as a replica must not be written again under the old epoch."""

    @asynccontextmanager
    async def streams_of(server: PrivateRedis) -> AsyncIterator[StreamLog]:
        store = Store(server.url)
        try:
            yield StreamLog(store, load_settings())
        finally:
            await store.close()

    port = free_port()
    with PrivateRedis(tmp_path, port=port) as first:
        async with replica_of(first, port, tmp_path) as second:
            async with streams_of(first) as streams:
                await streams.publish(TENANT, ROOM, b'{"type":"message"}')
                await command(first, "WAIT", 1, 1000)
                second.link.set(HELD)
                for _ in range(3):
                    lost = await streams.publish(TENANT, ROOM, b'{"type":"message"}')
            await command(second.server, "REPLICAOF", "NO", "ONE")
            async with streams_of(second.server) as streams:  # nothing is written to the room under the second one
                assert (await streams.read(TENANT, str(ROOM), 0)).head.top == 1
            await copy(first, second.server, second.port)

            async def copied() -> bool:
                return bytes(await command(first, "HGET", keys.meta(TENANT, str(ROOM)), "seq")) == b"1"

            await eventually(copied)
            await command(first, "REPLICAOF", "NO", "ONE")
            async with streams_of(first) as streams:
                new = [await streams.publish(TENANT, ROOM, b'{"type":"message"}') for _ in range(5)]
                head = (await streams.read(TENANT, str(ROOM), 0)).head
    assert new[0].seq < lost.seq < new[-1].seq
    assert place(Cursor(lost.epoch, lost.seq), head).gap == Gap("epoch_changed")
    assert place(Cursor(lost.epoch, 1), head).gap is None


async def test_a_replica_is_not_taken_for_a_primary_that_it_may_become(tmp_path: Path) -> None:
    """A connection that was made before the promotion would write under the incarnation of the primary that is gone."""
    port = free_port()
    with PrivateRedis(tmp_path, port=port) as first:
        async with replica_of(first, port, tmp_path) as second:
            store = Store(second.server.url)
            with pytest.raises(Unavailable):
                await store.call("GET", "x")
            await command(second.server, "REPLICAOF", "NO", "ONE")
            assert await store.takes_writes()
            known = await command(second.server, "INFO", "replication")
            noted = await store.call("GET", keys.INCARNATION)
            assert noted.decode().split(":")[1] == known["master_replid"]
            await store.close()


@asynccontextmanager
async def sentinel(folder: Path, primary_port: int, *more: str) -> AsyncIterator[int]:
    """The port of a Sentinel that watches the service "main", and calls it down after half a second; `more` lines of its settings."""
    port = free_port()
    settings = [
        f"port {port}",
        "bind 127.0.0.1",
        f"dir {folder}",
        f"sentinel monitor main 127.0.0.1 {primary_port} 1",
        "sentinel down-after-milliseconds main 500",
        "sentinel failover-timeout main 2000",
        *more,
    ]
    file = folder / "sentinel.conf"
    file.write_text("\n".join(settings))
    server = find_server()
    assert server is not None
    with open(folder / "sentinel.log", "wb") as log:  # noqa: ASYNC230
        process = subprocess.Popen(  # noqa: ASYNC220
            [server.path, file, "--sentinel"], stdout=log, stderr=log, preexec_fn=die_with_parent()
        )
    try:
        yield port
    finally:
        process.kill()
        process.wait()


async def test_sentinel_fails_over_to_a_lagging_replica(tmp_path: Path) -> None:
    """The address of the primary is another one now; nobody told our processes but Sentinel, whom they asked."""
    with Stack(tmp_path, "tests.chaos.jobs:app", proxied=True) as stack:
        network = stack.network
        assert network is not None
        async with replica_of(stack.redis, network.port, tmp_path) as replica, sentinel(tmp_path, network.port) as port:
            stack.env["REDIS_URL"] = f"redis+sentinel://127.0.0.1:{port}/main/0"
            async with Redis(port=port) as asked:

                async def known() -> bool:
                    with contextlib.suppress(RedisError):
                        return len(await asked.sentinel_slaves("main")) == 1
                    return False

                await eventually(known)
                await asyncio.to_thread(stack.start)
                async with Scene(stack, tmp_path) as scene:
                    replica.link.set(HELD)
                    await scene.live(2)  # the replica has none of this
                    stack.redis.kill()
                    await scene.ready(False, 2)

                    async def promoted() -> bool:
                        return (await asked.sentinel_get_master_addr_by_name("main"))[1] == replica.port

                    await eventually(promoted, within_s=20)
                    await scene.redis.aclose()
                    scene.redis = Redis.from_url(replica.server.url)
                    await asyncio.gather(scene.ready(True, 2), scene.live(2))
                    assert [[gap["reason"] for gap in one.gaps] for one in scene.journals] == [["epoch_changed"]] * 3
                    await scene.finish()
                    await scene.judge(whole=False)


async def reached(url: str) -> bool:
    """Whether both kinds of clients reach the primary that a Sentinel names. Neither raises anything else for one that they do not."""
    store = Store(url)
    thread = store.thread_client()
    script = load_script("streams/stream", "streams/heads")
    try:
        return await store.run(script, []) == await asyncio.to_thread(thread.run, script, []) == []
    except Unavailable:
        return False
    finally:
        await asyncio.to_thread(thread.close)
        await store.close()


async def test_the_servers_and_their_sentinels_have_passwords_of_their_own(tmp_path: Path) -> None:
    port = free_port()
    with PrivateRedis(tmp_path, port=port) as primary:
        await command(primary, "CONFIG", "SET", "requirepass", "the servers'")
        settings = ('sentinel auth-pass main "the servers\'"', 'requirepass "the Sentinels\'"')
        async with sentinel(tmp_path, port, *settings) as asked:
            at = f"127.0.0.1:{asked}/main/0"
            await eventually(lambda: reached(f"redis+sentinel://:the%20servers%27@{at}?sentinel_password=the%20Sentinels%27"))
            for wrong in (f"redis+sentinel://:the%20servers%27@{at}", f"redis+sentinel://{at}?sentinel_password=the%20Sentinels%27"):
                assert not await reached(wrong)


@asynccontextmanager
async def tls(port: int, replaced: tuple[bytes, bytes] = (b"", b"")) -> AsyncIterator[int]:
    """A port that is `port` with TLS before it; of what comes from there, one word is replaced by another that is as long."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, old: bytes = b"", new: bytes = b"") -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data.replace(old, new) if old else data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_there, to_there = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, to_there), pump(from_there, writer, *replaced))

    server = await asyncio.start_server(serve, "127.0.0.1", ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_tls_is_spoken_to_the_sentinels_and_to_the_servers(tmp_path: Path) -> None:
    port = free_port()
    with PrivateRedis(tmp_path, port=port):
        async with (
            tls(port) as secure,
            sentinel(tmp_path, port) as plain,
            # The Sentinel knows of no TLS, and would name the port before which none stands.
            tls(plain, (b"%d" % port, b"%d" % secure)) as asked,
        ):
            at = f"sentinel://127.0.0.1:{asked}/main/0"
            await eventually(lambda: reached(f"rediss+{at}?ssl_ca_certs={CERTIFICATE}&ssl_check_hostname=true"))
            assert not await reached(f"rediss+{at}"), "nobody vouches for it"
            assert not await reached(f"redis+{at}")
