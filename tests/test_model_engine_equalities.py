"""Whoever else is chatting, and whatever is cached, chunked or drafted: a reply is what its prompt gives alone."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from fake_runner import Babbling, Driver, reply
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint.checkpoint import Checkpoint
from model.engine import scheduler
from model.engine.generation import Usage
from model.engine.sequence import DRAFT_COST, Sequence
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer

SYSTEM = [7, 8, 9] * 15  # what every conversation begins with, if it has a beginning
GREEDY = SamplingParams(temperature=0, max_tokens=40)


@dataclass
class Ask:
    n_shared: int
    token_ids: list[int]
    params: SamplingParams
    owner: str
    n_steps: int  # until the next one comes

    @property
    def prompt(self) -> list[int]:
        return SYSTEM[: self.n_shared] + self.token_ids


def params_of(seed: int | None, max_tokens: int, penalty: float) -> SamplingParams:
    return SamplingParams(
        temperature=0 if seed is None else 0.8, seed=seed, max_tokens=max_tokens, frequency_penalty=penalty
    )


ASKS = st.lists(
    st.builds(
        Ask,
        st.integers(0, len(SYSTEM)),
        st.lists(st.sampled_from([5, 6]), min_size=1, max_size=60),
        st.builds(params_of, st.none() | st.integers(0, 3), st.integers(1, 40), st.sampled_from([0, 0.5])),
        st.sampled_from(["ada", "bob"]),
        st.integers(0, 12),
    ),
    min_size=1,
    max_size=20,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Checkpoint) -> Tokenizer:
    return tiny_checkpoint.tokenizer


@pytest.fixture(scope="module")
def new_driver(tokenizer: Tokenizer) -> Callable[..., Driver]:
    return lambda **options: Driver(tokenizer, Babbling(tokenizer.n_vocab), **options)


def finished(driver: Driver, sequence: Sequence) -> Usage:
    driver.run()
    usage = sequence.generation.usage
    assert usage is not None
    return usage


@given(asks=ASKS, n_blocks=st.integers(10, 60), chunk=st.integers(1, 80), n_draft=st.sampled_from([0, 1, 4]))
@settings(deadline=None, max_examples=100)
def test_any_batch_in_any_chunks_with_any_drafts_gives_what_each_gives_alone(
    new_driver: Callable[..., Driver], asks: list[Ask], n_blocks: int, chunk: int, n_draft: int
) -> None:
    driver = new_driver(n_blocks=n_blocks, n_ctx=160, n_draft=n_draft)
    sequences = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "PREFILL_CHUNK", chunk)
        for ask in asks:
            sequences.append(driver.ask(ask.prompt, ask.params, ask.owner, n_shared=ask.n_shared))
            for _ in range(ask.n_steps):
                driver.step()
        driver.run()
    assert [reply(sequence) for sequence in sequences] == [driver.alone(ask.prompt, ask.params) for ask in asks]


@given(
    prompt=st.lists(st.sampled_from([5, 6]), min_size=1, max_size=60),
    seed=st.none() | st.integers(0, 99),
    max_tokens=st.integers(1, 100),
    n_ctx=st.integers(61, 120),
    stop=st.sampled_from([(), ("e",), ("the", "xy")]),
)
@settings(deadline=None)
def test_drafts_change_no_token_no_text_and_no_end(
    new_driver: Callable[..., Driver],
    prompt: list[int],
    seed: int | None,
    max_tokens: int,
    n_ctx: int,
    stop: tuple[str],
) -> None:
    params = SamplingParams(temperature=0 if seed is None else 0.5, seed=seed, max_tokens=max_tokens, stop=stop)
    told = []
    for n_draft in (0, 4):
        driver = new_driver(n_ctx=n_ctx, n_draft=n_draft)
        generation = driver.ask(prompt, params).generation
        driver.run()
        told.append(([(piece.text, piece.token_ids) for piece in generation], generation.finish_reason))
    assert told[0] == told[1]


def test_drafts_save_steps_and_are_told(new_driver: Callable[..., Driver]) -> None:
    plain, drafting = new_driver(), new_driver(n_draft=4)
    for driver in (plain, drafting):
        usage = finished(driver, driver.ask([5, 6, 5], GREEDY))
    assert 0 < usage.accepted_tokens <= usage.drafted_tokens
    assert len(drafting.runner.steps) == len(plain.runner.steps) - usage.accepted_tokens


def test_drafts_that_never_come_true_soon_cost_little(new_driver: Callable[..., Driver]) -> None:
    driver = new_driver(n_draft=4)
    twelve = tuple((token_id, 100.0) for token_id in range(20, 32))  # pairs of them soon repeat, to no avail
    params = SamplingParams(temperature=20, seed=1, max_tokens=900, logit_bias=twelve, top_k=12)
    usage = finished(driver, driver.ask([5, 6], params))
    assert usage.completion_tokens == 900
    assert 0 < DRAFT_COST * usage.drafted_tokens - usage.accepted_tokens < 0.03 * 900 + 4  # steps lost


def test_many_that_decode_get_no_drafts(new_driver: Callable[..., Driver]) -> None:
    driver = new_driver(n_draft=4)
    sequences = [driver.ask([5, 6] * 9, GREEDY, owner) for owner in "abc"]
    assert [finished(driver, sequence).drafted_tokens for sequence in sequences] == [0, 0, 0]


def test_of_twelve_requests_three_are_aborted_and_the_others_get_exactly_their_tokens(
    new_driver: Callable[..., Driver],
) -> None:
    driver = new_driver(n_blocks=60, n_ctx=200, n_draft=4)
    prompts = [[5 + i % 3] * (1 + 9 * i) for i in range(12)]
    params = [SamplingParams(temperature=1, seed=i, max_tokens=40) for i in range(12)]
    sequences = [driver.ask(prompts[i], params[i], f"owner {i % 5}") for i in range(12)]
    for i in (2, 11, 7):  # one that decodes, one that waits or is read, one between
        for _ in range(5):
            driver.step()
        driver.scheduler.cancel(sequences[i])
    driver.run()
    for i, sequence in enumerate(sequences):
        alone = driver.alone(prompts[i], params[i])
        aborted = i in (2, 11, 7)
        assert sequence.generation.finish_reason == "cancelled" if aborted else reply(sequence) == alone
        assert reply(sequence) == alone[: len(reply(sequence))]


class Conversation:
    """One chat, whose user knows a code that nobody else may ever see."""

    def __init__(self, driver: Driver, number: int, dice: random.Random) -> None:
        self.driver, self.owner, self.dice = driver, f"owner {number}", dice
        self.canary = dice.sample(range(3, 265), 12)
        self.token_ids: list[int] = []  # of the last turn
        self.n_prompt = 0
        self.kept: list[list[int]] = []  # what the cache has of all turns
        self.n_turns = 0

    def begin_turn(self) -> None:
        prompt = self.next_prompt()
        self.params = SamplingParams(temperature=self.dice.choice([0, 1]), seed=self.dice.randrange(99), max_tokens=12)
        self.n_cached = max((n_common(prompt[:-1], kept) for kept in self.kept), default=0)
        self.sequence = self.driver.ask(prompt, self.params, self.owner)

    def next_prompt(self) -> list[int]:
        """Go on, regenerate the reply, edit a message, or continue the reply."""
        if not self.token_ids or len(self.token_ids) > 200:
            return self.canary
        prompt, edit = self.token_ids[: self.n_prompt], self.dice.randrange(1, self.n_prompt + 1)
        more = self.dice.choices(self.canary, k=5)
        return self.dice.choice([self.token_ids + more, prompt, prompt[:edit] + more, self.token_ids])

    def check_turn(self) -> None:
        sequence, self.n_turns = self.sequence, self.n_turns + 1
        self.token_ids, self.n_prompt = sequence.token_ids, sequence.n_prompt
        self.kept.append(self.token_ids[: sequence.n_sound])
        said = reply(sequence)
        alone = self.driver.alone(self.token_ids[: self.n_prompt], self.params)
        if sequence.generation.finish_reason == "cancelled":  # it may never have begun
            assert (said, sequence.n_cached) in [(alone[: len(said)], self.n_cached), ([], 0)]
        else:
            assert (said, sequence.n_cached) == (alone, self.n_cached)


def n_common(a: list[int], b: list[int]) -> int:
    return next((i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), min(len(a), len(b)))


def test_sixteen_conversations_in_500_interleaved_turns_never_cross(new_driver: Callable[..., Driver]) -> None:
    dice = random.Random(0)
    driver = new_driver(n_blocks=4_000, n_draft=2)
    idle, busy = [Conversation(driver, i, dice) for i in range(16)], []
    while sum(chat.n_turns for chat in [*idle, *busy]) < 500:
        if idle and dice.random() < 0.5:
            busy.append(idle.pop(dice.randrange(len(idle))))
            busy[-1].begin_turn()
        if busy and dice.random() < 0.02:
            driver.scheduler.cancel(dice.choice(busy).sequence)
        driver.step(check=False)
        for chat in [chat for chat in busy if chat.sequence.generation.finish_reason]:
            chat.check_turn()
            busy.remove(chat)
            idle.append(chat)
    driver.scheduler.check()
