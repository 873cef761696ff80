"""The network in PyTorch: the readable definition that everything faster is tested against.

One decoder-only transformer for GPT-2 (Radford et al. 2019) and the Llama line: RMSNorm (Zhang & Sennrich 2019), rotary
positions (Su et al. 2021), grouped-query attention (Ainslie et al. 2023), SwiGLU (Shazeer 2020), sliding windows (Jiang
et al. 2023), normed queries and keys (Qwen3). What a block is made of, its config says.

Sequences are packed, not padded: their tokens stand one after another in one row. In comments: N tokens of all
sequences, T tokens of one, S positions it may see, H heads, D = head_dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import GPTConfig
from model.kv_cache import CacheView
from model.rope import rope_magnitude
from model.rotation import Rotation, frequencies_of

NORMS: dict[str, Callable[[int, float], nn.Module]] = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """What the layers need to know of one forward pass."""

    rows: list[slice]  # of N, the tokens of each sequence
    masks: list[dict[int | None, Tensor | None]]  # of each, by window: (T, S); None where everything may be seen
    rotation: Rotation | None  # None where positions are learned
    cache: CacheView | None  # None where every sequence begins here


class CausalSelfAttention(nn.Module):
    """Grouped-query attention; each sequence by itself."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.rotates = config.rotates(layer)
        self.window = config.window_of(layer)
        n_query, n_kv = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
        self.c_q = nn.Linear(config.n_embd, n_query, bias=config.qkv_bias)
        self.c_k = nn.Linear(config.n_embd, n_kv, bias=config.qkv_bias)
        self.c_v = nn.Linear(config.n_embd, n_kv, bias=config.qkv_bias)
        self.q_norm = nn.RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.c_proj = nn.Linear(n_query, config.n_embd, bias=config.proj_bias)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """Return what each token of x (N, n_embd) gathers from those it may see: (N, n_embd)."""
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.c_q, self.c_k, self.c_v))
        q, k = self.q_norm(q), self.k_norm(k)  # (N, H, D)
        if self.rotates and step.rotation is not None:
            q, k = step.rotation(q), step.rotation(k)
        q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)  # (H, N, D)
        if step.cache is not None:
            step.cache.write(self.layer, k, v)
        ys = []
        for i, (rows, masks) in enumerate(zip(step.rows, step.masks, strict=True)):
            keys, values = step.cache.read(self.layer, i) if step.cache is not None else (k[:, rows], v[:, rows])
            ys.append(_attend(q[:, rows], keys, values, masks[self.window]))
        return self.c_proj(torch.cat(ys, dim=1).transpose(0, 1).flatten(1))


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return what queries (H, T, D) gather from keys and values (n_kv_head, S, D): (H, T, D)."""
    # SDPA takes its fast paths with a batch dimension only
    return F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, enable_gqa=True)[0]


class MLP(nn.Module):
    """The up projection, activated, or gated by another that is."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.c_gate = nn.Linear(config.n_embd, config.n_inner, bias=config.mlp_bias) if config.gated else None
        self.c_up = nn.Linear(config.n_embd, config.n_inner, bias=config.mlp_bias)
        self.c_proj = nn.Linear(config.n_inner, config.n_embd, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of x (N, n_embd) by itself."""
        if self.c_gate is None:
            return self.c_proj(self.activation(self.c_up(x)))
        return self.c_proj(self.activation(self.c_gate(x)) * self.c_up(x))


class Block(nn.Module):
    """One layer: attention, then MLP, each on the normed input and added to it."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = NORMS[config.norm](config.n_embd, config.norm_eps)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = NORMS[config.norm](config.n_embd, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """Return x (N, n_embd), the residual stream, with this layer's part added."""
        x = x + self.attn(self.ln_1(x), step)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Token ids to logits.

    Without a cache it is the reference. With one, the tokens of each sequence follow those that it has cached.
    """

    frequencies: Tensor  # (D / 2,) of rotary positions; none where positions are learned

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = _new_embedding(config.vocab_size, config.n_embd)
        self.wpe = _new_embedding(config.n_ctx, config.n_embd) if config.rope is None else None
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = NORMS[config.norm](config.n_embd, config.norm_eps)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tied_head:
            self.lm_head.weight = self.wte.weight
        frequencies = frequencies_of(config.rope, config.head_dim) if config.rope else torch.empty(0, device="cpu")
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(
        self,
        token_ids: Tensor,
        lengths: Sequence[int],
        cache: CacheView | None = None,
        n_logits: Sequence[int] | None = None,
    ) -> Tensor:
        """Return logits: of every position, (N, vocab_size), or of the last `n_logits[i]` of each sequence.

        `token_ids` (N,) are those of all sequences, one after another; `lengths` says how many are each one's.
        """
        starts = cache.starts if cache is not None else [0] * len(lengths)
        positions = self._positions(starts, lengths, token_ids.device)
        x = self.wte(token_ids)  # (N, n_embd)
        if self.wpe is not None:
            x = x + self.wpe(positions)
        step = self._step(starts, lengths, positions, cache, x.dtype)
        for block in self.h:
            x = block(x, step)
        if n_logits is not None:
            x = torch.cat([x[rows.stop - n : rows.stop] for rows, n in zip(step.rows, n_logits, strict=True)])
        return self.lm_head(self.ln_f(x))

    def _positions(self, starts: Sequence[int], lengths: Sequence[int], device: torch.device) -> Tensor:
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        assert max(ends) <= self.config.n_ctx, f"{max(ends)} tokens exceed {self.config.n_ctx}"
        return torch.cat([torch.arange(start, end, device=device) for start, end in zip(starts, ends, strict=True)])

    def _step(
        self,
        starts: Sequence[int],
        lengths: Sequence[int],
        positions: Tensor,
        cache: CacheView | None,
        dtype: torch.dtype,
    ) -> Step:
        rope = self.config.rope
        rotation = Rotation(positions, self.frequencies, rope_magnitude(rope)) if rope else None
        ends = accumulate(lengths)
        rows = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        windows = {self.config.window_of(layer) for layer in range(self.config.n_layer)}
        masks = [
            {window: _causal_mask(start, length, window, dtype, positions.device) for window in windows}
            for start, length in zip(starts, lengths, strict=True)
        ]
        return Step(rows, masks, rotation, cache)


def _new_embedding(n_rows: int, n_columns: int) -> nn.Embedding:
    weight = torch.empty(n_rows, n_columns)
    if not weight.is_meta:  # there, random numbers would only import torch's compiler: a second and 100 MB
        nn.init.normal_(weight, std=0.02)
    return nn.Embedding.from_pretrained(weight, freeze=False)


def _causal_mask(
    start: int, length: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """Let token i see positions up to start + i, the last `window` of them; None where that is all there are."""
    if length == 1 and (window is None or start < window):
        return None
    hidden = torch.full((length, start + length), -torch.inf, dtype=dtype, device=device)
    mask = hidden.triu(start + 1)  # (T, S), added to the scores: what is to come
    return mask if window is None else mask + hidden.tril(start - window)  # and what is too long ago
