"""llama.cpp, through the C interface that its own benchmarks use: no sampler, no text, whole batches at a time.

One context serves single sequences, another several at once: there each has a part of the cache of its own, which is
faster than cells that all share. Everything that is not said here is at llama.cpp's default: batches of 512, flash
attention where it suits, mmap.
"""

import ctypes
import time
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from model.bench.contestant import Tokens
from model.bench.texts import without
from model.errors import ModelError
from model.sampling import Floats

N_SEQUENCES = 16


class LlamaCpp:
    """A GGUF file in llama.cpp, with room for `n_ctx` tokens of all sequences."""

    def __init__(self, path: Path, n_threads: int, n_ctx: int, end_ids: Sequence[int]) -> None:
        """Load it; raises ModelError."""
        import llama_cpp

        self._api: Any = llama_cpp
        self._end_ids = list(end_ids)
        self._silence = llama_cpp.llama_log_callback(lambda *_: None)  # kept, since C holds no reference to it
        llama_cpp.llama_log_set(self._silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not model:
            raise ModelError(f"{path}: llama.cpp cannot load this file.")
        self._new_context = partial(self._open_context, model, n_ctx, n_threads)
        self._context = self._one = self._new_context(1)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = llama_cpp.llama_batch_init(n_ctx, 0, 1)
        arrays = (self._batch.token, self._batch.pos, self._batch.n_seq_id, self._batch.logits)
        self._columns = [np.ctypeslib.as_array(array, (n_ctx,)) for array in arrays]

    @cached_property
    def _many(self) -> Any:
        return self._new_context(N_SEQUENCES)  # when it is needed: else its memory would count from the start

    def _open_context(self, model: Any, n_ctx: int, n_threads: int, n_sequences: int) -> Any:
        params = self._api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_seq_max = n_ctx, n_ctx, n_sequences
        params.n_threads = params.n_threads_batch = n_threads
        context = self._api.llama_init_from_model(model, params)
        if not context:
            raise ModelError(f"llama.cpp has no room for {n_ctx} tokens.")
        return context

    def describe(self) -> str:
        """Say which instructions it has been compiled for."""
        features: str = self._api.llama_print_system_info().decode().removeprefix("CPU : ")
        return " ".join(part.removesuffix(" = 1 ").strip() for part in features.split("|") if " = 1" in part)

    def prefill(self, token_ids: Tokens) -> float:
        """Return the seconds of one batch with the whole prompt, and of the choice after it."""
        self._clear()
        start = time.perf_counter()
        self._read(token_ids).argmax()
        return time.perf_counter() - start

    def decode(self, prompts: Sequence[Tokens], n_tokens: int) -> float:
        """Return the seconds of `n_tokens` batches with one token of each sequence."""
        self._context = self._many if len(prompts) > 1 else self._one
        self._clear()
        newest = [int(self._read(prompt, sequence).argmax()) for sequence, prompt in enumerate(prompts)]
        n_prompt, sequences = len(prompts[0]), range(len(prompts))
        start = time.perf_counter()
        for i in range(n_tokens):
            newest = self._compute(newest, [n_prompt + i] * len(prompts), sequences, len(prompts)).argmax(-1).tolist()
        seconds = time.perf_counter() - start
        self._context = self._one
        return seconds

    def chat(self, turns: Sequence[Tokens], n_reply: int) -> list[float]:
        """Return the seconds to the first token of each reply; what has been computed stays in the cache."""
        self._clear()
        seconds, n_cached = list[float](), 0
        pending: list[int] = []
        for turn in turns:
            pending = [*pending, *turn]
            start = time.perf_counter()
            newest = int(self._read(pending, n_cached=n_cached).argmax())
            seconds.append(time.perf_counter() - start)
            n_cached += len(pending)
            for _ in range(n_reply - 1):
                newest, n_cached = int(self._read([newest], n_cached=n_cached).argmax()), n_cached + 1
            pending = [newest]  # the last token of a reply has not been computed yet
        return seconds

    def greedy(self, prompts: Sequence[Tokens], n_tokens: int) -> list[list[int]]:
        """Return the replies, written one by one."""
        return [self._write(prompt, n_tokens) for prompt in prompts]

    def logits(self, token_ids: Tokens, n_last: int) -> Floats:
        """Return the logits after each of the last tokens of a text, computed in one batch."""
        self._clear()
        return self._compute(token_ids, range(len(token_ids)), [0] * len(token_ids), n_last).copy()

    def _write(self, prompt: Tokens, n_tokens: int) -> list[int]:
        self._clear()
        reply: list[int] = []
        logits = self._read(prompt)
        while len(reply) < n_tokens:
            reply.append(int(without(self._end_ids, logits).argmax()))
            logits = self._read(reply[-1:], n_cached=len(prompt) + len(reply) - 1)
        return reply

    def _read(self, token_ids: Tokens, sequence: int = 0, *, n_cached: int = 0) -> Floats:
        """Append tokens to a sequence; returns the logits (V,) after the last."""
        positions = range(n_cached, n_cached + len(token_ids))
        return self._compute(token_ids, positions, [sequence] * len(token_ids), 1)[0]

    def _compute(self, token_ids: Tokens, positions: Tokens, sequences: Tokens, n_last: int) -> Floats:
        """Run a batch; returns the logits after its last tokens, (n_last, V), valid until the next one."""
        n_tokens = self._batch.n_tokens = len(token_ids)
        wanted = [i >= n_tokens - n_last for i in range(n_tokens)]
        for column, values in zip(self._columns, (token_ids, positions, 1, wanted), strict=True):
            column[:n_tokens] = values
        for i, sequence in enumerate(sequences):
            self._batch.seq_id[i][0] = sequence
        if code := self._api.llama_decode(self._context, self._batch):
            raise ModelError(f"llama.cpp could not compute {n_tokens} tokens (code {code}).")
        return np.ctypeslib.as_array(self._api.llama_get_logits(self._context), (n_last, self._n_vocab))

    def _clear(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
