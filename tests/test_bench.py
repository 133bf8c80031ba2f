"""`rt bench`: it measures a real deployment, and it finds what a server does wrong."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from rt import bench, cli
from rt.bench import TEXT, WORDS, BenchFailed, Figures, measure

Deltas = list[tuple[int, str]]
FIRST, SECOND = TEXT[: len(TEXT) // 2], TEXT[len(TEXT) // 2 :]


def test_a_private_deployment_is_measured_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["rt", "bench", "--samples", "2", "--clients", "2", "--seconds", "0.3", "--json"])
    assert cli.main() == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["lost"], figures["repeated"], figures["disordered"]) == (0, 0, 0)
    assert 0 < figures["first_ms_p50"] <= figures["last_ms_p99"]
    assert figures["events_per_s"] > WORDS
    with pytest.raises(BenchFailed):  # nobody is there any more
        asyncio.run(measure(figures["url"], "", clients=1, seconds=1, samples=1, say=lambda text: None))


@asynccontextmanager
async def server(deltas: Deltas, *, final: int | None = None, reply_last: bool = False) -> AsyncIterator[str]:
    """A server that says `deltas` (seq and text) to every job, and then its end; before that, or after it, which job it is."""

    async def talk(socket: ServerConnection) -> None:
        def event(stream: str, seq: int, type: str, **more: Any) -> dict[str, Any]:
            return {"type": type, "stream": stream, "seq": seq, "ts": 0, **more}

        jobs = 0
        async for message in socket:
            frame = json.loads(message)
            if frame["type"] == "connect":
                await socket.send(json.dumps({"type": "connected", "session": "s", "streams": {}}))
            elif frame["type"] == "job.submit":
                jobs += 1
                stream = f"job:{jobs}"
                said = [event(stream, seq, "job.delta", data={"text": text}) for seq, text in deltas]
                end = event(stream, final or max(seq for seq, _ in deltas) + 1, "job.completed", final=True, data={})
                reply = {"type": "reply", "id": frame["id"], "data": {"job_id": str(jobs), "stream": stream}}
                await socket.send(json.dumps([*said, end, reply] if reply_last else [reply, *said, end]))

    async with serve(talk, "127.0.0.1", 0) as running:
        yield f"http://127.0.0.1:{next(iter(running.sockets)).getsockname()[1]}"


async def measured(url: str) -> Figures:
    return await measure(url, "token", clients=1, seconds=0.01, samples=1, say=lambda text: None)


@pytest.mark.parametrize("reply_last", [False, True])
async def test_a_server_that_keeps_its_promise_has_no_fault(reply_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_GIVE_UP_S", 2)
    async with server([(1, FIRST), (2, SECOND)], reply_last=reply_last) as url:
        figures = await measured(url)
    assert not figures.faults.any
    assert figures.events_per_s > 0


@pytest.mark.parametrize(
    ("deltas", "fault"),
    [
        ([(1, FIRST), (4, SECOND)], "lost"),
        ([(1, FIRST), (2, SECOND[:-8])], "lost"),
        ([(1, FIRST), (1, ""), (2, SECOND)], "repeated"),
        ([(1, SECOND), (2, FIRST)], "disordered"),
    ],
)
async def test_every_broken_promise_is_counted(deltas: Deltas, fault: str) -> None:
    async with server(deltas) as url:
        figures = await measured(url)
    assert getattr(figures.faults, fault) > 0
    assert {name for name in ("lost", "repeated", "disordered") if getattr(figures.faults, name)} == {fault}


async def test_a_job_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_GIVE_UP_S", 0.2)

    async def silent(socket: ServerConnection) -> None:
        await socket.wait_closed()

    async with serve(silent, "127.0.0.1", 0) as running:
        url = f"http://127.0.0.1:{next(iter(running.sockets)).getsockname()[1]}"
        with pytest.raises(BenchFailed, match=r"within 0\.2 s"):
            await measured(url)


async def test_a_refused_job_says_why() -> None:
    async def refuse(socket: ServerConnection) -> None:
        async for message in socket:
            if json.loads(message)["type"] == "connect":
                await socket.send(json.dumps({"type": "connected", "session": "s", "streams": {}}))
            else:
                await socket.send(json.dumps({"type": "error", "id": "bench-1", "code": "unknown_job", "message": "no echo here"}))

    async with serve(refuse, "127.0.0.1", 0) as running:
        url = f"http://127.0.0.1:{next(iter(running.sockets)).getsockname()[1]}"
        with pytest.raises(BenchFailed, match="unknown_job: no echo here"):
            await measured(url)


async def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(BenchFailed, match=r"http://127\.0\.0\.1:9"):
        await measured("http://127.0.0.1:9")
