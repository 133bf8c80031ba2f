"""arq's payloads and results, in JSON and pickle; and pickles that would do something are not unpickled."""

import asyncio
import io
import json
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import arq.jobs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt.errors import JobError
from rt.jobs.payload import BadPayload, Payload, decode_job, encode_job, encode_result, lua_results

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
        | st.tuples(inner, inner)
        | st.sets(st.integers())
    ),
    max_leaves=10,
)


def arq_payload(*args: Any, **kwargs: Any) -> bytes:
    return arq.jobs.serialize_job("answer", args, kwargs, None, 1_700_000_000_000)


def test_ours_begin_with_their_tenant_where_the_scripts_look_for_it() -> None:
    raw = encode_job("acme", "answer", {"question": "?"}, 17)
    assert raw.startswith(b'{"rt":"acme","t":null,"f":"answer","a":[],"k":{')
    assert decode_job(raw) == Payload("answer", (), {"question": "?"}, 17, "json", True)


def test_arq_reads_ours_when_it_reads_json() -> None:
    raw = encode_job("-", "answer", {"question": "?"}, 17)
    assert arq.jobs.deserialize_job_raw(raw, deserializer=json.loads) == ("answer", [], {"question": "?"}, None, 17)


@given(PLAIN)
def test_plain_data_of_a_plain_client_is_read(value: Any) -> None:
    read = decode_job(arq_payload(1, value, more=value))
    assert read == Payload("answer", (1, value), {"more": value}, 1_700_000_000_000, "pickle", False)


def test_a_json_client_is_read() -> None:
    raw = arq.jobs.serialize_job("answer", ("a",), {"b": 1}, 2, 17, serializer=lambda d: json.dumps(d).encode())
    assert decode_job(raw) == Payload("answer", ("a",), {"b": 1}, 17, "json", False)


class Exploit:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_do_something_does_nothing(tmp_path: Path, protocol: int) -> None:
    made = tmp_path / "made"
    raw = pickle.dumps({"t": None, "f": "answer", "a": (Exploit(made),), "k": {}, "et": 1}, protocol)
    with pytest.raises(BadPayload):
        decode_job(raw)
    assert not made.exists()
    pickle.loads(raw)
    assert made.exists()  # so it would have


@pytest.mark.parametrize("value", [Path("x"), asyncio.sleep, Payload, object(), complex(1, 2), JobError("a", "b"), int])
def test_a_pickle_that_names_anything_is_refused(value: Any) -> None:
    with pytest.raises(BadPayload, match="plain data"):
        decode_job(arq_payload(value))


def test_a_pickle_with_a_persistent_reference_is_refused() -> None:
    class Referring(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return "elsewhere" if obj == "mark" else None

    out = io.BytesIO()
    Referring(out).dump({"t": None, "f": "answer", "a": ("mark",), "k": {}, "et": 1})
    with pytest.raises(BadPayload, match="reference"):
        decode_job(out.getvalue())


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"[]", b"5", b"null", b"nonsense", b"\x80", b"\x80\x04", b"\x80\x04.", b"\x80\x05K\x01.", b"\xff\xff"),
        *(b'{"f":"a"}', b'{"f":"a","a":5,"k":{},"et":1}', b'{"f":"a","a":[],"k":[1],"et":1}', b'{"f":"a","a":[],"k":{},"et":"x"}'),
        b'{"f":"a","a":[],"k":{},"et":null}',
        b"[" * 1000,
        b"\x80\x04Nr\xff\xff\xff\x7f.",
        b"\x80\x04Np999999999999\n.",
        pickle.dumps([1]),
        pickle.dumps({"f": "a"}),
    ],
)
def test_what_cannot_be_read_says_so(raw: bytes) -> None:
    with pytest.raises(BadPayload):
        decode_job(raw)


@given(st.binary(max_size=60))
def test_no_bytes_do_more_than_be_refused(raw: bytes) -> None:
    for one in (raw, b"\x80\x04" + raw):
        try:
            decode_job(one)
        except BadPayload:
            pass


def test_a_refusal_quotes_nothing() -> None:
    for raw in (b'{"my-secret" "x"}', pickle.dumps({"f": "my-secret"}), b'{"f":"x","a":[],"k":{},"et":"my-secret"}'):
        with pytest.raises(BadPayload) as refused:
            decode_job(raw)
        assert "my-secret" not in str(refused.value)


def result(payload: Payload, success: bool, value: Any) -> bytes:
    return encode_result(payload, job_id="j", queue="arq:queue", tries=2, success=success, result=value, started_ms=1000, finished_ms=2000)


PICKLED = Payload("answer", (1,), {"b": 2}, 17, "pickle", False)
JSONED = Payload("answer", (1,), {"b": 2}, 17, "json", False)


def test_a_result_is_arq_s_own_record_in_the_codec_of_the_client() -> None:
    for payload, deserializer in ((PICKLED, None), (JSONED, json.loads)):
        read = arq.jobs.deserialize_result(result(payload, True, {"ok": True}), deserializer=deserializer)
        assert (read.function, tuple(read.args), read.kwargs, read.success, read.result) == ("answer", (1,), {"b": 2}, True, {"ok": True})
        assert (read.job_try, read.queue_name, read.job_id) == (2, "arq:queue", "j")
        assert read.finish_time.timestamp() - read.start_time.timestamp() == 1


class OfTheApplication(Exception):
    pass


def test_a_pickled_failure_is_an_exception_that_every_client_has() -> None:
    read = arq.jobs.deserialize_result(result(PICKLED, False, ValueError("x")))
    assert isinstance(read.result, ValueError)
    read = arq.jobs.deserialize_result(result(PICKLED, False, OfTheApplication("x")))
    assert type(read.result) is RuntimeError
    assert str(read.result) == "OfTheApplication: x"
    assert b"tests" not in result(PICKLED, False, OfTheApplication("x"))  # no class of ours is named in it
    cancelled = arq.jobs.deserialize_result(result(PICKLED, False, asyncio.CancelledError()))
    assert isinstance(cancelled.result, asyncio.CancelledError)


def test_what_cannot_be_pickled_is_given_in_its_json_form() -> None:
    class Local:
        pass

    from pydantic import create_model

    model = create_model("Answer", text=(str, ...))  # of no module: pickle cannot name it
    read = arq.jobs.deserialize_result(result(PICKLED, True, model(text="a")))
    assert read.result == {"text": "a"}
    error = ValueError("x", Local())
    read = arq.jobs.deserialize_result(result(PICKLED, False, error))
    assert str(read.result) == "ValueError"


def test_the_scripts_results_are_read_by_arq() -> None:
    results = lua_results()
    cancelled, failed = (arq.jobs.deserialize_result(one).result for one in results[::2])
    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(failed, RuntimeError)
    for raw in results[1::2]:
        assert arq.jobs.deserialize_result(raw, deserializer=json.loads).success is False


def test_our_own_pickles_hold_plain_data_only() -> None:
    names = {op.name for op, _, _ in pickletools.genops(arq_payload("a", b=[1, (2,), {3}]))}
    assert not names & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ"}
