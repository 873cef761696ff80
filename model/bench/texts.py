"""Texts over a bare runner, without an engine: whole ones, and those that it writes itself."""

from collections.abc import Callable, Sequence

import numpy as np

from model.bench.contestant import Tokens
from model.config import BLOCK_SIZE
from model.engine.runner import Chunk, Runner
from model.sampling import Floats

Chooser = Callable[[Floats], int]  # from the logits (V,) to a token


def read_text(runner: Runner, token_ids: Tokens, n_last: int) -> Floats:
    """Return the logits after each of the last tokens of a text, computed in one step: (n_last, V)."""
    block_table = range(_count_blocks(len(token_ids)))
    return runner.run([Chunk(token_ids, 0, block_table, n_last)]).copy()


def write_texts(runner: Runner, prompts: Sequence[Tokens], n_tokens: int, choose: Chooser) -> list[list[int]]:
    """Return the `n_tokens` that follow each prompt, a token of every text in each step; the runner must hold all."""
    tables, end = [], 0
    for prompt in prompts:
        start, end = end, end + _count_blocks(len(prompt) + n_tokens)
        tables.append(range(start, end))
    assert end <= runner.n_blocks, f"{end} blocks are needed, the runner has {runner.n_blocks}"
    texts = [list(prompt) for prompt in prompts]
    chunks = [Chunk(prompt, 0, table, 1) for prompt, table in zip(prompts, tables, strict=True)]
    for _ in range(n_tokens):
        for text, logits in zip(texts, runner.run(chunks), strict=True):
            text.append(choose(logits))
        chunks = [Chunk(text[-1:], len(text) - 1, table, 1) for text, table in zip(texts, tables, strict=True)]
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


def _count_blocks(n_tokens: int) -> int:
    return -(-n_tokens // BLOCK_SIZE)


def without(token_ids: Sequence[int], logits: Floats) -> Floats:
    """Return the logits with those of some tokens out of the question."""
    logits = logits.copy()
    logits[..., list(token_ids)] = -np.inf
    return logits
