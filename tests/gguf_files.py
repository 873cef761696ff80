"""GGUF files for tests: written from a model of transformers as llama.cpp's converter does, or changed from another."""

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import CHAT_TEMPLATE, CONTROL_TOKENS, MERGES, tiny_vocabulary
from families import is_embedding
from torch import Tensor, arange
from transformers import PreTrainedConfig, PreTrainedModel

from model.checkpoint.checkpoint import load_model
from model.checkpoint.open import open_checkpoint
from model.errors import CheckpointError

ARCHITECTURES = {"mistral": "llama"}  # of GGUF files, where they differ from model_type


def write_gguf(model: PreTrainedModel, path: Path, *, split_max_tensors: int = 0) -> Path:
    """Write the model in fp32, over several files if so many tensors are too many for one."""
    config = model.config
    architecture = ARCHITECTURES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split_max_tensors)
    add_keys(writer, config, is_llama=architecture in ("llama", "smollm3"))
    add_tokenizer(writer)
    for name, tensor in gguf_tensors(model, architecture):
        writer.add_tensor(name, np.ascontiguousarray(tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_keys(writer: gguf.GGUFWriter, config: PreTrainedConfig, *, is_llama: bool) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if is_llama:
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head_dim_of(config))
    if config.model_type == "mistral":
        writer.add_sliding_window(config.sliding_window)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tiny_vocabulary())
    writer.add_token_types([3 if token in CONTROL_TOKENS else 1 for token in tiny_vocabulary()])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)


def gguf_tensors(model: PreTrainedModel, architecture: str) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor by the name that the package gguf gives it, with llama.cpp's changes to its rows."""
    config = model.config
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        tensor = parameter.detach()
        if config.model_type == "gpt2" and tensor.ndim == 2 and not is_embedding(name):
            tensor = tensor.T  # stored as (inputs, outputs)
        if architecture in ("llama", "smollm3") and ("q_proj" in name or "k_proj" in name):
            tensor = pairs_side_by_side(tensor, head_dim_of(config))
        yield names.get_name(name, try_suffixes=(".weight", ".bias")), tensor
    rope = getattr(config, "rope_parameters", None)
    if rope and rope["rope_type"] == "llama3":
        plain = rope["rope_theta"] ** -(arange(0, config.head_dim, 2) / config.head_dim)
        yield "rope_freqs.weight", plain / model.model.rotary_emb.inv_freq


def head_dim_of(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def pairs_side_by_side(tensor: Tensor, head_dim: int) -> Tensor:
    return tensor.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def rewrite_gguf(source: Path, target: Path, keys: dict[str, object], **tensors: object) -> Path:
    """Write a file again with other keys and tensors; None leaves one out, (bytes, type) is a quantized tensor."""
    reader = gguf.GGUFReader(source)
    metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")} | keys
    writer = gguf.GGUFWriter(target, str(metadata.pop("general.architecture")))
    for key, value in metadata.items():
        if value is not None:
            add_key(writer, key, value)
    for name, tensor in ({tensor.name: tensor.data for tensor in reader.tensors} | tensors).items():
        if isinstance(tensor, tuple):
            writer.add_tensor(name, tensor[0], raw_dtype=tensor[1])
        elif tensor is not None:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def add_key(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    types = gguf.GGUFValueType
    kinds = {int: types.INT64, float: types.FLOAT32, str: types.STRING, bool: types.BOOL}
    if isinstance(value, list):
        writer.add_key_value(key, value, types.ARRAY, sub_type=kinds[type(value[0])])
    else:
        writer.add_key_value(key, value, kinds[type(value)])


def refusal(path: Path) -> str:
    """Why a file cannot be loaded, without its path."""
    with pytest.raises(CheckpointError) as caught:
        load_model(open_checkpoint(path))
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")
