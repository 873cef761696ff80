"""Processes that tests kill, break or set against each other. They start in milliseconds: a server forks them, which
has imported what takes long and opened nothing.
"""

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "app", "chat.manager", "model.engine.torch_runner", "alembic.command"])


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in a child."""

    text: str


class ChildProcess:
    """A function at work in a process of its own; what it is given last is its end of a pipe to its parent."""

    def __init__(self, function: Callable[..., None], *arguments: object) -> None:
        self.pipe, theirs = FORKS.Pipe()
        self._process = FORKS.Process(target=_run, args=(function, *arguments, theirs), daemon=True)
        self.started_at = time.monotonic()
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def join(self) -> list[Any]:
        """Wait for its end and return what it has sent; what went wrong in it goes wrong here."""
        return self._end(self._receive(float("inf")), 0)

    def kill_after(self, seconds: float) -> tuple[list[Any], float]:
        """Kill it so many seconds after its start; returns what it had sent by then, and when that was (monotonic)."""
        sent = self._receive(self.started_at + seconds)
        self._process.kill()
        killed_at = time.monotonic()
        return self._end(sent + self._receive(float("inf")), -signal.SIGKILL), killed_at

    def _receive(self, deadline: float) -> list[Any]:
        """Return what comes until a moment, or until the other end is closed."""
        sent = []
        try:
            while (left := deadline - time.monotonic()) > 0 and self.pipe.poll(min(left, 3600)):
                sent.append(self.pipe.recv())
        except (EOFError, OSError):  # the latter if the kill has cut off what was being sent
            pass
        return sent

    def _end(self, sent: list[Any], exit_code: int) -> list[Any]:
        self._process.join()
        self.pipe.close()
        failures = [failure.text for failure in sent if isinstance(failure, Failure)]
        assert not failures, "\n".join(failures)
        assert self._process.exitcode in (0, exit_code)
        self._process.close()
        return sent


def _run(function: Callable[..., None], *arguments: Any) -> None:
    pipe: Connection = arguments[-1]
    try:
        function(*arguments)
    except Exception:
        pipe.send(Failure(traceback.format_exc()))
