from typing import Any, cast

import pytest
from bench_openers import Slow

from model.bench.figures import Figure
from model.bench.worker import Worker
from model.bench.workload import Ids, Values, cases

ORDINARY_IDS = range(10, 1000)


class FakeWorker:
    """Calls a contestant that is in this process."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    def call(self, verb: str, *arguments: Any) -> Any:
        self.asked.append((verb, arguments[0]))
        return getattr(Slow(), verb)(*arguments)


def measure(worker: FakeWorker, n_ctx: int = 10_000, n_positions: int = 10_000) -> Values:
    values: Values = {}
    for case in cases(n_ctx, n_positions):
        values |= case.measure(cast(Worker, worker), Ids(ORDINARY_IDS, [0]))
    return values


def test_all_figures_are_measured() -> None:
    assert {(figure.what, figure.chats, figure.tokens) for figure in measure(FakeWorker())} == {
        *(("decode", n_chats, 100) for n_chats in (1, 2, 4, 8, 16)),
        ("decode", 1, 2_000),
        *(("prefill", 1, n_tokens) for n_tokens in (64, 512, 2_048)),
        *(("first_token", 1, n_tokens) for n_tokens in (32, 608)),
    }


def test_speeds_are_of_all_chats_together_and_waits_in_milliseconds() -> None:
    values = measure(FakeWorker())
    assert values[Figure("decode", "tok/s", 8, 100)] == pytest.approx(8 / 10)  # 10 s for a step with 100 tokens before
    assert values[Figure("prefill", "tok/s", 1, 512)] == pytest.approx(10)
    assert values[Figure("first_token", "ms", 1, 32, "turn 1")] == 1_000
    assert values[Figure("first_token", "ms", 1, 608, "turn 10")] == 10_000
    assert values[Figure("first_token", "ms", 1, 608, "turn 10, nothing reused")] == pytest.approx(60_800)


def test_a_short_context_leaves_out_what_does_not_fit() -> None:
    assert {figure.tokens for figure in measure(FakeWorker(), n_ctx=256)} == {64, 100}


def test_a_small_cache_leaves_out_what_does_not_fit() -> None:
    measured = measure(FakeWorker(), n_positions=1_000)
    assert {figure.chats for figure in measured if figure.what == "decode"} == {1, 2, 4}
    assert {figure.tokens for figure in measured if figure.what == "prefill"} == {64, 512}


def test_no_case_needs_more_than_it_says() -> None:
    for case in cases(10_000, 10_000):
        worker = FakeWorker()
        case.measure(cast(Worker, worker), Ids(ORDINARY_IDS, [0]))
        lengths = [len(value) if verb == "prefill" else sum(map(len, value)) for verb, value in worker.asked]
        assert max(lengths) < case.n_tokens


def test_contestants_get_the_same_tokens_and_another_run_others() -> None:
    first, second, third = FakeWorker(), FakeWorker(), FakeWorker()
    for worker, seed in ((first, 1), (second, 1), (third, 2)):
        cases(10_000, 10_000)[-1].measure(cast(Worker, worker), Ids(ORDINARY_IDS, [seed]))
    assert first.asked == second.asked != third.asked
    assert {token_id for turn in first.asked[0][1] for token_id in turn} <= set(ORDINARY_IDS)
