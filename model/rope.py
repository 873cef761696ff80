"""Rotary positions: by how much each pair of a head is turned per position, and the turning.

In fp32 and in the order of operations of Hugging Face, since an angle at position 100,000 shows the last bit of a
frequency. In comments: N tokens, H heads, D = head_dim.
"""

import math

import torch
from torch import Tensor

from model.config import LinearScaling, Llama3Scaling, Rope, YarnScaling


def rope_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Return the angle in radians by which each pair is turned per position: (D / 2,)."""
    # device="cpu" even where a model is built on the meta device
    pairs = torch.arange(0, head_dim, 2, device="cpu", dtype=torch.float32)
    periods = rope.base ** (pairs / head_dim)  # positions per radian
    match rope.scaling:
        case None:
            return 1.0 / periods
        case LinearScaling(factor):
            return 1.0 / periods / factor
        case Llama3Scaling() as scaling:
            return _blend_by_wavelength(1.0 / periods, scaling)
        case YarnScaling() as scaling:
            return _blend_by_turns(periods, scaling, rope.base)


def rope_magnitude(rope: Rope) -> float:
    """Return the length that turned vectors are stretched to."""
    return rope.scaling.attention_factor if isinstance(rope.scaling, YarnScaling) else 1.0


def _blend_by_wavelength(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    wavelengths = 2 * math.pi / frequencies
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((scaling.original_ctx / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def _blend_by_turns(periods: Tensor, scaling: YarnScaling, base: float) -> Tensor:
    n_pairs = periods.numel()

    def pair_with(turns: float) -> float:  # which pair turns so often within the original context
        return n_pairs * math.log(scaling.original_ctx / (turns * 2 * math.pi)) / math.log(base)

    first, last = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * n_pairs - 1)
    span = (last - first) or 0.001  # no division by zero
    kept = 1 - ((torch.arange(n_pairs, device="cpu", dtype=torch.float32) - first) / span).clamp(0, 1)
    return 1.0 / (scaling.factor * periods) * (1 - kept) + 1.0 / periods * kept


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
