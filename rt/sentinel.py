"""Redis behind Sentinel: `redis+sentinel://[user:password@]host[:port],host[:port]/service[/db][?option=value&…]`.

The Sentinels are asked for the primary whenever a connection is made, so a failover is nothing but a lost connection.
User and password are the servers'; the Sentinels are asked with the options `sentinel_username` and `sentinel_password`,
or without any. `rediss+sentinel://` is TLS to the servers and to the Sentinels; the options `ssl_ca_certs`, `ssl_certfile`,
`ssl_keyfile`, `ssl_cert_reqs` and `ssl_check_hostname` mean for both what they mean in a `rediss://` URL.
"""

from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import redis as sync_redis
import redis.asyncio.sentinel as aiosentinel
import redis.sentinel

_PLAIN, _TLS = "redis+sentinel://", "rediss+sentinel://"
SCHEMES = (_PLAIN, _TLS)
_PORT = 26379
#: A Sentinel that is silent for this long is passed over.
_ASK_S = 0.5
#: Options of a URL, and what they are called by the library: of the Sentinels alone, and of every TLS connection.
_ASKING = {"sentinel_username": "username", "sentinel_password": "password"}
_WORDS = {"ssl_cert_reqs": ("required", "optional", "none"), "ssl_check_hostname": ("true", "false")}
_OF_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")


class SentinelUrl(NamedTuple):
    """`server` and `asking` are what the library takes for a connection to a server, and to a Sentinel."""

    sentinels: list[tuple[str, int]]
    service: str
    server: dict[str, Any]
    asking: dict[str, Any]


def parse_sentinel_url(url: str) -> SentinelUrl:
    """Raises ValueError, which says what is wrong and repeats nothing of the URL: a part of a password may stand anywhere."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    sentinels = [_address(one, number) for number, one in enumerate(filter(None, hosts.split(",")), 1)]
    if not sentinels:
        raise _wrong("it names no Sentinel")
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        raise _wrong("it names no service")
    if not (db or "0").isdecimal():
        raise _wrong("what stands behind the service is not the number of a database")
    asking, tls = _options(parts.query, tls=url.startswith(_TLS))
    server = {"username": unquote(username) or None, "password": unquote(password) or None, "db": int(db or 0)}
    timeouts = {"socket_timeout": _ASK_S, "socket_connect_timeout": _ASK_S}
    return SentinelUrl(sentinels, unquote(service), server | tls, timeouts | asking | tls)


def _address(text: str, number: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(_PORT)
    host = host.strip("[]")
    if not host:
        raise _wrong(f"Sentinel {number} has no host")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise _wrong(f"the port of Sentinel {number} is not a number from 1 to 65535")
    return host, int(port)


def _options(query: str, *, tls: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the library takes for the Sentinels alone, and for every connection."""
    asking: dict[str, Any] = {}
    shared: dict[str, Any] = {"ssl": True} if tls else {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _ASKING:
            asking[_ASKING[name]] = value
        elif name not in _OF_TLS:
            raise _wrong(f"it has an option that is none of {', '.join((*_ASKING, *_OF_TLS))}")
        elif not tls:
            raise _wrong(f"{name} is for {_TLS}")
        elif name in _WORDS and value not in _WORDS[name]:
            raise _wrong(f"{name} is one of {', '.join(_WORDS[name])}")
        else:
            shared[name] = value == "true" if name == "ssl_check_hostname" else value
    return asking, shared


def _wrong(what: str) -> ValueError:
    return ValueError(
        f"{what}; a Sentinel URL looks like {_PLAIN}host:{_PORT},host:{_PORT}/service/0 (in a password / is %2F, ? is %3F, # is %23)"
    )


class SentinelPool(aiosentinel.SentinelConnectionPool):
    """Makes connections to whatever server is the primary then; `options` are the connections'."""

    def __init__(self, url: str, **options: Any) -> None:
        known = parse_sentinel_url(url)
        asked = aiosentinel.Sentinel(known.sentinels, sentinel_kwargs=known.asking)  # type: ignore[no-untyped-call]
        super().__init__(known.service, asked, **known.server, **options)  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        await super().aclose()
        for one in self.sentinel_manager.sentinels:
            await one.aclose()


def thread_client(url: str, **options: Any) -> "sync_redis.Redis":
    """A client for one thread, of whatever server is the primary when it connects."""
    known = parse_sentinel_url(url)
    asked = redis.sentinel.Sentinel(known.sentinels, sentinel_kwargs=known.asking)  # type: ignore[no-untyped-call]
    client: sync_redis.Redis = asked.master_for(known.service, **known.server, **options)  # type: ignore[no-untyped-call]
    return client
