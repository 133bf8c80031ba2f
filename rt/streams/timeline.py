"""A stream's events as a person looks through them: what a job says in a row is one line, and what is long is cut. Pure."""

from collections.abc import Iterable
from typing import Any

from rt.codec import from_json_bytes, to_json_bytes

#: Of one line's text or data, as UTF-8.
SHOWN_BYTES = 2048

_FLOWING = ("job.delta", "job.progress")


def excerpt(raw: bytes) -> dict[str, Any]:
    """`{bytes, text}`: how long it is, and its beginning."""
    return {"bytes": len(raw), "text": raw[:SHOWN_BYTES].decode(errors="ignore")}


def timeline(events: Iterable[bytes]) -> list[dict[str, Any]]:
    """Lines in order, of stored events.

    An event is `{seq, type, ts, attempt?, data}`, with `data` as `excerpt` gives it. Deltas and progress of one attempt, one
    behind the other, are one line with `to` and `to_ts` of the last one; `data` is what the deltas say together, and
    `progress` the last progress. Without a delta the line is of the type `job.progress`, and `data` the last one.
    """
    lines: list[dict[str, Any]] = []
    for raw in events:
        event = from_json_bytes(raw)
        seq, ts, type, data = event["seq"], event["ts"], event["type"], event.get("data")
        last = lines[-1] if lines else {}
        if type in _FLOWING:
            if last.get("to") != seq - 1 or last.get("attempt") != event.get("attempt"):
                last = {name: event[name] for name in ("seq", "type", "ts", "attempt") if name in event} | {"data": b""}
                lines.append(last)
            last |= {"to": seq, "to_ts": ts}
            if type == "job.delta":
                last["type"] = type
                last["data"] += _said(data)
            else:
                last["progress"] = excerpt(to_json_bytes(data))
        else:
            lines.append({name: event[name] for name in ("seq", "type", "ts", "attempt") if name in event})
            lines[-1]["data"] = excerpt(to_json_bytes(data))
    for line in lines:
        if line["type"] == "job.progress":
            line["data"] = line.pop("progress")
        elif "to" in line:
            line["data"] = excerpt(line["data"])
    return lines


def _said(data: dict[str, Any]) -> bytes:
    text = data.get("text")
    return text.encode() if isinstance(text, str) else to_json_bytes(data.get("data")) + b"\n"
