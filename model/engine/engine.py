"""The engine: one worker thread that owns the model and writes all replies, step by step."""

import logging
import threading
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from functools import cached_property, partial
from typing import TYPE_CHECKING

from model.config import BLOCK_SIZE
from model.engine.generation import Generation
from model.engine.runner import Runner
from model.engine.scheduler import Scheduler, Step
from model.engine.sequence import Clock, Limits, Sequence
from model.errors import EngineStopped, PromptTooLong
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from model.constraint import ConstraintCompiler

logger = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 120.0


class Engine:
    """Turns prompts into replies: `submit` queues one and returns its Generation at once."""

    def __init__(self, runner: Runner, tokenizer: Tokenizer, limits: Limits, *, n_draft: int = 0) -> None:
        """Start the worker; `n_draft` tokens at most are proposed ahead of the model, which checks them in one step.

        Raises ValueError if the runner's blocks cannot hold one sequence of `limits.n_ctx` tokens.
        """
        n_positions = runner.n_blocks * BLOCK_SIZE
        if limits.n_ctx > n_positions:
            raise ValueError(f"n_ctx must be at most the {n_positions} positions of the runner, got {limits.n_ctx}")
        self._runner = runner
        self._tokenizer = tokenizer
        self._limits = limits
        self._scheduler = Scheduler(runner.n_blocks, runner.copy_block, n_draft=n_draft, on_end=self._tell_end)
        self._listeners: list[Callable[[str, Generation], None]] = []
        self._changed = threading.Condition()  # guards the scheduler, _closed and _failure
        self._closed = False
        self._failure: str | None = None
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)
        self._worker.start()

    @property
    def healthy(self) -> bool:
        """Whether the worker is alive and takes work."""
        return self._failure is None and not self._closed

    @property
    def runner(self) -> Runner:
        """What computes; nobody else may use it before the engine is closed."""
        return self._runner

    @property
    def n_running(self) -> int:
        """How many replies are being written."""
        return self._scheduler.n_running

    @property
    def n_waiting(self) -> int:
        """How many replies wait for their turn."""
        return self._scheduler.n_waiting

    @property
    def n_steps(self) -> int:
        """How many steps have been computed."""
        return self._scheduler.n_steps

    @property
    def n_busy(self) -> int:
        """In how many replies these steps had a part, summed over all of them."""
        return self._scheduler.n_busy

    @property
    def cache_usage(self) -> float:
        """Which share of the memory for keys and values the replies that are being written hold or have reserved."""
        return self._scheduler.cache_usage

    def call_at_end(self, listener: Callable[[str, Generation], None]) -> None:
        """Call a listener with the owner and the generation whenever one has ended; it must not wait for anything."""
        self._listeners.append(listener)

    def submit(
        self,
        token_ids: Tokens[int],
        params: SamplingParams,
        *,
        owner: str,
        n_shared: int = 0,
        timeout: float = MAX_WAIT_SECONDS,
    ) -> Generation:
        """Queue a prompt, of which the first `n_shared` tokens are the same for all owners.

        A reply that has not begun after `timeout` seconds ends with an error.

        Raises ValueError for an empty prompt, an unknown token id in it or in the parameters, a response_format that
        cannot be followed, an owner that is no text, an n_shared beyond the prompt, or a timeout that is not positive;
        PromptTooLong, EngineBusy, EngineStopped.
        """
        clock = Clock()
        self._check_prompt(token_ids, n_shared, self._limits.n_ctx - 1)
        _check_owner(owner)
        _check_timeout(timeout)
        params.check_token_ids(self._tokenizer.n_vocab)
        constraint = self._constraints.compile(params.response_format) if params.response_format else None
        sequence = Sequence(
            token_ids,
            params,
            owner,
            tokenizer=self._tokenizer,
            limits=self._limits,
            constraint=constraint,
            n_shared=n_shared,
            timeout=timeout,
            clock=clock,
        )
        return self._add(sequence)

    def score(
        self,
        token_ids: Tokens[int],
        start: int,
        *,
        logprobs: int = 0,
        owner: str,
        n_shared: int = 0,
        timeout: float = MAX_WAIT_SECONDS,
    ) -> Generation:
        """Queue given tokens, those from `start` on to be scored: how likely was each, after all before it?

        The pieces hold these tokens, with the log-probability of each and those of the `logprobs` most likely ones at
        its place. Nothing is drawn: all tokens are those of a prompt, and may fill the whole context.

        Raises what `submit` raises, and ValueError for a start without a token before it or at it.
        """
        clock = Clock()
        self._check_prompt(token_ids, n_shared, self._limits.n_ctx)
        _check_start(start, len(token_ids))
        _check_owner(owner)
        _check_timeout(timeout)
        sequence = Sequence(
            token_ids,
            SamplingParams(logprobs=logprobs),
            owner,
            tokenizer=self._tokenizer,
            limits=self._limits,
            n_shared=n_shared,
            n_unscored=start,
            timeout=timeout,
            clock=clock,
        )
        return self._add(sequence)

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

    def _add(self, sequence: Sequence) -> Generation:
        sequence.generation.call_on_cancel(partial(self._cancel, sequence))
        with self._changed:
            if not self.healthy:
                raise EngineStopped(self._failure or "The engine has been closed.")
            self._scheduler.add(sequence)
            self._changed.notify()
        return sequence.generation

    def _check_prompt(self, token_ids: Tokens[int], n_shared: int, limit: int) -> None:
        n_tokens, n_vocab = len(token_ids), self._tokenizer.n_vocab
        if wrong := [token_id for token_id in token_ids if not isinstance(token_id, int)]:
            raise ValueError(f"token_ids must be whole numbers, got {wrong[0]!r}")
        if not n_tokens:
            raise ValueError("token_ids must have at least one token, got none")
        if n_tokens > limit:
            raise PromptTooLong(n_tokens, limit)
        if not 0 <= min(token_ids) <= max(token_ids) < n_vocab:
            raise ValueError(
                f"token_ids must lie between 0 and {n_vocab - 1}, got {min(token_ids)} to {max(token_ids)}"
            )
        if not 0 <= n_shared <= n_tokens:
            raise ValueError(f"n_shared must lie between 0 and the {n_tokens} tokens of the prompt, got {n_shared}")

    def _cancel(self, sequence: Sequence) -> None:
        with self._changed:
            self._scheduler.cancel(sequence)
            self._changed.notify()

    def _tell_end(self, sequence: Sequence) -> None:
        for listener in self._listeners:
            listener(sequence.owner, sequence.generation)

    # The worker thread.

    def _work(self) -> None:
        try:
            while step := self._next_step():
                logits = self._runner.run([chunk for _, chunk in step])
                with self._changed:
                    self._scheduler.update(step, logits)
            with self._changed:
                self._scheduler.abandon("cancelled")
        except BaseException as error:  # whatever it is, a Rust library's panic too: nobody may wait for a dead thread
            logger.exception("the engine's worker died")
            with self._changed:
                self._failure = f"The engine has stopped after an error ({type(error).__name__})."
                self._scheduler.abandon("error", self._failure)

    def _next_step(self) -> Step:
        """Wait until there is something to compute; nothing once the engine is closed."""
        with self._changed:
            while not self._closed:
                self._scheduler.expire()
                self._scheduler.admit()
                if step := self._scheduler.schedule():
                    return step
                self._changed.wait(self._scheduler.patience())
            return []


def _check_start(start: int, n_tokens: int) -> None:
    if not isinstance(start, int) or not 0 < start < n_tokens:
        rule = "a whole number above 0, for a token is scored after others, and below the number of tokens"
        raise ValueError(f"start must be {rule}, {n_tokens}, got {start!r}")


def _check_owner(owner: str) -> None:
    if not isinstance(owner, str):  # None would share all tokens with everybody
        raise ValueError(f"owner must be a text, got {owner!r}")


def _check_timeout(timeout: float) -> None:
    if not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout must be above 0 and at most {threading.TIMEOUT_MAX:.0f} seconds, got {timeout}")
