"""Over real HTTP: a small endpoint, written by hand so that it can break in every way that endpoints do."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from rt.errors import JobError, TemporaryJobError
from rt.jobs.models import EmbeddedModel, LanguageModel, close_model, current_model, load_model
from rt.jobs.models.openai import EventParser, OpenAIModel
from rt.settings import BadSettings, Settings

PROMPT = "a prompt nobody else may read"
KEY = "sk-a-key-nobody-may-read"

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def part(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(**members: Any) -> bytes:
    return b"data: " + json.dumps(members).encode() + b"\n\n"


def piece(content: str | None, finish_reason: str | None = None) -> bytes:
    return event(model="tiny-1", choices=[{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}], usage=None)


def whole(*events: bytes) -> bytes:
    return STREAM + part(b"".join(events)) + END


def status(line: str, *headers: str) -> bytes:
    body = json.dumps({"error": {"message": f"{PROMPT} {KEY}"}}).encode()
    return "\r\n".join([f"HTTP/1.1 {line}", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


class Endpoint:
    """Answers each request with the same bytes; with `hold` it then keeps the connection until the client closes it."""

    def __init__(self, answer: bytes, *, hold: bool = False) -> None:
        self.answer, self.hold = answer, hold
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.connections = 0
        self.left = asyncio.Event()
        """The client has closed a connection."""
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await self._head(reader):
                line, *rest = head.decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
                body = await reader.readexactly(int(headers["content-length"]))
                self.requests.append((line, headers, json.loads(body)))
                writer.write(self.answer)
                await writer.drain()
                if not self.hold and not self.answer.endswith((END, b"}")):
                    return
        except ConnectionError:
            pass
        finally:
            self.left.set()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""


def model_at(url: str, **settings: Any) -> OpenAIModel:
    return OpenAIModel(
        Settings(openai_base_url=url, openai_api_key=KEY, openai_model="tiny", openai_timeout_s=settings.pop("timeout_s", 5), **settings)
    )


@asynccontextmanager
async def endpoint(answer: bytes, *, hold: bool = False, timeout_s: float = 5) -> AsyncIterator[tuple[Endpoint, OpenAIModel]]:
    one = Endpoint(answer, hold=hold)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    model = model_at(one.url, timeout_s=timeout_s)
    try:
        yield one, model
    finally:
        await model.aclose()
        server.close()
        await server.wait_closed()
        if one.connections:
            async with asyncio.timeout(5):
                await one.left.wait()


async def text_of(source: LanguageModel, **options: Any) -> str:
    return "".join([piece async for piece in source.stream(PROMPT, **options)])


async def error_of(answer: bytes, *, hold: bool = False, timeout_s: float = 5) -> JobError:
    async with endpoint(answer, hold=hold, timeout_s=timeout_s) as (_, model):
        with pytest.raises(JobError) as caught:
            await text_of(model)
    error = caught.value
    assert isinstance(error, TemporaryJobError) == error.temporary
    for secret in (PROMPT, KEY):
        assert secret not in f"{error} {error.data()} {error.__cause__}"
    return error


async def test_a_stream_yields_its_text_and_reports_model_finish_and_usage() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    answer = whole(piece(""), piece("Hello"), piece(", wörld"), piece(None, "stop"), event(model="tiny-1", choices=[], usage=usage), DONE)
    report: dict[str, Any] = {}
    async with endpoint(answer) as (_, model):
        assert await text_of(model, report=report) == "Hello, wörld"
    assert report == {"model": "tiny-1", "finish_reason": "stop", "usage": {"input_tokens": 7, "output_tokens": 3}}


async def test_the_request_asks_for_a_stream_with_usage_and_carries_the_key() -> None:
    async with endpoint(whole(piece("x", "stop"), DONE)) as (one, model):
        await text_of(model, max_tokens=5, seed=3, model="other")
    line, headers, body = one.requests[0]
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "other",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 5,
        "seed": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_without_a_seed_none_is_sent() -> None:
    async with endpoint(whole(piece("x", "stop"), DONE)) as (one, model):
        await text_of(model)
    assert "seed" not in one.requests[0][2]
    assert one.requests[0][2]["model"] == "tiny"


async def test_a_connection_is_used_again() -> None:
    async with endpoint(whole(piece("x", "stop"), DONE)) as (one, model):
        for _ in range(3):
            await text_of(model)
    assert (one.connections, len(one.requests)) == (1, 3)


async def test_a_server_that_holds_on_after_done_is_not_waited_for() -> None:
    async with endpoint(STREAM + part(piece("x") + DONE), hold=True, timeout_s=30) as (one, model), asyncio.timeout(5):
        assert await text_of(model) == "x"
        await one.left.wait()


async def test_a_finish_without_done_is_an_end() -> None:
    async with endpoint(whole(piece("x", "length"))) as (_, model):
        assert await text_of(model) == "x"


async def test_comments_and_other_fields_are_passed_over() -> None:
    async with endpoint(whole(b": keep-alive\n\nevent: message\nid: 1\n", piece("x", "stop"), b"retry: 5\n\n", DONE)) as (_, model):
        assert await text_of(model) == "x"


@pytest.mark.parametrize(
    ("line", "code", "temporary"),
    [
        ("401 Unauthorized", "model_unauthorized", False),
        ("403 Forbidden", "model_unauthorized", False),
        ("404 Not Found", "model_not_found", False),
        ("400 Bad Request", "model_bad_request", False),
        ("413 Content Too Large", "model_bad_request", False),
        ("429 Too Many Requests", "model_rate_limited", True),
        ("500 Internal Server Error", "model_error", True),
        ("503 Service Unavailable", "model_error", True),
        ("302 Found", "model_bad_response", False),
    ],
)
async def test_each_status_has_its_code(line: str, code: str, temporary: bool) -> None:
    error = await error_of(status(line))
    assert (error.code, error.temporary) == (code, temporary)


def in_an_hour() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        (lambda: "7", 7, 7),
        (lambda: "0.5", 0.5, 0.5),
        (in_an_hour, 3590, 3600),
        (lambda: "Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        (lambda: "-3", 0, 0),
        (lambda: "nan", None, None),
        (lambda: "soon", None, None),
    ],
)
async def test_retry_after_is_seconds_or_a_date(value: Callable[[], str], low: float | None, high: float | None) -> None:
    error = await error_of(status("429 Too Many Requests", f"Retry-After: {value()}"))
    assert isinstance(error, TemporaryJobError)
    if low is None or high is None:
        assert error.retry_after_s is None
    else:
        assert error.retry_after_s is not None
        assert low <= error.retry_after_s <= high


async def test_a_date_to_retry_after_counts_from_the_endpoint_s_own_clock() -> None:
    headers = "Date: Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After: Wed, 21 Oct 2015 07:28:30 GMT"
    error = await error_of(status("429 Too Many Requests", *headers))
    assert isinstance(error, TemporaryJobError)
    assert error.retry_after_s == 30


@pytest.mark.parametrize(
    "answer",
    [
        whole(piece("half an answ")),
        whole(),
        whole(piece("half"), b"data: [DO"),
        STREAM + part(piece("half")),
        STREAM + b"ff\r\ndata: {",
    ],
    ids=["no finish", "nothing", "cut in an event", "connection closed between chunks", "connection closed in a chunk"],
)
async def test_a_stream_that_breaks_off_is_truncated(answer: bytes) -> None:
    error = await error_of(answer)
    assert (error.code, error.temporary) == ("model_truncated", True)


@pytest.mark.parametrize("answer", [b"", STREAM + part(piece("half"))], ids=["before the answer", "within the answer"])
async def test_an_endpoint_that_stalls_times_out(answer: bytes) -> None:
    error = await error_of(answer, hold=True, timeout_s=0.2)
    assert (error.code, error.temporary) == ("model_timeout", True)


async def test_a_refused_connection_is_unreachable() -> None:
    with socket.socket() as taken:
        # Bound and not listening: nothing else can take the port, and every connection to it is refused.
        taken.bind(("127.0.0.1", 0))
        model = model_at(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        with pytest.raises(TemporaryJobError) as caught:
            await text_of(model)
        await model.aclose()
    assert caught.value.code == "model_unreachable"


async def test_a_connection_that_closes_before_the_answer_is_unreachable() -> None:
    error = await error_of(b"")
    assert (error.code, error.temporary) == ("model_unreachable", True)


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"data: {not json\n\n"),
        whole(b"data: 5\n\n"),
        whole(event(choices="none")),
        whole(event(choices=[{"delta": {"content": {"a": 1}}}])),
        whole(b"data: " + b"x" * (1024 * 1024 + 1)),
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + part(b"not gzip") + END,
    ],
    ids=["not JSON", "a number", "choices are a word", "content is an object", "endless event", "no stream", "broken gzip"],
)
async def test_what_is_no_completion_stream_is_a_bad_response(answer: bytes) -> None:
    error = await error_of(answer)
    assert (error.code, error.temporary) == ("model_bad_response", False)


async def test_an_error_in_the_midst_of_a_stream_is_temporary() -> None:
    error = await error_of(whole(piece("half"), event(error={"message": PROMPT})))
    assert (error.code, error.temporary) == ("model_error", True)


async def test_cancelling_the_consumer_closes_the_connection() -> None:
    async with endpoint(STREAM + part(piece("x")), hold=True) as (one, model):
        got = asyncio.Event()

        async def consume() -> None:
            async for _ in model.stream(PROMPT):
                got.set()

        async with asyncio.timeout(5):
            task = asyncio.create_task(consume())
            await got.wait()
            assert not one.left.is_set()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await one.left.wait()


async def test_a_consumer_that_stops_early_closes_the_connection() -> None:
    async with endpoint(STREAM + part(piece("x")), hold=True) as (one, model), asyncio.timeout(5):
        async with aclosing(model.stream(PROMPT)) as pieces:
            assert await anext(pieces) == "x"
        await one.left.wait()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_are_the_same_however_the_bytes_are_cut(end: bytes) -> None:
    raw = end.join(
        [": hi", "data: wö", "data:rld", "", "event: x", "data", "", "data: two", "", "data: cut off"][i].encode() for i in range(10)
    )
    expected = ["wö\nrld".encode(), b"", b"two"]
    for cut in range(len(raw) + 1):
        parser = EventParser()
        assert [*parser.feed(raw[:cut]), *parser.feed(raw[cut:])] == expected
    parser = EventParser()
    assert [data for at in range(len(raw)) for data in parser.feed(raw[at : at + 1])] == expected


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host/v1", "http://", "http://[", "http://host\x00/v1", "http://host:99999", "nonsense"]
)
def test_a_base_url_that_cannot_be_used_is_refused_at_once(url: str) -> None:
    with pytest.raises(BadSettings, match="RT_OPENAI_BASE_URL"):
        model_at(url)


@pytest.mark.parametrize("key", [f"{KEY}\n", "ключ", "two words"])
def test_a_key_that_cannot_stand_in_a_header_is_refused_and_not_told(key: str) -> None:
    with pytest.raises(BadSettings, match="RT_OPENAI_API_KEY") as caught:
        OpenAIModel(Settings(openai_base_url="http://127.0.0.1/v1", openai_api_key=key))
    assert key.strip() not in str(caught.value)


async def test_without_a_key_none_is_sent() -> None:
    async with endpoint(whole(piece("x", "stop"), DONE)) as (one, _):
        model = OpenAIModel(Settings(openai_base_url=one.url, openai_api_key=""))
        await text_of(model)
        await model.aclose()
    assert "authorization" not in one.requests[0][1]


async def test_the_setting_decides_which_model_a_process_has() -> None:
    assert isinstance(load_model(Settings(openai_base_url="http://127.0.0.1:1/v1")), OpenAIModel)
    assert current_model().fingerprint is None
    embedded = load_model(Settings(openai_base_url=""))
    assert isinstance(embedded, EmbeddedModel)
    assert current_model() is embedded
    await close_model()
    await close_model()
    with pytest.raises(RuntimeError, match="load_model"):
        current_model()
