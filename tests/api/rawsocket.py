"""A WebSocket by hand, for what no decent client would send or fail to do: RFC 6455 over a plain socket.

It acknowledges nothing by itself, keeps every frame of the protocol that came, and reads only when it is asked to.
"""

import asyncio
import base64
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ormsgpack

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MSGPACK = "rt.v1.msgpack"


class Ended(Exception):
    """The connection is over. `code` is that of the close frame, None when there was none."""

    def __init__(self, code: int | None, frames: list[dict[str, Any]]) -> None:
        super().__init__(f"closed with {code}; the last frames were {frames[-3:]}")
        self.code = code


def bearer(token: str) -> str:
    """The token as a subprotocol."""
    return "rt.bearer." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def wire(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """One frame of the WebSocket, masked with zeros, which is a mask."""
    first, size = (0x80 if fin else 0) | opcode, len(payload)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + bytes(4) + payload


class RawSocket:
    """`status` and `headers` are what the upgrade was answered with; only 101 can be talked to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str]) -> None:
        self._reader, self._writer = reader, writer
        self.status, self.headers = status, headers
        self.protocol = headers.get("sec-websocket-protocol")
        #: Every frame of the protocol in the order in which it came, and those that `wait` has not handed out yet.
        self.frames: list[dict[str, Any]] = []
        self.unread: list[dict[str, Any]] = []
        #: What `connected` said.
        self.hello: dict[str, Any] = {}
        #: Whether `read` answers the pings of the protocol.
        self.answers = True
        self.arrays = 0
        self.kinds: set[int] = set()
        self.closed: int | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        protocols: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        receive_buffer: int = 0,
        path: str = "/v1/ws",
    ) -> "RawSocket":
        host, _, port = url.removeprefix("ws://").partition("/")[0].partition(":")
        raw = socket.socket()
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=raw, limit=receive_buffer or 65536)
        sent = {
            "Host": f"{host}:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
            **({"Sec-WebSocket-Protocol": ", ".join(protocols)} if protocols else {}),
            **(headers or {}),
        }
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1").split("\r\n")
        got = {name.strip().lower(): value.strip() for name, colon, value in (line.partition(":") for line in head[1:]) if colon}
        return cls(reader, writer, int(head[0].split()[1]), got)

    async def join(self, **fields: Any) -> "RawSocket":
        """Says `connect`, and waits for the answer. Raises Ended."""
        await self.send({"type": "connect", **fields})
        self.hello = await self.wait("connected")
        return self

    @property
    def session(self) -> str:
        return str(self.hello["session"])

    @property
    def own(self) -> str:
        """The session's own stream."""
        return f"session:{self.session}"

    # sending

    async def write(self, data: bytes, limit_s: float = 10) -> None:
        """Raw bytes. Raises TimeoutError when the server does not read them, OSError when it is gone."""
        self._writer.write(data)
        await asyncio.wait_for(self._writer.drain(), limit_s)

    async def send(self, *frames: Any) -> None:
        """Each as a message of its own, in the subprotocol that was agreed on."""
        for frame in frames:
            if self.protocol == MSGPACK:
                await self.write(wire(BINARY, ormsgpack.packb(frame)))
            else:
                await self.text(json.dumps(frame))

    async def text(self, text: str) -> None:
        await self.write(wire(TEXT, text.encode("utf-8", "surrogatepass")))

    async def binary(self, data: bytes) -> None:
        await self.write(wire(BINARY, data))

    # receiving

    async def wait(self, type: str | None = None, limit_s: float = 10, **fields: Any) -> dict[str, Any]:
        """The first frame that has these fields and was not handed out yet. Raises Ended, TimeoutError."""

        def fits(frame: dict[str, Any]) -> bool:
            return type in (None, frame["type"]) and all(frame.get(name) == value for name, value in fields.items())

        async with asyncio.timeout(limit_s):
            while True:
                for at, frame in enumerate(self.unread):
                    if fits(frame):
                        return self.unread.pop(at)
                await self.read()

    async def until(self, condition: Callable[[], Any], limit_s: float = 10) -> Any:
        """Reads until the condition on `frames` is true, and returns it."""
        async with asyncio.timeout(limit_s):
            while not (value := condition()):
                await self.read()
        return value

    async def ask(self, type: str, id: str, limit_s: float = 10, **fields: Any) -> dict[str, Any]:
        """A command's answer."""
        await self.send({"type": type, "id": id, **fields})
        return await self.answer(id, limit_s)

    async def answer(self, id: str, limit_s: float = 10) -> dict[str, Any]:
        return await self.wait(id=id, limit_s=limit_s)

    async def settle(self) -> None:
        """Returns once the server has handled every frame that was sent before; commands may still be under way."""
        await self.send({"type": "ping"})
        await self.wait("pong")

    async def final(self, stream: str, limit_s: float = 15) -> dict[str, Any]:
        """A job's terminal event."""
        return (await self.until(lambda: [one for one in self.events(stream) if one.get("final")], limit_s))[0]

    async def end(self, limit_s: float = 10) -> int | None:
        """The code that the server closes with; everything before it is read."""
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    await self.read()
        except Ended as ended:
            return ended.code

    def events(self, stream: str) -> list[dict[str, Any]]:
        return [one for one in self.frames if one.get("stream") == stream and "seq" in one and "ts" in one]

    def seqs(self, stream: str) -> list[int]:
        return [one["seq"] for one in self.events(stream)]

    def codes(self) -> list[str]:
        """The codes of all errors that came."""
        return [one["code"] for one in self.frames if one["type"] == "error"]

    async def read(self) -> None:
        """One message. Raises Ended at the end."""
        if self.closed is not None:
            raise Ended(self.closed, self.frames)
        try:
            first, size = await self._reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", await self._reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self._reader.readexactly(8))
            payload = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            raise Ended(None, self.frames) from None
        kind = first & 0x0F
        if kind == CLOSE:
            self.closed = int.from_bytes(payload[:2], "big") if payload else 1005
            self._writer.write(wire(CLOSE, payload[:2]))
            raise Ended(self.closed, self.frames)
        if kind not in (TEXT, BINARY):
            return
        self.kinds.add(kind)
        value = ormsgpack.unpackb(payload) if kind == BINARY else json.loads(payload)
        self.arrays += isinstance(value, list)
        for frame in value if isinstance(value, list) else [value]:
            frame = {"at": time.monotonic(), **frame}
            self.frames.append(frame)
            self.unread.append(frame)
            if frame["type"] == "ping" and self.answers:
                await self.send({"type": "pong"})

    def cut(self) -> None:
        """Gone without a word."""
        self._writer.transport.abort()
