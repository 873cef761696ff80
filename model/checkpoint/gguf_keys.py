"""Which keys of a GGUF file are understood.

A key may change what a network computes or how text becomes tokens. One that nobody here reads, whether of a newer
program or damaged, would silently make another model: it is refused.
"""

from model.checkpoint.gguf_header import GGUFHeader

_NETWORK = {
    *("block_count", "context_length", "embedding_length", "feed_forward_length"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.sliding_window"),
    *("rope.dimension_count", "rope.freq_base", "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor"),
    *("rope.scaling.original_context_length", "rope.scaling.attn_factor", "rope.scaling.yarn_log_multiplier"),
    *("rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
}
# About training and storage; the tensors tell the size of the vocabulary
_NETWORK_IDLE = {"vocab_size", "tensor_data_layout", "pooling_type", "rope.scaling.finetuned"}
# What GPT does not do, with the values that ask for nothing and are written now and then
_NETWORK_OFF = {
    **dict.fromkeys(("expert_count", "expert_used_count", "expert_shared_count", "nextn_predict_layers"), 0),
    **dict.fromkeys(("attention.clamp_kqv", "attention.max_alibi_bias", "attention.temperature_scale"), 0.0),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "attention.scale"), 0.0),
    **dict.fromkeys(("logit_scale", "residual_scale", "embedding_scale", "rope.scaling.yarn_ext_factor"), 1.0),
    "attention.causal": True,
    "use_parallel_residual": False,
}

_TOKENIZER = {
    *("chat_template", "ggml.model", "ggml.pre", "ggml.tokens", "ggml.token_type", "ggml.merges"),
    *("ggml.bos_token_id", "ggml.eos_token_id", "ggml.eot_token_id", "ggml.eom_token_id", "ggml.add_bos_token"),
}
# Of other kinds of tokenizers, and tokens for tasks other than going on with a text
_TOKENIZER_IDLE = {
    *("chat_templates", "huggingface.json", "ggml.scores", "ggml.add_space_prefix", "ggml.remove_extra_whitespaces"),
    *("ggml.add_eos_token", "ggml.add_sep_token", "ggml.token_type_count", "ggml.unknown_token_id"),
    *("ggml.padding_token_id", "ggml.seperator_token_id", "ggml.cls_token_id", "ggml.mask_token_id"),
    *("ggml.prefix_token_id", "ggml.suffix_token_id", "ggml.middle_token_id", "ggml.fim_pre_token_id"),
    *("ggml.fim_suf_token_id", "ggml.fim_mid_token_id", "ggml.fim_pad_token_id", "ggml.fim_rep_token_id"),
    "ggml.fim_sep_token_id",
}

_ENDINGS = (*_NETWORK, *_TOKENIZER)


def check_keys(header: GGUFHeader, architecture: str) -> None:
    """Raise CheckpointError for a key about the network or the tokenizer that is not understood."""
    for key, value in header.metadata.items():
        begin, _, rest = key.partition(".")
        if begin == architecture:
            understood = rest in _NETWORK | _NETWORK_IDLE or value == _NETWORK_OFF.get(rest)
        elif begin == "tokenizer":
            understood = rest in _TOKENIZER | _TOKENIZER_IDLE or rest.startswith("chat_template.")
        else:
            understood = not key.endswith(_ENDINGS)  # as if of another architecture
        if not understood:
            found = "an array" if isinstance(value, list) else f"{value!r:.100}"
            raise header.refusal(f"key {key}", "none that may change the model", found)
