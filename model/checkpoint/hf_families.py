"""The families of the Hugging Face hub: what each is made of, which keys say so, and what it calls its tensors.

One table, read for opening a folder and for writing one. Keys, defaults and names are those of transformers.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from model.checkpoint.json_file import Json, JsonObject


@dataclass(frozen=True, slots=True)
class Layout:
    """What modules of GPT are called in files of weights, and how those of linear ones lie there."""

    prefix: str  # of all but the head
    modules: Mapping[str, str]  # only those of another name; several in one are kept one after another
    transposed: bool = False  # linear weights are kept as (columns, rows)


FUSED = ("attn.c_q", "attn.c_k", "attn.c_v")  # GPT-2 keeps these three as one
GPT2_LAYOUT = Layout(
    prefix="transformer.",
    modules={**dict.fromkeys(FUSED, "attn.c_attn"), "mlp.c_up": "mlp.c_fc"},
    transposed=True,
)
LLAMA_LAYOUT = Layout(
    prefix="model.",
    modules={
        "wte": "embed_tokens",
        "h": "layers",
        "ln_1": "input_layernorm",
        "attn.c_q": "self_attn.q_proj",
        "attn.c_k": "self_attn.k_proj",
        "attn.c_v": "self_attn.v_proj",
        "attn.q_norm": "self_attn.q_norm",
        "attn.k_norm": "self_attn.k_norm",
        "attn.c_proj": "self_attn.o_proj",
        "ln_2": "post_attention_layernorm",
        "mlp.c_gate": "mlp.gate_proj",
        "mlp.c_up": "mlp.up_proj",
        "mlp.c_proj": "mlp.down_proj",
        "ln_f": "norm",
    },
)


@dataclass(frozen=True, slots=True)
class Family:
    """What transformers makes of one model_type."""

    architecture: str  # its class there
    keys: Mapping[str, str]  # which key says what a field of GPTConfig is
    defaults: Mapping[str, Json]  # every key that is read, with what a missing one means
    only: Mapping[str, Json]  # keys that would change the computation, each with the one value that does not
    made_of: Mapping[str, Any] = field(default_factory=dict)  # fields that no key says and that differ from Llama's
    # The layers that see a window, if there is one: of the keys, and of the layers without rotary positions
    windowed: Callable[[JsonObject, frozenset[int]], Iterable[int]] = lambda keys, unrotated: ()
    layout: Layout = LLAMA_LAYOUT


LLAMA_KEYS = {
    "vocab_size": "vocab_size",
    "n_ctx": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "head_dim": "head_dim",
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "activation": "hidden_act",
    "tied_head": "tie_word_embeddings",
}
GPT2_KEYS = {
    "vocab_size": "vocab_size",
    "n_ctx": "n_positions",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "n_inner": "n_inner",
    "norm_eps": "layer_norm_epsilon",
    "activation": "activation_function",
    "tied_head": "tie_word_embeddings",
}
ATTENTION_BIAS = {"qkv_bias": "attention_bias", "proj_bias": "attention_bias"}
MLP_BIAS = {"mlp_bias": "mlp_bias"}

LLAMA_DEFAULTS: dict[str, Json] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
    "rope_scaling": None,  # before transformers 5
    "rope_parameters": None,
    "original_max_position_embeddings": None,
}
MISTRAL_DEFAULTS: dict[str, Json] = {
    **LLAMA_DEFAULTS,
    "intermediate_size": 14_336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}
QWEN_DEFAULTS: dict[str, Json] = {
    **LLAMA_DEFAULTS,
    "vocab_size": 151_936,
    "intermediate_size": 22_016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
SMOLLM3_DEFAULTS: dict[str, Json] = {
    **LLAMA_DEFAULTS,
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
    "rope_theta": 2_000_000.0,
    "use_sliding_window": False,
    "sliding_window": None,
    "layer_types": None,
    "no_rope_layers": None,
    "no_rope_layer_interval": 4,
    "attention_bias": False,
    "mlp_bias": False,
}
GPT2_DEFAULTS: dict[str, Json] = {
    "vocab_size": 50_257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}

ONLY: dict[str, Json] = {
    "quantization_config": None,
    "per_layer_config": None,
    "is_causal": True,
    "is_encoder_decoder": False,
}
LLAMA_ONLY: dict[str, Json] = {**ONLY, "partial_rotary_factor": 1}
GPT2_ONLY: dict[str, Json] = {
    **ONLY,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    # Other names for keys of its own, which would win over these
    **dict.fromkeys(("hidden_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers")),
}


def _upper_layers(keys: JsonObject, unrotated: frozenset[int]) -> Iterable[int]:
    return range(max(keys.integer("max_window_layers"), 0), keys.integer("num_hidden_layers"))


# In the order in which they are tried for a network that is to be written
FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM",
        LLAMA_KEYS | ATTENTION_BIAS | MLP_BIAS,
        {**LLAMA_DEFAULTS, "attention_bias": False, "mlp_bias": False},
        {**LLAMA_ONLY, "sliding_window": None, "layer_types": None},
    ),
    "mistral": Family(
        "MistralForCausalLM",
        LLAMA_KEYS,
        MISTRAL_DEFAULTS,
        {**LLAMA_ONLY, "layer_types": None},
        windowed=lambda keys, unrotated: range(keys.integer("num_hidden_layers")),
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        LLAMA_KEYS,
        QWEN_DEFAULTS,
        LLAMA_ONLY,
        made_of={"qkv_bias": True},
        windowed=_upper_layers,
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        LLAMA_KEYS | ATTENTION_BIAS,
        {**QWEN_DEFAULTS, "head_dim": 128, "attention_bias": False},
        LLAMA_ONLY,
        made_of={"qk_norm": True},
        windowed=_upper_layers,
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        LLAMA_KEYS | ATTENTION_BIAS | MLP_BIAS,
        SMOLLM3_DEFAULTS,
        LLAMA_ONLY,
        windowed=lambda keys, unrotated: unrotated,
    ),
    "gpt2": Family(
        "GPT2LMHeadModel",
        GPT2_KEYS,
        GPT2_DEFAULTS,
        GPT2_ONLY,
        made_of={"norm": "layer", "gated": False, "qkv_bias": True, "proj_bias": True, "mlp_bias": True, "rope": None},
        layout=GPT2_LAYOUT,
    ),
}
