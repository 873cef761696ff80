"""Keys and values of the tokens that a sequence has already been through."""

import torch
from torch import Tensor

from model.config import GPTConfig


class KVCache:
    """The cache of one sequence, allocated for as many positions as it may come to.

    The memory is only reserved here: a page becomes resident when a token is written to it.
    """

    def __init__(self, config: GPTConfig, n_positions: int, dtype: torch.dtype = torch.float32) -> None:
        shape = (config.n_layer, config.n_kv_head, n_positions, config.head_dim)
        self._keys = torch.empty(shape, dtype=dtype)
        self._values = torch.empty(shape, dtype=dtype)
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write T new positions of one layer, (n_kv_head, T, head_dim), and return all up to them."""
        end = self.length + keys.size(1)
        assert end <= self._keys.size(2), f"{end} positions do not fit into {self._keys.size(2)}"
        self._keys[layer, :, self.length : end] = keys
        self._values[layer, :, self.length : end] = values
        return self._keys[layer, :, :end], self._values[layer, :, :end]

    def advance(self, n_tokens: int) -> None:
        """Count tokens as cached, once every layer has appended them."""
        self.length += n_tokens

    def copy_prefix(self, other: "KVCache", length: int) -> None:
        """Begin with the first `length` positions of another cache, and forget everything else."""
        assert length <= other.length, f"cannot copy {length} positions of {other.length}"
        self._keys[:, :, :length] = other._keys[:, :, :length]
        self._values[:, :, :length] = other._values[:, :, :length]
        self.length = length

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on."""
        assert 0 <= length <= self.length, f"cannot cut a cache of {self.length} positions to {length}"
        self.length = length
