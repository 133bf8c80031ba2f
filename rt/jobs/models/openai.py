"""Any OpenAI-compatible `/chat/completions` endpoint, streamed: OpenAI, vLLM, Ollama, llama.cpp, LM Studio, gateways.

The errors, one code for each kind of failure (t: temporary, another attempt may succeed):

    model_unreachable t    no connection, or it broke before an answer
    model_timeout t        no byte for `openai_timeout_s`
    model_rate_limited t   429; `retry_after_s` is the endpoint's Retry-After
    model_error t          5xx, or an error in the midst of a stream
    model_truncated t      the stream ended, and the answer had not
    model_unauthorized     401 or 403: the key
    model_not_found        404: the model, or the path of the base URL
    model_bad_request      any other 4xx: what was asked for
    model_bad_response     an answer that is no chat completion stream

Neither the prompt nor the key is in an error's text, and nor is anything that the endpoint said: it likes to quote both.
"""

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

import httpx2
from pydantic import BaseModel, ValidationError

from rt.codec import DecodeError, TooDeep, from_json_bytes, to_json_bytes
from rt.errors import JobError, TemporaryJobError
from rt.settings import BadSettings, Settings

#: A server-sent event above this size is no chunk of text.
_MAX_EVENT_BYTES = 1024 * 1024

#: How long the end of the body is waited for after `[DONE]`: a connection whose body was read to its end is used again.
_DRAIN_S = 0.2


class _Delta(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(BaseModel):
    """What is read of a `chat.completion.chunk`; everything else may be there."""

    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class OpenAIModel:
    """A LanguageModel behind HTTP. One client, and one pool of at most `max_jobs` connections, for the whole process.

    Raises BadSettings when `openai_base_url` is no http(s) URL, or the key cannot stand in a header.
    """

    #: The same request may get another text at any time, seed or not: providers promise no more than their best effort.
    fingerprint = None

    def __init__(self, settings: Settings) -> None:
        base = settings.openai_base_url.rstrip("/")
        if not _is_http(base):
            raise BadSettings('RT_OPENAI_BASE_URL: write an http(s) URL such as "http://127.0.0.1:11434/v1"')
        self._key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else ""
        if not all("!" <= one <= "~" for one in self._key):
            raise BadSettings("RT_OPENAI_API_KEY: write visible ASCII characters only, without a space or a line's end")
        self.name = settings.openai_model
        self._url = f"{base}/chat/completions"
        self._timeout_s = settings.openai_timeout_s
        self._connections = settings.max_jobs
        self._lock = threading.Lock()
        self._client: httpx2.AsyncClient | None = None

    def load(self) -> None:
        """Makes the client: a tenth of a second, which goes into reading the certificates that are trusted."""
        self._loaded()

    def _loaded(self) -> httpx2.AsyncClient:
        with self._lock:
            if self._client is None:
                self._client = httpx2.AsyncClient(
                    timeout=self._timeout_s,
                    # A job that streams holds one connection: with one for each job, none waits for another's.
                    limits=httpx2.Limits(max_connections=self._connections, max_keepalive_connections=self._connections),
                )
            return self._client

    async def stream(
        self, prompt: str, *, max_tokens: int = 128, seed: int | None = None, model: str | None = None, report: dict[str, Any] | None = None
    ) -> AsyncGenerator[str, None]:
        report = {} if report is None else report
        report |= {"model": model or self.name, "finish_reason": None, "usage": {}}
        body: dict[str, Any] = {
            "model": model or self.name,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if seed is not None:
            body["seed"] = seed
        async with aclosing(self._chunks(to_json_bytes(body))) as chunks:
            async for chunk in chunks:
                if chunk.error is not None:
                    raise TemporaryJobError("model_error", "the model endpoint reported an error in the midst of its answer")
                if chunk.model:
                    report["model"] = chunk.model
                if chunk.usage:
                    told = {"input_tokens": chunk.usage.prompt_tokens, "output_tokens": chunk.usage.completion_tokens}
                    report["usage"] = {name: count for name, count in told.items() if count is not None}
                for choice in chunk.choices or ():
                    report["finish_reason"] = choice.finish_reason or report["finish_reason"]
                    if choice.delta.content:
                        yield choice.delta.content

    async def _chunks(self, body: bytes) -> AsyncGenerator[_Chunk, None]:
        """The answer's chunks. Ends only where the answer has ended; a connection that ends before is an error."""
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        client = await asyncio.to_thread(self._loaded) if self._client is None else self._client
        answering = ended = False
        try:
            # Leaving this block, by an error or a cancellation too, closes the response: that is how the endpoint is told to stop.
            async with client.stream("POST", self._url, content=body, headers=headers) as response:
                _check(response)
                answering = True
                events = EventParser()
                async with aclosing(response.aiter_bytes()) as parts:
                    async for part in parts:
                        for data in events.feed(part):
                            if data == b"[DONE]":
                                with suppress(TimeoutError, httpx2.HTTPError):
                                    async with asyncio.timeout(_DRAIN_S):
                                        async for _ in parts:
                                            pass
                                return
                            chunk = _chunk(data)
                            # Not every endpoint says [DONE], and usage comes after the finish.
                            ended = ended or any(one.finish_reason for one in chunk.choices or ())
                            yield chunk
        except httpx2.ConnectTimeout:
            raise _unreachable() from None
        except httpx2.TimeoutException:
            if not ended:
                raise TemporaryJobError("model_timeout", f"the model endpoint sent nothing for {self._timeout_s:g} s") from None
        except httpx2.DecodingError:
            raise _bad_response("is compressed in a broken way") from None
        except httpx2.HTTPError:
            if not answering:
                raise _unreachable() from None
        if not ended:
            raise TemporaryJobError("model_truncated", "the model endpoint's answer broke off")

    async def aclose(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def _is_http(url: str) -> bool:
    try:
        # Both look: the one takes "http://[", the other control characters.
        httpx2.URL(url)
        parsed = urlsplit(url)
        return parsed.scheme in ("http", "https") and bool(parsed.hostname) and parsed.port != 0
    except (httpx2.InvalidURL, ValueError):
        return False


def _unreachable() -> TemporaryJobError:
    return TemporaryJobError("model_unreachable", "the model endpoint cannot be reached")


def _bad_response(what: str) -> JobError:
    return JobError("model_bad_response", f"the model endpoint's answer {what}")


def _check(response: httpx2.Response) -> None:
    status = response.status_code
    wait_s = _retry_after_s(response.headers.get("Retry-After"), response.headers.get("Date"))
    match status:
        case 200:
            if "json" in response.headers.get("Content-Type", ""):
                raise _bad_response("is not a stream")
        case 401 | 403:
            raise JobError("model_unauthorized", f"the model endpoint refused the key ({status}); see RT_OPENAI_API_KEY")
        case 404:
            raise JobError(
                "model_not_found", "the model endpoint knows no such model or path (404); see RT_OPENAI_MODEL and RT_OPENAI_BASE_URL"
            )
        case 429:
            raise TemporaryJobError("model_rate_limited", "the model endpoint takes no more requests for now (429)", retry_after_s=wait_s)
        case _ if status >= 500:
            raise TemporaryJobError("model_error", f"the model endpoint failed ({status})", retry_after_s=wait_s)
        case _ if status >= 400:
            raise JobError("model_bad_request", f"the model endpoint refused the request ({status})")
        case _:
            raise _bad_response(f"has the status {status}")


def _retry_after_s(value: str | None, sent: str | None) -> float | None:
    """RFC 9110, 10.2.3: seconds or a date. None for neither; a date that has passed is 0.

    A date counts from the one at which the answer was sent: the endpoint's clock and ours may differ.
    """
    if value is None:
        return None
    try:
        wait_s = float(value)
    except ValueError:
        when = _date(value)
        if when is None:
            return None
        wait_s = (when - (_date(sent or "") or datetime.now(UTC))).total_seconds()
    return max(0.0, wait_s) if isfinite(wait_s) else None


def _date(value: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    # An HTTP date is always UTC, also where it is written "-0000", which Python reads as a time without a zone.
    return when.replace(tzinfo=when.tzinfo or UTC)


def _chunk(data: bytes) -> _Chunk:
    try:
        return _Chunk.model_validate(from_json_bytes(data))
    except (DecodeError, TooDeep):
        raise _bad_response("holds a chunk that is not JSON") from None
    except ValidationError:
        raise _bad_response("holds a chunk of an unknown shape") from None


class EventParser:
    """Server-sent events out of bytes, however they were cut. Only `data` matters to us.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation: lines end with LF, CR
    or CRLF; data lines of one event are joined with LF; an empty line sends it; an event that is cut off is dropped.
    Lines are cut before they are decoded, so that no character is ever cut.
    """

    _LINE_END = re.compile(rb"\r\n|\n|\r")

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False
        self._data: list[bytes] = []

    def feed(self, part: bytes) -> Iterator[bytes]:
        """The data of every event that `part` completes. Raises JobError("model_bad_response") for one that is too large."""
        if not part:
            return
        # A CR ends its line at once: waiting for the LF that may follow would hold the event back.
        if self._after_cr and part[:1] == b"\n":
            part = part[1:]
        self._after_cr = part[-1:] == b"\r"
        *lines, self._rest = self._LINE_END.split(self._rest + part)
        if len(self._rest) + sum(map(len, self._data)) > _MAX_EVENT_BYTES:
            raise _bad_response("holds a chunk that is too large")
        for line in lines:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not line and self._data:
                yield b"\n".join(self._data)
                self._data = []
