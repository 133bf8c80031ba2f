"""What a web process says of itself when it is asked (`rt.inspect`): its connections, and who follows a stream.

Each answer is a page, made at once from what stands in memory. A connection is told of to its own tenant's console
only; one that has not said whose it is yet is counted, and no more.
"""

import asyncio
from collections.abc import Callable
from heapq import nlargest
from itertools import islice
from typing import Any

from rt.actors.connection import ConnectionActor
from rt.api.services import Services
from rt.api.sse import Feed
from rt.inspect import Look, Question

#: Streams of one connection, and followers of one stream in one process, that are told of.
FOLLOWED = 200

#: What connections are sorted by, the largest first.
ORDERS: dict[str, Callable[[ConnectionActor, float], float]] = {
    "age": lambda one, now: now - one.opened_at,
    "silence": lambda one, now: now - one.session.received_at,
    "mailbox": lambda one, now: one.mailbox.depth,
    "outbox": lambda one, now: one.outbox.waiting,
    "follows": lambda one, now: len(one.session.follows),
}


def web_looks(services: Services) -> dict[str, Look]:
    """What a web process adds to the questions."""

    def actors(tenant: str) -> list[ConnectionActor]:
        everybody = (one for one in services.supervisor.actors if isinstance(one, ConnectionActor))
        return [one for one in everybody if one.session.claims is not None and one.session.claims.tenant == tenant]

    def process(question: Question) -> dict[str, Any]:
        followed = services.tail.statistics()
        return {
            "connections": len(services.supervisor),
            "sse": services.sse_open,
            "max_connections": services.settings.max_connections,
            "streams": followed["streams"],
            "draining": services.draining.is_set(),
        }

    def connections(question: Question) -> dict[str, Any]:
        now, wanted = asyncio.get_running_loop().time(), question.args
        found = actors(question.tenant)
        if subject := wanted.get("subject"):
            found = [one for one in found if one.session.claims and one.session.claims.subject == subject]
        if session := wanted.get("session"):
            found = [one for one in found if one.session.id == session]
        order = ORDERS[wanted["sort"]]
        # With ten thousand of them this takes 15 ms.
        return {
            "total": len(found),
            "mailbox": sum(one.mailbox.depth for one in found),
            "outbox_bytes": sum(one.outbox.waiting for one in found),
            "items": [_connection(one, now) for one in nlargest(wanted["limit"], found, key=lambda one: order(one, now))],
        }

    def session(question: Question) -> dict[str, Any]:
        now = asyncio.get_running_loop().time()
        found = [one for one in actors(question.tenant) if one.session.id == question.args["session"]]
        return {"items": [_connection(one, now) | {"streams": _follows(one)} for one in found]}

    def followers(question: Question) -> dict[str, Any]:
        stream = question.args["stream"]
        sinks = services.tail.sinks(question.tenant, stream)
        return {"total": len(sinks), "items": [one for sink in sinks[:FOLLOWED] if (one := _follower(sink, stream))]}

    return {"processes": process, "connections": connections, "session": session, "stream": followers}


def _connection(one: ConnectionActor, now: float) -> dict[str, Any]:
    session = one.session
    assert session.claims is not None
    return {
        "connection": one.name,
        "subject": session.claims.subject,
        "session": session.id,
        "generation": session.generation,
        "client": one.client,
        "age_s": round(now - one.opened_at, 1),
        "silent_s": round(now - session.received_at, 1),
        "mailbox": one.mailbox.depth,
        "outbox_bytes": one.outbox.waiting,
        "outbox_frames": one.outbox.frames,
        "follows": len(session.follows),
        "closing": session.closed,
    }


def _follows(one: ConnectionActor) -> list[dict[str, Any]]:
    first = islice(one.session.follows.items(), FOLLOWED)
    return [{"stream": name, "top": max(its.top, its.sent), "sent": its.sent, "acked": its.acked} for name, its in first]


def _follower(sink: object, stream: str) -> dict[str, Any] | None:
    if isinstance(sink, Feed):
        return {"by": "sse", "subject": sink.subject, "sent": sink.at.seq}
    if isinstance(sink, ConnectionActor) and (follow := sink.session.follows.get(stream)) and sink.session.claims:
        session = sink.session
        who = {"connection": sink.name, "subject": sink.session.claims.subject, "session": session.id}
        return {"by": "websocket", **who, "sent": follow.sent, "acked": follow.acked}
    return None
