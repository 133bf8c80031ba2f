"""A socket in memory, as an outbox writes to it."""

from collections.abc import Callable


class MemorySocket:
    """Hands what is written to `take`. While it is held it is not writable, and holds `unsent` bytes; once `gone`, writing raises."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._on_writable: Callable[[], None] = lambda: None
        self.writable = True
        self.unsent = 0
        self.gone = False

    def write(self, message: bytes) -> None:
        assert self.writable
        if self.gone:
            raise ConnectionResetError
        self._take(message)

    def watch(self, on_writable: Callable[[], None]) -> None:
        self._on_writable = on_writable

    def hold(self, unsent: int = 0) -> None:
        self.writable, self.unsent = False, unsent

    def release(self) -> None:
        self.writable, self.unsent = True, 0
        self._on_writable()
