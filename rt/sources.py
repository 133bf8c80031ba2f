"""The Python files of an application under development, and which of them were saved.

Their times are polled: a few hundred files take a millisecond or two, and it needs no library.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

#: A save is seen within it; a tree that takes long to look through is looked through less often, for this share of the time.
POLL_S = 0.2
_SHARE = 0.05
#: An editor, or git, writes several files: they are one change when they are no further apart.
QUIET_S = 0.1

_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})

#: Path -> modification time in ns, size.
Seen = dict[str, tuple[int, int]]


class Sources:
    """Every .py file below some folders, but for hidden folders, virtual environments and installed packages."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._seen = self._look()

    @classmethod
    def of(cls, app: str) -> "Sources":
        """Those of `module:attribute`: the working directory, and where the module is when it is elsewhere. Imports nothing."""
        here, top = Path.cwd(), app.partition(":")[0].partition(".")[0]
        folders = [here]
        if not any((here / name).exists() for name in (top, f"{top}.py")):
            with contextlib.suppress(ImportError, ValueError):
                spec = find_spec(top)
                places = (spec.submodule_search_locations or [os.path.dirname(spec.origin or "")]) if spec else []
                folders += [Path(one) for one in places if one and not _SKIPPED & set(Path(one).parts)]
        return cls(folders)

    async def wait_change(self) -> list[str]:
        """The files that were saved, made or deleted since the last call (or since this was made), once no more of them change.

        Cancelling it loses nothing: the next call tells.
        """
        while True:
            await asyncio.sleep(max(POLL_S, self._took_s / _SHARE))
            now = await asyncio.to_thread(self._look)
            while now != self._seen:
                await asyncio.sleep(QUIET_S)
                before, now = now, await asyncio.to_thread(self._look)
                if now == before:
                    changed = {path for path, _ in now.items() ^ self._seen.items()}
                    self._seen = now
                    return sorted(map(os.path.relpath, changed))

    def _look(self) -> Seen:
        began = time.monotonic()
        seen = dict(one for folder in self._folders for one in _files(folder))
        self._took_s = time.monotonic() - began
        return seen


def _files(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    for at, folders, names in os.walk(folder):
        folders[:] = [one for one in folders if not (one in _SKIPPED or one.startswith(".") or _is_environment(os.path.join(at, one)))]
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(at, name)
                with contextlib.suppress(OSError):  # deleted since it was listed
                    found = os.stat(path)
                    yield path, (found.st_mtime_ns, found.st_size)


def _is_environment(folder: str) -> bool:
    return os.path.exists(os.path.join(folder, "pyvenv.cfg"))
