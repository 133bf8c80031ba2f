"""uvicorn's WebSocket protocol with what it lacks. Leans on uvicorn's internals: its minor version is pinned.

1. A message above the size limit closes with 4502, not 1009: the range tells our clients what to do.
2. At most 64 fragments a message: `ws_max_size` counts bytes only, and empty fragments gather without limit.
3. A connection can be given up: `close()` waits until the peer has read everything, which one that has stopped
   reading never does. `abort(code, reason)` writes the close frame and drops the transport.
4. A peer whose control frames pile up unread, or whose keepalive is over, is given up the same way.
5. An upgrade that was answered with a status is over: uvicorn would log it as a mistake of the application.
6. Messages are written as bytes, at once, and the application is called when there is room again: ASGI's `send` decodes,
   encodes, copies and waits for each of them, and holds three copies of a message that waits. What goes to many is framed once.

The application finds it as `scope["extensions"]["rt.wire"]`.
"""

import struct
import sys
from collections.abc import Callable
from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.server import ServerProtocol

from rt.actors.mailbox import Mailbox
from rt.gate import Gate

MAX_FRAGMENTS = 64
MAX_CONTROL_BYTES = 64 * 1024
#: Between a close frame and the end of a transport whose peer does not answer.
ABORT_AFTER_S = 2.0
#: Up to this size a message is copied behind its header, which is cheaper than a second buffer.
WHOLE_BYTES = 4096

_SHORT, _LONG = struct.Struct("!BBH"), struct.Struct("!BBQ")


def header(size: int, *, binary: bool) -> bytes:
    """What stands before an unmasked, unfragmented message of so many bytes (RFC 6455, 5.2)."""
    opcode = 0x82 if binary else 0x81
    if size < 126:
        return bytes((opcode, size))
    if size < 65536:
        return _SHORT.pack(opcode, 126, size)
    return _LONG.pack(opcode, 127, size)


class _Connection(ServerProtocol):
    def fail(self, code: int, reason: str = "") -> None:
        super().fail(4502 if code == 1009 else code, reason)


class _Queue(Mailbox[ASGIReceiveEvent]):
    """What uvicorn needs of its queue. Never full: while a message waits the socket is not read."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(sys.maxsize)

    def empty(self) -> bool:
        return not self.depth


class WebSocketProtocol(WebSocketsSansIOProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn.__class__ = _Connection
        # Both are asyncio's where uvicorn makes them, and weigh 3 KiB an idle connection.
        self.writable = self.room = Gate()  # type: ignore[assignment]
        self.queue = _Queue()  # type: ignore[assignment]
        #: Called when `writable` is set again.
        self.on_writable: Callable[[], None] | None = None

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions["rt.wire"] = self

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self.abort(4502, "too many fragments")
            return
        super().handle_cont(event)

    def write(self, message: bytes, *, binary: bool) -> None:
        """Writes one message of an accepted connection at once: ask `writable` before. Raises ConnectionError when it is closed."""
        if self.disconnected or self.close_sent or self.transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        if self.conn.extensions:  # permessage-deflate
            (self.conn.send_binary if binary else self.conn.send_text)(message)
            self.transport.writelines(self.conn.data_to_send())
        elif len(message) < WHOLE_BYTES:
            self.transport.write(header(len(message), binary=binary) + message)
        else:
            self.transport.writelines((header(len(message), binary=binary), message))

    def forget_handshake(self) -> None:
        """Drops the request, its answer and the scope: 3 KiB that nobody looks at any more once a connection was accepted."""
        self.scope.clear()  # type: ignore[attr-defined]
        del self.request, self.response, self.scope

    def framed(self, messages: list[bytes], *, binary: bool) -> bytes | None:
        """What `write` would write for all of them; None where each connection compresses by itself."""
        if self.conn.extensions:
            return None
        if len(messages) == 1:
            return header(len(messages[0]), binary=binary) + messages[0]
        return b"".join([part for one in messages for part in (header(len(one), binary=binary), one)])

    def write_framed(self, framed: bytes) -> None:
        """As `write`, of whole messages that are framed already."""
        if self.disconnected or self.close_sent or self.transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self.transport.write(framed)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MAX_CONTROL_BYTES + 65536:
            self.transport.abort()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.loop.call_later(ABORT_AFTER_S, self.transport.abort)

    def abort(self, code: int, reason: str) -> None:
        """Closes without waiting for what is unsent. Safe to call again, and on a closed connection."""
        if self.close_sent or self.transport.is_closing():
            self.transport.abort()
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.fail(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        # Nobody may wait for room in a transport that will not have any.
        self.disconnected = True
        self.writable.set()
        self.loop.call_later(ABORT_AFTER_S, self.transport.abort)
