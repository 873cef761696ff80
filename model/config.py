"""The shape of a network: one frozen dataclass for the whole family."""

import math
from dataclasses import dataclass

MAX_CTX = 2**20  # caches and tables are laid out for the whole context


@dataclass(frozen=True, slots=True)
class GPTConfig:
    """Sizes and constants of a decoder-only transformer of the Llama line (names after GPT-2 and nanoGPT)."""

    vocab_size: int
    n_ctx: int  # positions the network was trained for
    n_layer: int
    n_head: int  # query heads
    n_kv_head: int  # key and value heads; fewer than n_head is grouped-query attention
    n_embd: int
    n_inner: int  # width inside the MLP
    rope_base: float
    norm_eps: float
    tied_head: bool  # the head shares its matrix with the embedding

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_ctx", "n_layer", "n_head", "n_kv_head", "n_embd", "n_inner"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_embd % self.n_head or self.head_dim % 2:
            raise ValueError(f"n_embd must be an even multiple of n_head, got {self.n_embd} and {self.n_head}")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head must be a multiple of n_kv_head, got {self.n_head} and {self.n_kv_head}")
        if not (0 < self.rope_base < math.inf and 0 < self.norm_eps < math.inf):
            raise ValueError(f"rope_base and norm_eps must be positive, got {self.rope_base} and {self.norm_eps}")
        if self.n_ctx > MAX_CTX:
            raise ValueError(f"n_ctx must be at most {MAX_CTX:,}, got {self.n_ctx:,}")

    @property
    def head_dim(self) -> int:
        """The width of one head."""
        return self.n_embd // self.n_head
