"""Bearer tokens: HS256 JWTs that say who somebody is (`sub`), in which tenant, and what they may do (`scope`).

One algorithm and one secret: a token's own header never chooses how it is checked (RFC 8725, 3.1). `aud`, `iss` and
`iat` are not looked at: whoever holds the secret may sign.
"""

import re
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from rt.errors import Refused
from rt.keys import DEFAULT_TENANT, escape

SCOPES = ("jobs:write", "jobs:read", "streams:publish", "streams:read", "notifications:send", "admin")
#: What a token of `rt token` may do when nothing is asked for.
DEFAULT_SCOPES = SCOPES[:4]

#: Clocks differ: what expired this long ago still counts.
LEEWAY_S = 10.0

_ALGORITHM = "HS256"
_TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: As it stands in `user:<subject>`: escaped, so that letters beyond ASCII count for six or more.
_SUBJECT_CHARS = 128


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says. `tenant` is "-" where it names none; `expires_at` is in Unix seconds."""

    subject: str
    tenant: str
    scopes: frozenset[str]
    expires_at: float

    def has(self, scope: str) -> bool:
        """Whether it may; `admin` includes every other scope."""
        return scope in self.scopes or "admin" in self.scopes

    def need(self, scope: str) -> None:
        """Raises Refused("forbidden") that names the scope."""
        if not self.has(scope):
            raise Refused("forbidden", f"this credential lacks the scope {scope}")


def mint(secret: str, sub: str, scopes: Sequence[str], ttl_s: int, tenant: str | None = None) -> str:
    """A token that `verify` accepts for `ttl_s` seconds from now.

    Raises ValueError, whose text is for people, for an unknown scope and for a subject, tenant or lifetime that `verify` would refuse.
    """
    unknown = [one for one in scopes if one not in SCOPES]
    if unknown:
        raise ValueError(f"unknown scope {', '.join(map(repr, unknown))}; known are {', '.join(SCOPES)}")
    if not _is_subject(sub):
        raise ValueError(f"a subject is 1 to {_SUBJECT_CHARS} characters once percent-encoded, none of them a control character")
    if tenant is not None and not _TENANT.fullmatch(tenant):
        raise ValueError("a tenant is 1 to 64 of A-Z a-z 0-9 _ -")
    if ttl_s < 1:
        raise ValueError("a token lives for at least 1 second")
    now = int(time.time())
    claims: dict[str, Any] = {"sub": sub, "scope": " ".join(dict.fromkeys(scopes)), "iat": now, "exp": now + ttl_s}
    if tenant is not None:
        claims["tenant"] = tenant
    return jwt.encode(claims, secret, _ALGORITHM)


def verify(secret: str, token: str) -> Claims:
    """What `token` says, if this secret signed it and it has not expired for longer than `LEEWAY_S`.

    Scopes that are not known are ignored: a newer issuer may know more. Raises Refused: "token_expired" (the client
    gets a new one and goes on) or "unauthorized" (everything else). Neither text quotes the token.
    """
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=[_ALGORITHM],
            leeway=LEEWAY_S,
            options={"require": ["exp", "sub"], "verify_aud": False, "verify_iat": False, "verify_iss": False},
        )
    except jwt.ExpiredSignatureError:
        raise Refused("token_expired", "the token has expired") from None
    except (jwt.PyJWTError, ValueError):  # ValueError: characters that have no bytes, and so no signature
        raise Refused("unauthorized", "the token is not valid") from None
    subject, tenant = claims["sub"], claims.get("tenant", DEFAULT_TENANT)
    if not _is_subject(subject):
        raise Refused(
            "unauthorized",
            f"the token's sub must be 1 to {_SUBJECT_CHARS} characters once percent-encoded, none of them a control character",
        )
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        raise Refused("unauthorized", "the token's tenant must be 1 to 64 of A-Z a-z 0-9 _ -")
    return Claims(subject, tenant, _scopes(claims), float(claims["exp"]))


def _is_subject(value: object) -> bool:
    if not isinstance(value, str) or not 1 <= len(value) <= _SUBJECT_CHARS:
        return False
    # Cc: control characters, which forge lines in logs. Cs: lone surrogates, which no encoder takes.
    return all(unicodedata.category(one) not in ("Cc", "Cs") for one in value) and len(escape(value)) <= _SUBJECT_CHARS


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """`scope` as RFC 8693 writes it (one string, spaces between), or `scopes` as a list; both count."""
    text, listed = claims.get("scope", ""), claims.get("scopes", [])
    if not isinstance(text, str) or not isinstance(listed, list):
        raise Refused("unauthorized", "the token's scope must be a string with spaces between, or its scopes a list")
    return frozenset(one for one in SCOPES if one in text.split() or one in listed)
