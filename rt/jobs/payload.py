"""What stands in arq's keys: job payloads and results, as arq 0.28 lays them out, in JSON or pickle.

Ours are JSON, and begin with the tenant, so that a Lua script finds it without parsing. A plain arq client writes
pickle by default, or JSON when it was told so; results go back in the codec of whoever enqueued the job. A pickle is
read without ever building an object: plain data passes, everything that names a class or a function is refused.
"""

import asyncio
import io
import pickle
import pickletools
from dataclasses import dataclass
from typing import Any, Literal

from rt.codec import DecodeError, TooDeep, from_json_bytes, to_json_bytes

Codec = Literal["json", "pickle"]


#: Stands for what a script does not know of the job that it ends.
_NOBODY_S = "<unknown>"


class BadPayload(ValueError):
    """The bytes of a job cannot be read; the text says why and quotes nothing of them."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A decoded arq job. `args` are positional arguments of plain clients; ours are all in `kwargs`."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    enqueued_ms: int
    codec: Codec
    ours: bool


def encode_job(tenant: str, function: str, input: dict[str, Any], now_ms: int) -> bytes:
    """`{"rt":"<tenant>","t":null,"f":…,"a":[],"k":{…},"et":…}`; the first member's place is what `job.lua` relies on."""
    return to_json_bytes({"rt": tenant, "t": None, "f": function, "a": [], "k": input, "et": now_ms})


def decode_job(raw: bytes) -> Payload:
    """Raises BadPayload."""
    value, codec = _decode(raw)
    try:
        return Payload(str(value["f"]), tuple(value["a"]), dict(value["k"]), int(value["et"]), codec, "rt" in value)
    except (KeyError, TypeError, ValueError):
        raise BadPayload("not laid out as arq lays out a job") from None


def decode_result(raw: bytes) -> Payload:
    """What a job was given, from its result record, which holds it as well. Raises BadPayload."""
    payload = decode_job(raw)
    if payload.function == _NOBODY_S:
        raise BadPayload("it was ended before anybody read what it was given")
    return payload


def _decode(raw: bytes) -> tuple[dict[str, Any], Codec]:
    codec: Codec = "pickle" if raw[:1] == b"\x80" else "json"
    try:
        if codec == "pickle":
            _check_memo(raw)
        value = _PlainUnpickler(io.BytesIO(raw)).load() if codec == "pickle" else from_json_bytes(raw)
    except (DecodeError, TooDeep) as error:
        raise BadPayload(str(error)) from None
    except pickle.UnpicklingError as error:
        raise BadPayload(str(error)) from None
    except Exception as error:  # a broken pickle may raise anything
        raise BadPayload(f"not a readable pickle ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise BadPayload("not an object")
    return value, codec


def _check_memo(raw: bytes) -> None:
    """The pickle module makes room for as many remembered values as one of them has for a number: 7 bytes take all memory."""
    for opcode, number, _ in pickletools.genops(raw):
        if opcode.name in ("PUT", "LONG_BINPUT") and int(number or 0) > len(raw):
            raise pickle.UnpicklingError("it numbers a value higher than it can have values")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError("it holds an object; only plain data (str, int, float, bool, None, list, dict, tuple, set) is read")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it holds a reference")


def encode_result(
    payload: Payload,
    *,
    job_id: str,
    queue: str,
    tries: int,
    success: bool,
    result: Any,
    started_ms: int,
    finished_ms: int,
) -> bytes:
    """arq's result record, in the codec of the job's payload. `result` is an exception when `success` is False."""
    record = {
        "t": tries,
        "f": payload.function,
        "a": payload.args,
        "k": payload.kwargs,
        "et": payload.enqueued_ms,
        "s": success,
        "r": result if success else _as_exception(result, payload.codec),
        "st": started_ms,
        "ft": finished_ms,
        "q": queue,
        "id": job_id,
    }
    if payload.codec == "json":
        return to_json_bytes(record)
    try:
        return pickle.dumps(record)
    except Exception:  # what a job returns need not be picklable: its JSON form is
        record["r"] = from_json_bytes(to_json_bytes(result)) if success else RuntimeError(type(result).__name__)
    try:
        return pickle.dumps(record)
    except RecursionError:  # arguments may be nested deeper than the pickler goes, though not its reader: then they are left out
        return pickle.dumps(record | {"a": (), "k": {}})


def _as_exception(error: BaseException, codec: Codec) -> Any:
    """Clients unpickle it, and may have no class of ours or of the application: builtins stay, others become RuntimeError."""
    if codec == "json":
        return f"{type(error).__name__}: {error}"
    known = type(error).__module__ in ("builtins", "asyncio.exceptions")
    return error if known else RuntimeError(f"{type(error).__name__}: {error}")


def lua_results() -> list[bytes]:
    """Results for jobs that a script ends, when nobody is there to encode one: cancelled and failed, each in both codecs."""
    out = []
    for error in (asyncio.CancelledError(), RuntimeError("the job was ended before it could finish")):
        for codec in ("pickle", "json"):
            payload = Payload(_NOBODY_S, (), {}, 0, "pickle" if codec == "pickle" else "json", False)
            out.append(
                encode_result(payload, job_id=_NOBODY_S, queue=_NOBODY_S, tries=0, success=False, result=error, started_ms=0, finished_ms=0)
            )
    return out
