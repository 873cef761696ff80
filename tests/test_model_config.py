"""A network that cannot be built is refused with name, rule and value."""

from dataclasses import replace

import pytest

from model.config import GPTConfig, LinearScaling, Llama3Scaling, Rope, YarnScaling

CONFIG = GPTConfig(
    vocab_size=100,
    n_ctx=64,
    n_layer=2,
    n_head=4,
    n_kv_head=2,
    head_dim=8,
    n_embd=32,
    n_inner=48,
    norm_eps=1e-5,
    tied_head=True,
    rope=Rope(10_000.0),
    unrotated_layers=frozenset({1}),
    window=16,
    windowed_layers=frozenset({0}),
)


def test_only_windowed_layers_have_a_window() -> None:
    assert [CONFIG.window_of(0), CONFIG.window_of(1)] == [16, None]


def test_only_layers_with_rotary_positions_rotate() -> None:
    assert [CONFIG.rotates(0), CONFIG.rotates(1)] == [True, False]
    assert not replace(CONFIG, rope=None).rotates(0)


@pytest.mark.parametrize("name", ["vocab_size", "n_ctx", "n_layer", "n_head", "n_kv_head", "head_dim", "n_embd"])
@pytest.mark.parametrize("value", [0, -1, 2**40])
def test_size_out_of_bounds_is_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be between 1 and [0-9,]+, got {value:,}$"):
        replace(CONFIG, **{name: value})


def test_rotated_heads_of_odd_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^head_dim must be even for rotary positions, got 7$"):
        replace(CONFIG, head_dim=7)
    assert replace(CONFIG, head_dim=7, rope=None).head_dim == 7


def test_key_value_heads_that_do_not_divide_the_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^n_head must be a multiple of n_kv_head, got 4 and 3$"):
        replace(CONFIG, n_kv_head=3)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_norm_eps_that_is_not_positive_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=rf"^norm_eps must be positive, got {value}$"):
        replace(CONFIG, norm_eps=value)


@pytest.mark.parametrize(
    ("rope", "name"),
    [
        (Rope(1.0), "rope base - 1"),
        (Rope(float("nan")), "rope base - 1"),
        (Rope(1e4, LinearScaling(0.0)), "rope factor"),
        (Rope(1e4, Llama3Scaling(8.0, 4.0, 4.0, 8192)), "high_freq_factor - low_freq_factor"),
        (Rope(1e4, Llama3Scaling(8.0, 1.0, 4.0, 0)), "original_ctx"),
        (Rope(1e4, YarnScaling(4.0, 64, attention_factor=-1.0)), "attention_factor"),
        (Rope(1e4, YarnScaling(4.0, 64, attention_factor=1.0, beta_slow=0.0)), "beta_slow"),
    ],
)
def test_rotary_positions_that_cannot_be_computed_are_refused(rope: Rope, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be positive, got "):
        replace(CONFIG, rope=rope)


def test_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^window must be at least 1, got 0$"):
        replace(CONFIG, window=0)
