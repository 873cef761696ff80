"""transformers in fp32, as its own generate() uses the network: one forward pass a step, over a dynamic cache."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig

from model.bench.contestant import Tokens
from model.sampling import Floats


class Transformers:
    """A GGUF file or a Hugging Face folder in transformers."""

    def __init__(self, path: Path, n_threads: int, end_ids: Sequence[int]) -> None:
        """Load it, dequantized."""
        self._end_ids = list(end_ids)
        torch.set_num_threads(n_threads)
        where = (path, {}) if path.is_dir() else (path.parent, {"gguf_file": path.name})
        self._model: Any = AutoModelForCausalLM.from_pretrained(where[0], dtype=torch.float32, **where[1])

    def describe(self) -> str:
        """Say how it attends."""
        return f"PyTorch, fp32, {self._model.config._attn_implementation}"

    def prefill(self, token_ids: Tokens) -> float:
        """Return the seconds of one forward pass, and of the choice after it."""
        start = time.perf_counter()
        self._next([token_ids], DynamicCache())
        return time.perf_counter() - start

    def decode(self, prompts: Sequence[Tokens], n_tokens: int) -> float:
        """Return the seconds of `n_tokens` passes with one token of each sequence."""
        cache = DynamicCache()
        newest = self._next(prompts, cache)
        start = time.perf_counter()
        for _ in range(n_tokens):
            newest = self._next([[token_id] for token_id in newest], cache)
        return time.perf_counter() - start

    def chat(self, turns: Sequence[Tokens], n_reply: int) -> list[float]:
        """Return the seconds to the first token of each reply; what has been computed stays in the cache."""
        cache, seconds = DynamicCache(), list[float]()
        pending: list[int] = []
        for turn in turns:
            start = time.perf_counter()
            newest = self._next([[*pending, *turn]], cache)
            seconds.append(time.perf_counter() - start)
            for _ in range(n_reply - 1):
                newest = self._next([newest], cache)
            pending = newest  # the last token of a reply has not been computed yet
        return seconds

    def greedy(self, prompts: Sequence[Tokens], n_tokens: int) -> list[list[int]]:
        """Return the replies, written all together by generate()."""
        longest = max(map(len, prompts))
        padding = [[0] * (longest - len(prompt)) for prompt in prompts]
        written = self._model.generate(
            torch.tensor([left + list(prompt) for left, prompt in zip(padding, prompts, strict=True)]),
            attention_mask=torch.tensor(
                [left + [1] * len(prompt) for left, prompt in zip(padding, prompts, strict=True)]
            ),
            generation_config=GenerationConfig(  # not what the folder recommends
                max_new_tokens=n_tokens, do_sample=False, suppress_tokens=self._end_ids, pad_token_id=0
            ),
        )
        replies: list[list[int]] = written[:, longest:].tolist()
        return replies

    @torch.inference_mode()
    def logits(self, token_ids: Tokens, n_last: int) -> Floats:
        """Return the logits after each of the last tokens of a text, computed in one pass."""
        logits: Floats = self._model(torch.tensor([list(token_ids)]), logits_to_keep=n_last).logits[0].numpy()
        return logits

    @torch.inference_mode()
    def _next(self, token_ids: Sequence[Tokens], cache: DynamicCache) -> list[int]:
        """Append tokens to each sequence; returns the most likely ones that follow."""
        tensor = torch.tensor([list(row) for row in token_ids])  # (B, T)
        newest: list[int] = (
            self._model(tensor, past_key_values=cache, logits_to_keep=1).logits[:, -1].argmax(-1).tolist()
        )
        return newest
