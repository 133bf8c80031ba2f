"""Who calls: bearer tokens in the Authorization header, and single-use tickets for browsers' WebSockets."""

import hashlib
import re
import secrets
import time
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from rt import keys
from rt.codec import from_json_bytes, to_json_bytes
from rt.errors import Refused
from rt.redis import Store
from rt.settings import BadSettings, Settings
from rt.tokens import LEEWAY_S, Claims, verify

#: A page fetches a ticket and opens its WebSocket at once.
TICKET_TTL_S = 30

#: Tokens whose claims are remembered: a caller comes again with the same one, and checking it costs more than most calls.
KNOWN_TOKENS = 4096

_TICKET = re.compile(r"[A-Za-z0-9_-]{43}")


class Authenticator:
    """Tokens and tickets to claims. Raises BadSettings when there is no secret to check tokens with."""

    def __init__(self, settings: Settings, store: Store) -> None:
        if settings.secret is None:
            raise BadSettings("RT_SECRET is not set: without it no token can be checked")
        self._secret = settings.secret.get_secret_value()
        self._store = store
        #: What tokens were found to say, by their digest: a token itself is not kept.
        self._known: dict[bytes, Claims] = {}

    async def token(self, text: str) -> Claims:
        """Raises Refused: "unauthorized" or "token_expired"."""
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
        known = self._known.get(digest)
        if known is not None and known.expires_at + LEEWAY_S > time.time():
            return known
        claims = verify(self._secret, text)
        if len(self._known) >= KNOWN_TOKENS:
            del self._known[next(iter(self._known))]
        self._known[digest] = claims
        return claims

    async def ticket(self, word: str) -> Claims:
        """The claims that a ticket was issued for; it is used up by that. Raises Refused as `token` does, and Unavailable."""
        raw = await self._store.call("GETDEL", keys.ticket(word)) if _TICKET.fullmatch(word) else None
        if raw is None:
            raise Refused("unauthorized", f"the ticket is unknown, used already, or older than {TICKET_TTL_S} s")
        told = from_json_bytes(raw)
        if told["expires_at"] + LEEWAY_S < time.time():
            raise Refused("token_expired", "the token that this ticket stands for has expired")
        return Claims(told["subject"], told["tenant"], frozenset(told["scopes"]), told["expires_at"])

    async def issue_ticket(self, claims: Claims) -> tuple[str, int]:
        """`(ticket, expires_in_s)`: 256 random bits that stand for the claims, once. Raises Unavailable."""
        word = secrets.token_urlsafe(32)
        value = {
            "subject": claims.subject,
            "tenant": claims.tenant,
            "scopes": sorted(claims.scopes),
            "expires_at": claims.expires_at,
        }
        await self._store.call("SET", keys.ticket(word), to_json_bytes(value), "EX", TICKET_TTL_S)
        return word, TICKET_TTL_S


_bearer = HTTPBearer(auto_error=False, scheme_name="bearer", bearerFormat="JWT", description="`rt token --sub <subject>` prints one.")


async def _caller(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> Claims:
    if credentials is None:
        hint = "send a token in the header `Authorization: Bearer <token>`"
        if request.query_params.keys() & {"token", "access_token"}:
            hint = f"a token in the URL ends up in logs and histories, and is not read there: {hint}"
        raise Refused("unauthorized", hint)
    authenticator: Authenticator = request.app.state.authenticator
    return await authenticator.token(credentials.credentials)


#: The claims of whoever calls; 401 without a valid token.
Caller = Annotated[Claims, Depends(_caller)]
