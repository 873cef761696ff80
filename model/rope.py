"""Rotary positions: by how much each pair of a head is turned per position.

In fp32 and in the order of operations of Hugging Face, since an angle at position 100,000 shows the last bit of a
frequency. The functions compute with arrays of NumPy or tensors of PyTorch, whichever they are given, so that who needs
only the kernels never loads PyTorch; the two round some powers differently. In comments: D = head_dim.
"""

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from model.config import LinearScaling, Llama3Scaling, Rope, YarnScaling

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", "np.ndarray", "Tensor")


def rope_frequencies(rope: Rope, evens: Array) -> Array:
    """Return the angle in radians by which each pair is turned per position: (D / 2,).

    `evens` (D / 2,) are 0, 2, 4 … below D, in fp32.
    """
    periods = rope.base ** (evens / (2 * len(evens)))  # positions per radian
    match rope.scaling:
        case None:
            return 1.0 / periods
        case LinearScaling(factor):
            return 1.0 / periods / factor
        case Llama3Scaling() as scaling:
            return _blend_by_wavelength(1.0 / periods, scaling)
        case YarnScaling() as scaling:
            return _blend_by_turns(periods, evens, scaling, rope.base)


def rope_magnitude(rope: Rope) -> float:
    """Return the length that turned vectors are stretched to."""
    return rope.scaling.attention_factor if isinstance(rope.scaling, YarnScaling) else 1.0


def _blend_by_wavelength(frequencies: Array, scaling: Llama3Scaling) -> Array:
    wavelengths = 2 * math.pi / frequencies
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((scaling.original_ctx / wavelengths - low) / (high - low)).clip(0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def _blend_by_turns(periods: Array, evens: Array, scaling: YarnScaling, base: float) -> Array:
    n_pairs = len(evens)

    def pair_with(turns: float) -> float:  # which pair turns so often within the original context
        return n_pairs * math.log(scaling.original_ctx / (turns * 2 * math.pi)) / math.log(base)

    first, last = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * n_pairs - 1)
    span = (last - first) or 0.001  # no division by zero
    kept = 1 - ((evens / 2 - first) / span).clip(0, 1)
    return 1.0 / (scaling.factor * periods) * (1 - kept) + 1.0 / periods * kept
