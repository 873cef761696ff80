"""What the engine promises, on the native kernels and the default weights: no chat is ever mixed up with another.

Whatever is cached, batched, chunked, drafted, cancelled or broken around it, a reply is byte for byte what its prompt
gives in an engine that has computed nothing else.
"""

import random
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from real_engine import (
    TALE,
    Asked,
    WatchedRunner,
    alone,
    ask,
    in_a_fresh_process,
    new_engine,
    read,
    usage_of,
)

from model.checkpoint.checkpoint import Checkpoint
from model.engine import scheduler
from model.engine.engine import Engine
from model.engine.runner import Chunk
from model.engine.scheduler import MAX_RUNNING, PREFILL_CHUNK
from model.sampling import Floats
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer

BEGINNING = "You are a helpful assistant who knows a secret code and tells it to whoever asks for it. "
Way = dict[str, Any]
WAYS: list[Way] = [{"temperature": 0}, {"temperature": 0.6, "top_p": 0.95, "seed": 7}]

both_ways = pytest.mark.parametrize("way", WAYS, ids=["greedy", "sampled"])


class Turn(NamedTuple):
    asked: Asked
    reply: list[int]
    cancelled: bool


class Chat:
    """A conversation whose user knows a code that nobody else may ever see."""

    def __init__(self, number: int, dice: random.Random, tokenizer: Tokenizer) -> None:
        self.owner, self.dice, self.tokenizer = f"owner {number}", dice, tokenizer
        self.code = "".join(dice.choices(string.ascii_uppercase + string.digits, k=12))
        self.beginning = tokenizer.encode(BEGINNING)
        question = f"\nThe secret code is {self.code}.\nQuestion: What is it?\nAnswer: The secret code is"
        self.opening = self.beginning + tokenizer.encode(question)
        self.turns: list[Turn] = []

    def begin_turn(self, real_engine: Engine) -> None:
        ways: list[Way] = [{"temperature": 0}, {"temperature": 0.8, "seed": self.dice.randrange(99)}]
        params = {**self.dice.choice(ways), "max_tokens": self.dice.randrange(8, 17)}
        self.asked = self.next_prompt(), params
        self.generation = ask(real_engine, self.asked, self.owner, n_shared=len(self.beginning))

    def next_prompt(self) -> list[int]:
        """Go on, regenerate the reply, edit a message, or continue the reply."""
        if not self.turns:
            return self.opening
        (prompt, _), reply, _ = self.turns[-1]
        if len(prompt) > 200:
            return self.opening
        more = self.tokenizer.encode("\nQuestion: Again, please?\nAnswer: The secret code is")
        edited = prompt[: self.dice.randrange(len(self.beginning), len(prompt))] + more
        return self.dice.choice([prompt + reply + more, prompt + reply + more, prompt + reply, edited, prompt])

    def end_turn(self) -> None:
        reply = read(self.generation)
        self.turns.append(Turn(self.asked, reply, self.generation.finish_reason == "cancelled"))

    def said(self, turn: Turn) -> str:
        return self.tokenizer.decode([*turn.asked[0], *turn.reply])


def interleave(real_engine: Engine, chats: list[Chat], n_turns: int, dice: random.Random) -> None:
    """Let the chats take turns, up to four at a time, of which one in ten is cancelled."""
    idle, busy = list(chats), list[Chat]()
    for _ in range(n_turns):
        while len(busy) < 4 and (not busy or dice.random() < 0.7):
            busy.append(idle.pop(dice.randrange(len(idle))))
            busy[-1].begin_turn(real_engine)
        if dice.random() < 0.1:
            dice.choice(busy).generation.cancel()
        chat = busy.pop(dice.randrange(len(busy)))
        chat.end_turn()
        idle.append(chat)
    for chat in busy:
        chat.end_turn()


@pytest.mark.parametrize("n_turns", [16, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(1_200)])])
def test_sixteen_interleaved_conversations_never_cross(
    real_runner: WatchedRunner, default_checkpoint: Checkpoint, default_path: Path, n_turns: int
) -> None:
    dice = random.Random(n_turns)
    chats = [Chat(number, dice, default_checkpoint.tokenizer) for number in range(16)]
    with new_engine(real_runner, default_checkpoint) as real_engine:
        interleave(real_engine, chats, n_turns, dice)
    for chat in chats:
        others = [other.code for other in chats if other is not chat]
        for turn in chat.turns:
            assert not any(code in chat.said(turn) for code in others)
            expected = alone(real_runner, default_checkpoint, turn.asked)
            assert turn.reply == (expected[: len(turn.reply)] if turn.cancelled else expected)
    turns = [(chat, turn) for chat in chats for turn in chat.turns if not turn.cancelled]
    assert len(turns) >= 0.8 * n_turns
    assert any(chat.code in chat.tokenizer.decode(turn.reply) for chat, turn in turns)  # the model does tell codes
    sample = [turn for _, turn in dice.sample(turns, n_turns // 10)]
    assert in_a_fresh_process(default_path, [turn.asked for turn in sample]) == [turn.reply for turn in sample]


@both_ways
def test_cached_is_uncached(real_runner: WatchedRunner, default_checkpoint: Checkpoint, way: Way) -> None:
    encode, params = default_checkpoint.tokenizer.encode, {**way, "max_tokens": 20}
    first = encode(TALE * 2)
    with new_engine(real_runner, default_checkpoint) as real_engine:
        reply = read(ask(real_engine, (first, params)))
        prompts = [first, [*first, *reply, *encode(" But one day")], [*first[:37], *encode(" But one day")]]
        generations = [ask(real_engine, (prompt, params)) for prompt in prompts]
        replies = [read(generation) for generation in generations]
    cached = [usage_of(generation).cached_tokens for generation in generations]
    assert cached == [len(first) - 1, len(first) + len(reply) - 1, 37]
    assert replies == [alone(real_runner, default_checkpoint, (prompt, params)) for prompt in prompts]


@both_ways
def test_batched_is_alone(real_runner: WatchedRunner, default_checkpoint: Checkpoint, way: Way) -> None:
    tale = default_checkpoint.tokenizer.encode(TALE * 3)
    batch = [(tale[: 1 + 13 * i], {**way, "max_tokens": 24 - 3 * i}) for i in range(6)]
    with new_engine(real_runner, default_checkpoint) as real_engine:
        generations = [ask(real_engine, asked, f"owner {i}") for i, asked in enumerate(batch)]
        replies = [read(generation) for generation in generations]
    assert max(len(step.chunks) for step in real_runner.steps) >= 5
    assert replies == [alone(real_runner, default_checkpoint, asked) for asked in batch]


def test_seeded_reply_in_a_busy_batch_is_alone(real_runner: WatchedRunner, default_checkpoint: Checkpoint) -> None:
    encode = default_checkpoint.tokenizer.encode
    seeded = encode(TALE), {"temperature": 1.5, "seed": 3, "max_tokens": 20}
    end_ids = tuple(default_checkpoint.end_ids)
    noise = SamplingParams(temperature=1.5, max_tokens=200, banned_token_ids=end_ids)  # seeded as nobody knows
    with new_engine(real_runner, default_checkpoint) as real_engine:
        others = [real_engine.submit(encode(TALE)[: 3 + i], noise, owner=f"other {i}") for i in range(5)]
        reply = read(ask(real_engine, seeded))
        for other in others:
            other.cancel()
    assert max(len(step.chunks) for step in real_runner.steps) >= 5
    assert reply == alone(real_runner, default_checkpoint, seeded)


@both_ways
def test_chunked_is_whole(
    real_runner: WatchedRunner, default_checkpoint: Checkpoint, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = default_checkpoint.tokenizer.encode(TALE * 6)[:145], {**way, "max_tokens": 15}
    replies, n_steps = [], []
    for size in (7, 64, 1_000):
        monkeypatch.setattr(scheduler, "PREFILL_CHUNK", size)
        replies.append(alone(real_runner, default_checkpoint, asked))
        n_steps.append(sum(step.n_prompt_tokens > 0 for step in real_runner.steps))
    assert replies[0] == replies[1] == replies[2]
    assert n_steps == [21, 3, 1]


@both_ways
def test_drafting_is_not_drafting(real_runner: WatchedRunner, default_checkpoint: Checkpoint, way: Way) -> None:
    asked = default_checkpoint.tokenizer.encode("red, green, blue, white, " * 8), {**way, "max_tokens": 50}
    with new_engine(real_runner, default_checkpoint, n_draft=4) as real_engine:
        generation = ask(real_engine, asked)
        reply = read(generation)
    assert usage_of(generation).accepted_tokens > 0
    assert reply == alone(real_runner, default_checkpoint, asked)


def test_each_turn_of_a_chat_computes_only_what_is_new(
    real_engine: Engine, real_runner: WatchedRunner, default_checkpoint: Checkpoint
) -> None:
    more = default_checkpoint.tokenizer.encode("\nQuestion: And then? What did the cat do?\nAnswer:")
    end_ids = tuple(default_checkpoint.end_ids)
    kept, prompt = 0, default_checkpoint.tokenizer.encode(TALE * 2)
    for _ in range(10):
        real_runner.n_tokens = 0
        generation = ask(real_engine, (prompt, {"temperature": 0, "max_tokens": 8, "banned_token_ids": end_ids}))
        reply = read(generation)
        assert usage_of(generation).cached_tokens == kept
        assert real_runner.n_tokens == len(prompt) - kept + len(reply) - 1
        kept = len(prompt) + len(reply) - 1  # the last token was written, but never read by the model
        prompt = [*prompt, *reply, *more]
    assert kept > 250


def test_cancelled_reply_gives_its_place_to_the_next_step(
    real_engine: Engine, real_runner: WatchedRunner, default_checkpoint: Checkpoint
) -> None:
    tale, end_ids = default_checkpoint.tokenizer.encode(TALE), tuple(default_checkpoint.end_ids)
    endless = {"temperature": 0, "max_tokens": 120, "banned_token_ids": end_ids}
    seen: list[tuple[int, int]] = []

    def cancel_one(chunks: Sequence[Chunk], logits: Floats) -> None:
        if real_engine.n_waiting and all(len(chunk.token_ids) == 1 for chunk in chunks) and len(chunks) == MAX_RUNNING:
            running[5].cancel()
            seen.append((real_engine.n_running, len(real_runner.steps)))

    real_runner.on_step = cancel_one
    real_runner.gate.clear()
    running = [ask(real_engine, (tale[: 9 + i], endless), f"owner {i}") for i in range(MAX_RUNNING)]
    waiting = ask(real_engine, (tale[:8], {"max_tokens": 4}), "late")
    real_runner.gate.set()
    read(waiting)
    for generation in running:
        generation.cancel()
    [(n_running, n_steps)] = seen
    assert n_running == MAX_RUNNING - 1
    following = real_runner.steps[n_steps].chunks
    assert [list(chunk.token_ids) for chunk in following if len(chunk.token_ids) > 1] == [tale[:8]]
    assert len(following) == MAX_RUNNING  # it, and all but the cancelled one


def test_cancelled_prompt_is_read_no_further_than_the_chunk(
    real_engine: Engine, real_runner: WatchedRunner, default_checkpoint: Checkpoint
) -> None:
    def cancel_in_the_third(chunks: Sequence[Chunk], logits: Floats) -> None:
        if len(real_runner.steps) == 3:
            generation.cancel()

    real_runner.on_step = cancel_in_the_third
    real_runner.gate.clear()
    generation = ask(real_engine, (default_checkpoint.tokenizer.encode(TALE * 30), {"max_tokens": 4}))
    real_runner.gate.set()
    assert read(generation) == []
    assert (generation.finish_reason, real_engine.n_running) == ("cancelled", 0)
    read(ask(real_engine, ([5], {"max_tokens": 1})))
    assert real_runner.n_tokens == 3 * PREFILL_CHUNK + 1


def test_of_twelve_requests_three_are_aborted_and_the_others_get_exactly_their_tokens(
    real_runner: WatchedRunner, default_checkpoint: Checkpoint
) -> None:
    dice, tale = random.Random(4), default_checkpoint.tokenizer.encode(TALE * 6)
    batch = [
        (tale[: dice.randrange(2, 80)], {"temperature": i % 3 / 2, "seed": i, "max_tokens": 16}) for i in range(12)
    ]
    aborted = dict(zip(dice.sample(range(2, 20), 3), dice.sample(range(12), 3), strict=True))  # by the step

    def abort(chunks: Sequence[Chunk], logits: Floats) -> None:
        if (victim := aborted.get(len(real_runner.steps))) is not None:
            generations[victim].cancel()

    with new_engine(real_runner, default_checkpoint, n_draft=4) as real_engine:
        real_runner.on_step = abort
        real_runner.gate.clear()
        generations = [ask(real_engine, asked, f"owner {i % 5}") for i, asked in enumerate(batch)]
        real_runner.gate.set()
        replies = [read(generation) for generation in generations]
    for i, asked in enumerate(batch):
        expected = alone(real_runner, default_checkpoint, asked)
        assert (generations[i].finish_reason == "cancelled") == (i in aborted.values())
        assert replies[i] == (expected[: len(replies[i])] if i in aborted.values() else expected)


def spoil_logits(real_runner: WatchedRunner, chunk: Chunk, row: Floats) -> None:
    row[:] = np.nan


def spoil_keys_and_values(real_runner: WatchedRunner, chunk: Chunk, row: Floats) -> None:
    real_runner.copy_block(real_runner.n_blocks - 1, chunk.block_table[0])  # a block that was never written to: NaN


@pytest.mark.parametrize("spoil", [spoil_logits, spoil_keys_and_values])
def test_reply_of_numbers_that_are_not_finite_alone_ends_with_an_error(
    real_runner: WatchedRunner, default_checkpoint: Checkpoint, spoil: Callable[[WatchedRunner, Chunk, Floats], None]
) -> None:
    tale = default_checkpoint.tokenizer.encode(TALE * 3)
    batch = [(tale[: 10 + 5 * i], {"temperature": 1, "seed": i, "max_tokens": 12}) for i in range(4)]
    victim = tale[:60], {"temperature": 0, "max_tokens": 8}

    def spoil_one(chunks: Sequence[Chunk], logits: Floats) -> None:
        for row, chunk in enumerate([chunk for chunk in chunks if chunk.n_logits]):
            if chunk.start == 64:
                spoil(real_runner, chunk, logits[row])

    with new_engine(real_runner, default_checkpoint) as real_engine:
        real_runner.on_step = spoil_one
        bad = ask(real_engine, victim)
        others = [ask(real_engine, asked, f"owner {i}") for i, asked in enumerate(batch)]
        replies = [read(generation) for generation in others]
        spoilt = read(bad)
        assert (bad.finish_reason, bad.error) == ("error", "The model computed numbers that are not finite.")
        real_runner.on_step = lambda chunks, logits: None
        again = ask(real_engine, victim)
        complete = read(again)
        assert usage_of(again).cached_tokens == 0  # nothing of what was spoilt is kept
    assert replies == [alone(real_runner, default_checkpoint, asked) for asked in batch]
    assert complete == alone(real_runner, default_checkpoint, victim)
    assert 5 <= len(spoilt) <= 6
    assert complete[: len(spoilt)] == spoilt
