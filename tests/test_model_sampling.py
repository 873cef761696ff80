"""Sampling: tables of probabilities, and the whole chain against transformers' processors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from model.sampling import (
    Floats,
    SamplingParams,
    apply_min_p,
    apply_repetition_penalty,
    apply_top_k,
    apply_top_p,
    sample,
)

N_VOCAB = 50
NAN, INF = math.nan, math.inf

BAD = [
    *[("temperature", value, "between 0 and 100") for value in (-0.1, 100.1, INF, -INF, NAN)],
    *[("top_k", value, "a whole number, 0 or more") for value in (-1, 2.5, INF, NAN)],
    *[("top_p", value, "above 0 and at most 1") for value in (0, -0.5, 1.01, INF, NAN)],
    *[("min_p", value, "between 0 and 1") for value in (-0.01, 1.01, INF, NAN)],
    *[("repetition_penalty", value, "between 0.01 and 100") for value in (0, -1.1, 1e-40, 101, INF, NAN)],
    *[("stop", value, "strings that are not empty") for value in (("",), ("a", ""))],
    *[("max_tokens", value, "a whole number, 1 or more") for value in (0, -1, 1.5, INF, NAN)],
    *[("seed", value, "a whole number between 0 and 2**63 - 1") for value in (-1, 2**63, 0.5, INF, NAN)],
]
EXTREMES = [
    *[("temperature", value) for value in (0, 5e-324, 100)],
    *[("top_k", value) for value in (0, 1, 10**9)],
    *[("top_p", value) for value in (5e-324, 1)],
    *[("min_p", value) for value in (0, 1)],
    *[("repetition_penalty", value) for value in (0.01, 100)],
    *[("seed", value) for value in (0, 2**63 - 1)],
]


class Fixed:
    """In place of a generator: always the same number."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


def draw(logits: Floats, params: SamplingParams, *, number: float = 0.5, token_ids: tuple[int, ...] = ()) -> int:
    return sample(logits, params, token_ids=token_ids, generator=Fixed(number))  # type: ignore[arg-type]


def draws(logits: Floats, params: SamplingParams, n_draws: int, seed: int) -> list[int]:
    generator = np.random.default_rng(seed)
    return [sample(logits, params, token_ids=[], generator=generator) for _ in range(n_draws)]


def oracle_probabilities(logits: Floats, params: SamplingParams, token_ids: list[int]) -> Floats:
    """Apply what transformers' generate would, in its order."""
    chain = LogitsProcessorList()
    if params.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.temperature:
        chain.append(TemperatureLogitsWarper(float(params.temperature)))
    if params.top_k:
        chain.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        chain.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        chain.append(MinPLogitsWarper(params.min_p))
    scores = chain(torch.tensor([token_ids]), torch.tensor(logits, dtype=torch.float64)[None])
    return scores[0].softmax(-1).numpy()


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


def test_repetition_penalty_pushes_down_each_token_once() -> None:
    logits = np.array([2.0, -2.0, 1.0, 0.0, 3.0])
    penalized = apply_repetition_penalty(logits, [0, 1, 1, 0, 3], 2.0)
    assert penalized.tolist() == [1.0, -4.0, 1.0, 0.0, 3.0]
    assert logits.tolist() == [2.0, -2.0, 1.0, 0.0, 3.0]


@settings(max_examples=1_000, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    params=st.builds(
        SamplingParams,
        temperature=st.floats(0.05, 5),
        top_k=st.integers(0, N_VOCAB + 5),
        top_p=st.floats(0.01, 1),
        min_p=st.floats(0, 1),
        repetition_penalty=st.floats(0.5, 2),
    ),
    number=st.floats(0, 1, exclude_max=True),
)
def test_draw_is_the_one_of_transformers_probabilities(seed: int, params: SamplingParams, number: float) -> None:
    random = np.random.default_rng(seed)
    logits, token_ids = random.normal(scale=3, size=N_VOCAB), random.integers(N_VOCAB, size=20)
    probabilities = oracle_probabilities(logits, params, token_ids.tolist())
    order = np.argsort(-probabilities, kind="stable")
    edges = np.cumsum(probabilities[order])
    assume(np.abs(edges - number).min() > 1e-9)
    expected = order[np.searchsorted(edges, number, side="right")]
    assert draw(logits, params, number=number, token_ids=tuple(token_ids)) == expected


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), penalty=st.floats(0.5, 2))
def test_temperature_0_takes_the_most_likely(seed: int, penalty: float) -> None:
    random = np.random.default_rng(seed)
    logits, token_ids = random.normal(size=N_VOCAB), random.integers(N_VOCAB, size=20)
    params = SamplingParams(temperature=0, repetition_penalty=penalty)
    expected = oracle_probabilities(logits, params, token_ids.tolist()).argmax()
    assert draw(logits, params, token_ids=tuple(token_ids)) == expected


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-9, 0])
@pytest.mark.parametrize("number", [0.0, 0.999999])
def test_tiny_temperature_is_greedy_and_does_not_overflow(temperature: float, number: float) -> None:
    logits = np.array([-3e38, 3e38, 2.9e38, 0], dtype=np.float32)
    assert draw(logits, SamplingParams(temperature=temperature, top_p=1), number=number) == 1


@pytest.mark.parametrize(("number", "expected"), [(0.0, 0), (0.4999, 0), (0.5, 1), (0.9999, 1)])
def test_number_between_0_and_1_falls_to_its_share(number: float, expected: int) -> None:
    assert draw(np.zeros(2), SamplingParams(temperature=1, top_p=1), number=number) == expected


def test_last_number_below_1_draws_the_least_likely_token_left() -> None:
    params = SamplingParams(temperature=1, top_k=7, top_p=1)
    assert draw(-np.arange(10.0), params, number=np.nextafter(1, 0)) == 6


def test_same_seed_gives_the_same_draws() -> None:
    logits, params = np.linspace(0, 1, N_VOCAB), SamplingParams(temperature=1)
    assert draws(logits, params, 100, seed=7) == draws(logits, params, 100, seed=7)
    assert draws(logits, params, 100, seed=7) != draws(logits, params, 100, seed=8)


def test_each_draw_takes_one_number() -> None:
    used, counted = np.random.default_rng(3), np.random.default_rng(3)
    sample(np.zeros(9), SamplingParams(temperature=1, top_k=5, min_p=0.1), token_ids=[], generator=used)
    counted.random()
    assert used.random() == counted.random()


@pytest.mark.parametrize("params", [SamplingParams(temperature=1, top_p=1), SamplingParams(temperature=2, top_k=5)])
def test_frequencies_match_the_probabilities(params: SamplingParams) -> None:
    logits, n_draws = np.array([1.0, 0.0, 2.0, -1.0, 0.5]), 20_000
    expected = oracle_probabilities(logits, params, []) * n_draws
    counts = np.bincount(draws(logits, params, n_draws, seed=0), minlength=5)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < 18.47  # 99.9 % of samples with 4 degrees of freedom


@pytest.mark.parametrize(("name", "value", "rule"), BAD)
def test_bad_parameter_is_refused_with_name_rule_and_value(name: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        SamplingParams(**{name: value})
    assert str(caught.value) == f"{name} must be {rule}, got {value!r}"


@pytest.mark.parametrize(("name", "value"), EXTREMES)
def test_extreme_parameter_is_taken_and_draws_a_token(name: str, value: float) -> None:
    params = SamplingParams(**{"temperature": 1, name: value})
    logits = np.linspace(-20, 20, N_VOCAB, dtype=np.float32)
    assert 0 <= draw(logits, params, token_ids=tuple(range(N_VOCAB))) < N_VOCAB
