"""The engine's side of one generation: its tokens, its sampler, its text."""

import logging
import secrets
import time
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from model.engine.drafter import Drafter
from model.engine.generation import FinishReason, Generation, Piece, TokenLogprob, Usage
from model.engine.stop_strings import StopStrings
from model.errors import ModelError
from model.logits_processors import LogitsProcessors
from model.sampling import Floats, largest, sample
from model.sampling_params import SamplingParams
from model.tokenizer import StreamingDetokenizer, Tokenizer

if TYPE_CHECKING:
    from model.constraint import Constraint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the sequences of an engine."""

    n_ctx: int  # tokens of one
    end_ids: frozenset[int]  # tokens that end a reply


class Sequence:
    """A prompt and the reply that grows on it; with `n_unscored`, given tokens of which those after so many are scored.

    Nothing is drawn for these: of `params` only `logprobs` counts.
    """

    def __init__(
        self,
        token_ids: Tokens[int],
        params: SamplingParams,
        owner: str,
        *,
        tokenizer: Tokenizer,
        limits: Limits,
        constraint: "Constraint | None" = None,
        n_shared: int = 0,
        n_unscored: int | None = None,
        timeout: float,
        clock: "Clock | None" = None,
    ) -> None:
        self.owner = owner
        self.token_ids = list(token_ids)
        self.n_shared = n_shared  # of the first tokens, which other owners may have too
        self.n_prompt = len(self.token_ids)
        # tokens at the beginning, of which only the logits after the last are wanted: of a reply, its whole prompt
        self.n_unscored = self.n_prompt if n_unscored is None else n_unscored
        self.is_scored = n_unscored is not None
        n_more = 0 if self.is_scored else params.max_tokens
        self.max_length = min(self.n_prompt + n_more, limits.n_ctx)  # tokens it may come to
        self.timeout = timeout  # seconds that it may wait
        self.n_cached = 0  # tokens of the prompt that were in the cache already
        self.n_computed = 0  # tokens that are in the cache
        self.n_sound = 0  # of these, those that finite logits have proved to be sound
        seed = secrets.randbits(32) if params.seed is None else params.seed
        self.generation = Generation(self.n_prompt, seed)
        self._params = params
        self._n_ctx = limits.n_ctx
        self._end_ids = limits.end_ids.union(params.stop_token_ids)
        self._processors = LogitsProcessors(params, self.token_ids, end_ids=self._end_ids, constraint=constraint)
        self._random = np.random.default_rng(seed)
        self._detokenizer = StreamingDetokenizer(tokenizer)
        self._stop_strings = StopStrings(params.stop)
        self._unsent: list[int] = []  # tokens whose text is still held back
        self._unsent_logprobs: list[TokenLogprob] = []
        self._drafts: _Drafts | None = None  # of a sequence that has been asked for some
        self._error: str | None = None
        self._clock = clock or Clock()

    @property
    def n_completed(self) -> int:
        """How many tokens the reply has."""
        return len(self.token_ids) - self.n_prompt

    @property
    def n_pending(self) -> int:
        """How many tokens are still to be computed: of one that decodes only the newest."""
        return len(self.token_ids) - self.n_computed

    @property
    def n_served(self) -> int:
        """How many tokens have been computed for the owner: those of the prompt and of the reply."""
        return min(self.n_computed, self.n_prompt) - self.n_cached + self.n_completed

    @property
    def seconds_left(self) -> float:
        """How long it may still wait; less than 0 when it has waited too long."""
        return self.timeout - self._clock.elapsed_ms() / 1000

    def start(self, n_cached: int) -> None:
        """Begin to run, with so many tokens of the prompt in the cache."""
        self.n_cached = self.n_computed = self.n_sound = n_cached
        self.generation.prefilled_tokens = n_cached
        self.generation.queue_position, self.generation.wait_seconds = 0, None
        self._clock.mark_start()

    def draft(self, n: int) -> list[int]:
        """Propose up to n tokens that may follow, as far as the reply may still grow."""
        n = min(n, self.max_length - len(self.token_ids) - 1)  # the model writes one more
        if n <= 0:
            return []
        if self._drafts is None:
            self._drafts = _Drafts(self.token_ids)
        return self._drafts.propose(n)

    def take(self, token_ids: Tokens[int], rows: Floats) -> FinishReason | None:
        """Take in what has been computed: the next tokens, and the logits (N, V) after the last N of them.

        N is 0 within a prompt. All tokens of a reply but the last N are its own; after the first row come those of a
        draft: they are looked at one after another, as far as the reply goes that way. Says why it ends, if it does.
        """
        n_silent = len(token_ids) - len(rows)
        self.n_computed += n_silent
        reason = self._score(rows) if self.is_scored else self._follow(token_ids[n_silent + 1 :], rows)
        self.generation.prefilled_tokens = min(self.n_computed, self.n_prompt)
        return reason

    def _follow(self, draft: Tokens[int], rows: Floats) -> FinishReason | None:
        reason: FinishReason | None = None
        for n_accepted, row in enumerate(rows):
            reason = self._prove(row) or self.advance(row)
            if reason or n_accepted == len(draft) or self.token_ids[-1] != draft[n_accepted]:
                break
        if draft and self._drafts is not None:
            self._drafts.judge(len(draft), n_accepted)
        return reason

    def _score(self, rows: Floats) -> FinishReason | None:
        for row in rows:
            if reason := self._prove(row):
                return reason
            if self.n_computed == self.n_prompt:  # what would follow is nobody's business
                return "stop"
            self._tell(self.token_ids[self.n_computed], row)
        return None

    def _prove(self, logits: Floats) -> FinishReason | None:
        """Count the next token as computed and all so far as sound, if the logits (V,) after it are finite."""
        if not np.isfinite(logits).all():
            self._error = "The model computed numbers that are not finite."
            self.n_sound = 0  # the cause may lie anywhere before
            return "error"
        self.n_computed += 1
        self.n_sound = self.n_computed
        return None

    def advance(self, logits: Floats) -> FinishReason | None:
        """Choose the next token from finite logits (V,), pass its text on, and say why the reply ends, if it does."""
        try:
            return self._advance(logits)
        except ModelError as error:
            self._error = str(error)
            return "error"

    def finish(self, reason: FinishReason, error: str | None = None) -> None:
        """Pass on what was held back and close the caller's side, whatever happens on the way."""
        try:
            self._emit_rest()
        except Exception:
            logger.exception("the end of a reply is lost")
            reason, error = "error", "The end of the reply could not be passed on."
        usage = self._usage()
        logger.info(
            "reply of %d tokens to %d (%d cached) in %.0f ms: %s",
            usage.completion_tokens,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.duration_ms,
            reason,
        )
        self.generation.finish(reason, usage, error or self._error)

    def _usage(self) -> Usage:
        clock = self._clock
        duration = clock.elapsed_ms()
        started = duration if clock.started_ms is None else clock.started_ms
        first_token = duration if clock.ttft_ms is None else clock.ttft_ms
        return Usage(
            prompt_tokens=self.n_prompt,
            cached_tokens=self.n_cached,
            completion_tokens=self.n_completed,
            ttft_ms=clock.ttft_ms,
            duration_ms=duration,
            queue_ms=started,
            prefill_ms=first_token - started,
            decode_ms=duration - first_token,
            drafted_tokens=self._drafts.n_drafted if self._drafts else 0,
            accepted_tokens=self._drafts.n_accepted if self._drafts else 0,
        )

    def _advance(self, logits: Floats) -> FinishReason | None:
        token_id = sample(self._processors.apply(logits), self._params, generator=self._random)
        self._clock.mark_token()
        if token_id in self._end_ids:
            return "stop"
        self._processors.accept(token_id)
        self.token_ids.append(token_id)
        if self._drafts is not None:
            self._drafts.append(token_id)
        self._tell(token_id, logits)
        if self._stop_strings.found:
            return "stop"
        if self.n_completed == self._params.max_tokens or len(self.token_ids) == self._n_ctx:
            return "length"
        return None

    def _tell(self, token_id: int, logits: Floats) -> None:
        """Pass a token on, with its text as soon as that is complete, given the logits (V,) for its place."""
        self._unsent.append(token_id)
        if self._params.logprobs is not None:
            self._unsent_logprobs.append(token_logprob(logits, token_id, self._params.logprobs))
        may_stop = self.n_completed > self._params.min_tokens
        self._emit(self._stop_strings.add(self._detokenizer.add(token_id), may_stop=may_stop))

    def _emit_rest(self) -> None:
        """Pass on the text that was held back, and the last tokens even if they have none."""
        held = self._stop_strings.add(self._detokenizer.finish()) + self._stop_strings.finish()
        if held or (self._unsent and not self._stop_strings.found):
            self._pass_on(held)

    def _emit(self, text: str) -> None:
        if text:
            self._pass_on(text)

    def _pass_on(self, text: str) -> None:
        self.generation.emit(Piece(text, tuple(self._unsent), tuple(self._unsent_logprobs)))
        self._unsent.clear()
        self._unsent_logprobs.clear()


def token_logprob(logits: Floats, token_id: int, n_most_likely: int) -> TokenLogprob:
    """Measure a token by the logits (V,) that the model computed for its place: their log-softmax, in fp64."""
    logits = logits.astype(np.float64)
    largest_logit = logits.max()
    log_total = largest_logit + np.log(np.exp(logits - largest_logit).sum())
    places = largest(logits, n_most_likely) if n_most_likely else ()
    most_likely = tuple((int(place), float(logits[place] - log_total)) for place in places)
    return TokenLogprob(token_id, float(logits[token_id] - log_total), most_likely)


DRAFT_COST = 0.3
"""Of a drafted token, in steps of the model: what one more token takes of the time of a step for one."""
DRAFT_INCOME = 0.03
"""Of each token, in steps: so much time, 3 %, drafts may cost a text in which they never come true."""
MAX_CREDIT = 4.0
"""Steps that drafts may lose when a text that used to repeat itself ceases to."""


class _Drafts:
    """What is proposed for a sequence, and what that gained: drafts are paid from the steps that they saved."""

    def __init__(self, token_ids: Tokens[int]) -> None:
        self.n_drafted = self.n_accepted = 0
        self._drafter = Drafter(token_ids)
        self._credit = MAX_CREDIT / 2  # steps

    def propose(self, n: int) -> list[int]:
        return self._drafter.propose(min(n, int(self._credit / DRAFT_COST)))

    def append(self, token_id: int) -> None:
        self._drafter.append(token_id)
        self._earn(DRAFT_INCOME)

    def judge(self, n_drafted: int, n_accepted: int) -> None:
        self.n_drafted += n_drafted
        self.n_accepted += n_accepted
        self._earn(n_accepted - DRAFT_COST * n_drafted)

    def _earn(self, n_steps: float) -> None:
        self._credit = min(MAX_CREDIT, self._credit + n_steps)


@dataclass(slots=True)
class Clock:
    """When things happened, in milliseconds since the reply was asked for."""

    start: float = field(default_factory=time.perf_counter)
    started_ms: float | None = None
    ttft_ms: float | None = None

    def mark_start(self) -> None:
        self.started_ms = self.elapsed_ms()

    def mark_token(self) -> None:
        if self.ttft_ms is None:
            self.ttft_ms = self.elapsed_ms()

    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self.start) * 1000
