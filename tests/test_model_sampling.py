"""Sampling: tables of probabilities, transformers' own warpers, and the reference that sorts the whole vocabulary."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, GenerationMixin

from model.sampling import (
    Floats,
    apply_filters,
    apply_min_p,
    apply_top_k,
    apply_top_p,
    apply_typical_p,
    largest,
    rank,
    rank_head,
    sample,
    sample_by_sorting,
    softmax,
)
from model.sampling_params import SamplingParams

N_VOCAB = 50
ALL = SamplingParams(temperature=1, top_p=1)
NUMBERS = st.floats(0, 1, exclude_max=True)
OFF_OR = {
    "temperature": st.floats(0.05, 5),
    "top_k": st.just(0) | st.integers(1, N_VOCAB + 5),
    "top_p": st.just(1) | st.floats(0.01, 1),
    "min_p": st.just(0) | st.floats(0.001, 1),
    "typical_p": st.just(1) | st.floats(0.01, 1),
}


class Fixed:
    """In place of a generator: always the same number."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


def draw(logits: Floats, params: SamplingParams, *, number: float = 0.5) -> int:
    return sample(logits, params, generator=Fixed(number))  # type: ignore[arg-type]


def draws(logits: Floats, params: SamplingParams, n_draws: int, seed: int) -> list[int]:
    generator = np.random.default_rng(seed)
    return [sample(logits, params, generator=generator) for _ in range(n_draws)]


def filtered(logits: Floats, params: SamplingParams) -> Floats:
    """The probabilities (V,) of a draw, by id."""
    token_ids, probabilities = softmax(logits, params.temperature)
    order = rank(probabilities)
    kept = apply_filters(probabilities[order], params)
    result = np.zeros(logits.size)
    result[token_ids[order[: kept.size]]] = kept
    return result


def filtered_by_transformers(logits: Floats, params: SamplingParams) -> Floats:
    """The same by transformers, which puts its warpers in the order of its generate."""
    config = GenerationConfig(
        do_sample=True,
        num_beams=1,
        temperature=float(params.temperature),
        top_k=params.top_k or None,
        top_p=float(params.top_p),
        min_p=params.min_p or None,
        typical_p=float(params.typical_p),
    )
    mixin = GenerationMixin()
    mixin.config = SimpleNamespace(is_encoder_decoder=False)
    chain = mixin._get_logits_processor(config, input_ids_seq_length=1)
    scores = chain(torch.tensor([[0]]), torch.tensor(logits, dtype=torch.float64)[None])
    return scores[0].softmax(-1).numpy()


def make_row(kind: str, n_vocab: int, seed: int) -> Floats:
    random = np.random.default_rng(seed)
    row = random.normal(scale=3, size=n_vocab)
    if kind == "tied":
        row = random.integers(-3, 4, n_vocab).astype(float)
    elif kind == "flat":
        row = np.zeros(n_vocab)
    elif kind == "spiky":
        row[random.integers(n_vocab)] += 30
    elif kind == "masked":
        row[random.permutation(n_vocab)[: n_vocab - 1 - random.integers(n_vocab)]] = -np.inf
    return row.astype(np.float32)


ROWS = st.builds(
    make_row,
    st.sampled_from(["normal", "tied", "flat", "spiky", "masked"]),
    n_vocab=st.integers(1, 30) | st.integers(1_000, 2_600),
    seed=st.integers(0, 2**32),
)


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [(1, [1.0]), (2, [0.625, 0.375]), (4, [0.5, 0.3, 0.1, 0.1]), (9, [0.5, 0.3, 0.1, 0.1])],
)
def test_top_k_keeps_the_most_likely(top_k: int, expected: list[float]) -> None:
    np.testing.assert_allclose(apply_top_k(np.array([0.5, 0.3, 0.1, 0.1]), top_k), expected)


def test_top_k_keeps_exactly_k_where_they_tie() -> None:
    np.testing.assert_allclose(apply_top_k(np.array([0.2] * 5), 3), [1 / 3] * 3)
    assert set(draws(np.zeros(5), SamplingParams(temperature=1, top_k=3, top_p=1), 200, seed=0)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(1e-9, [1.0]), (0.5, [1.0]), (0.51, [2 / 3, 1 / 3]), (0.75, [2 / 3, 1 / 3]), (0.8, [0.5, 0.25, 0.25])],
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, expected: list[float]) -> None:
    np.testing.assert_allclose(apply_top_p(np.array([0.5, 0.25, 0.25]), top_p), expected)


def test_top_p_that_rounding_keeps_out_of_reach_keeps_all() -> None:
    probabilities = np.full(10, 0.1)
    assert np.cumsum(probabilities)[-1] < 1
    np.testing.assert_allclose(apply_top_p(probabilities, np.nextafter(1, 0)), probabilities)


@pytest.mark.parametrize(
    ("min_p", "expected"),
    [(0.0, [0.5, 0.25, 0.125, 0.125]), (0.25, [0.5, 0.25, 0.125, 0.125]), (0.26, [2 / 3, 1 / 3]), (1.0, [1.0])],
)
def test_min_p_keeps_a_share_of_the_most_likely(min_p: float, expected: list[float]) -> None:
    np.testing.assert_allclose(apply_min_p(np.array([0.5, 0.25, 0.125, 0.125]), min_p), expected)


@pytest.mark.parametrize(  # surprises in bits: 1, 2, 3, 4, 4; the expected one is 1.875
    ("typical_p", "expected"),
    [
        (0.2, [0, 1, 0, 0, 0]),
        (0.25, [0, 1, 0, 0, 0]),
        (0.3, [2 / 3, 1 / 3, 0, 0, 0]),
        (0.8, [4 / 7, 2 / 7, 1 / 7, 0, 0]),
        (0.9, [8 / 15, 4 / 15, 2 / 15, 1 / 15, 0]),
        (0.95, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16]),
    ],
)
def test_typical_p_keeps_those_of_the_expected_surprise_first(typical_p: float, expected: list[float]) -> None:
    probabilities = np.array([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16])
    np.testing.assert_allclose(apply_typical_p(probabilities, typical_p), expected)


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "min_p", "typical_p"])
@settings(max_examples=100, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_each_filter_keeps_what_transformers_keeps(name: str, data: st.DataObject, seed: int) -> None:
    params = SamplingParams(**{"temperature": 1, "top_p": 1, name: data.draw(OFF_OR[name])})
    logits = make_row("normal", N_VOCAB, seed)
    np.testing.assert_allclose(
        filtered(logits, params), filtered_by_transformers(logits, params), rtol=1e-9, atol=1e-12
    )


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32), params=st.builds(SamplingParams, **OFF_OR))
def test_filters_together_keep_what_transformers_keeps(seed: int, params: SamplingParams) -> None:
    logits = make_row("normal", N_VOCAB, seed)
    np.testing.assert_allclose(
        filtered(logits, params), filtered_by_transformers(logits, params), rtol=1e-9, atol=1e-12
    )


@settings(max_examples=500, deadline=None)
@given(logits=ROWS, params=st.builds(SamplingParams, **OFF_OR), number=NUMBERS)
def test_sampling_without_sorting_all_draws_the_same(logits: Floats, params: SamplingParams, number: float) -> None:
    expected = sample_by_sorting(logits, params, generator=Fixed(number))  # type: ignore[arg-type]
    assert draw(logits, params, number=number) == expected


@settings(max_examples=200, deadline=None)
@given(logits=ROWS, params=st.builds(SamplingParams, **OFF_OR), number=NUMBERS)
def test_head_of_the_ranking_begins_it(logits: Floats, params: SamplingParams, number: float) -> None:
    _, probabilities = softmax(logits, params.temperature)
    head = rank_head(probabilities, params, number)
    assert head.tolist() == rank(probabilities)[: head.size].tolist()


@settings(max_examples=200, deadline=None)
@given(values=ROWS, k=st.integers(1, 600))
def test_largest_are_the_first_of_all_ranked(values: Floats, k: int) -> None:
    assert largest(values, k).tolist() == rank(values)[:k].tolist()


def test_ranking_is_by_value_and_then_by_place() -> None:
    assert rank(np.array([1.0, 3.0, -np.inf, 3.0, 2.0])).tolist() == [1, 3, 4, 0, 2]


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1), SamplingParams(top_k=50)])
def test_little_of_a_large_vocabulary_is_sorted(params: SamplingParams) -> None:
    _, probabilities = softmax(make_row("normal", 50_000, seed=0), params.temperature)
    assert rank_head(probabilities, params, 0.5).size < 10_000


@pytest.mark.parametrize(("min_p", "size"), [(0.25, 4), (0.26, 2), (1.0, 1)])
def test_head_of_the_ranking_has_what_min_p_keeps(min_p: float, size: int) -> None:
    probabilities = np.array([0.125, 0.5, 0.25, 0.125])
    assert rank_head(probabilities, SamplingParams(top_p=1, min_p=min_p), 0.5).tolist() == [1, 2, 0, 3][:size]


@pytest.mark.parametrize(("top_p", "size"), [(1 - 1e-6, 1), (1 - 1e-12, 1_000)])
def test_share_that_rounding_could_hide_sorts_all(top_p: float, size: int) -> None:
    probabilities = np.full(1_000, 1e-17)
    probabilities[7] = 1
    assert rank_head(probabilities, SamplingParams(top_p=top_p), 0.5).size == size


@settings(deadline=None)
@given(logits=ROWS)
def test_temperature_0_takes_the_most_likely(logits: Floats) -> None:
    token_id = draw(logits, SamplingParams(temperature=0))
    assert token_id == torch.tensor(logits).argmax() == rank(logits)[0]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-9, 0])
@pytest.mark.parametrize("number", [0.0, 0.999999])
def test_tiny_temperature_is_greedy_and_does_not_overflow(temperature: float, number: float) -> None:
    logits = np.array([-3e38, 3e38, 2.9e38, 0], dtype=np.float32)
    assert draw(logits, SamplingParams(temperature=temperature, top_p=1), number=number) == 1


@pytest.mark.parametrize(("number", "expected"), [(0.0, 0), (0.4999, 0), (0.5, 1), (0.9999, 1)])
def test_number_between_0_and_1_falls_to_its_share(number: float, expected: int) -> None:
    assert draw(np.zeros(2), ALL, number=number) == expected


def test_last_number_below_1_draws_the_least_likely_token_left() -> None:
    params = SamplingParams(temperature=1, top_k=7, top_p=1)
    assert draw(-np.arange(10.0), params, number=np.nextafter(1, 0)) == 6


@settings(max_examples=200, deadline=None)
@given(logits=ROWS, params=st.builds(SamplingParams, **OFF_OR))
def test_last_number_below_1_draws_a_token_that_was_kept(logits: Floats, params: SamplingParams) -> None:
    assert filtered(logits, params)[draw(logits, params, number=np.nextafter(1, 0))] > 0


def test_same_seed_gives_the_same_draws() -> None:
    logits, params = np.linspace(0, 1, N_VOCAB), SamplingParams(temperature=1)
    assert draws(logits, params, 100, seed=7) == draws(logits, params, 100, seed=7)
    assert draws(logits, params, 100, seed=7) != draws(logits, params, 100, seed=8)


def test_each_draw_takes_one_number() -> None:
    used, counted = np.random.default_rng(3), np.random.default_rng(3)
    sample(np.zeros(9), SamplingParams(temperature=1, top_k=5, min_p=0.1), generator=used)
    counted.random()
    assert used.random() == counted.random()


@pytest.mark.parametrize("params", [ALL, SamplingParams(temperature=2, top_k=5), SamplingParams(typical_p=0.8)])
def test_frequencies_match_the_probabilities(params: SamplingParams) -> None:
    logits, n_draws = np.array([1.0, 0.0, 2.0, -1.0, 0.5]), 5_000
    expected = filtered_by_transformers(logits, params) * n_draws
    counts = np.bincount(draws(logits, params, n_draws, seed=0), minlength=5)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < 18.47  # 99.9 % of samples with 4 degrees of freedom
