"""The WebSocket at the edge: who is let in, and one connection's messages in and out. Bare ASGI.

FastAPI's class would cost a third more memory per idle connection and a fifth of the throughput; everything that it
would do for this one route is here.
"""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from rt.actors import messages as m
from rt.actors.connection import Authenticate, ConnectionActor, Parts
from rt.actors.mailbox import MailboxClosed
from rt.actors.router import Router
from rt.api.services import Services
from rt.api.wire import WebSocketProtocol
from rt.codec import DecodeError, TooDeep, from_json_bytes, unpack
from rt.errors import Refused
from rt.gate import Gate
from rt.telemetry import metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON, MSGPACK = "rt.v1.json", "rt.v1.msgpack"
_BEARER = "rt.bearer."
RETRY_AFTER_S = 5
#: What a connection's transport may hold beside the message that fills it: asyncio's own default.
MAX_UNSENT_BYTES = 64 * 1024


class WebSocketEndpoint:
    """The ASGI callable of `/v1/ws`. Raises Unroutable when the application cannot be routed to."""

    def __init__(self, services: Services, authenticate: Authenticate) -> None:
        self._services = services
        self._settings = services.settings
        self._origins = frozenset(one.strip().rstrip("/") for one in self._settings.allowed_origins.split(",") if one.strip())
        self._parts = Parts(
            settings=services.settings,
            router=Router(services.app),
            store=services.store,
            streams=services.streams,
            queue=services.queue,
            access=services.access,
            inbox=services.inbox,
            commands=services.commands,
            tail=services.tail,
            cursors=services.cursors,
            presence=services.presence,
            authenticate=authenticate,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        met = await self._meet(scope, receive, send)
        if met is None:
            return
        socket, token = met
        actor = ConnectionActor(f"connection {id(socket):x}", self._parts, socket, msgpack=socket.msgpack, token=token)
        del met, token  # a connection lives for hours
        life = self._services.supervisor.start(actor)
        try:
            await self._pump(receive, actor, socket)
        finally:
            actor.stop()
            await asyncio.wait({life})
            metrics.connections.dec()
            metrics.connection_seconds.observe(asyncio.get_running_loop().time() - actor.opened_at)
            code = actor.close_code if actor.close_code is not None else socket.peer_code
            metrics.disconnects.labels(str(code) if 1000 <= code < 5000 else "other").inc()

    async def _meet(self, scope: Scope, receive: Receive, send: Send) -> "tuple[_Socket, str | None] | None":
        """The accepted socket, and the token of its handshake; None when it was refused."""
        await receive()  # websocket.connect
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._origin_allowed(headers):
            metrics.connections_total.labels("origin").inc()
            await _deny(send, 403, "this origin is not allowed")
            return None
        if self._services.full:
            metrics.connections_total.labels("full").inc()
            await _deny(send, 503, "no more connections now", retry_after_s=RETRY_AFTER_S)
            return None
        asked: list[str] = scope.get("subprotocols", [])
        spoken = next((one for one in asked if one in (JSON, MSGPACK)), None)
        await send({"type": "websocket.accept", "subprotocol": spoken, "headers": []})
        if spoken is None and any(not one.startswith(_BEARER) for one in asked):
            metrics.connections_total.labels("version").inc()
            await send({"type": "websocket.close", "code": 4503, "reason": f"this server speaks {JSON} and {MSGPACK}"})
            return None
        metrics.connections_total.labels("accepted").inc()
        metrics.connections.inc()
        wire: WebSocketProtocol = scope["extensions"]["rt.wire"]
        socket = _Socket(wire, send, msgpack=spoken == MSGPACK, unsent_bytes=min(MAX_UNSENT_BYTES, self._settings.outbox_bytes // 2))
        wire.forget_handshake()
        return socket, _token(headers, asked)

    async def _pump(self, receive: Receive, actor: ConnectionActor, socket: "_Socket") -> None:
        """Socket to mailbox, until either ends."""
        try:
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    socket.peer_code = message.get("code") or 1005
                    return
                await actor.receive(self._decode(message, socket.msgpack))
        except MailboxClosed:
            return

    def _decode(self, message: MutableMapping[str, Any], msgpack: bool) -> m.Message:
        text: str | None = message.get("text")
        raw: bytes = message.get("bytes") or b""
        size = len(raw) if text is None else len(text) if text.isascii() else len(text.encode())
        limit = self._settings.max_message_bytes
        try:
            if size > limit:
                raise Refused("too_large", f"a message of {size} bytes; at most {limit} are taken")
            if msgpack:
                if text is not None:
                    raise Refused("invalid_frame", f"{MSGPACK} has binary messages only")
                decoded = unpack(raw)
            else:
                if text is None:
                    raise Refused("invalid_frame", f"{JSON} has text messages only")
                decoded = from_json_bytes(text)
        except DecodeError as error:
            return m.Malformed(Refused("invalid_frame" if msgpack else "invalid_json", str(error)))
        except TooDeep as error:
            return m.Malformed(Refused("invalid_frame", str(error)))
        except Refused as error:
            return m.Malformed(error)
        for one in decoded if isinstance(decoded, list) else [decoded]:
            kind = one.get("type") if isinstance(one, dict) else None
            metrics.frames_received.labels(kind if isinstance(kind, str) and self._parts.router.knows(kind) else "_other").inc()
        return m.Received(decoded)

    def _origin_allowed(self, headers: dict[str, str]) -> bool:
        """A browser names the page's origin; other clients name none, and prove themselves with their token alone."""
        origin = headers.get("origin")
        if origin is None or "*" in self._origins:
            return True
        return origin.rstrip("/") in self._origins or urlsplit(origin).netloc == headers.get("host")


class _Socket:
    """One WebSocket as the actor sees it. `unsent_bytes`: of what was written, above which it is not writable."""

    __slots__ = ("_send", "_wire", "msgpack", "peer_code")

    def __init__(self, wire: WebSocketProtocol, send: Send, *, msgpack: bool, unsent_bytes: int) -> None:
        self._wire = wire
        self._send = send
        self.msgpack = msgpack
        self.peer_code = 1005
        wire.transport.set_write_buffer_limits(high=unsent_bytes)

    @property
    def unsent(self) -> int:
        return self._wire.transport.get_write_buffer_size()

    @property
    def writable(self) -> Gate:
        return self._wire.room

    def write(self, message: bytes) -> None:
        self._wire.write(message, binary=self.msgpack)

    def framed(self, messages: list[bytes]) -> bytes | None:
        return self._wire.framed(messages, binary=self.msgpack)

    def write_framed(self, framed: bytes) -> None:
        self._wire.write_framed(framed)

    def watch(self, on_writable: Callable[[], None]) -> None:
        self._wire.on_writable = on_writable

    async def close(self, code: int, reason: str) -> None:
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except Exception:  # whatever the server raises for a socket that is gone already
            self.peer_code = code

    def abort(self, code: int, reason: str) -> None:
        self._wire.abort(code, reason)


def _token(headers: dict[str, str], asked: list[str]) -> str | None:
    """The token of the handshake, from the header or from a subprotocol.

    One that cannot be read is "": it is refused like any other that is not valid, once the connect frame asks for it.
    """
    scheme, _, credential = headers.get("authorization", "").partition(" ")
    if scheme:
        return credential.strip() if scheme.lower() == "bearer" else ""
    for one in asked:
        if one.startswith(_BEARER):
            encoded = one[len(_BEARER) :]
            try:
                return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
            except (binascii.Error, UnicodeDecodeError):
                return ""
    return None


async def _deny(send: Send, status: int, why: str, *, retry_after_s: int | None = None) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": why.encode()})
