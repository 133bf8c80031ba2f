"""A socket in memory, as an outbox writes to it."""

from collections.abc import Callable

from rt.gate import Gate


class MemorySocket:
    """Hands what is written to `take`. While it is held it is not writable, and holds `unsent` bytes; once `gone`, writing raises."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._on_writable: Callable[[], None] = lambda: None
        self.writable = Gate()
        self.unsent = 0
        self.gone = False

    def write(self, message: bytes) -> None:
        assert self.writable.open
        if self.gone:
            raise ConnectionResetError
        self._take(message)

    def framed(self, messages: list[bytes]) -> bytes | None:
        return b"".join(len(one).to_bytes(4, "big") + one for one in messages)

    def write_framed(self, framed: bytes) -> None:
        while framed:
            end = 4 + int.from_bytes(framed[:4], "big")
            self.write(framed[4:end])
            framed = framed[end:]

    def watch(self, on_writable: Callable[[], None]) -> None:
        self._on_writable = on_writable

    def hold(self, unsent: int = 0) -> None:
        self.unsent = unsent
        self.writable.clear()

    def release(self) -> None:
        self.unsent = 0
        self.writable.set()
        self._on_writable()
