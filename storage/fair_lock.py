"""A lock under which nobody starves."""

import threading
from collections import deque


class FairLock:
    """A lock that is handed on in the order in which it was asked for: others let whoever had it last have it again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below
        self._held = False
        self._waiting: deque[threading.Lock] = deque()  # each locked until it is its thread's turn

    def __enter__(self) -> None:
        mine = threading.Lock()
        with self._lock:
            if not self._held:
                self._held = True
                return
            mine.acquire()
            self._waiting.append(mine)
        try:
            mine.acquire()
        except BaseException:  # such as Ctrl-C: whoever is next must not wait for a thread that has gone
            self._leave(mine)
            raise

    def _leave(self, mine: threading.Lock) -> None:
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False
