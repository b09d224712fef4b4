"""A limit on messages per second, as a token bucket. It refills evenly and holds enough for two seconds. It does no
I/O.
"""

import time


class RateLimit:
    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self.left = 2.0 * per_second
        self._at = time.monotonic()

    def take(self) -> bool:
        """Counts one message, and returns whether it is within the limit."""
        now = time.monotonic()
        self.left = min(self.left + (now - self._at) * self.per_second, 2.0 * self.per_second) - 1
        self._at = now
        return self.left >= 0
