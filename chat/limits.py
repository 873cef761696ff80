"""How much one caller may ask for in a time: counted in memory, and forgotten at the end of the process."""

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from chat.errors import ChatError

MAX_CALLERS = 20_000
"""So many are remembered at most, the last ones: others' calls do not count any more."""
FULL_SECONDS = 10
"""After which it is worth asking whether a stream of one's own has ended."""


class LimitExceeded(ChatError):
    """A caller has asked for as much as it may for now; the text names the limit."""

    def __init__(self, text: str, retry_after: int) -> None:
        super().__init__(f"{text} Try again in {retry_after} s.")
        self.retry_after = retry_after


def seconds_of_day_left() -> int:
    """Return how many seconds it is to midnight in UTC, at least 1."""
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return math.ceil((midnight - now).total_seconds())


class RateLimiter:
    """Counts what callers ask for within a moving window. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # when each one called, and when that counts no longer; who called last is the last
        self._calls: dict[tuple[str, str], tuple[list[float], float]] = {}

    def take(self, what: str, caller: str, n: int, seconds: int) -> None:
        """Count one more of what a caller may have `n` times within so many seconds; raises LimitExceeded."""
        now = time.monotonic()
        with self._lock:
            self._forget(now)
            earlier, _ = self._calls.pop((what, caller), ([], 0.0))
            recent = [moment for moment in earlier if moment > now - seconds]
            is_free = len(recent) < n
            if is_free:
                recent.append(now)
            self._calls[what, caller] = recent, recent[-1] + seconds
        if not is_free:
            raise _too_many(what, n, seconds, recent, now)

    def check(self, what: str, caller: str, n: int, seconds: int) -> None:
        """Raise LimitExceeded if `take` would, and count nothing."""
        now = time.monotonic()
        with self._lock:
            earlier, _ = self._calls.get((what, caller), ([], 0.0))
        recent = [moment for moment in earlier if moment > now - seconds]
        if len(recent) >= n:
            raise _too_many(what, n, seconds, recent, now)

    def _forget(self, now: float) -> None:
        while self._calls:
            first = next(iter(self._calls))
            if len(self._calls) < MAX_CALLERS and self._calls[first][1] > now:
                break
            del self._calls[first]


def _too_many(what: str, n: int, seconds: int, recent: list[float], now: float) -> LimitExceeded:
    return LimitExceeded(f"{what}: at most {n:,} in {seconds:,} s.", math.ceil(recent[-n] + seconds - now))


class DailyTokens:
    """Counts the tokens that callers use on a day, which begins at midnight in UTC. Threads may share it."""

    def __init__(self, limit: int | None) -> None:
        """Let callers have so many a day, or as many as they like for None."""
        self._limit = limit
        self._lock = threading.Lock()
        self._day = datetime.now(UTC).date()
        self._used: dict[str, int] = {}

    def add(self, caller: str, n_tokens: int) -> None:
        """Count what a caller has used."""
        with self._lock:
            self._turn_over()
            self._used[caller] = self._used.get(caller, 0) + n_tokens

    def check(self, caller: str) -> None:
        """Raise LimitExceeded if a caller has used as much as it may on this day."""
        if self._limit is None:
            return
        with self._lock:
            self._turn_over()
            used = self._used.get(caller, 0)
        if used >= self._limit:
            raise LimitExceeded(f"tokens: at most {self._limit:,} on a day (UTC).", seconds_of_day_left())

    def _turn_over(self) -> None:
        today = datetime.now(UTC).date()
        if today != self._day:
            self._day, self._used = today, {}


class OpenStreams:
    """Counts the streams that callers have open; for one event loop."""

    def __init__(self) -> None:
        self._n_open: Counter[str] = Counter()

    @contextmanager
    def slot(self, limits: Mapping[str, int]) -> Iterator[None]:
        """Count one more of all these callers, each of whom may have so many, to the end; raises LimitExceeded."""
        for caller, n in limits.items():
            if self._n_open[caller] >= n:
                raise LimitExceeded(f"open streams: at most {n:,} at a time.", FULL_SECONDS)
        self._n_open += Counter(limits.keys())
        try:
            yield
        finally:
            self._n_open -= Counter(limits.keys())  # which forgets those who have none
