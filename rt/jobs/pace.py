"""How long what a job says gathers before it is written: longer the more jobs speak at once.

What a word costs is mostly what its append costs, in the worker, in Redis and in the server that forwards it, and that
hardly depends on how much is in it. So a worker bounds how many appends it makes, and not how much its jobs say.
"""

#: A person does not see 20 ms; a fast model's 500 tokens a second become 50 events.
GATHER_S = 0.020
#: Nor 100 ms, much. A worker whose jobs say even more falls behind in calls that are full.
MOST_S = 0.100
#: Appends of a worker in a second: more, and they gather longer. 80 jobs that never stop speaking make so many.
APPENDS_S = 4_000
_LOOK_S = 0.1


class Pace:
    """One for all attempts of a process. `gather_s` is for the next batch of each."""

    def __init__(self) -> None:
        self.gather_s = GATHER_S
        self._count, self._since = 0, 0.0

    def step(self, now: float) -> None:
        """A batch leaves."""
        self._count += 1
        if (passed_s := now - self._since) >= _LOOK_S:
            # So many jobs speak: with a gather of this length they make `APPENDS_S`.
            speaking = self._count / passed_s * self.gather_s
            self.gather_s = min(max(speaking / APPENDS_S, GATHER_S), MOST_S)
            self._count, self._since = 0, now
