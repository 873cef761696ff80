"""Rotary positions in GGUF files: scaling by keys, and Llama 3's, which is in a tensor as divisors of frequencies."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_files import refusal, rewrite_gguf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model.checkpoint.gguf_rope import recover_llama3
from model.checkpoint.open import open_checkpoint
from model.config import LinearScaling, Llama3Scaling, Rope, RopeScaling, YarnScaling
from model.rotation import frequencies_of

Rewrite = Callable[..., Path]

BASE, HEAD_DIM = 10_000.0, 8  # of the tiny file
ROPE, SCALING = "llama.rope.", "llama.rope.scaling."
STRETCH = 1.1386294361119891  # 0.1 * ln(4) + 1
YARN = {f"{SCALING}type": "yarn", f"{SCALING}factor": 4.0}

SCALINGS = [
    ({}, None),
    ({f"{SCALING}type": "none", f"{SCALING}factor": 4.0}, None),
    ({f"{SCALING}type": "linear"}, None),
    ({f"{SCALING}type": "linear", f"{SCALING}factor": 4.0}, LinearScaling(4)),
    ({f"{SCALING}factor": 4.0}, LinearScaling(4)),
    ({f"{ROPE}scale_linear": 4.0}, LinearScaling(4)),
    ({f"{ROPE}scale_linear": 4.0, f"{SCALING}factor": 0.0}, None),
    (YARN, YarnScaling(4, 256, STRETCH)),
    ({**YARN, f"{SCALING}original_context_length": 64}, YarnScaling(4, 64, STRETCH)),
    ({**YARN, f"{SCALING}attn_factor": 2.0}, YarnScaling(4, 256, 2 * STRETCH)),
    ({**YARN, f"{SCALING}yarn_attn_factor": 1.5}, YarnScaling(4, 256, 1.5)),
    ({**YARN, f"{SCALING}yarn_log_multiplier": 1.0}, YarnScaling(4, 256, 1)),
    (
        {**YARN, f"{SCALING}yarn_beta_fast": 16.0, f"{SCALING}yarn_beta_slow": 2.0},
        YarnScaling(4, 256, STRETCH, beta_fast=16, beta_slow=2),
    ),
    ({**YARN, f"{SCALING}factor": 0.5}, YarnScaling(0.5, 256, 1)),
]
BAD_KEYS = [
    ({f"{ROPE}dimension_count": 4}, f"key {ROPE}dimension_count: expected 8, a whole head, found 4"),
    ({f"{ROPE}freq_base": -5.0}, "keys llama.*: rope base - 1 must be positive, got -6.0"),
    ({f"{SCALING}type": "longrope"}, f"key {SCALING}type: expected none, linear or yarn, found 'longrope'"),
    ({f"{SCALING}factor": -2.0}, "keys llama.*: rope factor must be positive, got -2.0"),
    ({f"{SCALING}attn_factor": 2.0}, f"key {SCALING}attn_factor: expected 1 with linear scaling, found 2.0"),
    ({**YARN, f"{SCALING}factor": float("nan")}, "keys llama.*: rope factor must be positive, got nan"),
    (
        {**YARN, f"{SCALING}yarn_log_multiplier": -1.0},
        f"key {SCALING}yarn_log_multiplier: expected 0 or more, found -1.0",
    ),
    (
        {**YARN, f"{SCALING}yarn_ext_factor": 0.5},
        f"key {SCALING}yarn_ext_factor: expected none that may change the model, found 0.5",
    ),
]
NOT_LLAMA3 = "tensor rope_freqs.weight: expected the divisors of Llama 3's scaling, found others"
BAD_DIVISORS = [
    ([1, 2, 3, 4], NOT_LLAMA3),
    ([8, 8, 1, 1], NOT_LLAMA3),
    ([0, 1, 1, 8], NOT_LLAMA3),
    ([1, 1, 1, np.nan], NOT_LLAMA3),
    ([1, 1, 1, np.inf], NOT_LLAMA3),
    ([1, 1], "tensor rope_freqs.weight: expected shape (4,) and type F32, found (2,) and F32"),
]


@pytest.fixture
def rewrite(tiny_path: Path, tmp_path: Path) -> Rewrite:
    """A function that writes the tiny file again with other keys and, if any, with divisors of frequencies."""

    def write(keys: dict[str, object], divisors: object = None, dtype: type = np.float32) -> Path:
        tensor = None if divisors is None else np.array(divisors, dtype)
        return rewrite_gguf(tiny_path, tmp_path / "changed.gguf", keys, **{"rope_freqs.weight": tensor})

    return write


def divisors_of(rope: Rope, head_dim: int) -> np.ndarray:
    return (frequencies_of(Rope(rope.base), head_dim) / frequencies_of(rope, head_dim)).numpy()


@pytest.mark.parametrize(("keys", "expected"), SCALINGS)
def test_scaling_is_what_the_keys_say(rewrite: Rewrite, keys: dict[str, object], expected: RopeScaling | None) -> None:
    assert open_checkpoint(rewrite(keys)).config.rope == Rope(BASE, expected)


@pytest.mark.parametrize(("keys", "expected"), BAD_KEYS)
def test_bad_key_is_named_with_what_was_expected_and_found(
    rewrite: Rewrite, keys: dict[str, object], expected: str
) -> None:
    assert refusal(rewrite(keys)) == expected


def test_divisors_of_llama3_are_its_scaling(rewrite: Rewrite) -> None:
    rope = Rope(BASE, Llama3Scaling(8, 1, 4, 128))
    path = rewrite({}, divisors_of(rope, HEAD_DIM))
    assert open_checkpoint(path).config.rope == rope


def test_divisors_of_1_are_no_scaling(rewrite: Rewrite) -> None:
    assert open_checkpoint(rewrite({}, [1, 1, 1, 1])).config.rope == Rope(BASE)


@pytest.mark.parametrize(("divisors", "expected"), BAD_DIVISORS)
def test_other_divisors_are_refused(rewrite: Rewrite, divisors: list[float], expected: str) -> None:
    assert refusal(rewrite({}, divisors)) == expected


@pytest.mark.parametrize("base", [0.5, float("nan"), float("inf")])
def test_divisors_with_an_impossible_base_are_refused(rewrite: Rewrite, base: float) -> None:
    assert refusal(rewrite({f"{ROPE}freq_base": base}, [1, 1, 1, 8])) == NOT_LLAMA3


def test_divisors_in_whole_numbers_are_refused(rewrite: Rewrite) -> None:
    expected = "tensor rope_freqs.weight: expected shape (4,) and type F32, found (4,) and I32"
    assert refusal(rewrite({}, [1, 1, 1, 8], np.int32)) == expected


def test_divisors_beside_scaling_by_keys_are_refused(rewrite: Rewrite) -> None:
    divisors = divisors_of(Rope(BASE, Llama3Scaling(8, 1, 4, 128)), HEAD_DIM)
    expected = f"tensor rope_freqs.weight: expected it without {SCALING}*, found both"
    assert refusal(rewrite({f"{SCALING}factor": 4.0}, divisors)) == expected


@settings(max_examples=200, deadline=None)
@given(
    base=st.sampled_from([10_000.0, 500_000.0, 5e6]),
    n_pairs=st.integers(16, 64),
    factor=st.sampled_from([2.0, 8.0, 32.0]),
    original_ctx=st.integers(64, 131_072),
)
def test_recovered_scaling_has_the_same_frequencies(
    base: float, n_pairs: int, factor: float, original_ctx: int
) -> None:
    # else no pair turns slowly enough to be divided by the whole factor
    assume(original_ctx < 2 * np.pi * base ** (1 - 1 / n_pairs))
    rope, head_dim = Rope(base, Llama3Scaling(factor, 1, 4, original_ctx)), 2 * n_pairs
    recovered = recover_llama3(divisors_of(rope, head_dim), base)
    assert recovered is not None
    frequencies = frequencies_of(Rope(base, recovered), head_dim)
    torch.testing.assert_close(frequencies, frequencies_of(rope, head_dim), rtol=1e-6, atol=0)
