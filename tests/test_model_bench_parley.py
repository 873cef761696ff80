"""Parley as a contestant, over a runner that computes nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fake_runner import Counting, FakeRunner, TokenIds

from model.bench.parley import Parley
from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.engine.runner import Runner
from model.engine.sequence import Limits
from model.sampling import Floats

PROMPT = list(range(40, 80))


@pytest.fixture
def runner(tiny_checkpoint: Checkpoint) -> FakeRunner:
    counting = Counting(tiny_checkpoint.tokenizer.n_vocab)

    def slow(token_ids: TokenIds) -> Floats:  # so that those who come together run together
        time.sleep(0.001)
        return counting(token_ids)

    return FakeRunner(slow)


@pytest.fixture
def parley(runner: FakeRunner, tiny_checkpoint: Checkpoint) -> Iterator[Parley]:
    engine = Engine(runner, tiny_checkpoint.tokenizer, Limits(1_000, tiny_checkpoint.end_ids))

    @contextmanager
    def opened() -> Iterator[tuple[Engine, Runner]]:
        yield engine, runner

    yield Parley(opened)
    engine.close()


def n_computed(runner: FakeRunner) -> int:
    return sum(n_tokens for step in runner.steps for _, n_tokens, _ in step)


def test_prefill_finds_nothing_cached(parley: Parley, runner: FakeRunner) -> None:
    start = time.perf_counter()
    seconds = [parley.prefill(PROMPT) for _ in range(3)]
    assert 0 < sum(seconds) < time.perf_counter() - start
    assert n_computed(runner) == 3 * len(PROMPT)


def test_chats_are_decoded_together_after_their_prompts(parley: Parley, runner: FakeRunner) -> None:
    start = time.perf_counter()
    assert 0 < parley.decode([PROMPT, PROMPT[::-1], PROMPT], 30) < time.perf_counter() - start
    assert sum(len(step) == 3 for step in runner.steps) >= 20
    assert n_computed(runner) == 3 * (len(PROMPT) + 1 + 30)  # the last token of a reply is never computed


def test_a_turn_of_a_chat_computes_only_what_is_new(parley: Parley, runner: FakeRunner) -> None:
    seconds = parley.chat([PROMPT, PROMPT, PROMPT], 5)
    assert len(seconds) == 3
    assert min(seconds) > 0
    assert n_computed(runner) == 3 * (len(PROMPT) + 5) - 1  # the last token of a reply comes with the next turn


def test_greedy_replies_do_not_end_and_are_each_ones_own(parley: Parley) -> None:
    prompts = [[token_id] for token_id in range(30, 50)]
    replies = parley.greedy(prompts, 12)
    assert replies == [list(range(token_id + 1, token_id + 13)) for token_id in range(30, 50)]


def test_logits_are_the_runners(parley: Parley) -> None:
    assert parley.logits([3, 4, 5, 6], 3).argmax(-1).tolist() == [5, 6, 7]
    assert parley.describe() == "FakeRunner"
