"""Tickets: a word for the `connect` frame of a browser, which cannot set headers and must not put a token into a URL."""

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from rt.api.auth import Authenticator, Caller
from rt.api.problems import responses
from rt.api.request import answer

router = APIRouter(tags=["tickets"])


class Ticket(BaseModel):
    ticket: str
    expires_in_s: int
    subject: str = Field(description="Who the token says this is.")


@router.post("/v1/tickets", status_code=201, response_model=Ticket, responses=responses(401, 503))
async def issue_ticket(request: Request, who: Caller) -> Response:
    """A ticket that opens one WebSocket in the name of this token, within 30 s."""
    authenticator: Authenticator = request.app.state.authenticator
    word, expires_in_s = await authenticator.issue_ticket(who)
    return answer({"ticket": word, "expires_in_s": expires_in_s, "subject": who.subject}, 201)
