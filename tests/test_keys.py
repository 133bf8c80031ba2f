"""Names in Redis, the grammar of stream names, and that the scripts build the same ones."""

import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import arq.constants
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rt
from rt import keys
from rt.errors import Refused
from rt.jobs.payload import encode_job
from rt.keys import Stream, escape, job_stream, parse_stream, user_stream
from rt.redis import Script, Store, load_script

PLAIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~@+=-"


@pytest.mark.parametrize("kind", ["session", "user", "room", "job"])
def test_a_stream_s_name_is_its_kind_and_an_id(kind: str) -> None:
    for id in ("a", "x" * 128, PLAIN, "a%20b", "%C3%BC"):
        stream = parse_stream(f"{kind}:{id}")
        assert (stream.kind, stream.id, str(stream)) == (kind, id, f"{kind}:{id}")


@pytest.mark.parametrize(
    "name",
    [
        *("", "room", "room:", ":a", "rooms:a", "Room:a", "room:a:b", "room:a b", "room:a/b", "room:{a}", "room:a*", "room:ä", "room:a\n"),
        *("room:" + "x" * 129, "room:%", "room:%2", "room:%2g", "room:%c3", "room:a%", "room:\x00", " room:a", "room :a", "stream:a"),
        *("rt:-:{room:a}:log", "room:" + "%41" * 43),
        *(None, 5, b"room:a", ["room:a"], {"room": "a"}),
    ],
)
def test_no_other_name_is_a_stream(name: object) -> None:
    with pytest.raises(Refused) as refused:
        parse_stream(name, "cursors.stream")
    assert refused.value.code == "invalid_frame"
    assert refused.value.details is not None
    assert refused.value.details[0]["loc"] == ["cursors", "stream"]


@given(st.text(min_size=1, max_size=30))
def test_any_subject_has_a_stream_and_comes_back_from_it(subject: str) -> None:
    try:
        subject.encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair is no text that can be sent
    if len(escape(subject)) > 128:
        return
    stream = parse_stream(user_stream(subject))
    assert stream.subject == subject
    assert stream == Stream("user", escape(subject))


@given(st.text(min_size=1, max_size=10), st.text(min_size=1, max_size=10))
def test_two_subjects_never_share_a_stream(one: str, other: str) -> None:
    try:
        assert (escape(one) == escape(other)) == (one == other)
    except UnicodeEncodeError:
        return


def test_plain_characters_stand_for_themselves_and_all_others_are_escaped() -> None:
    assert escape(PLAIN) == PLAIN
    assert escape("a b/c:%{}ü€") == "a%20b%2Fc%3A%25%7B%7D%C3%BC%E2%82%AC"


def test_a_stream_s_log_and_meta_share_a_slot() -> None:
    for make in (keys.log, keys.meta, keys.live):
        assert make("acme", "room:a") == f"rt:acme:{{room:a}}:{make.__name__}"


# What the scripts build by themselves, asked from them.


def asking(lua: str, *library: str) -> Script:
    """A library's functions, by default those of jobs, with a question after them."""
    text = load_script(*(library or ("streams/stream", "jobs/job"))).text + "\n" + lua
    return Script("asking", text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


ESCAPE = asking("local out = {} for i, id in ipairs(ARGV) do out[i] = (job_stream(id)) end return out")
NAMES = asking("return { job_keys(ARGV[1], ARGV[2]) }")
LETTER_NAMES = asking("return { letter_keys(ARGV[1], ARGV[2]) }")
ROOM_NAMES = asking("return { room_keys(ARGV[1], ARGV[2]) }", "streams/stream", "streams/presence")
PLAIN_PAYLOAD = asking("return job_is_plain(ARGV[1]) and 1 or 0")


async def test_lua_escapes_job_ids_as_python_does(store: Store) -> None:
    ids = [chr(i) for i in range(1, 256)] + ["ü€😀", "a b", "%41", "a:b{c}", PLAIN, "\x00", "x" * 500, "\u2028", "日本語"]
    assert [one.decode() for one in await store.run(ESCAPE, [], ids)] == [job_stream(one) for one in ids]


async def test_lua_escapes_every_byte(store: Store) -> None:
    every = [bytes([i]) for i in range(256)]
    assert [one.decode() for one in await store.run(ESCAPE, [], every)] == [f"job:{quote(one, safe=keys._PLAIN)}" for one in every]


async def test_lua_finds_a_room_s_keys(store: Store) -> None:
    found = await store.run(ROOM_NAMES, [], ["acme", "room:a"])
    assert [one.decode() for one in found] == [make("acme", "room:a") for make in (keys.log, keys.meta, keys.presence)]


async def test_lua_finds_a_job_s_keys(store: Store) -> None:
    for tenant, id in (("-", "a"), ("acme", "ü b"), ("a_b-c", "{x}")):
        stream = job_stream(id)
        found = await store.run(NAMES, [], [tenant, id])
        assert [one.decode() for one in found] == [keys.log(tenant, stream), keys.meta(tenant, stream)]
        found = await store.run(LETTER_NAMES, [], [tenant, id])
        assert [one.decode() for one in found] == [keys.letter(tenant, id), keys.letters(tenant)]


@pytest.mark.parametrize(
    ("payload", "plain"),
    [
        (encode_job("acme", "x", {}, 0), False),
        (encode_job("-", "x", {}, 0), False),
        (b'{"t":null,"f":"x","k":{"rt":"acme"}}', True),
        (b'{"f":"\\"rt\\":\\"acme\\""}', True),
        (b"\x80\x04anything", True),
        (b"", True),
    ],
)
async def test_lua_tells_our_payloads_from_plain_clients_ones(store: Store, payload: bytes, plain: bool) -> None:
    assert await store.run(PLAIN_PAYLOAD, [], [payload]) == plain


# What the scripts write as text, held against the modules that own the words.

SCRIPTS = {path.name: path.read_text() for path in Path(rt.__file__).parent.rglob("*.lua")}


def literals(prefix: str) -> set[str]:
    return {found for text in SCRIPTS.values() for found in re.findall(rf"'({prefix}[^']*)'", text)}


def test_the_scripts_use_arq_s_own_keys() -> None:
    assert literals("arq:") == {
        arq.constants.job_key_prefix,
        arq.constants.in_progress_key_prefix,
        arq.constants.result_key_prefix,
        arq.constants.retry_key_prefix,
        arq.constants.abort_jobs_ss,
    }
    assert arq.constants.default_queue_name == "arq:queue"


def test_the_scripts_use_our_own_keys() -> None:
    def prefix(make: Any) -> str:
        return str(make(""))

    assert literals("rt:") == {
        "rt:",  # the front of a job's log and meta, asked above
        keys.INCARNATION,
        keys.PULSE,
        keys.GRACE,
        keys.LETTERS_KEPT,
        keys.LETTERS_DROPPED,
        prefix(keys.leases),
        prefix(keys.deadlines),
        prefix(keys.tenants),
        prefix(keys.doorbell),
        prefix(keys.attended),
    }
