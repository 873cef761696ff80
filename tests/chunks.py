"""Texts that go through a runner piece by piece."""

from dataclasses import dataclass

import numpy as np
from families import VOCAB_SIZE

from model.engine.runner import Chunk


def random_ids(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(VOCAB_SIZE, size=length).tolist()


@dataclass
class Chat:
    """A text, the blocks that it may fill, and how far it has come."""

    token_ids: list[int]
    blocks: list[int]
    start: int = 0

    def next(self, length: int, n_logits: int) -> Chunk:
        chunk = Chunk(self.token_ids[self.start : self.start + length], self.start, self.blocks, n_logits)
        self.start += length
        return chunk
