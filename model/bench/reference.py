"""The fp32 reference: what everything else is held against. The network as model.gpt defines it, in PyTorch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.bench.contestant import Tokens
from model.bench.texts import read_text, without, write_texts
from model.checkpoint.checkpoint import load_model
from model.checkpoint.open import open_checkpoint
from model.sampling import Floats, sample
from model.sampling_params import SamplingParams


class Reference:
    """A checkpoint in fp32, with room for `n_blocks` blocks of tokens."""

    def __init__(self, path: Path, n_threads: int, n_blocks: int) -> None:
        """Load it. Raises CheckpointError."""
        import torch

        from model.engine.torch_runner import TorchRunner

        torch.set_num_threads(n_threads)
        checkpoint = open_checkpoint(path)
        self._runner = TorchRunner(load_model(checkpoint), n_blocks)
        self._end_ids = sorted(checkpoint.end_ids)

    def greedy(self, prompts: Sequence[Tokens], n_tokens: int) -> list[list[int]]:
        """Return for each prompt the `n_tokens` that follow: the most likely ones that do not end a reply."""
        return write_texts(self._runner, prompts, n_tokens, lambda logits: int(without(self._end_ids, logits).argmax()))

    def sample(self, prompts: Sequence[Tokens], n_tokens: int) -> list[list[int]]:
        """Return for each prompt `n_tokens` drawn as the network says, the same ones each time."""
        params, generator = SamplingParams(temperature=1, top_p=1), np.random.default_rng(0)
        return write_texts(
            self._runner,
            prompts,
            n_tokens,
            lambda logits: sample(without(self._end_ids, logits), params, generator=generator),
        )

    def logits(self, token_ids: Tokens, n_last: int) -> Floats:
        """Return the logits after each of the last tokens of a text, (n_last, V)."""
        return read_text(self._runner, token_ids, n_last)
