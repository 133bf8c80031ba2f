"""How long to wait before the next try. Pure, but for the chance that is its purpose."""

import random
from collections.abc import Callable


class Backoff:
    """Full jitter: any time up to a bound that doubles with each failure, so that clients of a server that restarts do not come together.

    The first wait is up to `base_s`, none is longer than `cap_s`. `draw(low, high)` is for tests.
    """

    def __init__(self, base_s: float = 1.0, cap_s: float = 20.0, draw: Callable[[float, float], float] = random.uniform) -> None:
        self.base_s = base_s
        self.cap_s = cap_s
        self.failures = 0
        self._draw = draw

    def next_s(self) -> float:
        """Seconds to wait; counts a failure."""
        # The exponent is bounded before it is used: a server may be away for days.
        bound = min(self.cap_s, self.base_s * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return self._draw(0.0, bound)

    def reset(self) -> None:
        """The next wait is a first one again."""
        self.failures = 0
