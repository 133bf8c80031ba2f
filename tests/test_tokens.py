"""Tokens: what is minted is accepted, and nothing else is."""

import base64
import time
from typing import Any

import jwt
import pytest

from rt.errors import Refused
from rt.tokens import DEFAULT_SCOPES, SCOPES, mint, verify

SECRET = "s" * 32


def signed(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token of another issuer: `sub` and `exp` are right unless they are given; None leaves a claim out."""
    whole = {"sub": "ada", "exp": int(time.time()) + 60} | claims
    return jwt.encode({name: value for name, value in whole.items() if value is not None}, secret, algorithm)


def refusal(token: str) -> str:
    with pytest.raises(Refused) as caught:
        verify(SECRET, token)
    assert token not in caught.value.message
    return caught.value.code


def test_what_is_minted_says_who_may_do_what_until_when() -> None:
    claims = verify(SECRET, mint(SECRET, "ada", ["jobs:read", "admin"], 60, tenant="acme"))
    assert (claims.subject, claims.tenant, claims.scopes) == ("ada", "acme", frozenset({"jobs:read", "admin"}))
    assert 50 < claims.expires_at - time.time() <= 60


def test_default_scopes_are_all_but_the_two_that_reach_others() -> None:
    assert set(SCOPES) - set(DEFAULT_SCOPES) == {"notifications:send", "admin"}


def test_without_a_tenant_it_is_the_default_one() -> None:
    assert verify(SECRET, mint(SECRET, "ada", [], 60)).tenant == "-"


def test_an_expired_token_has_a_word_of_its_own_and_ten_seconds_of_grace() -> None:
    assert refusal(signed(exp=int(time.time()) - 12)) == "token_expired"
    assert verify(SECRET, signed(exp=int(time.time()) - 5)).subject == "ada"


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"exp": "soon"},
        {"exp": []},
        {"exp": float("inf")},
        {"sub": None},
        {"sub": ""},
        {"sub": "a" * 257},
        {"sub": "line\nbreak"},
        {"sub": "escape\x1b[2J"},
        {"sub": "\ud800"},
        {"tenant": ""},
        {"tenant": "a b"},
        {"tenant": "a" * 65},
        {"tenant": 7},
        {"scope": 7},
        {"scopes": "admin"},
        {"nbf": 4_000_000_000},
    ],
    ids=str,
)
def test_a_claim_that_cannot_be_used_is_refused(claims: dict[str, Any]) -> None:
    assert refusal(signed(**claims)) == "unauthorized"


def test_another_secret_or_algorithm_is_refused() -> None:
    assert refusal(signed(secret="other" * 8)) == "unauthorized"
    assert refusal(signed(secret="s" * 64, algorithm="HS512")) == "unauthorized"
    header, body, _ = signed().split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    assert refusal(f"{unsigned}.{body}.") == "unauthorized"
    assert refusal(f"{header}.{body}.") == "unauthorized"


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "é.é.é", "\ud800.a.b", base64.urlsafe_b64encode(b"[" * 30_000).decode() + ".e30.AA"])
def test_what_is_no_token_is_refused_and_breaks_nothing(token: str) -> None:
    with pytest.raises(Refused) as caught:
        verify(SECRET, token)
    assert caught.value.code == "unauthorized"


def test_scopes_come_as_a_string_or_as_a_list_and_unknown_ones_are_ignored() -> None:
    assert verify(SECRET, signed(scope="jobs:read  fly:moon")).scopes == {"jobs:read"}
    assert verify(SECRET, signed(scopes=["jobs:write", "fly:moon", 7, {}])).scopes == {"jobs:write"}
    assert verify(SECRET, signed()).scopes == frozenset()


def test_a_token_for_some_audience_issued_in_the_future_is_still_ours() -> None:
    assert verify(SECRET, signed(aud="authenticated", iss="https://auth.example", iat=int(time.time()) + 600)).subject == "ada"


def test_nothing_is_minted_that_would_be_refused() -> None:
    with pytest.raises(ValueError, match="known are jobs:write"):
        mint(SECRET, "ada", ["jobs:fly"], 60)
    for sub, ttl, tenant in (("", 60, None), ("a\n", 60, None), ("ada", 0, None), ("ada", 60, "a b")):
        with pytest.raises(ValueError, match=r"subject|lives|tenant"):
            mint(SECRET, sub, [], ttl, tenant)
