"""The shape of a network: one frozen dataclass for the whole family."""

import math
from dataclasses import dataclass
from typing import Literal

MAX_CTX = 2**24  # beyond it, fp32 cannot tell positions apart
MAX_SIZE = 2**31  # of any other dimension; real ones stay far below
BLOCK_SIZE = 16  # positions whose keys and values are kept together


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Positions divided by a factor (Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Low frequencies divided by a factor, high ones kept, those between blended (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_ctx: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """As Llama3Scaling, with a blend by turns within the original context, and longer vectors (Peng et al. 2023)."""

    factor: float
    original_ctx: int
    attention_factor: float  # what queries and keys are multiplied by
    beta_fast: float = 32.0  # turns from which on a frequency is kept
    beta_slow: float = 1.0  # turns up to which it is divided
    truncate: bool = True  # the blend begins and ends at whole pairs


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions (Su et al. 2021)."""

    base: float
    scaling: RopeScaling | None = None


@dataclass(frozen=True, slots=True)
class GPTConfig:
    """What a decoder-only transformer is made of (names after GPT-2 and nanoGPT). The defaults are Llama's."""

    vocab_size: int
    n_ctx: int  # positions the network was trained for
    n_layer: int
    n_head: int  # query heads
    n_kv_head: int  # key and value heads; fewer than n_head is grouped-query attention
    head_dim: int
    n_embd: int
    n_inner: int  # width inside the MLP
    norm_eps: float
    tied_head: bool  # the head shares its matrix with the embedding
    rope: Rope | None  # None: positions are learned, as GPT-2's
    norm: Literal["rms", "layer"] = "rms"
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    gated: bool = True  # the MLP multiplies two projections (SwiGLU)
    qkv_bias: bool = False
    proj_bias: bool = False  # of attention's output
    mlp_bias: bool = False
    qk_norm: bool = False  # queries and keys are normed, each head by itself
    unrotated_layers: frozenset[int] = frozenset()  # layers without rotary positions (NoPE)
    window: int | None = None  # how many positions, its own included, a token sees in windowed_layers
    windowed_layers: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_ctx", "n_layer", "n_head", "n_kv_head", "head_dim", "n_embd", "n_inner"):
            limit = MAX_CTX if name == "n_ctx" else MAX_SIZE
            if not 1 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must be between 1 and {limit:,}, got {getattr(self, name):,}")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head must be a multiple of n_kv_head, got {self.n_head} and {self.n_kv_head}")
        if not 0 < self.norm_eps < math.inf:
            raise ValueError(f"norm_eps must be positive, got {self.norm_eps}")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")
        if self.rope is not None:
            _check_rope(self.rope, self.head_dim)

    @property
    def n_cached(self) -> int:
        """How many numbers a cache holds for one position: its keys and values in all layers."""
        return 2 * self.n_layer * self.n_kv_head * self.head_dim

    def window_of(self, layer: int) -> int | None:
        """How many positions a token sees in this layer; None for all."""
        return self.window if layer in self.windowed_layers else None

    def rotates(self, layer: int) -> bool:
        """Whether this layer turns queries and keys by their positions."""
        return self.rope is not None and layer not in self.unrotated_layers


def _check_rope(rope: Rope, head_dim: int) -> None:
    if head_dim % 2:
        raise ValueError(f"head_dim must be even for rotary positions, got {head_dim}")
    scaling = rope.scaling
    numbers = {"rope base - 1": rope.base - 1}
    if scaling is not None:
        numbers["rope factor"] = scaling.factor
    if isinstance(scaling, Llama3Scaling):
        numbers |= {"low_freq_factor": scaling.low_freq_factor, "original_ctx": scaling.original_ctx}
        numbers["high_freq_factor - low_freq_factor"] = scaling.high_freq_factor - scaling.low_freq_factor
    if isinstance(scaling, YarnScaling):
        numbers |= {"attention_factor": scaling.attention_factor, "original_ctx": scaling.original_ctx}
        numbers |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, got {value}")
