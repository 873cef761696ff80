"""The names and shapes of a network's parameters, for readers and writers of checkpoints that need no torch."""

from collections.abc import Iterator

from model.config import GPTConfig

Shape = tuple[int, ...]


def parameter_shapes(config: GPTConfig) -> Iterator[tuple[str, Shape]]:
    """Yield the name of each parameter of GPT and its shape; one by one, since n_layer may be billions."""
    n_embd = config.n_embd
    yield "wte.weight", (config.vocab_size, n_embd)
    if config.rope is None:
        yield "wpe.weight", (config.n_ctx, n_embd)
    for layer in range(config.n_layer):
        for name, shape in _block(config):
            yield f"h.{layer}.{name}", shape
    yield from _norm("ln_f", config)
    if not config.tied_head:
        yield "lm_head.weight", (config.vocab_size, n_embd)


def _block(config: GPTConfig) -> Iterator[tuple[str, Shape]]:
    n_embd, n_inner = config.n_embd, config.n_inner
    n_query, n_kv = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    yield from _norm("ln_1", config)
    for name, n_rows in (("attn.c_q", n_query), ("attn.c_k", n_kv), ("attn.c_v", n_kv)):
        yield from _linear(name, n_rows, n_embd, config.qkv_bias)
    if config.qk_norm:
        yield "attn.q_norm.weight", (config.head_dim,)
        yield "attn.k_norm.weight", (config.head_dim,)
    yield from _linear("attn.c_proj", n_embd, n_query, config.proj_bias)
    yield from _norm("ln_2", config)
    for name in ("mlp.c_gate", "mlp.c_up") if config.gated else ("mlp.c_up",):
        yield from _linear(name, n_inner, n_embd, config.mlp_bias)
    yield from _linear("mlp.c_proj", n_embd, n_inner, config.mlp_bias)


def _linear(name: str, n_rows: int, n_columns: int, bias: bool) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (n_rows, n_columns)
    if bias:
        yield f"{name}.bias", (n_rows,)


def _norm(name: str, config: GPTConfig) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (config.n_embd,)
    if config.norm == "layer":
        yield f"{name}.bias", (config.n_embd,)
