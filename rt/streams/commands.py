"""Commands that take effect once: an id, the hash of its body, and the answer that it got.

Accept and publish keep their record within their own script. Everything else (a cancel, an application's handler) runs
between `begin` and `finish` here: a repeat that meets the first one still under way waits for it and gets its answer,
and one whose process died is held up for `HOLD_S` at most.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from rt import keys
from rt.codec import from_json_bytes, to_json_bytes
from rt.errors import Refused, TakenOver, Unavailable
from rt.redis import Store, load_script
from rt.streams.log import NOBODY, RECORD_TTL_S, Authorship, check_verdict

BEGIN = load_script("streams/begin")
FINISH = load_script("streams/finish")

#: A command under way holds its record this long, and renews it while it lives.
HOLD_S = 10.0
_LOOK_S = 0.05


def request_hash(body: Any) -> str:
    """The same for the same JSON value, whatever the order of its members."""
    return hashlib.sha256(to_json_bytes(_sorted(body))).hexdigest()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(one) for one in value]
    return value


async def until_not_busy(call: Callable[[], Awaitable[Any]]) -> Any:
    """Repeats a call while its record is held by a first request under way; at most a little longer than that can last."""
    deadline = asyncio.get_running_loop().time() + HOLD_S + 2
    while True:
        try:
            return await call()
        except Unavailable:
            raise
        except Refused as error:
            if error.code != "unavailable" or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(_LOOK_S)


class Commands:
    """The records of commands that are more than one script."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def once(self, tenant: str, record: str, hash: str, effect: Callable[[], Awaitable[Any]], *, by: Authorship = NOBODY) -> Any:
        """What `effect()` answered, now or the first time; a permanent refusal is remembered like an answer.

        Raises what `effect` raises, Refused("conflict") when the record belongs to another request, TakenOver, Unavailable.
        """
        token = secrets.token_hex(8)
        cursors = keys.cursors(tenant, by.session) if by.session else record

        async def begin() -> list[Any]:
            reply: list[Any] = await self._store.run(BEGIN, [record, cursors], [hash, token, int(HOLD_S * 1000), by.generation])
            check_verdict(reply[0])
            return reply

        reply = await until_not_busy(begin)
        if reply[0] == b"duplicate":
            answer = from_json_bytes(reply[1])
            if "refused" in answer:
                told = answer["refused"]
                raise Refused(told["code"], told["message"], details=told.get("details"), facts=told.get("facts"))
            return answer["data"]
        refused: Refused | None = None
        broken: Exception | None = None
        async with asyncio.TaskGroup() as group:
            holding = group.create_task(self._hold(record, cursors, hash, token, by))
            try:
                answer = {"data": await effect()}
                raw = to_json_bytes(answer)
                from_json_bytes(raw)  # what a repeat could not be told is no answer
            except asyncio.CancelledError:
                # Its connection is gone: whoever sends the command again need not wait for the hold to lapse.
                await asyncio.shield(self._finish(record, hash, token, b""))
                raise
            except TakenOver as error:
                broken = error  # nothing was done, and the newer connection may send it again
            except Refused as error:
                refused = error
                told = {"code": error.code, "message": error.message, "details": error.details, "facts": error.facts}
                raw = b"" if error.temporary else to_json_bytes({"refused": told})
            except Exception as error:
                broken = error  # raised below: out of here it would come as a group
            holding.cancel()
        if broken:
            # Not remembered: the handler broke, and the same id may be tried again.
            await self._finish(record, hash, token, b"")
            raise broken
        await self._finish(record, hash, token, raw)
        if refused:
            raise refused
        return answer["data"]

    async def _finish(self, record: str, hash: str, token: str, answer: bytes) -> None:
        await self._store.run(FINISH, [record], [hash, token, answer, RECORD_TTL_S])

    async def _hold(self, record: str, cursors: str, hash: str, token: str, by: Authorship) -> None:
        while True:
            await asyncio.sleep(HOLD_S / 3)
            try:
                await self._store.run(BEGIN, [record, cursors], [hash, token, int(HOLD_S * 1000), by.generation])
            except Unavailable:
                continue  # it lapses when this lasts; the effect itself does not depend on it
