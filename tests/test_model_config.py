"""A network that cannot be built is refused with name, rule and value."""

from dataclasses import replace

import pytest

from model.config import GPTConfig

CONFIG = GPTConfig(
    vocab_size=100,
    n_ctx=64,
    n_layer=2,
    n_head=4,
    n_kv_head=2,
    n_embd=32,
    n_inner=48,
    rope_base=10_000.0,
    norm_eps=1e-5,
    tied_head=True,
)


def test_head_dim_is_a_heads_share_of_the_width() -> None:
    assert CONFIG.head_dim == 8


@pytest.mark.parametrize("name", ["vocab_size", "n_ctx", "n_layer", "n_head", "n_kv_head", "n_embd", "n_inner"])
@pytest.mark.parametrize("value", [0, -1])
def test_size_below_1_is_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be at least 1, got {value}$"):
        replace(CONFIG, **{name: value})


@pytest.mark.parametrize(("n_embd", "n_head"), [(30, 4), (12, 4), (2, 4)])
def test_heads_of_odd_or_broken_width_are_refused(n_embd: int, n_head: int) -> None:
    with pytest.raises(ValueError, match=rf"^n_embd must be an even multiple of n_head, got {n_embd} and {n_head}$"):
        replace(CONFIG, n_embd=n_embd, n_head=n_head)


def test_key_value_heads_that_do_not_divide_the_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^n_head must be a multiple of n_kv_head, got 4 and 3$"):
        replace(CONFIG, n_kv_head=3)


@pytest.mark.parametrize("name", ["rope_base", "norm_eps"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_constants_that_are_not_positive_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^rope_base and norm_eps must be positive, got .*{value}"):
        replace(CONFIG, **{name: value})


def test_context_of_more_than_a_million_positions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^n_ctx must be at most 1,048,576, got 2,000,000$"):
        replace(CONFIG, n_ctx=2_000_000)
