"""What contestants are asked to do so that their speed can be told.

The tokens are drawn at random, as llama-bench does it: how long they take does not depend on what they say, and nobody
finds them in a cache.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from model.bench.figures import Figure
from model.bench.worker import Worker

CHATS = (1, 2, 4, 8, 16)
SHORT, LONG = 100, 2_000  # tokens of context before the decoding that is timed
N_DECODED = 64  # tokens of each chat
PROMPTS = (64, 512, 2_048)  # tokens
N_TURNS, N_QUESTION, N_REPLY = 10, 32, 32  # of the chat whose first tokens are timed; the last two in tokens

Values = dict[Figure, float]


class Ids:
    """Draws token ids, the same ones for the same seed."""

    def __init__(self, ordinary_ids: Sequence[int], seed: Sequence[int]) -> None:
        self._ordinary_ids = np.asarray(ordinary_ids)
        self._generator = np.random.default_rng(seed)

    def draw(self, n_tokens: int) -> list[int]:
        """Return so many of them."""
        token_ids: list[int] = self._generator.choice(self._ordinary_ids, n_tokens).tolist()
        return token_ids


@dataclass(frozen=True, slots=True)
class Case:
    """Something to do, and how many tokens of context it takes in all chats together and in one."""

    measure: Callable[[Worker, Ids], Values]
    n_tokens: int
    n_ctx: int


def cases(n_ctx: int, n_positions: int) -> list[Case]:
    """Return what fits into a context of so many tokens, and a cache for so many of all chats together."""
    return [case for case in _cases() if case.n_ctx <= n_ctx and case.n_tokens <= n_positions]


def _cases() -> Iterator[Case]:
    for n_chats, n_tokens in [*((n_chats, SHORT) for n_chats in CHATS), (1, LONG)]:
        n_ctx = n_tokens + N_DECODED + 1
        yield Case(_decode(n_chats, n_tokens), n_chats * n_ctx, n_ctx)
    for n_tokens in PROMPTS:
        yield Case(_prefill(n_tokens), n_tokens + 1, n_tokens + 1)
    n_ctx = N_TURNS * (N_QUESTION + N_REPLY)
    yield Case(_chat, n_ctx, n_ctx)


def _decode(n_chats: int, n_tokens: int) -> Callable[[Worker, Ids], Values]:
    def measure(worker: Worker, ids: Ids) -> Values:
        prompts = [ids.draw(n_tokens) for _ in range(n_chats)]
        seconds = worker.call("decode", prompts, N_DECODED)
        return {Figure("decode", "tok/s", n_chats, n_tokens): n_chats * N_DECODED / seconds}

    return measure


def _prefill(n_tokens: int) -> Callable[[Worker, Ids], Values]:
    def measure(worker: Worker, ids: Ids) -> Values:
        return {Figure("prefill", "tok/s", 1, n_tokens): n_tokens / worker.call("prefill", ids.draw(n_tokens))}

    return measure


def _chat(worker: Worker, ids: Ids) -> Values:
    """Measure the first tokens of a chat, and that of its last turn as if the chat were new."""
    turns = [ids.draw(N_QUESTION) for _ in range(N_TURNS)]
    seconds = worker.call("chat", turns, N_REPLY)
    n_last = N_TURNS * N_QUESTION + (N_TURNS - 1) * N_REPLY
    anew = worker.call("prefill", ids.draw(n_last))
    return {
        Figure("first_token", "ms", 1, N_QUESTION, "turn 1"): seconds[0] * 1000,
        Figure("first_token", "ms", 1, n_last, f"turn {N_TURNS}"): seconds[-1] * 1000,
        Figure("first_token", "ms", 1, n_last, f"turn {N_TURNS}, nothing reused"): anew * 1000,
    }
