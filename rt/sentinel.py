"""Redis behind Sentinel: `redis+sentinel://[user:password@]host[:port],host[:port]/service[/db]`.

The Sentinels are asked for the primary whenever a connection is made, so a failover is nothing but a lost connection.
User and password are the servers'; the Sentinels are asked without.
"""

from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import redis as sync_redis
import redis.asyncio.sentinel as aiosentinel
import redis.sentinel

SCHEME = "redis+sentinel://"
_PORT = 26379
#: A Sentinel that is silent for this long is passed over.
_ASK_S = 0.5


class SentinelUrl(NamedTuple):
    sentinels: list[tuple[str, int]]
    service: str
    #: db, username and password, as far as the URL names them.
    server: dict[str, Any]


def parse_sentinel_url(url: str) -> SentinelUrl:
    """Raises ValueError, which says what is wrong."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    sentinels = []
    for one in filter(None, hosts.split(",")):
        host, colon, port = one.rpartition(":")
        if not colon or one.endswith("]"):
            host, port = one, str(_PORT)
        if not port.isdecimal():
            raise ValueError(f"{port!r} is no port")
        sentinels.append((host.strip("[]"), int(port)))
    service, _, db = parts.path.strip("/").partition("/")
    if not sentinels or not service or not (db or "0").isdecimal() or parts.query:
        raise ValueError(f"a Sentinel URL looks like {SCHEME}host:{_PORT},host:{_PORT}/service/0")
    server = {"username": unquote(username) or None, "password": unquote(password) or None, "db": int(db or 0)}
    return SentinelUrl(sentinels, unquote(service), server)


class SentinelPool(aiosentinel.SentinelConnectionPool):
    """Makes connections to whatever server is the primary then; `options` are the connections'."""

    def __init__(self, url: str, **options: Any) -> None:
        known = parse_sentinel_url(url)
        asked = aiosentinel.Sentinel(known.sentinels, sentinel_kwargs=_asking())  # type: ignore[no-untyped-call]
        super().__init__(known.service, asked, **known.server, **options)  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        await super().aclose()
        for one in self.sentinel_manager.sentinels:
            await one.aclose()


def thread_client(url: str, **options: Any) -> "sync_redis.Redis":
    """A client for one thread, of whatever server is the primary when it connects."""
    known = parse_sentinel_url(url)
    asked = redis.sentinel.Sentinel(known.sentinels, sentinel_kwargs=_asking())  # type: ignore[no-untyped-call]
    client: sync_redis.Redis = asked.master_for(known.service, **known.server, **options)  # type: ignore[no-untyped-call]
    return client


def _asking() -> dict[str, float]:
    return {"socket_timeout": _ASK_S, "socket_connect_timeout": _ASK_S}
