"""Who has given wrong passwords, and how long they must wait before the next: in memory, until the process ends."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from chat.limits import LimitExceeded

FREE_TRIES = 5
FIRST_WAIT = 60  # seconds after so many wrong passwords; each further one doubles it
LONGEST_WAIT = 3600  # seconds
FORGET_AFTER = 3600  # seconds without a try
MAX_REMEMBERED = 10_000


@dataclass(slots=True)
class _Tries:
    count: int = 0
    last: float = -math.inf
    free_at: float = -math.inf


class Lockout:
    """Makes whoever fails again and again wait, ever longer. Threads may share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tries: dict[tuple[str, str], _Tries] = {}  # by account and address; who tried last is the last

    def begin(self, name: str, address: str) -> None:
        """Count a try, as a failure until `succeed` is told; raises LimitExceeded: it must not be made.

        Tries at the same time count one by one.
        """
        now, who = self._clock(), (name.lower(), address)
        with self._lock:
            tries = self._tries.pop(who, _Tries())
            if now - max(tries.last, tries.free_at) > FORGET_AFTER:
                tries = _Tries()
            self._tries[who] = tries
            if now < tries.free_at:
                raise LimitExceeded("Too many wrong passwords.", math.ceil(tries.free_at - now))
            tries.count, tries.last = tries.count + 1, now
            if tries.count >= FREE_TRIES:
                tries.free_at = now + min(FIRST_WAIT * 2 ** min(tries.count - FREE_TRIES, 20), LONGEST_WAIT)
            if len(self._tries) > MAX_REMEMBERED:
                del self._tries[next(iter(self._tries))]

    def succeed(self, name: str, address: str) -> None:
        """Forget the tries that came before the right password."""
        with self._lock:
            self._tries.pop((name.lower(), address), None)
