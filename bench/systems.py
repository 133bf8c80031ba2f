"""The systems that carry the main job: message in, queue, worker, events out."""

from dataclasses import dataclass, field
from typing import Any

from bench.house import PEERS
from bench.stage import Command, Stage, python

#: Jobs that a worker runs at a time, for every system.
MAX_JOBS = "300"
_RT_ENV = {"RT_MAX_JOBS": MAX_JOBS, "RT_QUEUE_LIMIT": "1000000"}
_SIO = ("npm:ws", "npm:socket.io", "npm:bullmq", "npm:ioredis", "npm:@socket.io/redis-streams-adapter")


@dataclass(frozen=True)
class System:
    """`adapter` is the load client's. `needs` is what must be installed, in the words of `bench.house.missing`."""

    name: str
    about: str
    adapter: str
    web: Command
    worker: Command | None = None
    needs: tuple[str, ...] = ("npm:ws",)


def _rt(name: str, adapter: str, about: str) -> System:
    app = "bench.jobs_app:app"
    return System(
        name,
        about,
        adapter,
        python("-m", "rt.cli", "web", app, **_RT_ENV),
        python("-m", "rt.cli", "worker", app, **_RT_ENV),
    )


def uvicorn(module: str) -> Command:
    """A peer's ASGI application on the uvicorn that the project pins, with the fastest loop and protocol, and no deflate."""
    return python("-m", "bench.peers.web.serve", module)


def _node(folder: str, script: str, **env: str) -> Command:
    return Command(["node", str(PEERS / folder / script)], {"MAX_JOBS": MAX_JOBS, **env})


SYSTEMS = {
    one.name: one
    for one in (
        _rt("rt", "rt", "this project; text deltas, joined where they wait together"),
        _rt("rt-data", "rt-data", "this project; every event a delta of its own"),
        System(
            "sio",
            "Socket.IO 4, Redis Streams adapter, connection state recovery, BullMQ",
            "sio",
            _node("sio", "server.js"),
            _node("sio", "worker.js"),
            _SIO,
        ),
        System(
            "sio-memory",
            "Socket.IO 4, in-memory adapter: its events are made in the web process",
            "sio",
            _node("sio", "server.js", SIO_ADAPTER="memory"),
            None,
            _SIO,
        ),
        System(
            "floor",
            "Node ws, a Redis list, pub/sub: no queue semantics, no log",
            "plain",
            _node("floor", "web.js"),
            _node("floor", "worker.js"),
            ("npm:ws", "npm:ioredis"),
        ),
        System(
            "tutorial",
            "FastAPI, one pub/sub subscription per client: nothing durable",
            "plain",
            uvicorn("bench.peers.naive.web:app"),
            python("-m", "bench.peers.naive.worker"),
        ),
        System("fastapi", "FastAPI's WebSocket class, echo", "echo", uvicorn("bench.peers.web.echo_fastapi:app")),
        System("asgi", "bare ASGI, echo", "echo", uvicorn("bench.peers.web.echo_asgi:app")),
        System("fastapi-arq", "FastAPI endpoint that only enqueues with arq", "plain", uvicorn("bench.peers.web.enqueue:app")),
    )
}


@dataclass
class Running:
    """A system's processes on a stage."""

    pids: dict[str, int] = field(default_factory=dict)
    processes: dict[str, Any] = field(default_factory=dict)


def start(stage: Stage, system: System, *, worker: bool = True, retention: int = 0) -> Running:
    """Starts web and worker, and waits for both; `pids` has Redis too. Our sessions keep `retention` events if that is more than usual."""
    if retention > 1000:
        stage.env["RT_SESSION_LENGTH"] = str(retention)
    running = Running({"redis": stage.redis_pid})
    for role, command in {"worker": system.worker if worker else None, "web": system.web}.items():
        if command:
            process = stage.start(f"{system.name}.{role}", command)
            running.pids[role] = process.pid
            running.processes[role] = process
    return running
