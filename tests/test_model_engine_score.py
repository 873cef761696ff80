"""Given tokens, scored: what is told of each is what the model says of it after all that come before, and no more."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fake_runner import END, ENDLESS, GREEDY, Babbling, Counting, Driver, FakeRunner, reply
from hypothesis import given, settings
from hypothesis import strategies as st
from real_engine import TALE, WatchedRunner, alone, new_engine, read

from model.checkpoint.checkpoint import Checkpoint
from model.config import BLOCK_SIZE
from model.engine import scheduler as scheduler_module
from model.engine.engine import Engine
from model.engine.generation import Generation, TokenLogprob, Usage
from model.engine.scheduler import MAX_WAITING, PREFILL_CHUNK, SCORING_CHUNK
from model.engine.sequence import Limits, Sequence, token_logprob
from model.errors import EngineBusy, EngineStopped, PromptTooLong
from model.gpt import GPT
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer

LONG = SamplingParams(temperature=0, max_tokens=100)
NOT_FINITE = "The model computed numbers that are not finite."


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Checkpoint) -> Tokenizer:
    return tiny_checkpoint.tokenizer


@pytest.fixture
def network(tokenizer: Tokenizer) -> Counting:
    return Counting(tokenizer.n_vocab)


@pytest.fixture
def driver(tokenizer: Tokenizer, network: Counting) -> Driver:
    return Driver(tokenizer, network)


@pytest.fixture
def runner(network: Counting) -> FakeRunner:
    return FakeRunner(network)


@pytest.fixture
def engine(runner: FakeRunner, tokenizer: Tokenizer) -> Iterator[Engine]:
    engine = Engine(runner, tokenizer, Limits(n_ctx=200, end_ids=frozenset({END})))
    yield engine
    runner.gate.set()
    engine.close()


def score(driver: Driver, token_ids: list[int], start: int, *, logprobs: int = 0, n_shared: int = 0) -> Sequence:
    """Have a driver score tokens."""
    sequence = Sequence(
        token_ids,
        SamplingParams(logprobs=logprobs),
        "ada",
        tokenizer=driver.tokenizer,
        limits=driver.limits,
        n_shared=n_shared,
        n_unscored=start,
        timeout=60,
    )
    driver.scheduler.add(sequence)
    return sequence


def scores(generation: Generation) -> list[TokenLogprob]:
    return [logprob for piece in generation for logprob in piece.logprobs]


def usage_of(generation: Generation) -> Usage:
    read(generation)
    assert generation.usage is not None
    return generation.usage


# What is told.


def test_pieces_hold_the_given_tokens_their_text_and_their_logprobs(
    engine: Engine, network: Counting, tokenizer: Tokenizer
) -> None:
    token_ids = tokenizer.encode("abxd")
    generation = engine.score(token_ids, 1, logprobs=2, owner="ada")
    pieces = list(generation)
    assert [(piece.text, piece.token_ids) for piece in pieces] == [
        (text, (token_id,)) for text, token_id in zip("bxd", token_ids[1:], strict=True)
    ]
    expected = [token_logprob(network(np.array(token_ids[:n])), token_ids[n], 2) for n in (1, 2, 3)]
    assert [logprob for piece in pieces for logprob in piece.logprobs] == expected
    assert expected[1].most_likely[0] == (tokenizer.encode("c")[0], pytest.approx(0, abs=1e-9))
    assert (generation.finish_reason, generation.error) == ("stop", None)


def test_tokens_before_the_start_are_not_told(engine: Engine, tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("abcdefgh")
    assert read(engine.score(token_ids, 5, owner="ada")) == token_ids[5:]
    assert read(engine.score(token_ids, 7, owner="ada")) == token_ids[7:]


def test_usage_has_no_reply_and_no_first_token(engine: Engine, tokenizer: Tokenizer) -> None:
    generation = engine.score(tokenizer.encode("abcdefgh"), 3, owner="ada")
    usage = usage_of(generation)
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (8, 0, 0)
    assert (usage.ttft_ms, usage.decode_ms) == (None, 0)
    assert usage.duration_ms == pytest.approx(usage.queue_ms + usage.prefill_ms)
    assert (generation.prompt_tokens, generation.prefilled_tokens) == (8, 8)


def test_end_token_among_the_given_ends_nothing(engine: Engine, tokenizer: Tokenizer) -> None:
    token_ids = [*tokenizer.encode("ab"), END, END, *tokenizer.encode("c"), END]
    pieces = list(engine.score(token_ids, 1, owner="ada"))
    assert [(piece.text, piece.token_ids) for piece in pieces] == [
        ("b", (token_ids[1],)),
        ("c", (END, END, token_ids[4])),  # what has no text of its own comes with what has
        ("", (END,)),
    ]
    assert [len(piece.logprobs) for piece in pieces] == [1, 3, 1]


def test_character_of_several_tokens_comes_whole_and_half_a_one_at_the_end(
    engine: Engine, tokenizer: Tokenizer
) -> None:
    parrot = tokenizer.encode("🦜")
    pieces = list(engine.score([5, *parrot, *parrot[:2]], 1, logprobs=1, owner="ada"))
    assert [(piece.text, piece.token_ids) for piece in pieces] == [("🦜", tuple(parrot)), ("\ufffd", tuple(parrot[:2]))]


# In steps, among replies.

GIVEN = st.lists(st.sampled_from([5, 6]), min_size=2, max_size=120)


@given(
    asks=st.lists(st.tuples(GIVEN, st.integers(0, 99), st.booleans(), st.integers(0, 8)), min_size=1, max_size=10),
    n_blocks=st.integers(10, 40),
    chunk=st.integers(1, 80),
    n_draft=st.sampled_from([0, 4]),
)
@settings(deadline=None, max_examples=60)
def test_any_mixture_with_replies_in_any_chunks_tells_what_the_model_says(
    tokenizer: Tokenizer, asks: list[tuple[list[int], int, bool, int]], n_blocks: int, chunk: int, n_draft: int
) -> None:
    network = Babbling(tokenizer.n_vocab)
    driver = Driver(tokenizer, network, n_blocks=n_blocks, n_ctx=160, n_draft=n_draft)
    told, expected = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler_module, "PREFILL_CHUNK", chunk)
        patch.setattr(scheduler_module, "SCORING_CHUNK", chunk)
        for token_ids, number, is_scored, n_steps in asks:
            if is_scored:
                start = 1 + number % (len(token_ids) - 1)
                sequence = score(driver, token_ids, start, logprobs=3)
                told.append(lambda sequence=sequence: scores(sequence.generation))
                places = range(start, len(token_ids))
                rows = (network(np.array(token_ids[:place])) for place in places)
                expected.append(
                    [token_logprob(row, token_ids[place], 3) for place, row in zip(places, rows, strict=True)]
                )
            else:
                sequence = driver.ask(token_ids, LONG)
                told.append(lambda sequence=sequence: reply(sequence))
                expected.append(driver.alone(token_ids, LONG))
            for _ in range(n_steps):
                driver.step()
        driver.run()
    assert [tell() for tell in told] == expected


def test_scores_come_as_the_tokens_are_read_in_chunks_that_hold_up_no_reply(driver: Driver) -> None:
    chat = driver.ask([5], LONG)
    driver.step()
    scored = score(driver, [6] * 130, 50)
    for n_read in (48, 96, 130):
        driver.step()
        assert scored.generation.prefilled_tokens == n_read
    assert len(reply(chat)) == 4
    steps = [[chunk for chunk in step if chunk[0] != 0 or chunk[1] > 1] for step in driver.runner.steps[1:]]
    assert [[chunk for chunk in step if chunk[1] > 1] for step in steps] == [
        [(0, SCORING_CHUNK, 0)],
        [(48, SCORING_CHUNK, 47)],  # after the token 49 comes the first that is scored
        [(96, 34, 34)],
    ]
    assert read(scored.generation) == [6] * 80


def test_prompts_and_given_tokens_share_the_shorter_chunk(driver: Driver) -> None:
    score(driver, [6] * 30, 1)
    driver.ask([7] * 100)
    for step in iter(driver.step, []):
        n_tokens = sum(len(chunk.token_ids) for _, chunk in step)
        assert n_tokens <= (SCORING_CHUNK if step[0][0].is_scored else PREFILL_CHUNK)
    assert driver.n_computed == 130 + GREEDY.max_tokens - 1


# What is cached.


def test_as_much_is_cached_as_leaves_the_token_before_the_first_scored(driver: Driver) -> None:
    driver.ask(list(range(5, 75)))
    driver.run()
    for start in (60, 33, 32, 2, 1):
        driver.runner.steps.clear()
        scored = score(driver, list(range(5, 75)), start)
        driver.run()
        assert (scored.n_cached, len(scores(scored.generation))) == (start - 1, 70 - start)
        assert driver.runner.steps[0][0][0] == start - 1


def test_what_was_scored_is_cached_for_what_comes_after(driver: Driver) -> None:
    score(driver, [5, 6, 7] * 20, 1)
    driver.run()
    later = driver.ask([5, 6, 7] * 20 + [8])
    driver.run()
    assert (later.n_cached, reply(later)) == (60, [9, 10, 11, 12, 13])


def test_what_is_being_scored_is_cached_for_others_before_it_ends(driver: Driver) -> None:
    score(driver, [5] * 150, 1)
    driver.step()
    other = driver.ask([5] * 60)
    driver.step()
    assert other.n_cached == SCORING_CHUNK // BLOCK_SIZE * BLOCK_SIZE
    driver.run()


def test_reply_is_the_same_whether_it_was_scored_or_not(tokenizer: Tokenizer) -> None:
    driver = Driver(tokenizer, Babbling(tokenizer.n_vocab))
    first = driver.ask([5, 6] * 30, LONG)
    driver.run()
    score(driver, first.token_ids, 60)
    driver.run()
    again = driver.ask([5, 6] * 30, LONG)
    driver.run()
    assert reply(again) == reply(first)


def test_scored_tokens_that_are_shared_are_found_by_other_owners(driver: Driver) -> None:
    score(driver, [5] * 40, 1, n_shared=BLOCK_SIZE)
    driver.run()
    other = driver.ask([5] * 40, owner="bob", n_shared=BLOCK_SIZE)
    driver.run()
    assert other.n_cached == BLOCK_SIZE


# Ends of other kinds.


def test_numbers_that_are_not_finite_end_it_with_an_error_after_what_was_sound(
    driver: Driver, network: Counting
) -> None:
    network.bad = {99}
    token_ids = [5] * 70 + [99] + [5] * 70
    bad, good = score(driver, token_ids, 20), driver.ask([5] * 30)
    driver.run()
    assert (bad.generation.finish_reason, bad.generation.error) == ("error", NOT_FINITE)
    assert read(bad.generation) == token_ids[20:71]  # the scores after 99 are not to be had
    assert good.generation.finish_reason == "length"
    network.bad = set()
    again = driver.ask(token_ids)
    driver.run()
    assert again.n_cached <= 30  # what the good one has proved


def test_cancelled_while_it_waits_or_runs_it_gives_its_blocks_back(driver: Driver) -> None:
    running = score(driver, [5] * 150, 1)
    driver.step()
    waiting = score(driver, [6] * 150, 1)
    for sequence in (running, waiting):
        driver.scheduler.cancel(sequence)
        driver.scheduler.check()
        assert sequence.generation.finish_reason == "cancelled"
    assert driver.step() == []
    assert (len(scores(running.generation)), scores(waiting.generation)) == (SCORING_CHUNK, [])


def test_cancelling_ends_it_at_once_while_its_chunk_is_computed(engine: Engine, runner: FakeRunner) -> None:
    runner.hold()
    generation = engine.score([5] * 50, 1, owner="ada")
    assert runner.entered.wait(10)
    generation.cancel()
    assert (read(generation), generation.finish_reason) == ([], "cancelled")
    runner.gate.set()
    assert len(read(engine.score([5] * 50, 1, owner="ada"))) == 49


def test_it_waits_in_the_same_line_as_replies(engine: Engine, runner: FakeRunner) -> None:
    runner.hold()
    engine.submit([5] * 100, ENDLESS, owner="ada")
    assert runner.entered.wait(10)
    waiting = [engine.score([6] * 10, 1, owner="ada") for _ in range(2)]
    waiting.append(engine.submit([6], ENDLESS, owner="ada"))
    assert [generation.queue_position for generation in waiting] == [1, 2, 3]
    for _ in range(MAX_WAITING // 2 - 3):
        engine.score([6] * 10, 1, owner="ada")
    with pytest.raises(EngineBusy):
        engine.score([6] * 10, 1, owner="ada")


def test_it_waits_no_longer_than_its_timeout(driver: Driver) -> None:
    sequence = Sequence(
        [5, 6],
        SamplingParams(logprobs=0),
        "ada",
        tokenizer=driver.tokenizer,
        limits=driver.limits,
        n_unscored=1,
        timeout=1e-9,
    )
    driver.scheduler.add(sequence)
    driver.step()
    assert (sequence.generation.finish_reason, driver.runner.steps) == ("error", [])


# What is refused.


@pytest.mark.parametrize(
    ("token_ids", "start", "options", "text"),
    [
        *[
            (
                token_ids,
                start,
                {},
                "start must be a whole number above 0, for a token is scored after others, and below the number of "
                f"tokens, {len(token_ids)}, got {start}",
            )
            for token_ids, start in (([5], 0), ([5], 1), ([5] * 3, -1), ([5] * 3, 3), ([5] * 3, 1.5), ([5] * 3, None))
        ],
        ([], 1, {}, "token_ids must have at least one token, got none"),
        ([5, 265], 1, {}, "token_ids must lie between 0 and 264, got 5 to 265"),
        ([5] * 201, 1, {}, "The text has 201 tokens; at most 200 fit into the model's context."),
        ([5, 6], 1, {"n_shared": 3}, "n_shared must lie between 0 and the 2 tokens of the prompt, got 3"),
        ([5, 6], 1, {"owner": None}, "owner must be a text, got None"),
        ([5, 6], 1, {"logprobs": 21}, "logprobs must be a whole number from 0 to 20, got 21"),
        ([5, 6], 1, {"timeout": math.nan}, "timeout must be above 0 and at most .* seconds, got nan"),
    ],
)
def test_bad_input_is_refused_at_once_and_the_engine_goes_on(
    engine: Engine, token_ids: list[int], start: Any, options: dict[str, Any], text: str
) -> None:
    with pytest.raises((ValueError, PromptTooLong), match=f"^{text}$"):
        engine.score(token_ids, start, **{"owner": "ada", **options})
    assert read(engine.score([5, 6], 1, owner="ada")) == [6]


def test_text_that_fills_the_context_can_be_scored(engine: Engine) -> None:
    full = engine.submit([5] * 150, ENDLESS, owner="ada")
    token_ids = [5] * 150 + read(full)
    assert (len(token_ids), full.finish_reason) == (200, "length")
    assert read(engine.score(token_ids, 150, owner="ada")) == token_ids[150:]


def test_closed_engine_scores_nothing(engine: Engine) -> None:
    engine.close()
    with pytest.raises(EngineStopped):
        engine.score([5, 6], 1, owner="ada")


# Real networks.


def log_softmax(model: GPT, token_ids: list[int]) -> torch.Tensor:
    """The log-probabilities (T, V) after each token, in one pass without a cache."""
    with torch.inference_mode():
        return model(torch.tensor(token_ids), [len(token_ids)]).double().log_softmax(-1)


@pytest.mark.parametrize("start", [1, 2, 70, 129])
def test_scores_are_the_log_softmax_of_the_reference_without_a_cache(
    tiny_engine: Engine, tiny_model: GPT, start: int
) -> None:
    token_ids = np.random.default_rng(0).integers(265, size=130).tolist()
    expected = log_softmax(tiny_model, token_ids)
    told = scores(tiny_engine.score(token_ids, start, logprobs=4, owner="ada"))
    assert [logprob.token_id for logprob in told] == token_ids[start:]
    for place, logprob in enumerate(told, start):
        row = expected[place - 1]
        assert logprob.logprob == pytest.approx(row[token_ids[place]].item(), abs=1e-4)
        assert [value for _, value in logprob.most_likely] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)
        assert [row[token_id].item() for token_id, _ in logprob.most_likely] == pytest.approx(
            [value for _, value in logprob.most_likely], abs=1e-4
        )


def assert_same(told: list[TokenLogprob], expected: list[TokenLogprob]) -> None:
    assert [logprob.token_id for logprob in told] == [logprob.token_id for logprob in expected]
    for one, other in zip(told, expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert dict(one.most_likely) == pytest.approx(dict(other.most_likely), abs=1e-4)


@pytest.fixture
def new_real_engine(real_runner: WatchedRunner, default_checkpoint: Checkpoint) -> Callable[[], Any]:
    return lambda: new_engine(real_runner, default_checkpoint)


def test_reply_scored_afterwards_has_the_logprobs_it_was_written_with(
    new_real_engine: Callable[[], Any], default_checkpoint: Checkpoint
) -> None:
    prompt = default_checkpoint.tokenizer.encode(TALE)
    params = SamplingParams(temperature=0, max_tokens=40, logprobs=5)
    with new_real_engine() as engine:
        written = scores(engine.submit(prompt, params, owner="ada"))
        token_ids = prompt + [logprob.token_id for logprob in written]
        generation = engine.score(token_ids, len(prompt), logprobs=5, owner="ada")
        assert_same(scores(generation), written)
        assert usage_of(generation).cached_tokens == len(prompt) - 1
    with new_real_engine() as engine:  # where nothing is cached
        assert_same(scores(engine.score(token_ids, len(prompt), logprobs=5, owner="ada")), written)


def test_native_scores_are_those_of_the_reference_model(
    real_engine: Engine, default_checkpoint: Checkpoint, default_model: GPT
) -> None:
    token_ids = default_checkpoint.tokenizer.encode(TALE * 2)
    expected = log_softmax(default_model, token_ids)
    told = scores(real_engine.score(token_ids, 1, owner="ada"))
    assert [logprob.token_id for logprob in told] == token_ids[1:]
    differences = [
        abs(logprob.logprob - expected[place, logprob.token_id].item()) for place, logprob in enumerate(told)
    ]
    assert sum(differences) / len(differences) < 0.02  # the kernels round what they multiply to 8 bits


def test_scoring_leaves_replies_as_they_were(
    real_runner: WatchedRunner, new_real_engine: Callable[[], Any], default_checkpoint: Checkpoint
) -> None:
    prompt = default_checkpoint.tokenizer.encode(TALE)
    asked = prompt, {"temperature": 0, "max_tokens": 30}
    expected = alone(real_runner, default_checkpoint, asked)
    other = default_checkpoint.tokenizer.encode("Write a poem about a parrot. " * 10)
    with new_real_engine() as engine:
        during = engine.submit(prompt, SamplingParams(**asked[1]), owner="ada")
        scored = [engine.score(token_ids, 1, owner="ada") for token_ids in (other, prompt, prompt + expected)]
        assert read(during) == expected
        assert [len(read(generation)) for generation in scored] == [
            len(token_ids) - 1 for token_ids in (other, prompt, prompt + expected)
        ]
        assert read(engine.submit(prompt, SamplingParams(**asked[1]), owner="ada")) == expected


def test_step_that_scores_stays_within_its_chunk(real_engine: Engine, real_runner: WatchedRunner) -> None:
    generations = [real_engine.score([5 + i] * 50, 1, owner=f"owner {i}") for i in range(4)]
    for generation in generations:
        read(generation)
    assert max(sum(chunk.n_logits for chunk in step.chunks) for step in real_runner.steps) == SCORING_CHUNK
