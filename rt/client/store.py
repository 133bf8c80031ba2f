"""Where a client keeps its session and cursors, so that a later one goes on where it stopped."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Protocol

from rt.client.messages import Saved
from rt.codec import DecodeError, TooDeep, from_json_bytes, to_json_bytes
from rt.cursor import parse_cursor
from rt.errors import Refused


class CursorStore(Protocol):
    """Both are called from threads, one call at a time; `save` about once a second while something is processed, and at the end.

    A session's id is a credential: keep it where nobody else reads it. One store serves one client at a time.
    """

    def load(self) -> Saved: ...
    def save(self, saved: Saved) -> None: ...


class MemoryStore:
    """Survives the client, and not the process."""

    def __init__(self) -> None:
        self._saved = Saved()

    def load(self) -> Saved:
        return self._saved

    def save(self, saved: Saved) -> None:
        self._saved = saved


class FileStore:
    """A file of the user's own (mode 0600), always whole: it is written beside itself and put in place at once.

    A file that is no such file raises ValueError at `load`; what cannot be read or written raises OSError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def load(self) -> Saved:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return Saved()
        try:
            value = from_json_bytes(raw)
            session, cursors = value["session"], dict(value["cursors"])
            for cursor in cursors.values():
                parse_cursor(cursor)
            if not (session is None or isinstance(session, str)):
                raise TypeError
        except (DecodeError, TooDeep, KeyError, TypeError, ValueError, AttributeError, Refused):
            raise ValueError(f"{self._path} holds no session: remove it, or name another file") from None
        return Saved(session, cursors)

    def save(self, saved: Saved) -> None:
        raw = to_json_bytes({"session": saved.session, "cursors": saved.cursors})
        # The name is another one each time: two processes by mistake spoil each other's session, never the file.
        number, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
