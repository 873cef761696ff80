"""The network that the keys of a GGUF file describe.

Keys, defaults and what llama.cpp leaves unsaid: its converter (conversion/) and its loader (src/llama-model.cpp).
"""

from dataclasses import dataclass
from typing import Literal

from model.checkpoint.gguf_header import GGUFHeader
from model.checkpoint.gguf_keys import check_keys
from model.checkpoint.gguf_rope import read_rope
from model.config import GPTConfig
from model.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Architecture:
    """What all files of one architecture have in common. The defaults are Qwen2's."""

    name: str
    norm: Literal["rms", "layer"] = "rms"
    activation: Literal["silu", "gelu_tanh"] = "silu"
    gated: bool = True
    qk_norm: bool = False
    learned_positions: bool = False
    pairs_side_by_side: bool = False  # in queries and keys, the two rows of a rotated pair are neighbours
    unrotated_step: int | None = None  # the last of so many layers has no rotary positions


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in [
        Architecture("gpt2", norm="layer", activation="gelu_tanh", gated=False, learned_positions=True),
        Architecture("llama", pairs_side_by_side=True),  # Mistral and SmolLM2 as well
        Architecture("qwen2"),
        Architecture("qwen3", qk_norm=True),
        Architecture("smollm3", pairs_side_by_side=True, unrotated_step=4),
    ]
}

_EPSILONS = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}


def read_architecture(header: GGUFHeader) -> Architecture:
    """Return what is known of the file's architecture; raises CheckpointError for one that is not."""
    name = header.text("general.architecture")
    if name not in ARCHITECTURES:
        raise header.refusal("key general.architecture", f"one of {', '.join(ARCHITECTURES)}", repr(name))
    return ARCHITECTURES[name]


def read_config(header: GGUFHeader, architecture: Architecture) -> GPTConfig:
    """Return the network's shape.

    Raises CheckpointError for keys that are missing or ask for what GPT does not do.
    """
    check_keys(header, architecture.name)
    prefix, tensors = f"{architecture.name}.", header.tensors
    if "token_embd.weight" not in tensors:
        raise header.refusal("tensor token_embd.weight", "it in the file", "nothing")
    n_layer, n_embd = header.integer(f"{prefix}block_count"), header.integer(f"{prefix}embedding_length")
    if n_layer > len(tensors):
        raise header.refusal(f"key {prefix}block_count", f"layers for {len(tensors):,} tensors", f"{n_layer:,}")
    n_ctx, n_head = header.integer(f"{prefix}context_length"), _of_all_layers(header, f"{prefix}attention.head_count")
    head_dim = _read_head_dim(header, prefix, n_embd // max(n_head, 1))
    window = header.integer(f"{prefix}attention.sliding_window", 0) or None
    step = architecture.unrotated_step
    try:
        return GPTConfig(
            vocab_size=tensors["token_embd.weight"].shape[0],
            n_ctx=n_ctx,
            n_layer=n_layer,
            n_head=n_head,
            n_kv_head=_of_all_layers(header, f"{prefix}attention.head_count_kv", n_head),
            head_dim=head_dim,
            n_embd=n_embd,
            n_inner=_of_all_layers(header, f"{prefix}feed_forward_length"),
            norm_eps=header.number(f"{prefix}{_EPSILONS[architecture.norm]}"),
            tied_head="output.weight" not in tensors,
            rope=None if architecture.learned_positions else read_rope(header, prefix, head_dim, n_ctx),
            norm=architecture.norm,
            activation=architecture.activation,
            gated=architecture.gated,
            qkv_bias="blk.0.attn_q.bias" in tensors or "blk.0.attn_qkv.bias" in tensors,
            proj_bias="blk.0.attn_output.bias" in tensors,
            mlp_bias="blk.0.ffn_up.bias" in tensors,
            qk_norm=architecture.qk_norm,
            unrotated_layers=frozenset(range(step - 1, n_layer, step) if step else ()),
            window=window,
            windowed_layers=frozenset(range(n_layer) if window else ()),
        )
    except ValueError as error:
        raise CheckpointError(f"{header.path}: keys {prefix}*: {error}") from None


def _of_all_layers(header: GGUFHeader, key: str, default: int | None = None) -> int:
    """Return an integer that stands there once, or once for each layer."""
    if not isinstance(header.metadata.get(key), list):
        return header.integer(key, default)
    numbers = sorted(set(header.integers(key)))
    if len(numbers) != 1:
        raise header.refusal(f"key {key}", "the same number for all layers", f"{numbers[:9]}")
    return numbers[0]


def _read_head_dim(header: GGUFHeader, prefix: str, default: int) -> int:
    key_length = header.integer(f"{prefix}attention.key_length", default)
    value_length = header.integer(f"{prefix}attention.value_length", key_length)
    if value_length != key_length:
        expected = f"{key_length} as for {prefix}attention.key_length"
        raise header.refusal(f"key {prefix}attention.value_length", expected, f"{value_length}")
    return key_length
