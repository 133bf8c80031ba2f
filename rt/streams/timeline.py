"""A stream's events as a person looks through them: deltas in a row are one line, and what is long is cut. Pure."""

from collections.abc import Iterable
from typing import Any

from rt.codec import from_json_bytes, to_json_bytes

#: Of one line's text or data, as UTF-8.
SHOWN_BYTES = 2048


def excerpt(raw: bytes) -> dict[str, Any]:
    """`{bytes, text}`: how long it is, and its beginning."""
    return {"bytes": len(raw), "text": raw[:SHOWN_BYTES].decode(errors="ignore")}


def timeline(events: Iterable[bytes]) -> list[dict[str, Any]]:
    """Lines in order, of stored events.

    An event is `{seq, type, ts, attempt?, data}`, with `data` as `excerpt` gives it. Deltas of one attempt, one behind the
    other, are one line with `to` and `to_ts` of the last one, and `data` of all of them together.
    """
    lines: list[dict[str, Any]] = []
    said: list[bytes] = []

    def close() -> None:
        if said:
            lines[-1]["data"] = excerpt(b"".join(said))
            said.clear()

    for raw in events:
        event = from_json_bytes(raw)
        seq, ts, data = event["seq"], event["ts"], event.get("data")
        is_delta = event["type"] == "job.delta"
        last = lines[-1] if lines else {}
        if is_delta and said and last["to"] + 1 == seq and last.get("attempt") == event.get("attempt"):
            last |= {"to": seq, "to_ts": ts}
        else:
            close()
            lines.append({name: event[name] for name in ("seq", "type", "ts", "attempt") if name in event})
            if is_delta:
                lines[-1] |= {"to": seq, "to_ts": ts}
            else:
                lines[-1]["data"] = excerpt(to_json_bytes(data))
        if is_delta:
            text = data.get("text")
            said.append(text.encode() if isinstance(text, str) else to_json_bytes(data.get("data")) + b"\n")
    close()
    return lines
