"""The rotary positions that a GGUF file describes: keys `{architecture}.rope.*` and the tensor rope_freqs.weight.

Defaults as in llama.cpp (src/llama-model.cpp, src/llama-context.cpp): scaling is linear where no type is named, and
YaRN's stretch follows from its factor.
"""

import math

import numpy as np
from gguf.constants import GGMLQuantizationType

from model.checkpoint.gguf_header import GGUFHeader
from model.checkpoint.gguf_tensors import read_rows
from model.config import LinearScaling, Llama3Scaling, Rope, RopeScaling, YarnScaling

LLAMA3_LOW, LLAMA3_HIGH = 1.0, 4.0  # the file does not say them; all Llama 3.x have these
LLAMA3_CTX = 8192  # of Llama 3, where the divisors do not tell
TOLERANCE = 1e-5  # of divisors, which are computed and written in fp32


def read_rope(header: GGUFHeader, prefix: str, head_dim: int, n_ctx: int) -> Rope:
    """Return the rotary positions of a model whose keys begin with `prefix`; raises CheckpointError."""
    n_rotated = header.integer(f"{prefix}rope.dimension_count", head_dim)
    if n_rotated != head_dim:
        raise header.refusal(f"key {prefix}rope.dimension_count", f"{head_dim}, a whole head", f"{n_rotated}")
    base = header.number(f"{prefix}rope.freq_base", 10_000.0)
    by_keys, by_divisors = _read_scaling(header, prefix, n_ctx), _read_divisors(header, base, head_dim)
    if by_keys and by_divisors:
        raise header.refusal("tensor rope_freqs.weight", f"it without {prefix}rope.scaling.*", "both")
    return Rope(base, by_keys or by_divisors)


def _read_scaling(header: GGUFHeader, prefix: str, n_ctx: int) -> RopeScaling | None:
    kind = header.text(f"{prefix}rope.scaling.type", "linear")
    old = header.number(f"{prefix}rope.scale_linear", 1.0)
    factor = header.number(f"{prefix}rope.scaling.factor", old) or 1.0
    if kind == "yarn":
        return _read_yarn(header, prefix, factor, n_ctx)
    if kind not in ("none", "linear"):
        raise header.refusal(f"key {prefix}rope.scaling.type", "none, linear or yarn", repr(kind))
    stretch = header.number(f"{prefix}rope.scaling.attn_factor", 1.0)
    if stretch != 1:
        raise header.refusal(f"key {prefix}rope.scaling.attn_factor", f"1 with {kind} scaling", f"{stretch}")
    return LinearScaling(factor) if kind == "linear" and factor != 1 else None


def _read_yarn(header: GGUFHeader, prefix: str, factor: float, n_ctx: int) -> YarnScaling:
    multiplier = header.number(f"{prefix}rope.scaling.yarn_log_multiplier", 0.0)
    if not multiplier >= 0:
        raise header.refusal(f"key {prefix}rope.scaling.yarn_log_multiplier", "0 or more", f"{multiplier}")
    usual = _stretch(factor, 1.0) / _stretch(factor, multiplier)
    stretch = header.number(f"{prefix}rope.scaling.yarn_attn_factor", usual)
    return YarnScaling(
        factor,
        original_ctx=header.integer(f"{prefix}rope.scaling.original_context_length", n_ctx),
        attention_factor=stretch * header.number(f"{prefix}rope.scaling.attn_factor", 1.0),
        beta_fast=header.number(f"{prefix}rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=header.number(f"{prefix}rope.scaling.yarn_beta_slow", 1.0),
    )


def _stretch(factor: float, multiplier: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * multiplier * math.log(factor) + 1.0


def _read_divisors(header: GGUFHeader, base: float, head_dim: int) -> Llama3Scaling | None:
    """Return the scaling whose effect rope_freqs.weight holds: by what the frequency of each pair is divided."""
    tensor = header.tensors.get("rope_freqs.weight")
    if tensor is None:
        return None
    if tensor.shape != (head_dim // 2,) or tensor.type != GGMLQuantizationType.F32:
        expected = f"shape {(head_dim // 2,)} and type F32"
        raise header.refusal("tensor rope_freqs.weight", expected, f"{tensor.shape} and {tensor.type.name}")
    divisors = read_rows(tensor, slice(None)).astype(np.float64)
    if (divisors == 1).all():
        return None
    scaling = recover_llama3(divisors, base)
    if scaling is None:
        raise header.refusal("tensor rope_freqs.weight", "the divisors of Llama 3's scaling", "others")
    return scaling


def recover_llama3(divisors: np.ndarray, base: float) -> Llama3Scaling | None:
    """Return the scaling that divides the frequency of each pair by these (D / 2,), or None if there is none."""
    if not (np.isfinite(divisors).all() and divisors.min() > 1 - TOLERANCE and divisors.max() > 1 < base < math.inf):
        return None
    factor = divisors.max()
    wavelengths = 2 * np.pi * base ** (np.arange(divisors.size) / divisors.size)
    kept = (1 / divisors - 1 / factor) / (1 - 1 / factor)  # how much of a frequency is
    contexts = wavelengths * (LLAMA3_LOW + kept * (LLAMA3_HIGH - LLAMA3_LOW))
    told = np.rint(contexts[(kept > 0) & (kept < 1)])  # by the blended pairs; the true one is near all of these
    scalings = [Llama3Scaling(float(factor), LLAMA3_LOW, LLAMA3_HIGH, int(context)) for context in [LLAMA3_CTX, *told]]

    def error(scaling: Llama3Scaling) -> float:
        return float(np.abs(_divisors(scaling, wavelengths) / divisors - 1).max())

    best = min(scalings, key=error)
    return best if error(best) < TOLERANCE else None


def _divisors(scaling: Llama3Scaling, wavelengths: np.ndarray) -> np.ndarray:
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((scaling.original_ctx / wavelengths - low) / (high - low)).clip(0, 1)
    return 1 / ((1 - kept) / scaling.factor + kept)
