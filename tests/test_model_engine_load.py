"""The engine under load, on the native kernels and the default weights: memory, fair shares, and time.

Times are compared with others of the same run, since machines differ.
"""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
from real_engine import TALE, WatchedRunner, ask, read, usage_of

from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.engine.scheduler import PREFILL_CHUNK
from model.tokenizer import Tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

N_OWNERS, N_REQUESTS = 50, 20  # of each owner
FLOOD = 10  # requests that the first owner has waiting at any time, each as long as 20 of the others


def resident_mib() -> float:
    """Return the memory that this process has in RAM."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


class Crowd:
    """Owners who ask one thing after another, each in a thread of its own."""

    def __init__(self, real_engine: Engine, real_runner: WatchedRunner, tokenizer: Tokenizer) -> None:
        self.engine, self.runner, self.tale = real_engine, real_runner, tokenizer.encode(TALE * 20)
        self.waits: list[float] = []  # of each request but the first owner's: in fair shares
        self.n_ended = 0
        self.mib: dict[int, float] = {}  # resident memory after so many requests

    def run(self) -> None:
        with ThreadPoolExecutor(N_OWNERS - 1 + FLOOD) as pool:
            flood = pool.map(self.flood, range(N_REQUESTS))
            for polite in [pool.submit(self.be_polite, number) for number in range(1, N_OWNERS)]:
                polite.result()
            list(flood)

    def flood(self, number: int) -> None:
        self.ask(self.tale[number : number + 400], 5, "owner 0")

    def be_polite(self, number: int) -> None:
        dice = random.Random(number)
        for _ in range(N_REQUESTS):
            start, n_tokens, max_tokens = dice.randrange(400), dice.randrange(8, 24), dice.randrange(2, 8)
            wait = self.ask(self.tale[start : start + n_tokens], max_tokens, f"owner {number}")
            self.waits.append(wait / (N_OWNERS * (n_tokens + max_tokens)))

    def ask(self, token_ids: list[int], max_tokens: int, owner: str) -> int:
        """Return how many tokens the engine computed until the reply began."""
        n_before = self.runner.n_tokens
        asked = token_ids, {"temperature": 1, "seed": 1, "max_tokens": max_tokens}
        generation = ask(self.engine, asked, owner, timeout=3_600)
        n_tokens = next((self.runner.n_tokens for _ in generation), self.runner.n_tokens) - n_before
        read(generation)
        assert generation.finish_reason in ("length", "stop"), generation.error
        self.n_ended += 1
        if self.n_ended in (300, 1_000):
            self.mib[self.n_ended] = resident_mib()
        return n_tokens


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_thousand_requests_of_fifty_owners_leak_nothing_and_starve_nobody(
    real_engine: Engine, real_runner: WatchedRunner, default_checkpoint: Checkpoint
) -> None:
    crowd = Crowd(real_engine, real_runner, default_checkpoint.tokenizer)
    crowd.run()
    assert crowd.n_ended == 1_000
    assert max(crowd.waits) <= 3
    assert crowd.mib[1_000] - crowd.mib[300] < 8
    assert (real_engine.n_running, real_engine.n_waiting) == (0, 0)


def test_first_token_of_turn_ten_comes_in_a_fraction_of_the_time_without_reuse(
    real_engine: Engine, default_checkpoint: Checkpoint
) -> None:
    encode, end_ids = default_checkpoint.tokenizer.encode, tuple(default_checkpoint.end_ids)
    params = {"temperature": 0, "max_tokens": 40, "banned_token_ids": end_ids}
    question = encode("\nQuestion: And what did the cat do then, after all that?\nAnswer:")
    history = encode(TALE)
    for _ in range(9):
        prompt = [*history, *question]
        history = [*prompt, *read(ask(real_engine, (prompt, params)))]
    reused: list[float] = []
    computed: list[float] = []
    for way in "ABCDE":  # the tenth turn, asked in five ways
        prompt = [*history, *encode(f"\nQuestion: And what did neighbour {way} say to the two?\nAnswer:")]
        for owner, n_cached, times in ((f"new {way}", 0, computed), ("ada", len(history) - 1, reused)):
            generation = ask(real_engine, (prompt, {**params, "max_tokens": 1}), owner)
            read(generation)
            usage = usage_of(generation)
            assert usage.ttft_ms is not None
            assert usage.cached_tokens >= n_cached
            times.append(usage.ttft_ms)
    assert median(reused) < 0.15 * median(computed)


def test_long_prompt_holds_a_running_chat_up_by_no_more_than_a_chunk(
    real_engine: Engine, real_runner: WatchedRunner, default_checkpoint: Checkpoint
) -> None:
    encode = default_checkpoint.tokenizer.encode
    endless = {"temperature": 0, "max_tokens": 400, "banned_token_ids": tuple(default_checkpoint.end_ids)}
    long = encode(TALE * 90)[:2_000], {"max_tokens": 1}
    read(ask(real_engine, long, "alone"))
    chunk_seconds = [step.seconds for step in real_runner.steps]
    streaming = ask(real_engine, (encode(TALE), endless))
    next(iter(streaming))
    arrived = ask(real_engine, long, "bob")
    gaps, last = [], perf_counter()
    for piece in streaming:
        gaps.append((perf_counter() - last) / len(piece.token_ids))
        last = perf_counter()
        if arrived.finish_reason:
            break
    streaming.cancel()
    assert arrived.finish_reason
    assert all(step.n_prompt_tokens <= PREFILL_CHUNK for step in real_runner.steps)
    assert len(gaps) >= 2_000 / PREFILL_CHUNK - 1
    assert median(gaps) < 1.5 * median(chunk_seconds)
    assert max(gaps) < 2 * max(chunk_seconds)
