"""Messages of every size arrive whole, however they are framed."""

import json
from collections.abc import Iterator
from pathlib import Path

import ormsgpack
import pytest
from websockets.asyncio.client import connect

from rt.api.wire import WHOLE_BYTES, header
from tests.chaos.stack import Stack

#: Around each size at which the header, or the way of writing, changes.
SIZES = [size + by for size in (126, WHOLE_BYTES, 65536) for by in range(-3, 3)] + [200_000]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "deflate"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, bool]]:
    folder: Path = tmp_path_factory.mktemp("stack")
    with Stack(folder, RT_DEFLATE=str(request.param)) as stack:
        stack.web().wait_ready()
        yield stack, request.param


@pytest.mark.parametrize("spoken", ["rt.v1.json", "rt.v1.msgpack"])
async def test_a_message_of_any_size_arrives_whole(served: tuple[Stack, bool], spoken: str) -> None:
    stack, deflate = served
    token = {"Authorization": f"Bearer {stack.token()}"}
    async with connect(
        stack.ws(), subprotocols=[spoken], additional_headers=token, compression="deflate" if deflate else None, proxy=None
    ) as socket:
        assert bool(socket.protocol.extensions) is deflate
        pack = json.dumps if spoken == "rt.v1.json" else ormsgpack.packb
        read = json.loads if spoken == "rt.v1.json" else ormsgpack.unpackb
        await socket.send(pack({"type": "connect"}))
        await socket.send(pack({"type": "subscribe", "id": "s", "stream": f"room:{spoken}", "cursor": "0"}))
        sizes: set[int] = set()
        for n, size in enumerate(SIZES):
            # The event stands in a frame of about so many bytes more.
            for less in range(160, 60, -1) if size == 65536 else (0,):
                data = "é" + "x" * (size - less)
                await socket.send(pack({"type": "publish", "id": f"{n}.{less}", "stream": f"room:{spoken}", "data": data}))
                while True:
                    message = await socket.recv()
                    assert isinstance(message, str) is (spoken == "rt.v1.json")
                    frame = read(message)
                    if frame["type"] == "message":
                        break
                assert frame["data"]["data"] == data
                sizes.add(len(message if isinstance(message, bytes) else message.encode()))
        assert {65535, 65536} <= sizes


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 2**40])
@pytest.mark.parametrize("binary", [False, True])
def test_a_header_says_the_size_as_the_standard_does(size: int, binary: bool) -> None:
    first, short, *rest = header(size, binary=binary)
    assert first == (0x82 if binary else 0x81)
    if size < 126:
        assert (short, rest) == (size, [])
    else:
        assert short == (126 if size < 65536 else 127)
        assert len(rest) == (2 if size < 65536 else 8)
        assert int.from_bytes(bytes(rest), "big") == size
