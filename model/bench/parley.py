"""Parley as it serves: through its engine, with scheduler and sampling."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count

from model.bench.contestant import Tokens
from model.bench.texts import read_text
from model.engine.engine import Engine
from model.engine.generation import Generation
from model.engine.runner import Runner
from model.errors import ModelError
from model.sampling import Floats
from model.sampling_params import SamplingParams

Opener = Callable[[], AbstractContextManager[tuple[Engine, Runner]]]

N_TOGETHER = 8  # chats that are answered at the same time where time does not matter


@dataclass(frozen=True, slots=True)
class _Reply:
    token_ids: list[int]
    start: float  # when it was submitted, in seconds of the performance counter
    first: float  # when its first token was there
    end: float


class Parley:
    """The engine of this process."""

    def __init__(self, open_engine: Opener) -> None:
        self._opened = open_engine()  # kept, since the engine lives as long
        self._engine, self._runner = self._opened.__enter__()
        self._owners = map("bench:{}".format, count())  # a new one finds nothing cached

    def describe(self) -> str:
        """Say which runner computes."""
        return type(self._runner).__name__

    def prefill(self, token_ids: Tokens) -> float:
        """Return the seconds from the submission to the first token."""
        [reply] = self._answer([token_ids], 1, [next(self._owners)])
        return reply.first - reply.start

    def decode(self, prompts: Sequence[Tokens], n_tokens: int) -> float:
        """Return the seconds from the very first token of all to the very last one."""
        owners = [next(self._owners) for _ in prompts]
        self._answer(prompts, 1, owners)  # so that all but the last token of each prompt is cached
        replies = self._answer(prompts, n_tokens + 1, owners)
        return max(reply.end for reply in replies) - min(reply.first for reply in replies)

    def chat(self, turns: Sequence[Tokens], n_reply: int) -> list[float]:
        """Return the seconds from each submission to the first token; what can be reused, the engine finds itself."""
        owner, prompt, seconds = next(self._owners), list[int](), list[float]()
        for turn in turns:
            prompt += turn
            [reply] = self._answer([prompt], n_reply, [owner])
            prompt += reply.token_ids
            seconds.append(reply.first - reply.start)
        return seconds

    def greedy(self, prompts: Sequence[Tokens], n_tokens: int) -> list[list[int]]:
        """Return the replies, each written beside others."""
        replies: list[_Reply] = []
        for first in range(0, len(prompts), N_TOGETHER):
            together = prompts[first : first + N_TOGETHER]
            replies += self._answer(together, n_tokens, [next(self._owners) for _ in together])
        return [reply.token_ids for reply in replies]

    def logits(self, token_ids: Tokens, n_last: int) -> Floats:
        """Return what the runner computes for a text; it takes the engine's memory, so the engine is closed."""
        self._engine.close()
        return read_text(self._runner, token_ids, n_last)

    def _answer(self, prompts: Sequence[Tokens], n_tokens: int, owners: Sequence[str]) -> list[_Reply]:
        params = SamplingParams(temperature=0, min_tokens=n_tokens, max_tokens=n_tokens)
        submitted = [
            (time.perf_counter(), self._engine.submit(list(prompt), params, owner=owner))
            for prompt, owner in zip(prompts, owners, strict=True)
        ]
        return [_read(generation, start) for start, generation in submitted]


def _read(generation: Generation, start: float) -> _Reply:
    token_ids = [token_id for piece in generation for token_id in piece.token_ids]
    usage = generation.usage
    if usage is None or usage.ttft_ms is None:
        raise ModelError(generation.error or "The reply has no tokens.")
    return _Reply(token_ids, start, start + usage.ttft_ms / 1000, start + usage.duration_ms / 1000)
