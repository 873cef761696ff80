"""The engine: who gets which tokens, what is reused, and how replies end.

Most tests use a runner that is scripted: after the token n comes n + 1, so that "abc" goes on as "defg…".
"""

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import MAX_WAITING, N_SLOTS, PREFILL_CHUNK, Engine
from model.engine.generation import Generation
from model.engine.sequence import Limits
from model.errors import EngineBusy, EngineStopped, PromptTooLong
from model.sampling import Floats
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer

Ask = Callable[..., Generation]

END = 2
GREEDY = SamplingParams(temperature=0, max_tokens=5)
ENDLESS = SamplingParams(temperature=0, max_tokens=10**9)


class ScriptedCache:
    def __init__(self) -> None:
        self.token_ids: list[int] = []

    def copy_prefix(self, other: "ScriptedCache", length: int) -> None:
        self.token_ids = other.token_ids[:length]

    def truncate(self, length: int) -> None:
        assert length <= len(self.token_ids)
        del self.token_ids[length:]


class ScriptedRunner:
    """Answers n with n + 1, or with what `after` says; stands still while `gate` is closed."""

    def __init__(self, n_vocab: int) -> None:
        self.n_vocab = n_vocab
        self.after: dict[int, int] = {}
        self.poison: set[int] = set()  # prompts with one of these give NaN
        self.at: dict[int, Callable[[], None]] = {}  # what happens when a token is run
        self.broken = False
        self.runs: list[list[int]] = []
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def new_cache(self) -> ScriptedCache:
        return ScriptedCache()

    def run(self, token_ids: list[int], cache: ScriptedCache) -> Floats:
        self.entered.set()
        self.gate.wait()
        if self.broken:
            raise RuntimeError("out of\nmemory")
        self.runs.append(list(token_ids))
        self.at.get(token_ids[-1], lambda: None)()
        cache.token_ids += token_ids
        logits = np.zeros(self.n_vocab, np.float32)
        last = token_ids[-1]
        logits[self.after.get(last, 3 + (last - 2) % (self.n_vocab - 3))] = 50
        return logits * np.nan if self.poison & set(cache.token_ids) else logits


@pytest.fixture
def tokenizer(tiny_checkpoint: Checkpoint) -> Tokenizer:
    return tiny_checkpoint.tokenizer


@pytest.fixture
def runner(tokenizer: Tokenizer) -> ScriptedRunner:
    return ScriptedRunner(tokenizer.n_vocab)


@pytest.fixture
def engine(runner: ScriptedRunner, tokenizer: Tokenizer) -> Iterator[Engine]:
    engine = Engine(runner, tokenizer, Limits(n_ctx=10**9, end_ids=frozenset({END}), n_cached=10**12))  # type: ignore[arg-type]
    yield engine
    runner.gate.set()
    engine.close()


@pytest.fixture
def short_engine(runner: ScriptedRunner, tokenizer: Tokenizer) -> Iterator[Engine]:
    engine = Engine(runner, tokenizer, Limits(n_ctx=8, end_ids=frozenset({END}), n_cached=10**12))  # type: ignore[arg-type]
    yield engine
    engine.close()


@pytest.fixture
def ask(engine: Engine, tokenizer: Tokenizer) -> Ask:
    def submit(text: str, params: SamplingParams = GREEDY, owner: str = "ada") -> Generation:
        return engine.submit(tokenizer.encode(text), params, owner=owner)

    return submit


def read(generation: Generation) -> str:
    return "".join(piece.text for piece in generation)


def cached(generation: Generation) -> int:
    read(generation)
    assert generation.usage is not None
    return generation.usage.cached_tokens


def hold(runner: ScriptedRunner) -> None:
    """Let the worker stand still in its next run."""
    runner.gate.clear()
    runner.entered.clear()


def test_reply_comes_in_pieces_with_their_tokens(ask: Ask, tokenizer: Tokenizer) -> None:
    pieces = list(ask("abc"))
    assert [piece.text for piece in pieces] == ["d", "e", "f", "g", "h"]
    assert [piece.token_ids for piece in pieces] == [tuple(tokenizer.encode(char)) for char in "defgh"]


def test_usage_counts_tokens_and_time(ask: Ask) -> None:
    generation = ask("abc")
    assert read(generation) == "defgh"
    usage = generation.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (3, 0, 5)
    assert 0 < usage.ttft_ms <= usage.duration_ms


def test_character_of_several_tokens_comes_whole_with_them(
    ask: Ask, runner: ScriptedRunner, tokenizer: Tokenizer
) -> None:
    parrot = tokenizer.encode("🦜")
    runner.after = dict(zip([*tokenizer.encode("a"), *parrot], [*parrot, END], strict=True))
    assert [(piece.text, piece.token_ids) for piece in ask("a")] == [("🦜", tuple(parrot))]


def test_half_a_character_at_the_end_is_the_replacement_character(
    ask: Ask, runner: ScriptedRunner, tokenizer: Tokenizer
) -> None:
    first = tokenizer.encode("🦜")[0]
    runner.after = {tokenizer.encode("a")[0]: first, first: END}
    assert [(piece.text, piece.token_ids) for piece in ask("a")] == [("\ufffd", (first,))]


def test_same_prompt_again_leaves_one_token_to_compute(ask: Ask, runner: ScriptedRunner, tokenizer: Tokenizer) -> None:
    assert cached(ask("abcdefgh")) == 0
    runner.runs.clear()
    assert cached(ask("abcdefgh")) == 7
    assert runner.runs[0] == tokenizer.encode("h")


def test_next_turn_computes_only_what_is_new(ask: Ask, runner: ScriptedRunner, tokenizer: Tokenizer) -> None:
    assert read(ask("abc")) == "defgh"
    runner.runs.clear()
    assert cached(ask("abcdefgh!!")) == 7  # the last token of the reply was never run
    assert runner.runs[0] == tokenizer.encode("h!!")


def test_edited_turn_reuses_what_comes_before_the_edit(ask: Ask, runner: ScriptedRunner, tokenizer: Tokenizer) -> None:
    read(ask("abcdefgh"))
    runner.runs.clear()
    edited = ask("abcdefXY")
    assert (cached(edited), runner.runs[0]) == (6, tokenizer.encode("XY"))


def test_nothing_is_reused_across_owners(ask: Ask, runner: ScriptedRunner, tokenizer: Tokenizer) -> None:
    read(ask("abcdefgh", owner="ada"))
    runner.runs.clear()
    assert cached(ask("abcdefgh", owner="bob")) == 0
    assert runner.runs[0] == tokenizer.encode("abcdefgh")


def test_conversations_of_four_owners_keep_their_slots(ask: Ask) -> None:
    owners = [f"owner {i}" for i in range(N_SLOTS)]
    assert [cached(ask("abcdefgh", owner=owner)) for owner in owners * 2] == [0] * N_SLOTS + [7] * N_SLOTS


def test_fifth_owner_takes_the_slot_that_was_used_longest_ago(ask: Ask) -> None:
    for owner in "abcde":
        read(ask("abcdefgh", owner=owner))
    assert [cached(ask("abcdefgh", owner=owner)) for owner in "bcdea"] == [7, 7, 7, 7, 0]


def test_prompt_is_read_in_chunks_and_others_take_turns(ask: Ask, runner: ScriptedRunner) -> None:
    hold(runner)
    first = ask("ab")
    runner.entered.wait()
    long, short = ask("x" * (2 * PREFILL_CHUNK + 9)), ask("cd")
    runner.gate.set()
    assert (read(first), read(long), read(short)) == ("cdefg", "yz{|}", "efghi")
    assert [len(run) for run in runner.runs[:7]] == [2, 1, PREFILL_CHUNK, 2, 1, PREFILL_CHUNK, 1]
    assert long.prefilled_tokens == 2 * PREFILL_CHUNK + 9


@pytest.mark.parametrize("n_tokens", [PREFILL_CHUNK - 1, PREFILL_CHUNK, PREFILL_CHUNK + 1, 2 * PREFILL_CHUNK])
def test_prompt_of_whole_chunks_is_answered_once(ask: Ask, runner: ScriptedRunner, n_tokens: int) -> None:
    assert read(ask("x" * n_tokens)) == "yz{|}"
    assert sum(map(len, runner.runs)) == n_tokens + 4


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


def test_prompt_that_shares_little_takes_a_copy_and_leaves_a_long_conversation_alone(ask: Ask) -> None:
    long, short = "abcdefghijklmnopqrst", "abcXYZ"
    read(ask(long))
    assert cached(ask(short)) == 3
    assert (cached(ask(long)), cached(ask(short))) == (19, 5)


def test_regenerated_reply_reuses_its_prompt_though_the_first_reply_was_longer(ask: Ask) -> None:
    read(ask("abcd", SamplingParams(temperature=0, max_tokens=50)))
    assert cached(ask("abcd")) == 3


def test_prefix_of_a_running_sequence_is_shared(ask: Ask) -> None:
    running = ask("abcdef", ENDLESS)
    next(iter(running))
    assert cached(ask("abcdXY")) == 4
    running.cancel()


def test_cancelled_in_the_queue_it_never_starts(ask: Ask, runner: ScriptedRunner) -> None:
    hold(runner)
    running = [ask("ab") for _ in range(N_SLOTS)]
    queued, last = ask("XYZ"), ask("cd")
    queued.cancel()
    runner.gate.set()
    assert [read(generation) for generation in running] == ["cdefg"] * N_SLOTS
    assert (read(queued), queued.finish_reason, read(last)) == ("", "cancelled", "efghi")
    assert queued.usage is not None
    assert (queued.usage.completion_tokens, queued.usage.ttft_ms) == (0, None)


def test_cancelling_twice_or_too_late_does_nothing(ask: Ask) -> None:
    generation = ask("abc")
    assert read(generation) == "defgh"
    generation.cancel()
    generation.cancel()
    assert (generation.finish_reason, generation.error) == ("length", None)
    assert read(ask("abc")) == "defgh"


def test_queue_is_served_in_order(ask: Ask, runner: ScriptedRunner, tokenizer: Tokenizer) -> None:
    hold(runner)
    generations = [ask(char, SamplingParams(temperature=0, max_tokens=1)) for char in "ABCDEFGHIJKL"]
    runner.gate.set()
    assert [read(generation) for generation in generations] == list("BCDEFGHIJKLM")
    assert runner.runs == [tokenizer.encode(char) for char in "ABCDEFGHIJKL"]


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


def test_end_token_ends_with_stop_and_has_no_text(ask: Ask, runner: ScriptedRunner, tokenizer: Tokenizer) -> None:
    runner.after = {tokenizer.encode("c")[0]: END}
    generation = ask("a", ENDLESS)
    assert read(generation) == "bc"
    assert generation.finish_reason == "stop"
    assert generation.usage is not None
    assert generation.usage.completion_tokens == 2


def test_end_token_at_once_gives_an_empty_reply(ask: Ask, runner: ScriptedRunner, tokenizer: Tokenizer) -> None:
    runner.after = {tokenizer.encode("a")[0]: END}
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


def test_full_queue_is_busy_and_recovers(ask: Ask, runner: ScriptedRunner) -> None:
    hold(runner)
    running = ask("ab")
    runner.entered.wait()
    waiting = [ask("ab") for _ in range(MAX_WAITING)]
    with pytest.raises(EngineBusy, match=r"^16 replies are waiting already; try again in a moment\.$"):
        ask("ab")
    runner.gate.set()
    assert [read(generation) for generation in [running, *waiting]] == ["cdefg"] * (MAX_WAITING + 1)
    assert read(ask("ab")) == "cdefg"


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
    generations = [ask("ab", ENDLESS) for _ in range(N_SLOTS + 2)]
    assert next(iter(generations[0])).text == "c"
    engine.close()
    for generation in generations:
        read(generation)
    assert [generation.finish_reason for generation in generations] == ["cancelled"] * (N_SLOTS + 2)


def test_held_back_text_comes_with_the_cancellation(ask: Ask, runner: ScriptedRunner, tokenizer: Tokenizer) -> None:
    hold(runner)
    generation = ask("a", SamplingParams(temperature=0, stop=("bcdX",)))
    runner.at = {tokenizer.encode("c")[0]: generation.cancel}
    runner.gate.set()
    assert [piece.text for piece in generation] == ["bcd"]
    assert generation.finish_reason == "cancelled"


def test_runner_that_fails_ends_everybody_with_an_error(engine: Engine, ask: Ask, runner: ScriptedRunner) -> None:
    hold(runner)
    generations = [ask("ab") for _ in range(N_SLOTS + 2)]
    runner.broken = True
    runner.gate.set()
    assert [read(generation) for generation in generations] == [""] * (N_SLOTS + 2)
    assert {generation.finish_reason for generation in generations} == {"error"}
    assert {generation.error for generation in generations} == {"The engine has stopped after an error (RuntimeError)."}


def test_panic_of_a_library_ends_everybody_too(
    engine: Engine, ask: Ask, runner: ScriptedRunner, tokenizer: Tokenizer
) -> None:
    class Panic(BaseException):  # as those of libraries in Rust
        pass

    def panic() -> None:
        raise Panic

    runner.at = {tokenizer.encode("b")[0]: panic}
    generation = ask("ab")
    assert (read(generation), generation.finish_reason) == ("", "error")
    assert not engine.healthy


def test_engine_that_failed_says_so(engine: Engine, ask: Ask, runner: ScriptedRunner) -> None:
    runner.broken = True
    read(ask("ab"))
    assert not engine.healthy
    with pytest.raises(EngineStopped, match=r"^The engine has stopped after an error \(RuntimeError\)\.$"):
        ask("ab")


def test_numbers_that_are_not_finite_end_that_reply_only(
    ask: Ask, runner: ScriptedRunner, tokenizer: Tokenizer
) -> None:
    runner.poison = set(tokenizer.encode("!"))
    bad, good = ask("abc!"), ask("abc")
    assert (read(bad), bad.finish_reason) == ("", "error")
    assert bad.error == "The model computed numbers that are not finite."
    assert (read(good), good.finish_reason) == ("defgh", "length")


@pytest.mark.parametrize("owner", ["ada", ""])
def test_numbers_that_are_not_finite_are_not_reused(
    ask: Ask, runner: ScriptedRunner, tokenizer: Tokenizer, owner: str
) -> None:
    runner.poison = set(tokenizer.encode("!"))
    read(ask("abcdefg!", owner=owner))
    again = ask("abcdefg!", owner=owner)
    assert (cached(again), again.finish_reason) == (0, "error")
    runner.poison = set()
    assert cached(ask("abcdefg!", owner=owner)) == 0


def test_reply_is_logged_without_its_text(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="model.engine.engine"):
        read(ask("abcdefgh"))
        read(ask("abcdefgh"))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("reply of 5 tokens to 8 (0 cached) in ")
    assert second.startswith("reply of 5 tokens to 8 (7 cached) in ")


def test_idle_caches_are_given_back_oldest_first_when_all_together_are_too_large(
    runner: ScriptedRunner, tokenizer: Tokenizer
) -> None:
    limits = Limits(n_ctx=100, end_ids=frozenset({END}), n_cached=40)
    engine = Engine(runner, tokenizer, limits)  # type: ignore[arg-type]
    texts = ["abcdefgh", "ABCDEFGH", "12345678", "!#$%&()*", "12345678", "abcdefgh"]  # 13 positions each with a reply
    reused = [cached(engine.submit(tokenizer.encode(text), GREEDY, owner="ada")) for text in texts]
    engine.close()
    assert reused == [0, 0, 0, 0, 7, 0]


def test_sequences_wait_until_there_is_room_in_the_caches(runner: ScriptedRunner, tokenizer: Tokenizer) -> None:
    limits = Limits(n_ctx=100, end_ids=frozenset({END}), n_cached=20)
    engine = Engine(runner, tokenizer, limits)  # type: ignore[arg-type]
    generations = [engine.submit(tokenizer.encode(text), GREEDY, owner="ada") for text in ("abcdefgh", "ABCDEFGH")]
    assert [read(generation) for generation in generations] == ["ijklm", "IJKLM"]
    engine.close()


def test_one_sequence_larger_than_all_caches_runs_alone(runner: ScriptedRunner, tokenizer: Tokenizer) -> None:
    limits = Limits(n_ctx=100, end_ids=frozenset({END}), n_cached=5)
    engine = Engine(runner, tokenizer, limits)  # type: ignore[arg-type]
    assert read(engine.submit(tokenizer.encode("abcdefgh"), GREEDY, owner="ada")) == "ijklm"
    engine.close()
