"""The hosted endpoint's rate limit: a fixed window, checked apart from the calls it limits.

Law: the window opens with its first call and ends `seconds` later; calls that are refused are counted too (the fixed
window of ulule/limiter, which NVIDIA/nvcf ratelimiter/rate_limiter.go uses). Unless `at_once`, a call is only refused
where an earlier one was found to be too many: the first of them slips through (http-invocation/crates/server/src/
rate_limit/mod.rs, `check_rate_limit`).
"""

import time
from collections.abc import Callable


class Window:
    """`limit` calls in `seconds`; None is no limit. `now` tells the seconds."""

    def __init__(
        self, limit: int | None, seconds: float, *, at_once: bool, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit, self.seconds, self.at_once, self.now = limit, seconds, at_once, now
        self.counted = 0
        self._ends = self._flagged_until = float("-inf")

    def refuses(self) -> bool:
        """Count a call, and return whether it is refused."""
        now = self.now()
        if now >= self._ends:
            self._ends, self.counted = now + self.seconds, 0
        self.counted += 1
        known = self.at_once or now < self._flagged_until
        too_many = self.limit is not None and self.counted > self.limit
        if too_many:
            self._flagged_until = now + self.seconds
        return too_many and known
