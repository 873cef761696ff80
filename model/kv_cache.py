"""Keys and values of the tokens that a sequence has already been through."""

import torch
from torch import Tensor

from model.config import GPTConfig

CACHE_BYTES = 384 * 2**20  # for all caches together


def n_cached_positions(config: GPTConfig) -> int:
    """Return how many positions of all sequences CACHE_BYTES can hold."""
    n_floats = 2 * config.n_layer * config.n_kv_head * config.head_dim
    return CACHE_BYTES // (n_floats * 4)


class KVCache:
    """The cache of one sequence, allocated for the whole context.

    The memory is only reserved here: a page becomes resident when a token is written to it.
    """

    def __init__(self, config: GPTConfig) -> None:
        shape = (config.n_layer, 1, config.n_kv_head, config.n_ctx, config.head_dim)
        self._keys = torch.empty(shape)  # (n_layer, B=1, n_kv_head, n_ctx, head_dim)
        self._values = torch.empty(shape)
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write T new positions of one layer, (1, n_kv_head, T, head_dim), and return all up to them."""
        end = self.length + keys.size(2)
        assert end <= self._keys.size(3), f"{end} positions do not fit into {self._keys.size(3)}"
        self._keys[layer, :, :, self.length : end] = keys
        self._values[layer, :, :, self.length : end] = values
        return self._keys[layer, :, :, :end], self._values[layer, :, :, :end]

    def advance(self, n_tokens: int) -> None:
        """Count tokens as cached, once every layer has appended them."""
        self.length += n_tokens

    def copy_prefix(self, other: "KVCache", length: int) -> None:
        """Begin with the first `length` positions of another cache, and forget everything else."""
        assert length <= other.length, f"cannot copy {length} positions of {other.length}"
        self._keys[:, :, :, :length] = other._keys[:, :, :, :length]
        self._values[:, :, :, :length] = other._values[:, :, :, :length]
        self.length = length

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on."""
        assert 0 <= length <= self.length, f"cannot cut a cache of {self.length} positions to {length}"
        self.length = length
