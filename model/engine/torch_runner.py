"""What computes with PyTorch, on any device and in any type of numbers."""

from collections.abc import Sequence

import torch

from model.engine.runner import Chunk
from model.gpt import GPT
from model.kv_cache import KVCache
from model.sampling import Floats


class TorchRunner:
    """Computes the chunks of a step in one forward pass; keys and values have the type and device of the weights."""

    def __init__(self, model: GPT, n_blocks: int) -> None:
        self._model = model
        self._device = model.wte.weight.device
        self._cache = KVCache(model.config, n_blocks, model.wte.weight.dtype, self._device)

    @property
    def n_blocks(self) -> int:
        """How many blocks of BLOCK_SIZE positions there are."""
        return self._cache.n_blocks

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> Floats:
        """Compute the chunks of different sequences; returns the wanted logits, (sum of n_logits, V), in fp32."""
        token_ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
        lengths = [len(chunk.token_ids) for chunk in chunks]
        view = self._cache.view([chunk.start for chunk in chunks], lengths, [chunk.block_table for chunk in chunks])
        n_logits = [chunk.n_logits for chunk in chunks]
        logits = self._model(torch.tensor(token_ids, device=self._device), lengths, view, n_logits)
        array: Floats = logits.float().cpu().numpy()
        return array

    def copy_block(self, source: int, target: int) -> None:
        """Give a block the keys and values of another."""
        self._cache.copy_block(source, target)
