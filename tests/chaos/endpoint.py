"""An OpenAI-compatible endpoint whose answers never end by themselves, and that knows when a caller has left."""

import asyncio
import json
from types import TracebackType
from typing import Self

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Call:
    """One request. `gone` is set when its connection has ended; `finish` ends the answer."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.finish = asyncio.Event()


class Endpoint:
    """`async with`: listens. Each call gets a piece at once, and the rest of its answer when `finish` is set."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        for call in self.calls:
            call.finish.set()
        await asyncio.gather(*(call.gone.wait() for call in self.calls))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = Call()
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
            self.calls.append(call)
            writer.write(_HEAD + _piece("begun. "))
            await self._finished_or_left(call, reader)
            if call.finish.is_set():
                writer.write(_piece("whole.") + _piece(None) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            call.gone.set()
            writer.close()

    async def _finished_or_left(self, call: Call, reader: asyncio.StreamReader) -> None:
        finished, left = asyncio.create_task(call.finish.wait()), asyncio.create_task(reader.read(1))
        await asyncio.wait({finished, left}, return_when=asyncio.FIRST_COMPLETED)
        for task in (finished, left):
            task.cancel()
        await asyncio.gather(finished, left, return_exceptions=True)


def _piece(content: str | None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None if content else "stop"}
    return _chunk(b"data: " + json.dumps({"model": "slow", "choices": [choice], "usage": None}).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
