"""Who calls: tokens in the header, tickets that are good for one connection."""

import asyncio
import contextlib
import json
import time

import pytest
from websockets.asyncio.client import connect

from rt.api import auth
from rt.api.auth import KNOWN_TOKENS, Authenticator
from rt.errors import Refused
from rt.redis import Store
from rt.settings import BadSettings, Settings
from rt.tokens import LEEWAY_S, Claims, mint
from tests.api.conftest import Web, code
from tests.conftest import SECRET

CLAIMS = Claims("alice", "acme", frozenset({"jobs:read"}), time.time() + 600)


async def test_every_call_but_health_and_docs_wants_a_token(web: Web) -> None:
    anonymous = web.anonymous()
    for path, methods in (await anonymous.get("/openapi.json")).json()["paths"].items():
        for method in methods:
            response = await anonymous.request(method, path, json={} if method == "post" else None)
            if path.startswith("/v1/"):
                assert (response.status_code, code(response)) == (401, "unauthorized")
                assert response.headers["www-authenticate"] == "Bearer"
            else:
                assert response.status_code == 200


async def test_a_token_in_the_url_is_refused_and_not_repeated(web: Web) -> None:
    token = mint(SECRET, "alice", ["jobs:read"], 60)
    for name in ("token", "access_token"):
        response = await web.anonymous().get("/v1/jobs", params={name: token})
        assert (response.status_code, code(response)) == (401, "unauthorized")
        assert "URL" in response.json()["detail"]
        assert token not in response.text


async def test_a_token_that_is_not_ours_and_one_that_has_expired_are_told_apart(web: Web) -> None:
    anonymous = web.anonymous()
    for header in ("Bearer nonsense", f"Bearer {mint('x' * 32, 'alice', [], 60)}", "Basic YTpi", "Bearer"):
        response = await anonymous.get("/v1/jobs", headers={"Authorization": header})
        assert (response.status_code, code(response)) == (401, "unauthorized"), header
    response = await web.client(ttl_s=600).get("/v1/jobs")
    assert response.status_code == 200


async def test_an_expired_token_says_so(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as past:
        past.setattr(time, "time", lambda: 1_000_000_000.0)
        token = mint(SECRET, "alice", ["jobs:read"], 60)
    response = await web.anonymous().get("/v1/jobs", headers={"Authorization": f"Bearer {token}"})
    assert (response.status_code, code(response)) == (401, "token_expired")


async def test_a_ticket_stands_for_its_claims_once(settings: Settings, store: Store) -> None:
    authenticator = Authenticator(settings, store)
    word, expires_in_s = await authenticator.issue_ticket(CLAIMS)
    assert expires_in_s == 30
    assert await authenticator.ticket(word) == CLAIMS
    with pytest.raises(Refused, match="used already") as refused:
        await authenticator.ticket(word)
    assert refused.value.code == "unauthorized"


async def test_of_two_who_come_with_one_ticket_one_gets_in(settings: Settings, store: Store) -> None:
    authenticator = Authenticator(settings, store)
    word, _ = await authenticator.issue_ticket(CLAIMS)
    answers = await asyncio.gather(*(authenticator.ticket(word) for _ in range(2)), return_exceptions=True)
    assert sorted(isinstance(one, Refused) for one in answers) == [False, True]


async def test_a_ticket_does_not_outlive_its_token_nor_its_30_seconds(settings: Settings, store: Store) -> None:
    authenticator = Authenticator(settings, store)
    word, _ = await authenticator.issue_ticket(Claims("alice", "-", frozenset(), time.time() - 60))
    with pytest.raises(Refused) as refused:
        await authenticator.ticket(word)
    assert refused.value.code == "token_expired"
    word, _ = await authenticator.issue_ticket(CLAIMS)
    assert 0 < await store.call("TTL", f"rt:-:ticket:{word}") <= 30


async def test_a_word_that_is_no_ticket_reaches_no_key(settings: Settings, store: Store) -> None:
    authenticator = Authenticator(settings, store)
    for word in ("", "x", "x" * 10_000, "a:b", "*", "ü" * 43, "a" * 42 + "\n"):
        with pytest.raises(Refused) as refused:
            await authenticator.ticket(word)
        assert refused.value.code == "unauthorized"


async def test_a_browser_opens_its_websocket_with_a_ticket(web: Web) -> None:
    response = await web.client("alice").post("/v1/tickets")
    assert (response.status_code, response.json()["expires_in_s"]) == (201, 30)
    frame = json.dumps({"type": "connect", "ticket": response.json()["ticket"]})
    url = web.url.replace("http", "ws") + "/v1/ws"
    async with connect(url, proxy=None) as socket:
        await socket.send(frame)
        assert json.loads(await socket.recv())["subject"] == "alice"
    async with connect(url, proxy=None) as socket:
        await socket.send(frame)
        await socket.wait_closed()
        assert socket.close_code == 4500


def test_nobody_is_let_in_where_there_is_no_secret(settings: Settings) -> None:
    with pytest.raises(BadSettings, match="RT_SECRET"):
        Authenticator(settings.model_copy(update={"secret": None}), None)  # type: ignore[arg-type]


async def test_a_token_that_is_known_still_expires(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    authenticator = Authenticator(settings, store)
    token = mint(SECRET, "alice", ["jobs:read"], 60)
    claims = await authenticator.token(token)
    assert await authenticator.token(token) is claims

    def expired(*_: str) -> Claims:
        raise Refused("token_expired", "the token has expired")

    monkeypatch.setattr(auth, "verify", expired)
    for late, over in ((claims.expires_at + LEEWAY_S - 1, False), (claims.expires_at + LEEWAY_S, True)):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda late=late: late)
            with pytest.raises(Refused) if over else contextlib.nullcontext():
                assert await authenticator.token(token) is claims


async def test_no_more_tokens_are_remembered_than_a_bound_and_none_that_is_refused(settings: Settings, store: Store) -> None:
    authenticator = Authenticator(settings, store)
    for n in range(KNOWN_TOKENS + 10):
        await authenticator.token(mint(SECRET, f"s{n}", [], 60))
        if n < 5:
            with pytest.raises(Refused):
                await authenticator.token(mint("x" * 32, f"s{n}", [], 60))
    assert len(authenticator._known) == KNOWN_TOKENS
