"""Keys and values of the tokens that sequences have been through, in blocks that a table assigns to each sequence.

A slot is the place of one position: those of block b are b * BLOCK_SIZE and the BLOCK_SIZE - 1 after it. In comments:
N new tokens of all sequences, S positions one of them sees, H heads, D = head_dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import BLOCK_SIZE, GPTConfig

Slots = slice | Tensor  # a slice where they stand side by side, so that nothing is copied; else a tensor (S,)


class KVCache:
    """The blocks of all sequences, allocated once.

    The memory is only reserved here: a page becomes resident when a token is written to it.
    """

    def __init__(self, config: GPTConfig, n_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        self.n_blocks = n_blocks
        shape = (config.n_layer, config.n_kv_head, n_blocks * BLOCK_SIZE, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

    def view(self, starts: Sequence[int], lengths: Sequence[int], block_tables: Sequence[Sequence[int]]) -> "CacheView":
        """Return what a forward pass works on: `lengths[i]` new tokens of each sequence, at `starts[i]` and after it.

        A block table has the blocks of all positions from 0 on, in order, those of the new tokens included.
        """
        written, seen = [], []
        for start, length, table in zip(starts, lengths, block_tables, strict=True):
            end = start + length
            assert end <= len(table) * BLOCK_SIZE, f"{end} positions do not fit into {len(table)} blocks"
            assert 0 <= min(table) <= max(table) < self.n_blocks, f"blocks {table} are not all below {self.n_blocks}"
            written += [table[i // BLOCK_SIZE] * BLOCK_SIZE + i % BLOCK_SIZE for i in range(start, end)]
            seen.append(_slots(table, end, self.keys.device))
        return CacheView(self, starts, torch.tensor(written, device=self.keys.device), seen)

    def copy_block(self, source: int, target: int) -> None:
        """Give a block the keys and values of another."""
        for slots in (self.keys, self.values):
            blocks = slots.unflatten(2, (self.n_blocks, BLOCK_SIZE))
            blocks[:, :, target] = blocks[:, :, source]


@dataclass(frozen=True, slots=True)
class CacheView:
    """The cache as one forward pass uses it: where its tokens are written, and what each sequence sees."""

    cache: KVCache
    starts: Sequence[int]  # of each sequence, the position of its first new token
    written: Tensor  # (N,) the slots of the new tokens
    seen: Sequence[Slots]  # of each sequence, those of its S positions, the new ones included

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Keep the new tokens' keys and values of one layer, (H, N, D) each."""
        self.cache.keys[layer].index_copy_(1, self.written, keys)
        self.cache.values[layer].index_copy_(1, self.written, values)

    def read(self, layer: int, sequence: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values of one layer that a sequence sees, (H, S, D) each."""
        seen = self.seen[sequence]
        return _take(self.cache.keys[layer], seen), _take(self.cache.values[layer], seen)


def _slots(block_table: Sequence[int], length: int, device: torch.device) -> Slots:
    """Return the slots of positions 0 to length - 1."""
    block_ids = list(block_table[: -(-length // BLOCK_SIZE)])
    first = block_ids[0]
    if block_ids == list(range(first, first + len(block_ids))):
        return slice(first * BLOCK_SIZE, first * BLOCK_SIZE + length)
    slots = torch.tensor(block_ids)[:, None] * BLOCK_SIZE + torch.arange(BLOCK_SIZE)
    return slots.flatten()[:length].to(device)


def _take(x: Tensor, slots: Slots) -> Tensor:
    return x[:, slots] if isinstance(slots, slice) else x.index_select(1, slots)
