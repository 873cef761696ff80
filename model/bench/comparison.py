"""Parley and its peers side by side: all of them do one thing after another, in turns."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from model.bench.contestant import Contestant
from model.bench.exactness import N_GREEDY, encode_questions, measure_exactness
from model.bench.figures import OURS, Figure, Figures, Row
from model.bench.parley import Opener, Parley
from model.bench.peers import PEERS
from model.bench.reference import Reference
from model.bench.worker import Worker
from model.bench.workload import Case, Ids, cases
from model.checkpoint.checkpoint import Checkpoint
from model.config import BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class Result:
    """What a comparison has found."""

    rows: list[Row]
    descriptions: Mapping[str, str]  # what computes, by contestant


class Comparison:
    """Measures Parley and its peers on one checkpoint, with one number of threads."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        open_parley: Opener,
        peers: tuple[str, ...],
        *,
        n_ctx: int,
        n_positions: int,
        n_threads: int,
        n_runs: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._n_ctx = n_ctx
        self._n_threads = n_threads
        self._n_runs = n_runs
        self._progress = progress
        self._prompts = encode_questions(checkpoint.chat_template)
        self._cases = cases(n_ctx, n_positions)
        self._openers = {OURS: partial(Parley, open_parley)} | {name: self._open_peer(name) for name in peers}
        self._figures = Figures()
        self._n_done = 0

    def run(self) -> Result:
        """Measure everything that fits; raises ModelError when a contestant fails."""
        with ExitStack() as stack:
            workers = self._start(stack)
            for number, case in enumerate(self._cases):
                self._measure(case, number, workers)
            for worker in workers:
                self._add_memory(worker, "at the end")
            reference = stack.enter_context(Worker("the reference", self._open_reference()))
            measure_exactness(
                workers,
                reference,
                self._prompts,
                self._figures,
                n_ctx=self._n_ctx,
                advance=self._advance,
            )
            descriptions = {worker.name: worker.call("describe") for worker in workers}
        return Result(self._figures.rows(), descriptions)

    def _start(self, stack: ExitStack) -> list[Worker]:
        """Start each contestant as often as there are runs; those of the last one stay."""
        for run in range(self._n_runs):
            workers = []
            for name, opener in self._openers.items():
                worker = Worker(name, opener)
                stack.callback(worker.close)
                self._figures.add(Figure("start_up", "s"), name, worker.start_up)
                self._add_memory(worker, "once loaded")
                if run < self._n_runs - 1:
                    worker.close()
                workers.append(worker)
                self._advance()
        return workers

    def _measure(self, case: Case, number: int, workers: list[Worker]) -> None:
        """Have the contestants take turns, all with the same tokens. The first round is not counted."""
        ordinary_ids = self._ordinary_ids()
        for run in range(self._n_runs + 1):
            values = {}
            # each of them comes after another one in each round
            for worker in [*workers[run % len(workers) :], *workers[: run % len(workers)]]:
                values[worker] = case.measure(worker, Ids(ordinary_ids, [number, run]))
                self._advance()
            for worker in workers if run else ():
                for figure, value in values[worker].items():
                    self._figures.add(figure, worker.name, value)

    def _ordinary_ids(self) -> list[int]:
        control_ids = set(self._checkpoint.tokenizer.control_tokens.values())
        return [token_id for token_id in range(self._checkpoint.tokenizer.n_vocab) if token_id not in control_ids]

    def _add_memory(self, worker: Worker, note: str) -> None:
        self._figures.add(Figure("memory", "MB", note=note), worker.name, worker.peak_memory / 1e6)

    def _open_peer(self, name: str) -> Callable[[], Contestant]:
        n_ctx = max([case.n_tokens for case in self._cases] + [self._longest_reply()])
        end_ids = sorted(self._checkpoint.end_ids)
        return partial(PEERS[name].open, self._checkpoint.path, self._n_threads, n_ctx, end_ids)

    def _open_reference(self) -> Callable[[], Reference]:
        n_blocks = len(self._prompts) * (self._longest_reply() // BLOCK_SIZE + 1)
        return partial(Reference, self._checkpoint.path, self._n_threads, n_blocks)

    def _longest_reply(self) -> int:
        """Return how many tokens the longest question takes with its reply."""
        return min(max(map(len, self._prompts)) + N_GREEDY, self._n_ctx)

    def _advance(self) -> None:
        self._n_done += 1
        n_contestants = len(self._openers)
        n_rounds = self._n_runs + len(self._cases) * (self._n_runs + 1)
        self._progress(self._n_done, n_contestants * (n_rounds + 1) + len(self._prompts))
