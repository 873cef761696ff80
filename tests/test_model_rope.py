"""Rotary positions have, to the last bit, the frequencies that transformers computes."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, rotate_half

from model.config import LinearScaling, Llama3Scaling, Rope, YarnScaling
from model.rope import rope_frequencies, rope_magnitude
from model.rotation import Rotation, frequencies_of

HEAD_DIM = 64
LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 4.0, "original_max_position_embeddings": 4096}

CASES = {
    "linear": (LinearScaling(2.5), {"factor": 2.5}),
    "llama3": (Llama3Scaling(32.0, 1.0, 4.0, 8192), LLAMA3),
    "yarn": (YarnScaling(4.0, 4096, 1.1386294361119891), YARN),
    "yarn with whole blend": (
        YarnScaling(4.0, 4096, 1.5, beta_fast=16.0, beta_slow=2.0, truncate=False),
        {**YARN, "attention_factor": 1.5, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False},
    ),
}


def oracle(kind: str, base: float, parameters: dict[str, object]) -> tuple[torch.Tensor, float]:
    config = LlamaConfig(
        hidden_size=HEAD_DIM * 4,
        num_attention_heads=4,
        rope_parameters={"rope_type": kind, "rope_theta": base, **parameters},
    )
    return ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))


@pytest.mark.parametrize("base", [10_000.0, 500_000.0, 5e6])
@pytest.mark.parametrize("case", CASES)
def test_scaled_frequencies_are_those_of_transformers(case: str, base: float) -> None:
    scaling, parameters = CASES[case]
    expected, magnitude = oracle(case.split()[0], base, parameters)
    rope = Rope(base, scaling)
    assert torch.equal(frequencies_of(rope, HEAD_DIM), expected)
    assert rope_magnitude(rope) == pytest.approx(magnitude, rel=1e-12)


@pytest.mark.parametrize("base", [10_000.0, 500_000.0, 5e6])
def test_plain_frequencies_are_those_of_transformers(base: float) -> None:
    config = LlamaConfig(
        hidden_size=HEAD_DIM * 4, num_attention_heads=4, rope_parameters={"rope_type": "default", "rope_theta": base}
    )
    expected = LlamaRotaryEmbedding(config).inv_freq
    assert torch.equal(frequencies_of(Rope(base), HEAD_DIM), expected)


def test_turning_is_that_of_transformers() -> None:
    x = torch.randn(5, 3, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    positions, frequencies = torch.tensor([0, 1, 7, 8191, 131_071]), frequencies_of(Rope(500_000.0), HEAD_DIM)
    angles = (positions[:, None].float() * frequencies).repeat(1, 2)[:, None]
    expected = x * angles.cos() + rotate_half(x) * angles.sin()
    torch.testing.assert_close(Rotation(positions, frequencies, 1.0)(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("base", [10_000.0, 500_000.0, 5e6])
@pytest.mark.parametrize("case", CASES)
def test_numpy_gives_the_same_frequencies_but_for_the_last_bit(case: str, base: float) -> None:
    rope = Rope(base, CASES[case][0])
    frequencies = rope_frequencies(rope, np.arange(0, HEAD_DIM, 2, dtype=np.float32))
    assert frequencies.dtype == np.float32
    np.testing.assert_allclose(frequencies, frequencies_of(rope, HEAD_DIM).numpy(), rtol=3e-6, atol=0)
