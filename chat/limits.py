"""How much one caller may ask for in a time: counted in memory, and forgotten at the end of the process."""

import math
import threading
import time

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from chat.errors import ChatError


class LimitExceeded(ChatError):
    """A caller has asked for as much as it may for now; the text names the limit."""

    def __init__(self, text: str, retry_after: int) -> None:
        super().__init__(f"{text} Try again in {retry_after} s.")
        self.retry_after = retry_after


class RateLimiter:
    """Counts what callers ask for within a moving window. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._window = MovingWindowRateLimiter(MemoryStorage())

    def take(self, what: str, caller: str, n: int, seconds: int) -> None:
        """Count one more of what a caller may have `n` times within so many seconds; raises LimitExceeded."""
        item = RateLimitItemPerSecond(n, seconds)
        with self._lock:
            if self._window.hit(item, what, caller):
                return
            free_at = self._window.get_window_stats(item, what, caller).reset_time
        raise LimitExceeded(f"{what}: at most {n} in {seconds} s.", max(1, math.ceil(free_at - time.time())))
