"""The engine's side of one generation: its tokens, its sampler, its text."""

import secrets
import time
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

import numpy as np

from model.engine.generation import FinishReason, Generation, Piece, Usage
from model.engine.stop_strings import StopStrings
from model.sampling import Floats, SamplingParams, sample
from model.tokenizer import StreamingDetokenizer, Tokenizer


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
    ) -> None:
        self.owner = owner
        self.token_ids = list(token_ids)
        self.n_cached = 0  # tokens of the prompt that were in the cache already
        seed = secrets.randbits(32) if params.seed is None else params.seed
        self.generation = Generation(len(self.token_ids), seed)
        self._n_prompt = len(self.token_ids)
        self.max_length = min(self._n_prompt + params.max_tokens, limits.n_ctx)  # tokens it may come to
        self._params = params
        self._limits = limits
        self._random = np.random.default_rng(seed)
        self._detokenizer = StreamingDetokenizer(tokenizer)
        self._stop_strings = StopStrings(params.stop)
        self._unsent: list[int] = []  # tokens whose text is still held back
        self._clock = _Clock()

    @property
    def n_completed(self) -> int:
        """How many tokens the reply has."""
        return len(self.token_ids) - self._n_prompt

    def advance(self, logits: Floats) -> FinishReason | None:
        """Choose the next token from logits (V,), pass its text on, and say why the reply ends, if it does."""
        token_id = sample(logits, self._params, token_ids=self.token_ids, generator=self._random)
        self._clock.mark_token()
        if token_id in self._limits.end_ids:
            return "stop"
        self.token_ids.append(token_id)
        self._unsent.append(token_id)
        self._emit(self._stop_strings.add(self._detokenizer.add(token_id)))
        if self._stop_strings.found:
            return "stop"
        if self.n_completed == self._params.max_tokens or len(self.token_ids) == self._limits.n_ctx:
            return "length"
        return None

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
        self.generation.finish(reason, usage, error)

    def _emit(self, text: str) -> None:
        if text:
            self.generation.emit(Piece(text, tuple(self._unsent)))
            self._unsent.clear()


@dataclass(slots=True)
class _Clock:
    start: float = field(default_factory=time.perf_counter)
    ttft_ms: float | None = None

    def mark_token(self) -> None:
        if self.ttft_ms is None:
            self.ttft_ms = self.elapsed_ms()

    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self.start) * 1000
