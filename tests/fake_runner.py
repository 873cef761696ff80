"""A runner that computes nothing but remembers everything: what follows is a function of the tokens in its blocks.

So a wrong table gives a wrong reply, and what must never be read or written to is an assertion that fails.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from model.config import BLOCK_SIZE
from model.engine.runner import Chunk
from model.engine.scheduler import Scheduler, Step
from model.engine.sequence import Limits
from model.engine.sequence import Sequence as EngineSequence
from model.sampling import Floats
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer

TokenIds = npt.NDArray[np.int64]
Network = Callable[[TokenIds], Floats]  # from all tokens up to a place to the logits (V,) of the next one

RUBBISH = -1
END = 2  # the token that ends a reply
GREEDY = SamplingParams(temperature=0, max_tokens=5)
ENDLESS = SamplingParams(temperature=0, max_tokens=10**9)


class Counting:
    """After the token n comes n + 1, so that "abc" goes on as "defg…", or what `after` says."""

    def __init__(self, n_vocab: int) -> None:
        self.n_vocab = n_vocab
        self.after: dict[int, int] = {}
        self.bad: set[int] = set()  # what contains one of these gives NaN
        self.at: dict[int, Callable[[], None]] = {}  # what happens when a token is the last

    def __call__(self, token_ids: TokenIds) -> Floats:
        last = int(token_ids[-1])
        self.at.get(last, lambda: None)()
        logits = np.zeros(self.n_vocab, np.float32)
        logits[self.after.get(last, 3 + (last - 2) % (self.n_vocab - 3))] = 50
        return logits * np.nan if self.bad.intersection(token_ids.tolist()) else logits


class Babbling:
    """Logits drawn for the last token, so that texts repeat themselves, and one time in eight for all of them."""

    def __init__(self, n_vocab: int, n_rows: int = 97) -> None:
        self._rows = np.random.default_rng(0).normal(scale=3, size=(n_rows, n_vocab)).astype(np.float32)

    def __call__(self, token_ids: TokenIds) -> Floats:
        key = crc32(token_ids.tobytes())
        if key % 8:
            key = crc32(token_ids[-1:].tobytes())
        return self._rows[key % len(self._rows)]


class FakeRunner:
    """Keeps the tokens themselves in place of keys and values; stands still while `gate` is closed."""

    def __init__(self, network: Network, n_blocks: int = 300) -> None:
        self.n_blocks = n_blocks
        self.network = network
        self.broken = False
        self.steps: list[list[tuple[int, int, int]]] = []  # start, number of tokens and of logits of each chunk
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        self._memory = np.full((n_blocks, BLOCK_SIZE), RUBBISH)

    def run(self, chunks: Sequence[Chunk]) -> Floats:
        self.entered.set()
        self.gate.wait()
        if self.broken:
            raise RuntimeError("out of\nmemory")
        self.steps.append([(chunk.start, len(chunk.token_ids), chunk.n_logits) for chunk in chunks])
        _check_apart(chunks)
        rows = [row for chunk in chunks for row in self._run(chunk)]
        return np.array(rows, np.float32)

    def copy_block(self, source: int, target: int) -> None:
        assert source != target
        self._memory[target] = self._memory[source]

    def read(self, block_table: Sequence[int], n_tokens: int) -> list[int]:
        """Return the tokens in blocks."""
        return self._memory[list(block_table)].reshape(-1)[:n_tokens].tolist()

    def hold(self) -> None:
        """Let the worker stand still in its next step."""
        self.gate.clear()
        self.entered.clear()

    def _run(self, chunk: Chunk) -> list[Floats]:
        positions = np.arange(chunk.start, chunk.start + len(chunk.token_ids))
        table, end = np.array(chunk.block_table), chunk.start + len(chunk.token_ids)
        self._memory[table[positions // BLOCK_SIZE], positions % BLOCK_SIZE] = chunk.token_ids
        if end % BLOCK_SIZE:
            self._memory[table[end // BLOCK_SIZE], end % BLOCK_SIZE :] = RUBBISH
        token_ids = self._memory[table].reshape(-1)[:end]
        assert RUBBISH not in token_ids, "a position that was never computed, or overwritten"
        return [self.network(token_ids[: end - chunk.n_logits + i + 1]) for i in range(chunk.n_logits)]


def _check_apart(chunks: Sequence[Chunk]) -> None:
    """What a chunk writes to is in the table of no other."""
    for chunk in chunks:
        end = chunk.start + len(chunk.token_ids)
        written = set(chunk.block_table[chunk.start // BLOCK_SIZE : (end - 1) // BLOCK_SIZE + 1])
        others = [other for other in chunks if other is not chunk]
        assert not any(written.intersection(other.block_table) for other in others), "a block of two sequences"


class Driver:
    """A scheduler and a fake runner, moved step by step by the test, which checks the books after each."""

    def __init__(
        self, tokenizer: Tokenizer, network: Network, *, n_blocks: int = 300, n_ctx: int = 1_000, n_draft: int = 0
    ) -> None:
        assert n_ctx <= n_blocks * BLOCK_SIZE
        self.tokenizer, self.network = tokenizer, network
        self.limits = Limits(n_ctx, frozenset({END}))
        self.runner = FakeRunner(network, n_blocks)
        self.scheduler = Scheduler(n_blocks, self.runner.copy_block, n_draft=n_draft)
        self.n_computed = 0  # tokens in all steps

    def ask(
        self, token_ids: Sequence[int], params: SamplingParams = GREEDY, owner: str = "ada", **options: Any
    ) -> EngineSequence:
        sequence = self._sequence(token_ids, params, owner, **options)
        self.scheduler.add(sequence)
        return sequence

    def step(self, *, check: bool = True) -> Step:
        """Make a step; each of its chunks must have found exactly the tokens of its own sequence before it."""
        self.scheduler.expire()
        self.scheduler.admit()
        step = self.scheduler.schedule()
        if step:
            logits = self.runner.run([chunk for _, chunk in step])
            for sequence, chunk in step:
                expected = [*sequence.token_ids[: chunk.start], *chunk.token_ids]
                assert self.runner.read(chunk.block_table, len(expected)) == expected
                self.n_computed += len(chunk.token_ids)
            self.scheduler.update(step, logits)
        if check:
            self.scheduler.check()
        return step

    def run(self) -> None:
        """Make steps until nothing is left to do."""
        while self.step():
            pass

    def alone(self, token_ids: Sequence[int], params: SamplingParams = GREEDY) -> list[int]:
        """Return the reply without scheduler and blocks: each token from all that come before it."""
        sequence = self._sequence(token_ids, params, "nobody")
        while sequence.advance(self.network(np.array(sequence.token_ids))) is None:
            pass
        return reply(sequence)

    def _sequence(
        self, token_ids: Sequence[int], params: SamplingParams, owner: str, *, timeout: float = 60, n_shared: int = 0
    ) -> EngineSequence:
        return EngineSequence(
            token_ids, params, owner, tokenizer=self.tokenizer, limits=self.limits, timeout=timeout, n_shared=n_shared
        )


def reply(sequence: EngineSequence) -> list[int]:
    return sequence.token_ids[sequence.n_prompt :]
