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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import GPTConfig
from model.kv_cache import KVCache
from model.rope import Rotation, rope_frequencies, rope_magnitude

NORMS: dict[str, Callable[[int, float], nn.Module]] = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


@dataclass(frozen=True, slots=True)
class Span:
    """One sequence of a packed row: its tokens, and what they may see."""

    rows: slice  # of N
    cache: KVCache | None
    masks: dict[int | None, Tensor | None]  # by window: (T, S), None where everything may be seen


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

    def forward(self, x: Tensor, spans: Sequence[Span], rotation: Rotation | None) -> Tensor:
        """Return what each token of x (N, n_embd) gathers from those it may see: (N, n_embd)."""
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.c_q, self.c_k, self.c_v))
        q, k = self.q_norm(q), self.k_norm(k)  # (N, H, D)
        if self.rotates and rotation is not None:
            q, k = rotation(q), rotation(k)
        y = torch.cat([self._attend(q[span.rows], k[span.rows], v[span.rows], span) for span in spans])
        return self.c_proj(y.flatten(-2))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))  # (H, T, D)
        if span.cache is not None:
            k, v = span.cache.append(self.layer, k, v)  # (H, S, D)
        # SDPA takes its fast paths with a batch dimension only
        y = F.scaled_dot_product_attention(
            q[None], k[None], v[None], attn_mask=span.masks[self.window], enable_gqa=True
        )
        return y[0].transpose(0, 1)  # (T, H, D)


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

    def forward(self, x: Tensor, spans: Sequence[Span], rotation: Rotation | None) -> Tensor:
        """Return x (N, n_embd), the residual stream, with this layer's part added."""
        x = x + self.attn(self.ln_1(x), spans, rotation)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Token ids to logits.

    Without caches it is the reference. With them, one per sequence, tokens follow those already cached.
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
        frequencies = rope_frequencies(config.rope, config.head_dim) if config.rope else torch.empty(0, device="cpu")
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, token_ids: Tensor, lengths: Sequence[int], caches: Sequence[KVCache] | None = None) -> Tensor:
        """Return the logits of every position, (N, vocab_size).

        `token_ids` (N,) are those of all sequences, one after another; `lengths` says how many are each one's.
        """
        return self.lm_head(self._hidden(token_ids, lengths, caches))

    def next_logits(self, token_ids: Tensor, lengths: Sequence[int], caches: Sequence[KVCache]) -> Tensor:
        """Return the logits after the last token of each sequence, (len(lengths), vocab_size): what decoding needs."""
        last = torch.tensor(lengths, device=token_ids.device).cumsum(0) - 1
        return self.lm_head(self._hidden(token_ids, lengths, caches)[last])

    def _hidden(self, token_ids: Tensor, lengths: Sequence[int], caches: Sequence[KVCache] | None) -> Tensor:
        starts = [cache.length for cache in caches] if caches is not None else [0] * len(lengths)
        positions = self._positions(starts, lengths, token_ids.device)
        x = self.wte(token_ids)  # (N, n_embd)
        if self.wpe is not None:
            x = x + self.wpe(positions)
        rope = self.config.rope
        rotation = Rotation(positions, self.frequencies, rope_magnitude(rope)) if rope else None
        spans = self._spans(starts, lengths, caches, token_ids.device)
        for block in self.h:
            x = block(x, spans, rotation)
        for cache, length in zip(caches or (), lengths, strict=caches is not None):
            cache.advance(length)
        return self.ln_f(x)

    def _positions(self, starts: Sequence[int], lengths: Sequence[int], device: torch.device) -> Tensor:
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        assert max(ends) <= self.config.n_ctx, f"{max(ends)} tokens exceed {self.config.n_ctx}"
        return torch.cat([torch.arange(start, end, device=device) for start, end in zip(starts, ends, strict=True)])

    def _spans(
        self, starts: Sequence[int], lengths: Sequence[int], caches: Sequence[KVCache] | None, device: torch.device
    ) -> list[Span]:
        windows = {self.config.window_of(layer) for layer in range(self.config.n_layer)}
        spans, end = [], 0
        for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            rows = slice(end, end + length)
            masks = {window: _causal_mask(start, length, window, device) for window in windows}
            spans.append(Span(rows, caches[i] if caches is not None else None, masks))
            end = rows.stop
        return spans


def _new_embedding(n_rows: int, n_columns: int) -> nn.Embedding:
    weight = torch.empty(n_rows, n_columns)
    if not weight.is_meta:  # there, random numbers would only import torch's compiler: a second and 100 MB
        nn.init.normal_(weight, std=0.02)
    return nn.Embedding.from_pretrained(weight, freeze=False)


def _causal_mask(start: int, length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Let token i see positions up to start + i, the last `window` of them; None where that is all there are."""
    if length == 1 and (window is None or start < window):
        return None
    ones = torch.ones(length, start + length, dtype=torch.bool, device=device)
    mask = ones.tril(diagonal=start)  # (T, S)
    return mask if window is None else mask.triu(diagonal=start - window + 1)
