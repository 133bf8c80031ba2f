"""What survives a connection: its session's owner, generation, and how far it has read each stream it follows.

Fields of the hash: `owner`, `generation`; `seen`, when its subject was last noted as there (µs); `c:<stream>` → the
acknowledged cursor of a stream that is followed, for a job with where it was announced ("<cursor> <stream> <seq>"); and
`d:<job stream>` → "<stream> <seq>" of the `job.created` of a job that is done with (its terminal event was acknowledged, or the
client unsubscribed), kept until that `job.created` itself is acknowledged, so that its replay does not bring the job back. Seq 0: it
has not come yet.

Writes are gathered per process and stored in one call about once a second (`Cursors`); a killed process costs its
clients some repeated events, which they drop by seq, and nothing else.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rt import keys
from rt.cursor import Cursor, parse_cursor
from rt.errors import Refused, TakenOver, Unavailable
from rt.redis import Store, load_script
from rt.settings import Settings
from rt.telemetry import metrics

SESSIONS = load_script("streams/subjects", "streams/sessions")
RESTORE = load_script("streams/restore")
CURSORS = load_script("streams/stream", "streams/cursors")
SEEN = load_script("streams/subjects", "streams/seen")

FLUSH_S = 1.0
#: An untouched session is renewed this often while it is connected.
RENEW_S = 600.0
_A_CALL = 200
#: How long a connection that ends waits for its acknowledgements to be stored.
_LAST_WORDS_S = 2.0


class Known(NamedTuple):
    """How far a followed stream was acknowledged, and the stream and seq of the `job.created` that announced it."""

    cursor: Cursor
    origin: tuple[str, int] | None = None


@dataclass(slots=True)
class Session:
    """An opened session. `cursors`: what it follows; `done`: job stream → (announcing stream, seq)."""

    id: str
    generation: int
    resumed: bool
    cursors: dict[str, Known] = field(default_factory=dict)
    done: dict[str, tuple[str, int]] = field(default_factory=dict)


def is_session_id(text: str) -> bool:
    """Whether the server could have made this id."""
    return len(text) == 43 and all(one.isascii() and (one.isalnum() or one in "-_") for one in text)


async def open_session(store: Store, settings: Settings, tenant: str, subject: str, id: str | None) -> Session:
    """Resumes a session, or begins one when `id` is None, unknown or expired.

    Raises Refused("forbidden") when it belongs to another subject, and Unavailable.
    """
    if id is not None:
        reply = await _open(store, settings, tenant, subject, id, "")
        if reply[0] == b"foreign":
            raise Refused("forbidden", "this session belongs to another subject")
        if reply[0] == b"ok":
            return _session(id, reply, resumed=True)
    new = secrets.token_urlsafe(32)  # 256 bits: the id is what a thief would have to guess
    return _session(new, await _open(store, settings, tenant, subject, new, "1"), resumed=False)


async def _open(store: Store, settings: Settings, tenant: str, subject: str, id: str, begin: str) -> list[Any]:
    names = [keys.cursors(tenant, id), keys.live(tenant, keys.session_stream(id)), keys.furthest(tenant, subject), keys.seen(tenant)]
    args = [subject, settings.session_ttl_s, begin, keys.user_stream(subject), settings.user_age_s]
    reply: list[Any] = await store.run(SESSIONS, names, args)
    return reply


def _session(id: str, reply: list[Any], *, resumed: bool) -> Session:
    session = Session(id, int(reply[1]), resumed)
    for name, value in zip(reply[2::2], reply[3::2], strict=True):
        kind, stream, text = name[:2], name[2:].decode(), value.decode()
        if kind == b"c:":
            cursor, *origin = text.split(" ")
            session.cursors[stream] = Known(parse_cursor(cursor), (origin[0], int(origin[1])) if origin else None)
        else:
            by, seq = text.split(" ")
            session.done[stream] = (by, int(seq))
    return session


@dataclass(slots=True, eq=False)
class Entry:
    """One connected session's unsaved changes. `taken_over` is called once when a newer generation exists."""

    tenant: str
    subject: str
    session: str
    generation: int
    taken_over: Callable[[], None]
    fields: dict[str, str] = field(default_factory=dict)
    furthest: str = ""
    renew_at: float = 0.0
    #: Whether what was last to be stored was refused, as an older generation's.
    refused: bool = False


async def restore_session(store: Store, settings: Settings, entry: Entry, fields: dict[str, str]) -> bool:
    """Writes a session again that Redis has lost under its living connection; False when a newer connection has it.

    `fields` is all that the connection knows of it. Raises Unavailable.
    """
    args = [entry.generation, entry.subject, settings.session_ttl_s, *(part for pair in fields.items() for part in pair)]
    return bool(await store.run(RESTORE, [keys.cursors(entry.tenant, entry.session)], args))


class Cursors:
    """Gathers the sessions' changes and stores them about once a second. Run `run()` in a task of its own."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._entries: set[Entry] = set()
        self._leaving: set[Entry] = set()
        self._saving = asyncio.Lock()

    def add(self, entry: Entry) -> None:
        entry.renew_at = asyncio.get_running_loop().time() + RENEW_S
        self._entries.add(entry)

    async def put(self, entry: Entry, fields: dict[str, str]) -> None:
        """Stores changes now, with what waits: for what is answered with a promise. Raises TakenOver and Unavailable."""
        entry.fields |= fields
        await self.save([entry])
        if entry.refused:
            raise TakenOver()

    async def remove(self, entry: Entry) -> None:
        """Stores what is left of it, if Redis takes it in time. Never raises: what is not stored is read again by the client.

        All that leave while one call is under way go with the next: a process that drains without a Redis would otherwise
        wait for it once for each of its connections.
        """
        self._entries.discard(entry)
        self._leaving.add(entry)
        try:
            async with asyncio.timeout(_LAST_WORDS_S), self._saving:
                if entry in self._leaving:
                    leaving, self._leaving = self._leaving, set()
                    await self._save_all(list(leaving))
        except (Unavailable, TimeoutError):
            metrics.redis_errors.labels("cursors").inc()
        finally:
            self._leaving.discard(entry)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        # Often enough that one call which Redis did not answer costs nobody a broadcast.
        every_s = self._settings.user_age_s / 4
        seen_at = loop.time() + every_s
        while True:
            await asyncio.sleep(FLUSH_S)
            now = loop.time()
            due = [one for one in self._entries if one.fields or one.furthest or one.renew_at <= now]
            try:
                await self.save(due)
                if now >= seen_at:
                    seen_at = now + every_s
                    await self.note_seen()
            except Unavailable:
                metrics.redis_errors.labels("cursors").inc()

    async def note_seen(self) -> None:
        """Says that the subjects of all connected sessions are there: a connection may outlive what is noted when it opens."""
        there = sorted({(one.tenant, one.subject) for one in self._entries})
        for start in range(0, len(there), _A_CALL):
            part = there[start : start + _A_CALL]
            args = [self._settings.user_age_s, *(subject for _, subject in part)]
            await self._store.run(SEEN, [keys.seen(tenant) for tenant, _ in part], args)

    async def flush(self) -> None:
        """Stores everything now, for the end. Raises Unavailable, soon."""
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await self.save([one for one in self._entries if one.fields or one.furthest])
        except TimeoutError:
            raise Unavailable() from None

    async def save(self, entries: list[Entry]) -> None:
        async with self._saving:
            await self._save_all(entries)

    async def _save_all(self, entries: list[Entry]) -> None:
        for start in range(0, len(entries), _A_CALL):
            await self._save(entries[start : start + _A_CALL])

    async def _save(self, entries: list[Entry]) -> None:
        # Taken before the call: what changes during it belongs to the next one.
        taken = [(one, one.fields, one.furthest) for one in entries]
        names: list[str] = []
        args: list[str | int] = [self._settings.session_ttl_s, self._settings.meta_ttl_s]
        for one, fields, furthest_ in taken:
            one.fields, one.furthest = {}, ""
            names += (keys.cursors(one.tenant, one.session), keys.furthest(one.tenant, one.subject))
            args += (one.generation, furthest_, len(fields), *(part for pair in fields.items() for part in pair))
        try:
            verdicts = await self._store.run(CURSORS, names, args)
        except BaseException:
            for one, fields, furthest_ in taken:  # nothing is forgotten: newer values win over what is put back
                one.fields = fields | one.fields
                one.furthest = one.furthest or furthest_
            raise
        now = asyncio.get_running_loop().time()
        for (one, _, _), verdict in zip(taken, verdicts, strict=True):
            one.renew_at, one.refused = now + RENEW_S, not verdict
            if one.refused and one in self._entries:
                self._entries.discard(one)
                one.taken_over()


async def stored_session(store: Store, tenant: str, id: str) -> dict[str, Any] | None:
    """What is stored of a session, for a person who looks: `{owner, generation, expires_s, streams, done}`; None when there is none.

    `streams` are those that it follows: `{stream, cursor, by?}`, `by` being the stream and seq of its `job.created`; `done` are jobs that
    it is done with. A session follows a thousand streams at most. Raises Unavailable.
    """
    key = keys.cursors(tenant, id)
    fields, ttl = await asyncio.gather(store.call("HGETALL", key), store.call("TTL", key))
    known = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
    if "owner" not in known:
        return None
    streams: list[dict[str, Any]] = []
    for name, value in sorted(known.items()):
        if name.startswith("c:"):
            cursor, _, by = value.partition(" ")
            streams.append({"stream": name[2:], "cursor": cursor} | ({"by": by} if by else {}))
    return {
        "owner": known["owner"],
        "generation": int(known.get("generation", 0)),
        "expires_s": max(0, int(ttl)),
        "streams": streams,
        "done": sorted(name[2:] for name in known if name.startswith("d:")),
    }


async def stored_cursors(store: Store, tenant: str, sessions: list[str], stream: str) -> list[dict[str, Any]]:
    """How far sessions have acknowledged a stream: `{session, owner, cursor, done}` of each that exists.

    `cursor` is None where it does not follow the stream, `done` True where it is done with the job whose stream it is. Raises Unavailable.
    """
    fields = ("owner", f"c:{stream}", f"d:{stream}")
    found = await asyncio.gather(*(store.call("HMGET", keys.cursors(tenant, one), *fields) for one in sessions))
    return [
        {"session": id, "owner": owner.decode(), "cursor": cursor.decode().partition(" ")[0] if cursor else None, "done": done is not None}
        for id, (owner, cursor, done) in zip(sessions, found, strict=True)
        if owner
    ]
