"""A contestant in a process of its own: nobody's threads, caches or memory are in the way of another's.

The two ends exchange pickles over pipes: the child's standard input and output.
"""

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from model.errors import ModelError

# No bars and messages of libraries between the command's own; nothing is downloaded
_SILENT = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}


class Worker:
    """The near end: `call` has the contestant do something. Closed at the end of a with block."""

    def __init__(self, name: str, open_contestant: Callable[[], object]) -> None:
        """Start the process and wait until the contestant is ready.

        `open_contestant` is pickled: a function that a module has under its name, or a partial of one. Raises
        ModelError when the contestant cannot be opened.
        """
        self.name = name
        self.peak_memory = 0  # bytes that have been resident at most, by the latest answer
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "model.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_SILENT, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            self._exchange(open_contestant)
        except BaseException:
            self.close()
            raise
        self.start_up = time.perf_counter() - started  # seconds from the start of the process until it was ready

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def call(self, verb: str, *arguments: object) -> Any:
        """Call a method of the contestant and return its answer; raises ModelError with what it raised."""
        return self._exchange((verb, arguments))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _exchange(self, request: object) -> Any:
        assert self._process.stdin is not None, "it is a pipe"
        assert self._process.stdout is not None, "it is a pipe"
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            answer, error, self.peak_memory = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError):
            raise ModelError(f"{self.name}: the process ended (exit code {self._process.wait()}).") from None
        if error is not None:
            raise ModelError(f"{self.name}: {error}")
        return answer


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """The far end: open the contestant that the first request makes, then do what the others ask for."""
    contestant: object = None
    while True:
        answer, error = None, None
        try:
            request = pickle.load(requests)
            if contestant is None:
                contestant = request()
            else:
                verb, arguments = request
                answer = getattr(contestant, verb)(*arguments)
        except EOFError:
            return
        except Exception as exception:  # whatever it is, the near end hears of it
            error = str(exception) if isinstance(exception, ModelError) else f"{type(exception).__name__}: {exception}"
        pickle.dump((answer, error, peak_memory()), answers)
        answers.flush()


def peak_memory() -> int:
    """Return how many bytes of this process have been resident at most."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage tells on Linux may be the parent's peak
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the near end's, which ends this process
    with os.fdopen(os.dup(1), "wb") as pipe:
        os.dup2(2, 1)  # what libraries print must not get between the answers
        serve(sys.stdin.buffer, pipe)
