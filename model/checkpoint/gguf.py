"""Checkpoints in GGUF files: what the network looks like, its tokenizer, its chat template, its weights.

Opening reads the header alone and needs no torch, so that a wrong file is refused at once; the weights follow in
`load_model`. Format: the GGUF specification of the ggml project; tensor names and keys: llama.cpp.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gguf import dequantize

from model.chat_template import ChatTemplate
from model.checkpoint.gguf_header import GGUFHeader, TensorInfo, read_gguf_header
from model.config import GPTConfig
from model.errors import CheckpointError
from model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from model.gpt import GPT

ARCHITECTURE = "llama"
NORMAL_TOKEN = 1  # tokenizer.ggml.token_type: every other type is a control token
END_TOKENS = ("<|endoftext|>", "<|im_end|>")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything about a model but its weights."""

    path: Path
    config: GPTConfig
    tokenizer: Tokenizer
    chat_template: ChatTemplate
    end_ids: frozenset[int]  # tokens that end a reply
    tensors: dict[str, TensorInfo]


def open_checkpoint(path: Path) -> Checkpoint:
    """Read and check a GGUF file up to its weights.

    Raises CheckpointError: not GGUF, cut short, another architecture, a tensor missing or of another shape, a
    tokenizer that is not byte-level BPE.
    """
    header = read_gguf_header(path)
    try:
        config = _read_config(header)
        _check_tensors(header, config)
        tokenizer = _read_tokenizer(header, config)
        chat_template = _read_chat_template(header, tokenizer)
    except (CheckpointError, ValueError) as error:
        text = str(error)
        raise CheckpointError(text if str(path) in text else f"{path}: {text}") from None
    return Checkpoint(
        path=path,
        config=config,
        tokenizer=tokenizer,
        chat_template=chat_template,
        end_ids=_read_end_ids(header, tokenizer),
        tensors=header.tensors,
    )


def load_model(checkpoint: Checkpoint, progress: Callable[[int, int], None] = lambda done, total: None) -> "GPT":
    """Build the network and fill it with the checkpoint's weights, dequantized to fp32.

    Calls `progress` with the number of tensors done and of all.

    Raises CheckpointError when a weight is not a finite number, or of a type that cannot be read.
    """
    import torch

    from model.gpt import GPT

    names = {gguf_name: name for gguf_name, name, _ in _parameters(checkpoint.config)}
    weights = {}
    for n_done, info in enumerate(checkpoint.tensors.values(), 1):
        weights[names[info.name]] = torch.from_numpy(_read_tensor(checkpoint.path, info))
        progress(n_done, len(checkpoint.tensors))
    if checkpoint.config.tied_head:
        weights["lm_head.weight"] = weights["wte.weight"]
    with torch.device("meta"):
        model = GPT(checkpoint.config)
    model.load_state_dict(weights, assign=True)
    if checkpoint.config.tied_head:
        model.lm_head.weight = model.wte.weight  # assigned, it has become a parameter of its own
    return model.requires_grad_(False).eval()


def _read_tensor(path: Path, info: TensorInfo) -> np.ndarray:
    raw = np.memmap(path, np.uint8, mode="r", offset=info.offset, shape=(info.n_bytes,))
    rows = raw.reshape(*info.shape[:-1], -1)  # the quantized types work on whole rows of bytes
    try:
        weights = dequantize(rows, info.type)
    except NotImplementedError:
        raise CheckpointError(f"{path}: tensor {info.name}: expected weights, found type {info.type.name}") from None
    if not np.isfinite(weights).all():
        raise CheckpointError(f"{path}: tensor {info.name}: expected finite numbers, found NaN or Inf")
    return np.require(weights, np.float32, ["C", "W"]).reshape(info.shape)


def _read_config(header: GGUFHeader) -> GPTConfig:
    architecture = header.text("general.architecture")
    if architecture != ARCHITECTURE:
        raise CheckpointError(f"general.architecture: expected {ARCHITECTURE!r}, found {architecture!r}")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError("tensor token_embd.weight: expected in the file, found nothing")
    n_head = header.integer("llama.attention.head_count")
    config = GPTConfig(
        vocab_size=embedding.shape[0],
        n_ctx=header.integer("llama.context_length"),
        n_layer=header.integer("llama.block_count"),
        n_head=n_head,
        n_kv_head=header.integer("llama.attention.head_count_kv", n_head),
        n_embd=header.integer("llama.embedding_length"),
        n_inner=header.integer("llama.feed_forward_length"),
        rope_base=header.number("llama.rope.freq_base", 10_000.0),
        norm_eps=header.number("llama.attention.layer_norm_rms_epsilon"),
        tied_head="output.weight" not in header.tensors,
    )
    n_rotated = header.integer("llama.rope.dimension_count", config.head_dim)
    if n_rotated != config.head_dim:
        raise CheckpointError(f"llama.rope.dimension_count: expected {config.head_dim}, found {n_rotated}")
    return config


def _parameters(config: GPTConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield each tensor's name in the file, its name in GPT and its shape."""
    n_embd, n_inner, n_kv = config.n_embd, config.n_inner, config.n_kv_head * config.head_dim
    yield "token_embd.weight", "wte.weight", (config.vocab_size, n_embd)
    for i in range(config.n_layer):
        yield f"blk.{i}.attn_norm.weight", f"h.{i}.ln_1.weight", (n_embd,)
        yield f"blk.{i}.attn_q.weight", f"h.{i}.attn.c_q.weight", (n_embd, n_embd)
        yield f"blk.{i}.attn_k.weight", f"h.{i}.attn.c_k.weight", (n_kv, n_embd)
        yield f"blk.{i}.attn_v.weight", f"h.{i}.attn.c_v.weight", (n_kv, n_embd)
        yield f"blk.{i}.attn_output.weight", f"h.{i}.attn.c_proj.weight", (n_embd, n_embd)
        yield f"blk.{i}.ffn_norm.weight", f"h.{i}.ln_2.weight", (n_embd,)
        yield f"blk.{i}.ffn_gate.weight", f"h.{i}.mlp.c_gate.weight", (n_inner, n_embd)
        yield f"blk.{i}.ffn_up.weight", f"h.{i}.mlp.c_up.weight", (n_inner, n_embd)
        yield f"blk.{i}.ffn_down.weight", f"h.{i}.mlp.c_proj.weight", (n_embd, n_inner)
    yield "output_norm.weight", "ln_f.weight", (n_embd,)
    if not config.tied_head:
        yield "output.weight", "lm_head.weight", (config.vocab_size, n_embd)


def _check_tensors(header: GGUFHeader, config: GPTConfig) -> None:
    expected = set()
    for name, _, shape in _parameters(config):  # not a dict at once: block_count may be billions
        expected.add(name)
        found = header.tensors.get(name)
        if found is None:
            raise CheckpointError(f"tensor {name}: expected shape {shape}, found no such tensor")
        if found.shape != shape:
            raise CheckpointError(f"tensor {name}: expected shape {shape}, found {found.shape}")
    unknown = next((name for name in header.tensors if name not in expected), None)
    if unknown is not None:
        raise CheckpointError(f"tensor {unknown}: expected none of this name in a {ARCHITECTURE} model")


def _read_tokenizer(header: GGUFHeader, config: GPTConfig) -> Tokenizer:
    kind = header.text("tokenizer.ggml.model")
    if kind != "gpt2":
        raise CheckpointError(f"tokenizer.ggml.model: expected 'gpt2' (byte-level BPE), found {kind!r}")
    tokens = header.strings("tokenizer.ggml.tokens")
    types = header.integers("tokenizer.ggml.token_type")
    if not len(tokens) == len(types) == config.vocab_size:
        raise CheckpointError(
            f"tokenizer: expected {config.vocab_size:,} tokens as in token_embd.weight, "
            f"found {len(tokens):,} with {len(types):,} types"
        )
    control = frozenset(i for i, kind in enumerate(types) if kind != NORMAL_TOKEN)
    pre = header.text("tokenizer.ggml.pre")
    return Tokenizer.from_bpe(pre, tokens, header.strings("tokenizer.ggml.merges"), control)


def _read_chat_template(header: GGUFHeader, tokenizer: Tokenizer) -> ChatTemplate:
    tokens = header.strings("tokenizer.ggml.tokens")
    variables = {}
    for name in ("bos", "eos"):
        token_id = header.integer(f"tokenizer.ggml.{name}_token_id")
        if not 0 <= token_id < len(tokens):
            raise CheckpointError(f"tokenizer.ggml.{name}_token_id: expected a token, found {token_id}")
        variables[f"{name}_token"] = tokens[token_id]
    return ChatTemplate(header.text("tokenizer.chat_template"), tokenizer, variables)


def _read_end_ids(header: GGUFHeader, tokenizer: Tokenizer) -> frozenset[int]:
    named = {tokenizer.control_tokens[token] for token in END_TOKENS if token in tokenizer.control_tokens}
    return frozenset(named | {header.integer("tokenizer.ggml.eos_token_id")})
