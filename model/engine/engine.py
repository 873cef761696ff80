"""The engine: one worker thread that owns the model and writes all replies.

Running sequences take turns, one step each: a chunk of the prompt or one new token, so that a long prompt delays
the others by one chunk at most.
"""

import logging
import threading
from collections import deque
from collections.abc import Sequence as Tokens
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from model.engine.generation import FinishReason, Generation
from model.engine.sequence import Limits, Sequence
from model.engine.slot import Slot
from model.errors import EngineBusy, EngineStopped, PromptTooLong
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from model.constraint import ConstraintCompiler
    from model.engine.runner import TorchRunner

logger = logging.getLogger(__name__)

N_SLOTS = 4  # sequences that run at the same time
MAX_WAITING = 16
PREFILL_CHUNK = 128  # tokens


class Engine:
    """Turns prompts into replies: `submit` queues one and returns its Generation at once."""

    def __init__(self, runner: "TorchRunner", tokenizer: Tokenizer, limits: Limits) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._limits = limits
        self._slots = [Slot(runner.new_cache()) for _ in range(N_SLOTS)]
        self._n_started = 0
        self._waiting: deque[Sequence] = deque()
        self._changed = threading.Condition()  # guards _waiting, _closed and _failure
        self._closed = False
        self._failure: str | None = None
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)
        self._worker.start()

    @property
    def healthy(self) -> bool:
        """Whether the worker is alive and takes work."""
        return self._failure is None and not self._closed

    def submit(self, token_ids: Tokens[int], params: SamplingParams, *, owner: str) -> Generation:
        """Queue a prompt.

        Raises ValueError for an empty prompt, an unknown token id in it or in the parameters, or a response_format
        that cannot be followed; PromptTooLong, EngineBusy, EngineStopped.
        """
        self._check_prompt(token_ids)
        params.check_token_ids(self._tokenizer.n_vocab)
        constraint = self._constraints.compile(params.response_format) if params.response_format else None
        sequence = Sequence(
            token_ids, params, owner, tokenizer=self._tokenizer, limits=self._limits, constraint=constraint
        )
        with self._changed:
            if not self.healthy:
                raise EngineStopped(self._failure or "The engine has been closed.")
            if len(self._waiting) >= MAX_WAITING:
                raise EngineBusy(f"{MAX_WAITING} replies are waiting already; try again in a moment.")
            self._waiting.append(sequence)
            self._changed.notify()
        return sequence.generation

    def close(self) -> None:
        """End every generation as cancelled and stop the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join()

    @cached_property
    def _constraints(self) -> "ConstraintCompiler":
        from model.constraint import ConstraintCompiler  # on first use: it loads a Rust library

        return ConstraintCompiler(self._tokenizer, self._limits.end_ids)

    def _check_prompt(self, token_ids: Tokens[int]) -> None:
        if not token_ids:
            raise ValueError("token_ids must have at least one token, got none")
        if len(token_ids) >= self._limits.n_ctx:
            raise PromptTooLong(len(token_ids), self._limits.n_ctx - 1)
        n_vocab = self._tokenizer.n_vocab
        if not 0 <= min(token_ids) <= max(token_ids) < n_vocab:
            raise ValueError(
                f"token_ids must lie between 0 and {n_vocab - 1}, got {min(token_ids)} to {max(token_ids)}"
            )

    # The worker thread.

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                self._admit()
                for slot in sorted(self._slots, key=lambda slot: slot.last_used):  # in the order they came
                    if slot.sequence is not None:
                        self._step(slot, slot.sequence)
            self._end_all("cancelled")
        except BaseException as error:  # whatever it is, a Rust library's panic too: nobody may wait for a dead thread
            logger.exception("the engine's worker died")
            self._failure = f"The engine has stopped after an error ({type(error).__name__})."
            self._end_all("error", self._failure)

    def _wait_for_work(self) -> bool:
        """Block until there is something to do; false once the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._running())
            return not self._closed

    def _running(self) -> bool:
        return any(slot.sequence for slot in self._slots)

    def _admit(self) -> None:
        """Give waiting sequences the free slots, first come, first served."""
        with self._changed:
            for sequence in [waiting for waiting in self._waiting if waiting.generation.cancelled]:
                self._waiting.remove(sequence)
                sequence.finish("cancelled")
            while self._waiting and (free := [slot for slot in self._slots if slot.sequence is None]):
                sequence = self._waiting[0]
                donor = max(self._slots, key=lambda slot: slot.shared_prefix(sequence))
                slot = _choose_slot(free, donor, sequence)
                if not self._make_room(slot, sequence):
                    return
                self._waiting.popleft()
                slot.start(sequence, donor)
                self._n_started += 1
                slot.last_used = self._n_started

    def _make_room(self, slot: Slot, sequence: Sequence) -> bool:
        """Give back the memory of idle caches, oldest first, until a sequence fits beside the others.

        Tells whether it does. One that has the engine for itself always does.
        """
        others = [other for other in self._slots if other is not slot]
        idle = [other for other in others if other.sequence is None]
        idle.sort(key=lambda other: (-other.shared_prefix(sequence), -other.last_used))  # from the end: useless, oldest
        needed = max(slot.size, sequence.max_length)
        while sum(other.size for other in others) + needed > self._limits.n_cached:
            if not idle:
                return not self._running()
            idle.pop().release(self._runner.new_cache())
        return True

    def _step(self, slot: Slot, sequence: Sequence) -> None:
        if sequence.generation.cancelled:
            self._finish(slot, sequence, "cancelled")
            return
        pending = slot.pending()
        logits = slot.run(self._runner, pending[:PREFILL_CHUNK])
        sequence.generation.prefilled_tokens = min(len(slot.token_ids), sequence.generation.prompt_tokens)
        if len(pending) > PREFILL_CHUNK:
            return
        if not np.isfinite(logits).all():
            slot.forget()
            self._finish(slot, sequence, "error", "The model computed numbers that are not finite.")
        elif reason := sequence.advance(logits):
            self._finish(slot, sequence, reason)

    def _finish(self, slot: Slot, sequence: Sequence, reason: FinishReason, error: str | None = None) -> None:
        slot.sequence = None
        sequence.finish(reason, error)
        usage = sequence.generation.usage
        assert usage is not None, "a finished generation has its usage"
        logger.info(
            "reply of %d tokens to %d (%d cached) in %.0f ms: %s",
            usage.completion_tokens,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.duration_ms,
            reason,
        )

    def _end_all(self, reason: FinishReason, error: str | None = None) -> None:
        for slot in self._slots:
            if slot.sequence is not None:
                self._finish(slot, slot.sequence, reason, error)
        with self._changed:
            while self._waiting:
                self._waiting.popleft().finish(reason, error)


def _choose_slot(free: list[Slot], donor: Slot, sequence: Sequence) -> Slot:
    """Return the donor if it holds little but the shared prefix; else it is worth keeping, and the oldest goes."""
    if donor in free and donor.shared_prefix(sequence) * 2 >= len(donor.token_ids):
        return donor
    return min(free, key=lambda slot: slot.last_used)
