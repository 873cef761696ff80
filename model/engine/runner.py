"""What computes: the one place where the engine meets PyTorch."""

import torch

from model.gpt import GPT
from model.kv_cache import KVCache
from model.sampling import Floats


class TorchRunner:
    """Runs tokens through a GPT, one sequence at a time."""

    def __init__(self, model: GPT, n_ctx: int) -> None:
        """Use caches for `n_ctx` tokens each, in the type of the model's weights."""
        self._model = model
        self._n_ctx = n_ctx
        self._dtype = model.wte.weight.dtype

    def new_cache(self) -> KVCache:
        """Return an empty cache for one sequence."""
        return KVCache(self._model.config, self._n_ctx, self._dtype)

    @torch.inference_mode()
    def run(self, token_ids: list[int], cache: KVCache) -> Floats:
        """Append token_ids to the cache and return the logits (V,) after the last of them, in fp32."""
        logits: Floats = self._model.next_logits(torch.tensor(token_ids), [len(token_ids)], [cache])[0].float().numpy()
        return logits
