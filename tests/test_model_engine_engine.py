"""The engine: threads, replies as callers see them, and what is refused.

Most tests use a network that counts: after the token n comes n + 1, so that "abc" goes on as "defg…".
"""

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_runner import END, ENDLESS, GREEDY, Counting, FakeRunner

from model.checkpoint.checkpoint import Checkpoint
from model.engine.block_manager import BlockManager
from model.engine.engine import Engine
from model.engine.generation import Generation
from model.engine.scheduler import MAX_RUNNING, MAX_WAITING
from model.engine.sequence import Limits
from model.engine.torch_runner import TorchRunner
from model.errors import EngineBusy, EngineStopped, PromptTooLong
from model.gpt import GPT
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer

Ask = Callable[..., Generation]


@pytest.fixture
def tokenizer(tiny_checkpoint: Checkpoint) -> Tokenizer:
    return tiny_checkpoint.tokenizer


@pytest.fixture
def network(tokenizer: Tokenizer) -> Counting:
    return Counting(tokenizer.n_vocab)


@pytest.fixture
def runner(network: Counting) -> FakeRunner:
    return FakeRunner(network)


@pytest.fixture
def engine(runner: FakeRunner, tokenizer: Tokenizer) -> Iterator[Engine]:
    engine = Engine(runner, tokenizer, Limits(n_ctx=1_000, end_ids=frozenset({END})))
    yield engine
    runner.gate.set()
    engine.close()


@pytest.fixture
def short_engine(runner: FakeRunner, tokenizer: Tokenizer) -> Iterator[Engine]:
    engine = Engine(runner, tokenizer, Limits(n_ctx=8, end_ids=frozenset({END})))
    yield engine
    engine.close()


@pytest.fixture
def ask(engine: Engine, tokenizer: Tokenizer) -> Ask:
    def submit(text: str, params: SamplingParams = GREEDY, owner: str = "ada", **options: Any) -> Generation:
        return engine.submit(tokenizer.encode(text), params, owner=owner, **options)

    return submit


def read(generation: Generation) -> str:
    return "".join(piece.text for piece in generation)


def cached(generation: Generation) -> int:
    read(generation)
    assert generation.usage is not None
    return generation.usage.cached_tokens


def test_reply_comes_in_pieces_with_their_tokens(ask: Ask, tokenizer: Tokenizer) -> None:
    pieces = list(ask("abc"))
    assert [piece.text for piece in pieces] == ["d", "e", "f", "g", "h"]
    assert [piece.token_ids for piece in pieces] == [tuple(tokenizer.encode(char)) for char in "defgh"]


def test_reply_that_was_read_is_empty_when_it_is_read_again(engine: Engine) -> None:
    generation = engine.submit([3, 4], SamplingParams(max_tokens=3), owner="ada")
    assert list(generation)
    assert list(generation) == []


def test_usage_counts_tokens_and_time(ask: Ask) -> None:
    generation = ask("abc")
    assert read(generation) == "defgh"
    usage = generation.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (3, 0, 5)
    assert usage.ttft_ms == pytest.approx(usage.queue_ms + usage.prefill_ms)
    assert usage.duration_ms == pytest.approx(usage.ttft_ms + usage.decode_ms)
    assert min(usage.queue_ms, usage.prefill_ms, usage.decode_ms) > 0


def test_character_of_several_tokens_comes_whole_with_them(ask: Ask, network: Counting, tokenizer: Tokenizer) -> None:
    parrot = tokenizer.encode("🦜")
    network.after = dict(zip([*tokenizer.encode("a"), *parrot], [*parrot, END], strict=True))
    assert [(piece.text, piece.token_ids) for piece in ask("a")] == [("🦜", tuple(parrot))]


def test_half_a_character_at_the_end_is_the_replacement_character(
    ask: Ask, network: Counting, tokenizer: Tokenizer
) -> None:
    first = tokenizer.encode("🦜")[0]
    network.after = {tokenizer.encode("a")[0]: first, first: END}
    assert [(piece.text, piece.token_ids) for piece in ask("a")] == [("\ufffd", (first,))]


def test_same_prompt_again_leaves_one_token_to_compute(ask: Ask, runner: FakeRunner) -> None:
    assert cached(ask("abcdefgh")) == 0
    runner.steps.clear()
    assert cached(ask("abcdefgh")) == 7
    assert runner.steps[0] == [(7, 1, 1)]


def test_next_turn_computes_only_what_is_new(ask: Ask, runner: FakeRunner) -> None:
    assert read(ask("abc")) == "defgh"
    runner.steps.clear()
    assert cached(ask("abcdefgh!!")) == 7  # the last token of the reply was never run
    assert runner.steps[0] == [(7, 3, 1)]


def test_edited_turn_reuses_what_comes_before_the_edit(ask: Ask, runner: FakeRunner) -> None:
    read(ask("abcdefgh"))
    runner.steps.clear()
    assert cached(ask("abcdefXY")) == 6
    assert runner.steps[0] == [(6, 2, 1)]


def test_nothing_is_reused_across_owners(ask: Ask, runner: FakeRunner) -> None:
    read(ask("abcdefgh", owner="ada"))
    runner.steps.clear()
    assert cached(ask("abcdefgh", owner="bob")) == 0
    assert runner.steps[0] == [(0, 8, 1)]


def test_shared_beginning_is_reused_across_owners_in_whole_blocks(ask: Ask) -> None:
    text = "abcdefghijklmnopqrstu"
    read(ask(text, owner="ada", n_shared=18))
    assert cached(ask(text, owner="bob", n_shared=18)) == 16


def test_cancelled_reply_ends_and_the_others_get_exactly_their_tokens(ask: Ask) -> None:
    endless, other, waiting = ask("ab", ENDLESS), ask("cd"), ask("ef")
    assert next(iter(endless)).text == "c"
    endless.cancel()
    assert (read(other), read(waiting)) == ("efghi", "ghijk")
    read(endless)
    assert (endless.finish_reason, other.finish_reason, waiting.finish_reason) == ("cancelled", "length", "length")


def test_cancelled_reply_is_continued_from_its_cache(ask: Ask, engine: Engine, tokenizer: Tokenizer) -> None:
    endless = ask("abc", ENDLESS)
    first = next(iter(endless))
    endless.cancel()
    reply = [token_id for piece in [first, *endless] for token_id in piece.token_ids]
    turn = engine.submit([*tokenizer.encode("abc"), *reply, *tokenizer.encode("!")], GREEDY, owner="ada")
    assert cached(turn) == 3 + len(reply) - 1


def test_regenerated_reply_reuses_its_prompt_though_the_first_reply_was_longer(ask: Ask) -> None:
    read(ask("abcd", SamplingParams(temperature=0, max_tokens=50)))
    assert cached(ask("abcd")) == 3


def test_full_blocks_of_a_running_sequence_are_shared(ask: Ask) -> None:
    running = ask("abcdefghijklmnopqrstu", ENDLESS)
    for _, _ in zip(range(20), running, strict=False):  # two blocks are full, and more
        pass
    assert (cached(ask("abcdefghijklmnopqrXY")), running.finish_reason) == (18, None)
    running.cancel()


def test_cancelled_it_ends_at_once_though_the_worker_computes(ask: Ask, runner: FakeRunner, engine: Engine) -> None:
    running = ask("ab", ENDLESS)
    next(iter(running))
    runner.hold()
    runner.entered.wait()
    waiting = ask("cd")
    for generation in (waiting, running):
        generation.cancel()
        read(generation)
        assert generation.finish_reason == "cancelled"
    assert (engine.n_running, engine.n_waiting) == (0, 0)
    assert waiting.usage is not None
    assert (waiting.usage.completion_tokens, waiting.usage.ttft_ms) == (0, None)
    runner.gate.set()
    assert read(ask("ab")) == "cdefg"


def test_cancelling_twice_or_too_late_does_nothing(ask: Ask) -> None:
    generation = ask("abc")
    assert read(generation) == "defgh"
    generation.cancel()
    generation.cancel()
    assert (generation.finish_reason, generation.error) == ("length", None)
    assert read(ask("abc")) == "defgh"


@pytest.mark.parametrize("max_tokens", [1, 2, 30])
def test_max_tokens_end_with_length(ask: Ask, max_tokens: int) -> None:
    generation = ask("A", SamplingParams(temperature=0, max_tokens=max_tokens))
    assert read(generation) == "BCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_"[:max_tokens]
    assert generation.finish_reason == "length"


@pytest.mark.parametrize(("prompt", "reply"), [("A", "BCDEFGH"), ("ABCDEF", "GH"), ("ABCDEFG", "H")])
def test_full_context_ends_with_length(short_engine: Engine, tokenizer: Tokenizer, prompt: str, reply: str) -> None:
    generation = short_engine.submit(tokenizer.encode(prompt), ENDLESS, owner="ada")
    assert read(generation) == reply
    assert generation.finish_reason == "length"


def test_end_token_ends_with_stop_and_has_no_text(ask: Ask, network: Counting, tokenizer: Tokenizer) -> None:
    network.after = {tokenizer.encode("c")[0]: END}
    generation = ask("a", ENDLESS)
    assert read(generation) == "bc"
    assert generation.finish_reason == "stop"
    assert generation.usage is not None
    assert generation.usage.completion_tokens == 2


def test_end_token_at_once_gives_an_empty_reply(ask: Ask, network: Counting, tokenizer: Tokenizer) -> None:
    network.after = {tokenizer.encode("a")[0]: END}
    generation = ask("a", ENDLESS)
    assert (list(generation), generation.finish_reason) == ([], "stop")


def test_stop_string_ends_with_stop_and_is_not_shown(ask: Ask) -> None:
    generation = ask("a", SamplingParams(temperature=0, stop=("xyz", "def")))
    assert read(generation) == "bc"
    assert generation.finish_reason == "stop"


def test_beginning_of_a_stop_string_is_shown_at_the_end(ask: Ask, tokenizer: Tokenizer) -> None:
    pieces = list(ask("a", SamplingParams(temperature=0, max_tokens=5, stop=("efX",))))
    assert [piece.text for piece in pieces] == ["b", "c", "d", "ef"]
    assert pieces[-1].token_ids == tuple(tokenizer.encode("ef"))


def test_seed_gives_the_same_reply_in_a_busy_batch(tiny_engine: Engine, tokenizer: Tokenizer) -> None:
    prompts = [tokenizer.encode(text) for text in ("hello", "the", "a", "lo and", "b", "!!", "hello the", "x" * 150)]
    params = [SamplingParams(temperature=1.5, seed=i, max_tokens=30, top_k=40) for i in range(8)]
    alone = [read(tiny_engine.submit(prompts[i], params[i], owner=f"alone {i}")) for i in range(8)]
    together = [tiny_engine.submit(prompts[i], params[i], owner=f"together {i}") for i in range(8)]
    assert [read(generation) for generation in together] == alone
    assert len(set(alone)) == 8


@pytest.mark.parametrize("params", [SamplingParams(temperature=0), SamplingParams(temperature=0.3, seed=1)])
def test_drafts_change_nothing_on_the_real_network(
    tiny_engine: Engine, tiny_checkpoint: Checkpoint, tiny_model: GPT, params: SamplingParams
) -> None:
    runner, limits = TorchRunner(tiny_model, 20), Limits(tiny_checkpoint.config.n_ctx, tiny_checkpoint.end_ids)
    drafting = Engine(runner, tiny_checkpoint.tokenizer, limits, n_draft=4)
    replies = [engine.submit([5, 6, 7] * 9, params, owner="ada") for engine in (tiny_engine, drafting)]
    assert read(replies[0]) == read(replies[1])
    drafting.close()
    assert replies[1].usage is not None
    assert replies[1].usage.accepted_tokens > 0


def test_other_seeds_give_other_replies(tiny_engine: Engine, tokenizer: Tokenizer) -> None:
    params = [SamplingParams(temperature=1.5, seed=seed, max_tokens=30) for seed in (1, 2, None, None)]
    generations = [tiny_engine.submit(tokenizer.encode("hello"), p, owner="ada") for p in params]
    assert [generation.seed for generation in generations[:2]] == [1, 2]
    assert len({read(generation) for generation in generations}) == 4


def test_drawn_seed_is_told_and_repeats_the_reply(tiny_engine: Engine, tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("hello")
    drawn = tiny_engine.submit(token_ids, SamplingParams(temperature=1.5, max_tokens=30), owner="ada")
    text = read(drawn)
    params = SamplingParams(temperature=1.5, max_tokens=30, seed=drawn.seed)
    assert read(tiny_engine.submit(token_ids, params, owner="bob")) == text


def test_full_queue_is_busy_and_recovers(ask: Ask, runner: FakeRunner, engine: Engine) -> None:
    runner.hold()
    running = ask("ab")
    runner.entered.wait()
    waiting = [ask("ab") for _ in range(MAX_WAITING // 2)]
    with pytest.raises(EngineBusy, match=r"try again in 1 s\.$"):
        ask("ab")
    assert (engine.n_running, engine.n_waiting) == (1, MAX_WAITING // 2)
    assert [generation.queue_position for generation in waiting] == list(range(1, MAX_WAITING // 2 + 1))
    runner.gate.set()
    assert [read(generation) for generation in [running, *waiting]] == ["cdefg"] * (MAX_WAITING // 2 + 1)
    assert {generation.queue_position for generation in waiting} == {0}
    assert read(ask("ab")) == "cdefg"


def test_reply_that_cannot_begin_in_time_ends_though_nothing_else_happens(
    engine: Engine, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlockManager, "open", lambda *args, **options: None)  # nothing ever fits
    generation = ask("ab", timeout=0.05)
    assert (read(generation), generation.finish_reason) == ("", "error")
    assert generation.error == "The engine was too busy to begin within 0.05 s; try again later."
    assert generation.usage is not None
    assert 50 <= generation.usage.queue_ms == generation.usage.duration_ms < 5_000


def test_many_threads_get_each_their_own_reply(engine: Engine, tokenizer: Tokenizer) -> None:
    def chat(number: int) -> None:
        prompt = tokenizer.encode(chr(ord("A") + number) * 9)
        for _ in range(5):
            replies[number].append(read(engine.submit(prompt, GREEDY, owner=f"owner {number}")))

    replies: list[list[str]] = [[] for _ in range(16)]
    threads = [threading.Thread(target=chat, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [["".join(chr(ord("A") + i + j) for j in range(1, 6))] * 5 for i in range(16)]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_shared": -1}, "n_shared must lie between 0 and the 2 tokens of the prompt, got -1"),
        ({"n_shared": 3}, "n_shared must lie between 0 and the 2 tokens of the prompt, got 3"),
        *[
            ({"timeout": timeout}, f"timeout must be above 0 and at most 9223372036 seconds, got {timeout}")
            for timeout in (0, -1.5, math.nan, math.inf)
        ],
    ],
)
def test_bad_option_is_refused(engine: Engine, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        engine.submit([5, 6], GREEDY, owner="ada", **options)
    assert (engine.n_waiting, engine.healthy) == (0, True)


def test_runner_that_cannot_hold_one_context_is_refused(tokenizer: Tokenizer, network: Counting) -> None:
    with pytest.raises(ValueError, match=r"^n_ctx must be at most the 48 positions of the runner, got 49$"):
        Engine(FakeRunner(network, n_blocks=3), tokenizer, Limits(n_ctx=49, end_ids=frozenset()))


@pytest.mark.parametrize("n_tokens", [8, 9, 1000])
def test_prompt_without_room_for_a_reply_is_too_long(short_engine: Engine, n_tokens: int) -> None:
    with pytest.raises(PromptTooLong, match=r"tokens; at most 7 fit into the model's context\.$") as caught:
        short_engine.submit([5] * n_tokens, GREEDY, owner="ada")
    assert (caught.value.n_tokens, caught.value.limit) == (n_tokens, 7)


@pytest.mark.parametrize(
    ("token_ids", "text"),
    [
        ([], "token_ids must have at least one token, got none"),
        ([5, -1], "token_ids must lie between 0 and 264, got -1 to 5"),
        ([5, 265], "token_ids must lie between 0 and 264, got 5 to 265"),
    ],
)
def test_bad_prompt_is_refused(engine: Engine, token_ids: list[int], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        engine.submit(token_ids, GREEDY, owner="ada")
    assert engine.healthy


def test_closed_engine_takes_nothing_more(engine: Engine, ask: Ask) -> None:
    engine.close()
    engine.close()
    assert not engine.healthy
    with pytest.raises(EngineStopped, match=r"^The engine has been closed\.$"):
        ask("abc")


def test_closing_cancels_what_runs_and_what_waits(engine: Engine, ask: Ask) -> None:
    generations = [ask("ab", ENDLESS) for _ in range(MAX_RUNNING + 2)]
    assert next(iter(generations[0])).text == "c"
    engine.close()
    for generation in generations:
        read(generation)
    assert [generation.finish_reason for generation in generations] == ["cancelled"] * (MAX_RUNNING + 2)


def test_held_back_text_comes_with_the_cancellation(
    ask: Ask, runner: FakeRunner, network: Counting, tokenizer: Tokenizer
) -> None:
    runner.hold()
    generation = ask("a", SamplingParams(temperature=0, stop=("bcdX",)))
    network.at = {tokenizer.encode("c")[0]: generation.cancel}
    runner.gate.set()
    assert [piece.text for piece in generation] == ["bc"]
    assert generation.finish_reason == "cancelled"


def test_runner_that_fails_ends_everybody_with_an_error(engine: Engine, ask: Ask, runner: FakeRunner) -> None:
    runner.hold()
    generations = [ask("ab") for _ in range(MAX_RUNNING + 2)]
    runner.broken = True
    runner.gate.set()
    assert [read(generation) for generation in generations] == [""] * (MAX_RUNNING + 2)
    assert {generation.finish_reason for generation in generations} == {"error"}
    assert {generation.error for generation in generations} == {"The engine has stopped after an error (RuntimeError)."}


def test_panic_of_a_library_ends_everybody_too(
    engine: Engine, ask: Ask, network: Counting, tokenizer: Tokenizer
) -> None:
    class Panic(BaseException):  # as those of libraries in Rust
        pass

    def panic() -> None:
        raise Panic

    network.at = {tokenizer.encode("b")[0]: panic}
    generation = ask("ab")
    assert (read(generation), generation.finish_reason) == ("", "error")
    assert not engine.healthy


def test_engine_that_failed_says_so(engine: Engine, ask: Ask, runner: FakeRunner) -> None:
    runner.broken = True
    read(ask("ab"))
    assert not engine.healthy
    with pytest.raises(EngineStopped, match=r"^The engine has stopped after an error \(RuntimeError\)\.$"):
        ask("ab")


def test_numbers_that_are_not_finite_end_that_reply_only(ask: Ask, network: Counting, tokenizer: Tokenizer) -> None:
    network.bad = set(tokenizer.encode("!"))
    bad, good = ask("abc!"), ask("abc")
    assert (read(bad), bad.finish_reason) == ("", "error")
    assert bad.error == "The model computed numbers that are not finite."
    assert (read(good), good.finish_reason) == ("defgh", "length")


@pytest.mark.parametrize("owner", ["ada", ""])
def test_numbers_that_are_not_finite_are_not_reused(
    ask: Ask, network: Counting, tokenizer: Tokenizer, owner: str
) -> None:
    network.bad = set(tokenizer.encode("!"))
    read(ask("abcdefg!", owner=owner))
    again = ask("abcdefg!", owner=owner)
    assert (cached(again), again.finish_reason) == (0, "error")
    network.bad = set()
    assert cached(ask("abcdefg!", owner=owner)) == 0


def test_reply_is_logged_without_its_text(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="model.engine.sequence"):
        read(ask("abcdefgh"))
        read(ask("abcdefgh"))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("reply of 5 tokens to 8 (0 cached) in ")
    assert second.startswith("reply of 5 tokens to 8 (7 cached) in ")
