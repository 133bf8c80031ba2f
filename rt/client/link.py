"""One WebSocket of a client: opened, written beside being read, closed."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from rt.client.messages import Dropped, NotOpened, Opened, Received
from rt.codec import DecodeError, TooDeep, from_json_bytes

#: How long the last words, and the close handshake, may take.
LAST_WORDS_S = 2.0

#: The longest message that is taken; servers send far less, however much they join.
MAX_BYTES = 16 * 1024 * 1024

Said = Opened | NotOpened | Received | Dropped


class Link:
    """`run()` in a task of the client's; `say` is told of what happens, until `hang_up`; `calm` may hold up the reading."""

    def __init__(
        self, address: str, *, local: bool, timeout_s: float, say: Callable[[Said], None], calm: Callable[[], Awaitable[None]]
    ) -> None:
        self._address, self._timeout_s = address, timeout_s
        # A proxy that the environment names cannot reach this machine's own addresses.
        self._proxy: Any = None if local else True
        self._say, self._calm = say, calm
        self._socket: ClientConnection | None = None
        self._unsent: deque[str] = deque()
        self._wake = asyncio.Event()
        self._goodbye: tuple[int, str] | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        return self._goodbye is not None

    def send(self, text: str) -> None:
        self._unsent.append(text)
        self._wake.set()

    def hang_up(self, code: int, reason: str) -> None:
        """Nothing is said any more. 1000: closed after what was sent; otherwise cut at once."""
        self._goodbye = code, reason
        self._wake.set()
        if self._socket is None:
            if self._running is not None:
                self._running.cancel()
        elif code != 1000:
            self._socket.transport.abort()

    async def run(self) -> None:
        self._running = asyncio.current_task()
        try:
            socket = self._socket = await self._open()
        except InvalidStatus as error:
            self._say(_refused(error))
            return
        except (OSError, TimeoutError, EOFError, WebSocketException) as error:
            self._say(NotOpened(f"{type(error).__name__}: {error}".rstrip(": ")))
            return
        writing = asyncio.create_task(self._write(socket))
        try:
            self._say(Opened())
            dropped = await self._read(socket)
            if not self.over:
                self._say(dropped)
            else:
                await writing
        finally:
            socket.transport.abort()
            writing.cancel()
            await asyncio.wait({writing})

    async def _open(self) -> ClientConnection:
        # Silence is judged by the protocol's own pings.
        options: dict[str, Any] = {"compression": None, "max_size": MAX_BYTES, "ping_interval": None, "close_timeout": LAST_WORDS_S}
        protocols = [Subprotocol("rt.v1.json")]
        return await connect(self._address, subprotocols=protocols, open_timeout=self._timeout_s, proxy=self._proxy, **options)

    async def _read(self, socket: ClientConnection) -> Dropped:
        try:
            async for message in socket:
                if self.over:
                    continue  # until the other side has closed as well
                try:
                    value = from_json_bytes(message)
                except (DecodeError, TooDeep) as error:
                    return Dropped(1006, f"the server sent what cannot be read: {error}")
                frames = value if isinstance(value, list) else [value]
                if not all(isinstance(one, dict) and isinstance(one.get("type"), str) for one in frames):
                    return Dropped(1006, "the server sent what is no frame")
                self._say(Received(frames, len(message)))
                # Readers have their turn between two messages, also where many have come at once.
                await asyncio.sleep(0)
                await self._calm()
        except ConnectionClosed:
            pass
        return Dropped(socket.close_code or 1006, socket.close_reason or "")

    async def _write(self, socket: ClientConnection) -> None:
        try:
            while True:
                while self._unsent:
                    await socket.send(self._unsent.popleft())
                if self._goodbye is not None:
                    if self._goodbye[0] == 1000:
                        await socket.close(*self._goodbye)
                    return
                self._wake.clear()
                await self._wake.wait()
        except ConnectionClosed:
            pass  # whoever reads is told


def _refused(error: InvalidStatus) -> NotOpened:
    response = error.response
    plain = response.headers.get("Content-Type", "").startswith("text/plain")
    words = response.body.decode(errors="replace")[:200].strip() if response.body and plain else ""
    after = response.headers.get("Retry-After", "")
    return NotOpened(words or f"HTTP {response.status_code}", response.status_code, float(after) if after.isdecimal() else 0.0)
