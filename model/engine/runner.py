"""What computes a step: the border between the scheduler, which knows token ids, and the networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from model.sampling import Floats

KVDType = Literal["int16", "float32"]
"""Types of keys and values; int16 are whole numbers with a scale for each vector, 16 times nearer than fp16."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of one sequence that a step computes: a part of its prompt, its newest token, or that and a draft."""

    token_ids: Sequence[int]  # at least one
    start: int  # the position of the first; all before it are in the cache
    block_table: Sequence[int]  # the blocks of all positions from 0 on, those of these tokens included
    n_logits: int  # of how many of the last tokens the logits are wanted


class Runner(Protocol):
    """Computes tokens into blocks of keys and values, which it owns; from one thread only."""

    @property
    def n_blocks(self) -> int:
        """How many blocks of BLOCK_SIZE positions there are."""

    def run(self, chunks: Sequence[Chunk]) -> Floats:
        """Compute the chunks of different sequences in one step.

        Returns the wanted logits, those of the first chunk first: (sum of n_logits, V), in fp32, valid until the next
        call.
        """

    def copy_block(self, source: int, target: int) -> None:
        """Give a block the keys and values of another."""
