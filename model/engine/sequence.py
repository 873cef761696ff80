"""The engine's side of one generation: its tokens, its sampler, its text."""

import secrets
import time
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from model.engine.generation import FinishReason, Generation, Piece, TokenLogprob, Usage
from model.engine.stop_strings import StopStrings
from model.errors import ModelError
from model.logits_processors import LogitsProcessors
from model.sampling import Floats, largest, sample
from model.sampling_params import SamplingParams
from model.tokenizer import StreamingDetokenizer, Tokenizer

if TYPE_CHECKING:
    from model.constraint import Constraint


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the sequences of an engine."""

    n_ctx: int  # tokens of one
    end_ids: frozenset[int]  # tokens that end a reply
    n_cached: int  # tokens of all, idle ones included, that are kept in caches


class Sequence:
    """A prompt and the reply that grows on it."""

    def __init__(
        self,
        token_ids: Tokens[int],
        params: SamplingParams,
        owner: str,
        *,
        tokenizer: Tokenizer,
        limits: Limits,
        constraint: "Constraint | None" = None,
    ) -> None:
        self.owner = owner
        self.token_ids = list(token_ids)
        self.n_cached = 0  # tokens of the prompt that were in the cache already
        seed = secrets.randbits(32) if params.seed is None else params.seed
        self.generation = Generation(len(self.token_ids), seed)
        self._n_prompt = len(self.token_ids)
        self.max_length = min(self._n_prompt + params.max_tokens, limits.n_ctx)  # tokens it may come to
        self._params = params
        self._n_ctx = limits.n_ctx
        self._end_ids = limits.end_ids.union(params.stop_token_ids)
        self._processors = LogitsProcessors(params, self.token_ids, end_ids=self._end_ids, constraint=constraint)
        self._random = np.random.default_rng(seed)
        self._detokenizer = StreamingDetokenizer(tokenizer)
        self._stop_strings = StopStrings(params.stop)
        self._unsent: list[int] = []  # tokens whose text is still held back
        self._unsent_logprobs: list[TokenLogprob] = []
        self._error: str | None = None
        self._clock = _Clock()

    @property
    def n_completed(self) -> int:
        """How many tokens the reply has."""
        return len(self.token_ids) - self._n_prompt

    def advance(self, logits: Floats) -> FinishReason | None:
        """Choose the next token from finite logits (V,), pass its text on, and say why the reply ends, if it does."""
        try:
            return self._advance(logits)
        except ModelError as error:
            self._error = str(error)
            return "error"

    def finish(self, reason: FinishReason, error: str | None = None) -> None:
        """Pass on what was held back and close the caller's side."""
        held = self._stop_strings.add(self._detokenizer.finish()) + self._stop_strings.finish()
        self._emit(held)
        usage = Usage(
            prompt_tokens=self._n_prompt,
            cached_tokens=self.n_cached,
            completion_tokens=self.n_completed,
            ttft_ms=self._clock.ttft_ms,
            duration_ms=self._clock.elapsed_ms(),
        )
        self.generation.finish(reason, usage, error or self._error)

    def _advance(self, logits: Floats) -> FinishReason | None:
        token_id = sample(self._processors.apply(logits), self._params, generator=self._random)
        self._clock.mark_token()
        if token_id in self._end_ids:
            return "stop"
        self._processors.accept(token_id)
        self._append(token_id, logits)
        if self._stop_strings.found:
            return "stop"
        if self.n_completed == self._params.max_tokens or len(self.token_ids) == self._n_ctx:
            return "length"
        return None

    def _append(self, token_id: int, logits: Floats) -> None:
        self.token_ids.append(token_id)
        self._unsent.append(token_id)
        if self._params.logprobs is not None:
            self._unsent_logprobs.append(token_logprob(logits, token_id, self._params.logprobs))
        may_stop = self.n_completed > self._params.min_tokens
        self._emit(self._stop_strings.add(self._detokenizer.add(token_id), may_stop=may_stop))

    def _emit(self, text: str) -> None:
        if text:
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


@dataclass(slots=True)
class _Clock:
    start: float = field(default_factory=time.perf_counter)
    ttft_ms: float | None = None

    def mark_token(self) -> None:
        if self.ttft_ms is None:
            self.ttft_ms = self.elapsed_ms()

    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self.start) * 1000
