"""Renewing the leases of running attempts, from a thread that a blocked event loop does not stop.

A job that blocks the loop for a few seconds must not lose its lease; a loop that hangs for good must. So the thread
renews as long as the loop has ticked within `stall_limit_s`, and no longer.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from rt.errors import Unavailable
from rt.redis import CONNECT_TIMEOUT_S, Store, load_script

RENEW = load_script("streams/stream", "jobs/job", "jobs/renew")

#: Wait before a renewal that Redis did not answer is tried again.
_AGAIN_S = 0.5


class Lease(NamedTuple):
    id: str
    tenant: str
    fence: str


class Leases:
    """The leases that this process holds. `on_verdict(lease, verdict)` is called from the thread for everything but "ok".

    Verdicts: "lost", "cancel <by>".
    """

    def __init__(self, store: Store, queue: str, *, lease_s: float, stall_limit_s: float, on_verdict: Callable[[Lease, str], None]) -> None:
        self._store = store
        self._queue = queue
        self._lease_s, self._stall_limit_s = lease_s, stall_limit_s
        self._on_verdict = on_verdict
        self._held: dict[str, Lease] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ticked = time.monotonic()
        self._thread = threading.Thread(target=self._renew, name="rt leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stops renewing; what is still held lapses within the lease."""
        self._stop.set()
        self._thread.join(timeout=CONNECT_TIMEOUT_S)  # one call, at most, is under way

    def tick(self) -> None:
        """The loop turns."""
        self._ticked = time.monotonic()

    def hold(self, lease: Lease) -> None:
        with self._lock:
            self._held[lease.id] = lease

    def drop(self, id: str) -> None:
        with self._lock:
            self._held.pop(id, None)

    async def ask(self, ids: list[str] | None = None) -> None:
        """Renews now (all, or some) and reports verdicts: for a nudge. Raises Unavailable."""
        with self._lock:
            held = [one for one in self._held.values() if ids is None or one.id in ids]
        if held:
            self._report(held, await self._store.run(RENEW, [self._queue], self._args(held)))

    def _renew(self) -> None:
        client = self._store.thread_client()
        wait_s = self._lease_s / 3
        while not self._stop.wait(wait_s):
            wait_s = self._lease_s / 3
            if time.monotonic() - self._ticked > self._stall_limit_s:
                continue
            with self._lock:
                held = list(self._held.values())
            if not held:
                continue
            try:
                verdicts = client.run(RENEW, [self._queue], self._args(held))
            except Unavailable:
                wait_s = _AGAIN_S
                continue
            self._report(held, verdicts)
        client.close()

    def _args(self, held: list[Lease]) -> list[str | int]:
        return [int(self._lease_s * 1000), *(part for one in held for part in one)]

    def _report(self, held: list[Lease], verdicts: list[bytes]) -> None:
        for lease, verdict in zip(held, verdicts, strict=True):
            if verdict != b"ok":
                self._on_verdict(lease, verdict.decode())
