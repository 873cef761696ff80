"""Rotary positions: the turning of queries and keys.

In comments: N tokens, H heads, D = head_dim.
"""

import torch
from torch import Tensor

from model.config import Rope
from model.rope import rope_frequencies


def frequencies_of(rope: Rope, head_dim: int) -> Tensor:
    """Return the angle in radians by which each pair is turned per position: (D / 2,)."""
    # device="cpu" even where a model is built on the meta device
    return rope_frequencies(rope, torch.arange(0, head_dim, 2, device="cpu", dtype=torch.float32))


class Rotation:
    """The turning of the tokens of one forward pass."""

    def __init__(self, positions: Tensor, frequencies: Tensor, magnitude: float) -> None:
        angles = torch.outer(positions.float(), frequencies)[:, None]  # (N, 1, D / 2), one for all heads
        cos, sin = angles.cos() * magnitude, angles.sin() * magnitude
        self._cos, self._sin = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)

    def __call__(self, x: Tensor) -> Tensor:
        """Turn pair j of each head of x (N, H, D): its elements j and j + D / 2."""
        partners = x.roll(x.size(-1) // 2, dims=-1)
        return (x * self._cos + partners * self._sin).to(x.dtype)
