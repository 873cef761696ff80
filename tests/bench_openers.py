"""What the worker processes of `parley bench` open in tests: imported there, so it must be light and have names."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from chat.settings import Settings
from model.checkpoint.checkpoint import load_model
from model.checkpoint.open import open_checkpoint
from model.engine.engine import Engine
from model.engine.runner import Runner
from model.engine.sequence import Limits
from model.errors import ModelError
from model.sampling import Floats


@contextmanager
def open_torch(settings: Settings) -> Iterator[tuple[Engine, Runner]]:
    """Parley on PyTorch."""
    import torch

    from model.engine.torch_runner import TorchRunner

    torch.set_num_threads(settings.threads)
    checkpoint = open_checkpoint(Path(settings.model))
    runner = TorchRunner(load_model(checkpoint), 300)
    engine = Engine(runner, checkpoint.tokenizer, Limits(checkpoint.config.n_ctx, checkpoint.end_ids))
    try:
        yield engine, runner
    finally:
        engine.close()


class Slow:
    """A contestant that says how long things took, and finds all tokens equally likely."""

    def describe(self) -> str:
        return "nothing"

    def prefill(self, token_ids: Sequence[int]) -> float:
        return len(token_ids) / 10

    def decode(self, prompts: Sequence[Sequence[int]], n_tokens: int) -> float:
        return n_tokens * len(prompts[0]) / 10

    def chat(self, turns: Sequence[Sequence[int]], n_reply: int) -> list[float]:
        return [float(1 + i) for i, _ in enumerate(turns)]

    def greedy(self, prompts: Sequence[Sequence[int]], n_tokens: int) -> list[list[int]]:
        return [[0] * n_tokens for _ in prompts]

    def logits(self, token_ids: Sequence[int], n_last: int) -> Floats:
        return np.zeros((n_last, 265), np.float32)


def open_slow(path: Path, n_threads: int, n_ctx: int, end_ids: Sequence[int]) -> Slow:
    return Slow()


class Clumsy:
    """A contestant for the tests of workers."""

    def __init__(self) -> None:
        os.write(1, b"what libraries print\n")

    def add(self, a: int, b: int) -> int:
        print("and this")  # noqa: T201
        return a + b

    def grow(self, n_bytes: int) -> int:
        return len(b"1" * n_bytes)

    def divide(self, a: int, b: int) -> float:
        return a / b

    def refuse(self) -> None:
        raise ModelError("no such file")

    def die(self) -> None:
        sys.exit(3)


def refuse() -> Clumsy:
    raise ModelError("model.gguf: cannot be loaded")
