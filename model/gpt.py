"""The network in PyTorch: the readable definition that everything faster is tested against.

Llama's block: RMSNorm (Zhang & Sennrich 2019), rotary positions (Su et al. 2021), grouped-query attention
(Ainslie et al. 2023), SwiGLU (Shazeer 2020). In comments: B sequences, T tokens, S positions seen by attention,
H heads, D = head_dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import GPTConfig
from model.kv_cache import KVCache


def rope_table(config: GPTConfig) -> Tensor:
    """Return the unit complex numbers that turn pair j of a head at position t: (n_ctx, D / 2)."""
    # device="cpu" even where a model is built on the meta device
    pairs = torch.arange(0, config.head_dim, 2, device="cpu", dtype=torch.float32)
    frequencies = config.rope_base ** -(pairs / config.head_dim)
    angles = torch.outer(torch.arange(config.n_ctx, device="cpu", dtype=torch.float32), frequencies)
    return torch.polar(torch.ones_like(angles), angles)


def apply_rope(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn neighbouring pairs of x (B, H, T, D) by rotation (T, D / 2): the interleaved order of GGUF files."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # (B, H, T, D / 2)
    return torch.view_as_real(pairs * rotation).flatten(-2)


class CausalSelfAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.c_q = nn.Linear(config.n_embd, config.n_head * config.head_dim, bias=False)
        self.c_k = nn.Linear(config.n_embd, config.n_kv_head * config.head_dim, bias=False)
        self.c_v = nn.Linear(config.n_embd, config.n_kv_head * config.head_dim, bias=False)
        self.c_proj = nn.Linear(config.n_head * config.head_dim, config.n_embd, bias=False)

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        """Return what each token of x (B, T, n_embd) gathers from those it may see: (B, T, n_embd)."""
        q, k, v = (self._heads(project(x)) for project in (self.c_q, self.c_k, self.c_v))  # (B, H, T, D)
        q, k = apply_rope(q, rotation), apply_rope(k, rotation)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, H, S, D)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.c_proj(y.transpose(1, 2).flatten(-2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MLP(nn.Module):
    """SwiGLU: the up projection, gated by the SiLU of another."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_gate = nn.Linear(config.n_embd, config.n_inner, bias=False)
        self.c_up = nn.Linear(config.n_embd, config.n_inner, bias=False)
        self.c_proj = nn.Linear(config.n_inner, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of x (B, T, n_embd) by itself."""
        return self.c_proj(F.silu(self.c_gate(x)) * self.c_up(x))


class Block(nn.Module):
    """One layer: attention, then MLP, each on the normed input and added to it."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        """Return x (B, T, n_embd), the residual stream, with this layer's part added."""
        x = x + self.attn(self.ln_1(x), rotation, mask, cache)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Token ids to logits.

    Without a cache it is the reference. With one, the tokens follow those already cached, one sequence at a time.
    """

    rope: Tensor  # (n_ctx, D / 2), complex

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        embedding = torch.empty(config.vocab_size, config.n_embd)
        if not embedding.is_meta:  # there, random numbers would only import torch's compiler: a second and 100 MB
            nn.init.normal_(embedding, std=0.02)
        self.wte = nn.Embedding.from_pretrained(embedding, freeze=False)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tied_head:
            self.lm_head.weight = self.wte.weight
        self.register_buffer("rope", rope_table(config), persistent=False)

    def forward(self, token_ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the logits of every position, (B, T, vocab_size), for token_ids (B, T)."""
        return self.lm_head(self._hidden(token_ids, cache))

    def next_logits(self, token_ids: Tensor, cache: KVCache) -> Tensor:
        """Return the logits after the last of token_ids (1, T) alone, (vocab_size,): all that decoding needs."""
        return self.lm_head(self._hidden(token_ids, cache)[0, -1])

    def _hidden(self, token_ids: Tensor, cache: KVCache | None) -> Tensor:
        n_tokens, start = token_ids.size(1), cache.length if cache is not None else 0
        assert start + n_tokens <= self.config.n_ctx, f"{start + n_tokens} tokens exceed {self.config.n_ctx}"
        rotation = self.rope[start : start + n_tokens]
        mask = self._mask(n_tokens, start)
        x = self.wte(token_ids)  # (B, T, n_embd)
        for block in self.h:
            x = block(x, rotation, mask, cache)
        if cache is not None:
            cache.advance(n_tokens)
        return self.ln_f(x)

    def _mask(self, n_tokens: int, start: int) -> Tensor | None:
        """Let token i see positions 0 … start + i; one token alone sees everything and needs no mask."""
        if n_tokens == 1:
            return None
        ones = torch.ones(n_tokens, start + n_tokens, dtype=torch.bool, device=self.rope.device)
        return ones.tril(diagonal=start)  # (T, S)
