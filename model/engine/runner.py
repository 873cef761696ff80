"""What computes: the one place where the engine meets PyTorch."""

import torch

from model.gpt import GPT
from model.kv_cache import KVCache
from model.sampling import Floats


class TorchRunner:
    """Runs tokens through a GPT, one sequence at a time."""

    def __init__(self, model: GPT) -> None:
        self._model = model

    def new_cache(self) -> KVCache:
        """Return an empty cache for one sequence."""
        return KVCache(self._model.config)

    @torch.inference_mode()
    def run(self, token_ids: list[int], cache: KVCache) -> Floats:
        """Append token_ids to the cache and return the logits (V,) after the last of them."""
        logits: Floats = self._model.next_logits(torch.tensor([token_ids]), cache).numpy()
        return logits
