"""Who runs, and what the next step computes: token ids only, no network and no threads.

Owners are served by the tokens that were computed for them, the least served first (the virtual token counter of
Sheng et al., OSDI 2024). A sequence gets in once all blocks that it may ever need are there, so none is put back.
"""

import math
from collections import deque
from collections.abc import Callable
from time import perf_counter

from model.config import BLOCK_SIZE
from model.engine.block_manager import BlockManager, BlockTable
from model.engine.generation import FinishReason
from model.engine.runner import Chunk
from model.engine.sequence import Sequence
from model.errors import EngineBusy
from model.sampling import Floats

MAX_RUNNING = 16
MAX_WAITING = 64
"""Sequences of all owners; half of them may be of one."""
PREFILL_CHUNK = 64
"""Tokens of prompts in one step: no reply in progress waits longer for its next token."""
SCORING_CHUNK = 48
"""The same where tokens are scored: so many take as long, for the logits after each are computed and looked at."""
MAX_DRAFTING = 2
"""Sequences: where more of them decode, a step has enough to do, and drafts would hold up the others."""
N_MEASURED = 32
"""Replies by which the pace is measured."""

Step = list[tuple[Sequence, Chunk]]


class Scheduler:
    """Waiting and running sequences: `admit` and `schedule` make a step, `update` takes in what it computed."""

    def __init__(
        self,
        n_blocks: int,
        copy_block: Callable[[int, int], None],
        *,
        n_draft: int = 0,
        on_end: Callable[[Sequence], None] = lambda sequence: None,
    ) -> None:
        """Share out `n_blocks` blocks; sequences that decode get up to `n_draft` drafted tokens in a step.

        `on_end` is called with each sequence that has ended.
        """
        self.n_steps = 0
        self.n_busy = 0  # sequences that had a part in a step, summed over all steps
        self._on_end = on_end
        self._blocks = BlockManager(n_blocks, copy_block)
        self._n_draft = n_draft
        self._waiting: list[Sequence] = []  # as they came
        self._running: dict[Sequence, BlockTable] = {}  # as they got in
        self._served: dict[str, int] = {}  # tokens computed for each owner that has sequences here
        self._pace = _Pace()
        self._step_began = 0.0

    @property
    def n_waiting(self) -> int:
        """How many sequences wait."""
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        """How many sequences run."""
        return len(self._running)

    @property
    def cache_usage(self) -> float:
        """Which share of the blocks running sequences hold or have reserved."""
        return 1 - self._blocks.n_free / self._blocks.n_blocks

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn; raises EngineBusy."""
        own = [waiting for waiting in self._waiting if waiting.owner == sequence.owner]
        self._refuse_beyond(MAX_WAITING, self._waiting, "replies are")
        self._refuse_beyond(MAX_WAITING // 2, own, "of your replies are")
        # whoever comes back has saved nothing up
        self._served.setdefault(sequence.owner, min(self._served.values(), default=0))
        self._waiting.append(sequence)
        self._line_up()

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence, if it has not ended yet; what is being computed for it is dropped by `update`."""
        if sequence in self._running or sequence in self._waiting:
            self._finish(sequence, "cancelled")

    def expire(self) -> None:
        """End those that have waited too long."""
        for sequence in [waiting for waiting in self._waiting if waiting.seconds_left <= 0]:
            text = f"The engine was too busy to begin within {sequence.timeout:g} s; try again later."
            self._finish(sequence, "error", text)

    def patience(self) -> float | None:
        """Return in how many seconds `expire` is to be called; None while nothing waits."""
        return min((max(0.0, waiting.seconds_left) for waiting in self._waiting), default=None)

    def admit(self) -> None:
        """Let sequences in, in order. One that does not fit keeps those behind it out: else it might never fit."""
        for sequence in self._line_up():
            if len(self._running) == MAX_RUNNING or not self._open(sequence):
                break
        self._line_up()

    def schedule(self) -> Step:
        """Make a step: the newest token of all that decode, with drafts, and a chunk of the prompts of the others."""
        self._step_began = perf_counter()
        decoding = [sequence for sequence in self._running if sequence.n_pending == 1]
        n_draft = self._n_draft if len(decoding) <= MAX_DRAFTING else 0
        step = [(sequence, self._chunk(sequence, 1, sequence.draft(n_draft))) for sequence in decoding]
        budget = SCORING_CHUNK if any(sequence.is_scored for sequence in self._running) else PREFILL_CHUNK
        for sequence in sorted(self._running, key=lambda sequence: self._served[sequence.owner]):
            n_tokens = min(sequence.n_pending, budget) if sequence.n_pending > 1 else 0
            if n_tokens:
                step.append((sequence, self._chunk(sequence, n_tokens, [])))
                budget -= n_tokens
        return step

    def update(self, step: Step, logits: Floats) -> None:
        """Take in the logits (sum of n_logits, V) of a step: replies grow, and some end."""
        n_running = len(self._running)
        self.n_steps += 1
        self.n_busy += len(step)
        row = 0
        for sequence, chunk in step:
            rows = logits[row : row + chunk.n_logits]
            row += chunk.n_logits
            if sequence in self._running:  # it may have been cancelled meanwhile
                self._take(sequence, chunk, rows)
        self._pace.add(perf_counter() - self._step_began, n_running - len(self._running))

    def abandon(self, reason: FinishReason, error: str | None = None) -> None:
        """End all sequences; nothing is to be computed any more."""
        sequences = [*self._running, *self._waiting]
        self._running.clear()
        self._waiting.clear()
        for sequence in sequences:
            sequence.finish(reason, error)
            self._on_end(sequence)

    def check(self) -> None:
        """Assert that the books of the blocks are right."""
        self._blocks.check()

    def _refuse_beyond(self, limit: int, waiting: list[Sequence], what: str) -> None:
        if len(waiting) >= limit:
            first = min(sequence.generation.queue_position for sequence in waiting)
            retry_after = self._pace.seconds_for(first) or 1
            raise EngineBusy(f"{limit} {what} waiting already; try again in {retry_after} s.", retry_after)

    def _line_up(self) -> list[Sequence]:
        """Tell the waiting their places in the order in which they will get in, and return them so.

        Each one counts for its owner as much as has been computed, is being computed, and waits before it.
        """
        loads = dict(self._served)
        for sequence in self._running:
            loads[sequence.owner] += max(0, sequence.n_prompt - sequence.n_computed)
        load_before: dict[Sequence, int] = {}
        for sequence in self._waiting:
            load_before[sequence] = loads[sequence.owner]
            loads[sequence.owner] += sequence.n_prompt
        line = sorted(self._waiting, key=lambda sequence: load_before[sequence])  # of equals, who came first
        for place, sequence in enumerate(line, start=1):
            sequence.generation.queue_position = place
            sequence.generation.wait_seconds = self._pace.seconds_for(place)
        return line

    def _open(self, sequence: Sequence) -> bool:
        # the last of these tokens is always computed: the logits after it are wanted
        token_ids = sequence.token_ids[: sequence.n_unscored]
        table = self._blocks.open(
            token_ids, owner=sequence.owner, n_shared=sequence.n_shared, max_length=sequence.max_length
        )
        if table is None:
            return False
        self._waiting.remove(sequence)
        self._running[sequence] = table
        sequence.start(table.n_cached)
        return True

    def _chunk(self, sequence: Sequence, n_tokens: int, draft: list[int]) -> Chunk:
        table, start = self._running[sequence], sequence.n_computed
        token_ids = sequence.token_ids[start : start + n_tokens] + draft
        end = start + len(token_ids)
        self._blocks.extend(table, end)
        n_logits = min(len(token_ids), max(0, end + 1 - sequence.n_unscored))  # from the last unscored token on
        return Chunk(token_ids, start, tuple(table.block_ids), n_logits)  # a copy: it may be closed during the run

    def _take(self, sequence: Sequence, chunk: Chunk, rows: Floats) -> None:
        n_served, n_sound_blocks = sequence.n_served, sequence.n_sound // BLOCK_SIZE
        reason = sequence.take(chunk.token_ids, rows)
        self._served[sequence.owner] += sequence.n_served - n_served
        if reason:
            self._finish(sequence, reason)
        elif sequence.n_sound // BLOCK_SIZE > n_sound_blocks:
            self._blocks.commit(self._running[sequence], sequence.token_ids[: sequence.n_sound])

    def _finish(self, sequence: Sequence, reason: FinishReason, error: str | None = None) -> None:
        if sequence in self._running:
            # first of all: should it fail, the sequence is still among those that hear of it
            self._blocks.close(self._running[sequence], sequence.token_ids[: sequence.n_sound])
            del self._running[sequence]
        else:
            self._waiting.remove(sequence)
        if all(other.owner != sequence.owner for other in (*self._running, *self._waiting)):
            del self._served[sequence.owner]
        self._line_up()
        sequence.finish(reason, error)
        self._on_end(sequence)


class _Pace:
    """How long the engine is busy for a reply, measured by the last ones."""

    def __init__(self) -> None:
        self._busy_seconds = 0.0
        self._ends = deque([0.0], maxlen=1 + N_MEASURED)  # how long it had been busy when each reply ended

    def add(self, seconds: float, n_replies: int) -> None:
        """Count a step and the replies that ended with it."""
        self._busy_seconds += seconds
        self._ends.extend([self._busy_seconds] * n_replies)

    def seconds_for(self, n_replies: int) -> int | None:
        """Return how many whole seconds so many replies take; None before anything has been measured."""
        if not (n_measured := len(self._ends) - 1):
            return None
        return max(1, math.ceil(n_replies * (self._ends[-1] - self._ends[0]) / n_measured))
