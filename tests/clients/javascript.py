"""rt.js in Node, for tests that need a real client of it: `clients/js` says how its development packages are installed."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HOME = ROOT / "clients" / "js"
STATIC = ROOT / "rt" / "api" / "static"
#: What is tested is what is served.
SERVED = STATIC / "rt.min.js"


def _absent() -> str:
    if shutil.which("node") is None:
        return "NOT TESTED: the JavaScript client. There is no node here"
    if not (HOME / "node_modules" / "ws").is_dir():
        return "NOT TESTED: the JavaScript client. Install what it needs: cd clients/js && npm install --no-package-lock"
    return ""


needs_node = pytest.mark.skipif(bool(_absent()), reason=_absent() or "-")


def node(*arguments: str | Path, module: Path = SERVED) -> str:
    """What a program of clients/js prints. Raises CalledProcessError."""
    env = os.environ | {"RT_JS": module.as_uri()}
    done = subprocess.run(["node", *arguments], cwd=HOME, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    return done.stdout


class Threw(Exception):
    """What the code has thrown; its members are the error's."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['name']}: {error['message']}")
        self.error = error
        self.name: str = error["name"]


class Node:
    """A process that does what it is told: `await js("return await at.rt.publish('room:a', given.data)", data=1)`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, module: Path = SERVED) -> AsyncIterator["Node"]:
        process = await asyncio.create_subprocess_exec(
            "node",
            "test/drive.mjs",
            cwd=HOME,
            env=os.environ | {"RT_JS": module.as_uri()},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        node = cls(process)
        try:
            yield node
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await node._reading

    async def __call__(self, code: str, **given: Any) -> Any:
        """What the code returns. Raises Threw, and EOFError when the process has ended."""
        assert self._process.stdin is not None
        id = len(self._waiting)
        answer = self._waiting[id] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"id": id, "code": code, "given": given}).encode() + b"\n")
        return await asyncio.wait_for(answer, 40)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if (answer := self._waiting[told["id"]]).done():
                continue
            if "threw" in told:
                answer.set_exception(Threw(told["threw"]))
            else:
                answer.set_result(told["gave"])
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(EOFError("the Node process has ended"))
