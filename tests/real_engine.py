"""The engine on the native kernels and real weights: made afresh, watched at work, and in a process of its own.

`python -m tests.real_engine MODEL` reads prompts and parameters from stdin, as JSON, and writes the replies.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.open import open_checkpoint
from model.engine.engine import Engine
from model.engine.generation import Generation, Usage
from model.engine.runner import Chunk
from model.engine.sequence import Limits
from model.native.build import BuildError
from model.native.runner import NativeRunner
from model.sampling import Floats
from model.sampling_params import SamplingParams

ROOT = Path(__file__).parent.parent
N_CTX = 2_300
N_BLOCKS = 160  # 2,560 positions: a few conversations fill them, so that idle prefixes are evicted

TALE = "Once upon a time, in a small house by the sea, there lived an old man and his cat. Every morning they would "

Asked = tuple[list[int], dict[str, Any]]  # a prompt and the fields of its SamplingParams


@dataclass
class Step:
    """What a runner computed at once."""

    chunks: list[Chunk]
    seconds: float

    @property
    def n_prompt_tokens(self) -> int:
        return sum(len(chunk.token_ids) for chunk in self.chunks if len(chunk.token_ids) > 1)


class WatchedRunner:
    """A native runner that remembers its steps, and stands still while `gate` is closed.

    `on_step` may look at each step, change its logits, or cancel a reply.
    """

    def __init__(self, checkpoint: Checkpoint, n_blocks: int = N_BLOCKS) -> None:
        self._runner = NativeRunner(checkpoint, n_blocks, n_threads=2)
        self.n_blocks = n_blocks
        self.gate = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Fill the memory with NaN: whoever reads what was not computed for them, computes nothing finite."""
        self._runner._keys_and_values.fill(0xFF)
        self.gate.set()
        self.steps: list[Step] = []
        self.n_tokens = 0
        self.on_step: Callable[[Sequence[Chunk], Floats], None] = lambda chunks, logits: None

    def run(self, chunks: Sequence[Chunk]) -> Floats:
        self.gate.wait()
        start = perf_counter()
        logits = self._runner.run(chunks)
        self.steps.append(Step(list(chunks), perf_counter() - start))
        self.n_tokens += sum(len(chunk.token_ids) for chunk in chunks)
        self.on_step(chunks, logits)
        return logits

    def copy_block(self, source: int, target: int) -> None:
        self._runner.copy_block(source, target)


def open_runner(checkpoint: Checkpoint) -> WatchedRunner:
    """Return a runner; without a C compiler the test is skipped, but never in CI."""
    try:
        return WatchedRunner(checkpoint)
    except BuildError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"no native kernels: {error}")


@contextmanager
def new_engine(runner: WatchedRunner, checkpoint: Checkpoint, *, n_draft: int = 0) -> Iterator[Engine]:
    """Make an engine that has computed nothing yet; at the end it must have all its blocks back."""
    runner.reset()
    engine = Engine(runner, checkpoint.tokenizer, Limits(N_CTX, checkpoint.end_ids), n_draft=n_draft)
    try:
        yield engine
        assert (engine.healthy, engine.n_running, engine.n_waiting) == (True, 0, 0)
    finally:
        engine.close()
    engine._scheduler.check()
    assert engine._scheduler._blocks.n_free == runner.n_blocks


def ask(engine: Engine, asked: Asked, owner: str = "ada", **options: Any) -> Generation:
    """Submit a prompt."""
    token_ids, params = asked
    return engine.submit(token_ids, SamplingParams(**params), owner=owner, **options)


def read(generation: Generation) -> list[int]:
    """Return the tokens of a reply, once it has ended."""
    return [token_id for piece in generation for token_id in piece.token_ids]


def usage_of(generation: Generation) -> Usage:
    """Return what a reply has cost that has been read to its end."""
    assert generation.usage is not None
    return generation.usage


def alone(runner: WatchedRunner, checkpoint: Checkpoint, asked: Asked) -> list[int]:
    """Return the reply of an engine that has nothing cached and nothing else to do."""
    with new_engine(runner, checkpoint) as engine:
        return read(ask(engine, asked))


def in_a_fresh_process(model: Path, asked: list[Asked]) -> list[list[int]]:
    """Return the replies of a process that begins with them."""
    command = [sys.executable, "-m", "tests.real_engine", str(model)]
    result = subprocess.run(command, cwd=ROOT, input=json.dumps(asked), capture_output=True, text=True, check=True)
    replies: list[list[int]] = json.loads(result.stdout)
    return replies


def _main() -> None:
    checkpoint = open_checkpoint(Path(sys.argv[1]))
    runner = WatchedRunner(checkpoint)
    json.dump([alone(runner, checkpoint, asked) for asked in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    _main()
