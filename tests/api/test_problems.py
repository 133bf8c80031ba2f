"""What a refused call is answered with."""

import logging
from collections.abc import AsyncIterator

import pytest
import structlog

from rt.api.problems import problem
from rt.codec import from_json_bytes
from rt.errors import Refused, Word
from rt.settings import Settings
from rt.telemetry import configure_logging
from tests.api.conftest import Serve, Web, code


@pytest.fixture
def redis_kind() -> str:
    """Nothing here depends on the store."""
    return "fake"


async def test_malformed_json_is_400(web: Web) -> None:
    alice = web.client()
    for body in (b"", b"{", b'{"job": NaN}', b'{"job": Infinity}', b'{"job": "\\ud800"}', b"\xff", b'{"a": 1} x', b"9" * 5000):
        response = await alice.post("/v1/jobs", content=body)
        assert (response.status_code, code(response)) == (400, "invalid_json"), body


async def test_a_body_that_is_not_what_it_should_be_is_422(web: Web) -> None:
    alice = web.client()
    deep = b'{"job":"echo","input":{"text":' + b"[" * 70 + b"]" * 70 + b"}}"
    for body in (b"[]", b"null", b"7", b'"text"', b"{}", b'{"job": "echo", "jbo": 1}', deep):
        for path in ("/v1/jobs", "/v1/streams/room:x/events"):
            response = await alice.post(path, content=body)
            assert (response.status_code, code(response)) == (422, "invalid_frame"), body


async def test_no_value_of_the_callers_is_quoted(web: Web) -> None:
    alice = web.client()
    for body in ({"job": ["a canary"]}, {"job": "echo", "input": "a canary"}, {"job": "echo", "options": {"delay_s": "a canary"}}):
        assert "canary" not in (await alice.post("/v1/jobs", json=body)).text
    assert "canary" not in (await alice.get("/v1/jobs", params={"limit": "a canary"})).text


async def test_json_is_read_whatever_the_content_type_says(web: Web) -> None:
    response = await web.client().post(
        "/v1/jobs",
        content=b'{"job": "echo", "input": {"text": "x"}}',
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert response.status_code == 202


async def test_a_body_above_the_limit_is_refused_with_and_without_an_announced_length(serve: Serve) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 1000

    async with serve(max_message_bytes=4096) as web:
        alice = web.client()
        for body in (b" " * 4097, chunks()):
            for path in ("/v1/jobs", "/v1/streams/room:x/events"):
                response = await alice.post(path, content=body if isinstance(body, bytes) else chunks())
                assert (response.status_code, code(response)) == (413, "too_large")
        fits = b'{"data":"' + b"x" * 4085 + b'"}'
        assert len(fits) == 4096
        assert (await alice.post("/v1/streams/room:x/events", content=fits)).status_code == 201


async def test_what_is_not_there_and_what_cannot_be_done_there(web: Web) -> None:
    alice = web.client()
    missing = await alice.get("/v1/nothing")
    assert (missing.status_code, code(missing)) == (404, "not_found")
    wrong = await alice.delete("/v1/jobs")
    assert (wrong.status_code, code(wrong), "allow" in wrong.headers) == (405, "not_found", True)


async def test_what_nobody_foresaw_is_500_and_its_text_goes_nowhere(
    web: Web, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a canary of a prompt")

    monkeypatch.setattr(type(web.services.queue), "list", broken)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    structlog.reset_defaults()
    configure_logging(settings)
    response = await web.client().get("/v1/jobs")
    structlog.reset_defaults()
    assert (response.status_code, code(response), response.json()["temporary"]) == (500, "internal", True)
    assert "canary" not in response.text
    said = capsys.readouterr().err
    assert "RuntimeError" in said
    assert "canary" not in said


async def test_a_wrong_websocket_path_is_a_404(web: Web) -> None:
    response = await web.anonymous().get(
        "/v1/nothing",
        headers={
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        },
    )
    assert (response.status_code, code(response)) == (404, "not_found")


async def test_answers_carry_headers_that_bind_a_browser(web: Web) -> None:
    for path in ("/v1/jobs", "/livez", "/nothing"):
        headers = (await web.client().get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_every_error_word_has_its_status() -> None:
    statuses: dict[Word, int] = {
        "invalid_json": 400,
        "invalid_frame": 422,
        "invalid_input": 422,
        "unknown_type": 422,
        "unknown_job": 422,
        "unauthorized": 401,
        "token_expired": 401,
        "forbidden": 403,
        "not_found": 404,
        "conflict": 409,
        "too_large": 413,
        "rate_limited": 429,
        "queue_full": 503,
        "unavailable": 503,
        "internal": 500,
    }
    for word, status in statuses.items():
        response = problem(Refused(word, "why", retry_after_ms=1500, facts={"status": "completed", "job_id": "1"}))
        body = from_json_bytes(bytes(response.body))
        assert response.status_code == body["status"] == status
        assert (body["type"], body["detail"], body["code"]) == ("about:blank", "why", word)
        assert (body["job_status"], body["job_id"]) == ("completed", "1")
        assert response.headers.get("retry-after") == ("2" if status in (429, 503) else None)
