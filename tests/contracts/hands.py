"""A worker of which a test moves each hand."""

from typing import Any

from rt.jobs.runner import Claim
from rt.jobs.worker import Worker


class Hands(Worker):
    """A worker that claims, and does nothing with it by itself."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.claims: list[Claim] = []

    def _start(self, claim: Claim) -> None:
        self.claims.append(claim)

    async def claim(self, want: int) -> list[Claim]:
        self.max_jobs, self.claims = want, []
        await self._poll_iteration()
        return self.claims
