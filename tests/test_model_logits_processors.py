"""Logits processors: each against transformers' own, all in the order in which transformers' generate sets them up."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, GenerationMixin

from model.errors import ModelError
from model.logits_processors import LogitsProcessors, penalize_counts, penalize_repetition
from model.sampling import Floats
from model.sampling_params import SamplingParams

N_VOCAB = 30
END_IDS = (2, 7)
IDS = st.integers(0, N_VOCAB - 1)
TEXTS = st.lists(IDS, min_size=1, max_size=20)
OFF_OR = {
    "repetition_penalty": st.just(1) | st.floats(0.1, 3),
    "logit_bias": st.dictionaries(IDS, st.floats(-10, 10, width=32), max_size=4).map(lambda biases: (*biases.items(),)),
    "banned_token_ids": st.lists(IDS, max_size=4).map(tuple),
    "min_tokens": st.integers(0, 5),
}
FINITE = np.linspace(-3, 3, N_VOCAB, dtype=np.float32)


class Mask:
    """A constraint that allows some tokens, and notes what comes."""

    def __init__(self, *allowed: int) -> None:
        self.allowed = allowed
        self.accepted: list[int] = []

    def apply(self, logits: Floats) -> Floats:
        masked = np.full_like(logits, -np.inf)
        masked[list(self.allowed)] = logits[list(self.allowed)]
        return masked

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)


def processed(logits: Floats, prompt: list[int], reply: list[int], constraint: Mask | None = None, **params) -> Floats:  # type: ignore[no-untyped-def]
    processors = LogitsProcessors(SamplingParams(**params), prompt, end_ids=END_IDS, constraint=constraint)
    for token_id in reply:
        processors.accept(token_id)
    return processors.apply(logits)


def processed_by_transformers(logits: Floats, prompt: list[int], reply: list[int], params: SamplingParams) -> Floats:
    """What generate would make of the logits before it samples."""
    config = GenerationConfig(
        repetition_penalty=float(params.repetition_penalty),
        sequence_bias={(token_id,): bias for token_id, bias in params.logit_bias} or None,
        suppress_tokens=list(params.banned_token_ids) or None,
        min_new_tokens=params.min_tokens,
        do_sample=False,
    )
    config._eos_token_tensor = torch.tensor(END_IDS)
    mixin = GenerationMixin()
    mixin.config = SimpleNamespace(is_encoder_decoder=False)
    chain = mixin._get_logits_processor(config, input_ids_seq_length=len(prompt))
    return chain(torch.tensor([prompt + reply]), torch.tensor(logits)[None])[0].numpy()


@pytest.mark.parametrize("name", [*OFF_OR, "all"])
@settings(max_examples=100, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32), prompt=TEXTS, reply=TEXTS | st.just([]))
def test_logits_are_those_of_transformers(
    name: str, data: st.DataObject, seed: int, prompt: list[int], reply: list[int]
) -> None:
    drawn = {key: data.draw(strategy) for key, strategy in OFF_OR.items() if name in (key, "all")}
    logits = np.random.default_rng(seed).normal(scale=3, size=N_VOCAB)
    expected = processed_by_transformers(logits, prompt, reply, SamplingParams(**drawn))
    np.testing.assert_allclose(processed(logits, prompt, reply, **drawn), expected, rtol=1e-12)


def test_repetition_penalty_pushes_down_each_token_once() -> None:
    logits = np.array([2.0, -2.0, 1.0, 0.0, 3.0])
    penalize_repetition(logits, np.array([0, 1, 1, 0, 3]), 2.0)
    assert logits.tolist() == [1.0, -4.0, 1.0, 0.0, 3.0]


def test_frequency_counts_and_presence_does_not() -> None:
    logits = np.array([5.0, 5.0, 5.0, -5.0], np.float32)
    penalize_counts(logits, np.array([3, 0, 0, 0]), frequency=0.5, presence=0.25)
    assert logits.tolist() == [3.25, 5.0, 5.0, -5.75]


@settings(deadline=None)
@given(prompt=TEXTS, reply=TEXTS | st.just([]), frequency=st.floats(-2, 2), presence=st.floats(-2, 2))
def test_frequency_and_presence_count_in_the_reply_only(
    prompt: list[int], reply: list[int], frequency: float, presence: float
) -> None:
    actual = processed(FINITE, prompt, reply, frequency_penalty=frequency, presence_penalty=presence)
    counts = [reply.count(token_id) for token_id in range(N_VOCAB)]
    expected = [FINITE[i] - n * frequency - (presence if n else 0) for i, n in enumerate(counts)]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(prompt=TEXTS, reply=TEXTS | st.just([]), window=st.integers(1, 45))
def test_penalties_see_the_window_only(prompt: list[int], reply: list[int], window: int) -> None:
    penalties = {"repetition_penalty": 1.5, "frequency_penalty": 1.0, "presence_penalty": -0.5}
    seen = (prompt + reply)[-window:]
    seen_reply = reply[-window:]
    expected = processed(FINITE, seen[: len(seen) - len(seen_reply)], seen_reply, **penalties)
    assert processed(FINITE, prompt, reply, penalty_window=window, **penalties).tolist() == expected.tolist()


@pytest.mark.parametrize(("reply", "expected"), [([], 4), ([4], 9), ([4, 9], None)])
def test_forced_tokens_come_one_after_the_other(reply: list[int], expected: int | None) -> None:
    actual = processed(FINITE, [1], reply, forced_token_ids=(4, 9))
    left = np.flatnonzero(np.isfinite(actual)).tolist()
    assert left == ([expected] if expected else list(range(N_VOCAB)))


def test_what_the_constraint_rules_out_stays_out() -> None:
    actual = processed(FINITE, [1], [], Mask(4, 5, 6), logit_bias=((5, 2.0), (9, 100)), banned_token_ids=(6,))
    assert np.flatnonzero(np.isfinite(actual)).tolist() == [4, 5]
    assert (actual[4], actual[5]) == (FINITE[4], FINITE[5] + 2)


def test_constraint_hears_of_every_token_of_the_reply() -> None:
    mask = Mask(4)
    processed(FINITE, [1, 2, 3], [5, 6, 5], mask)
    assert mask.accepted == [5, 6, 5]


def test_forced_token_that_the_constraint_rules_out_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"^No token can follow: "):
        processed(FINITE, [1], [], Mask(5), forced_token_ids=(4,))


def test_given_logits_are_not_changed() -> None:
    logits = FINITE.copy()
    everything = {"repetition_penalty": 2.0, "frequency_penalty": 1.0, "logit_bias": ((1, 5.0),)}
    processed(logits, [1, 2], [3], Mask(4), forced_token_ids=(3, 4), banned_token_ids=(8,), min_tokens=9, **everything)
    assert logits.tolist() == FINITE.tolist()


@pytest.mark.parametrize("params", [{}, {"min_tokens": 1}, {"forced_token_ids": (5,)}])
def test_logits_are_not_copied_when_nothing_changes_them(params: dict[str, object]) -> None:
    assert processed(FINITE, [1], [5], **params) is FINITE
