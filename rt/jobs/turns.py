"""Which turn of the event loop it is: tells a task that has let others go on since it last looked from one that has not."""

import asyncio


class Turns:
    """One per loop; counts only the turns in which somebody looked."""

    def __init__(self) -> None:
        self._turn = 0
        self._ends = False

    def look(self) -> int:
        if not self._ends:
            self._ends = True
            asyncio.get_running_loop().call_soon(self._end)
        return self._turn

    def _end(self) -> None:
        self._ends = False
        self._turn += 1
