"""The keys of a GGUF file: what they say becomes the network's shape, and what GPT does not do is refused by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from families import FAMILIES
from gguf_files import refusal, rewrite_gguf, write_gguf

from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.open import open_checkpoint
from model.config import GPTConfig, Rope

Rewrite = Callable[..., Path]

EPSILON = "llama.attention.layer_norm_rms_epsilon"
UNKNOWN = "expected none that may change the model"

BAD_KEYS = [
    (
        {"general.architecture": "mamba"},
        "key general.architecture: expected one of gpt2, llama, qwen2, qwen3, smollm3, found 'mamba'",
    ),
    ({"llama.attention.head_count": None}, "key llama.attention.head_count: expected int, found nothing"),
    ({"llama.attention.head_count": "4"}, "key llama.attention.head_count: expected int, found str"),
    ({"llama.attention.head_count": 5}, "keys llama.*: n_head must be a multiple of n_kv_head, got 5 and 2"),
    ({"llama.attention.head_count": 0}, "keys llama.*: n_head must be between 1 and 2,147,483,648, got 0"),
    ({"llama.attention.head_count": -4}, "keys llama.*: n_head must be between 1 and 2,147,483,648, got -4"),
    (
        {"llama.attention.head_count_kv": [2, 1]},
        "key llama.attention.head_count_kv: expected the same number for all layers, found [1, 2]",
    ),
    ({"llama.embedding_length": 64}, "tensor token_embd.weight: expected shape (265, 64), found (265, 32)"),
    ({"llama.context_length": 2**40}, "keys llama.*: n_ctx must be between 1 and 16,777,216, got 1,099,511,627,776"),
    ({EPSILON: 0.0}, "keys llama.*: norm_eps must be positive, got 0.0"),
    ({EPSILON: float("nan")}, "keys llama.*: norm_eps must be positive, got nan"),
    ({"llama.block_count": 2**40}, "key llama.block_count: expected layers for 20 tensors, found 1,099,511,627,776"),
    ({"llama.block_count": -1}, "keys llama.*: n_layer must be between 1 and 2,147,483,648, got -1"),
    (
        {"llama.attention.value_length": 4},
        "key llama.attention.value_length: expected 8 as for llama.attention.key_length, found 4",
    ),
    ({"llama.attention.sliding_window": -1}, "keys llama.*: window must be at least 1, got -1"),
    ({"llama.expert_count": 8}, f"key llama.expert_count: {UNKNOWN}, found 8"),
    ({"llama.logit_scale": 8.0}, f"key llama.logit_scale: {UNKNOWN}, found 8.0"),
    ({"llama.attention.clamp_kqv": 8.0}, f"key llama.attention.clamp_kqv: {UNKNOWN}, found 8.0"),
    ({"llama.attention.causal": False}, f"key llama.attention.causal: {UNKNOWN}, found False"),
    ({"llama.final_logit_softcapping": 30.0}, f"key llama.final_logit_softcapping: {UNKNOWN}, found 30.0"),
    ({"llama.layer_types": [1, 2]}, f"key llama.layer_types: {UNKNOWN}, found an array"),
    ({"llama.new": "a\nb"}, rf"key llama.new: {UNKNOWN}, found 'a\nb'"),
    ({"tokenizer.ggml.add_bos_tokem": True}, f"key tokenizer.ggml.add_bos_tokem: {UNKNOWN}, found True"),
    ({"tokenizer/chat_template": "a"}, f"key tokenizer/chat_template: {UNKNOWN}, found 'a'"),
    ({"lama.rope.freq_base": 5.0}, f"key lama.rope.freq_base: {UNKNOWN}, found 5.0"),
]


@pytest.fixture
def rewrite(tiny_path: Path, tmp_path: Path) -> Rewrite:
    """A function that writes the tiny file again with other keys and tensors."""
    return lambda keys, **tensors: rewrite_gguf(tiny_path, tmp_path / "changed.gguf", keys, **tensors)


@pytest.fixture(scope="module")
def config_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], GPTConfig]:
    """A function that gives the config read from a family's file."""
    folder = tmp_path_factory.mktemp("families")
    return lambda name: open_checkpoint(write_gguf(FAMILIES[name].make(), folder / f"{name}.gguf")).config


@pytest.mark.parametrize(("keys", "expected"), BAD_KEYS)
def test_bad_key_is_named_with_what_was_expected_and_found(
    rewrite: Rewrite, keys: dict[str, object], expected: str
) -> None:
    assert refusal(rewrite(keys)) == expected


def test_keys_that_change_nothing_are_allowed(rewrite: Rewrite, tiny_checkpoint: Checkpoint) -> None:
    keys = {"llama.expert_count": 0, "llama.logit_scale": 1.0, "llama.attention.causal": True, "llama.vocab_size": 9}
    keys |= {"tokenizer.chat_template.tool_use": "{{", "tokenizer.ggml.scores": [0.5], "quantize.imatrix.file": "a"}
    assert open_checkpoint(rewrite(keys)).config == tiny_checkpoint.config


def test_numbers_of_each_layer_are_allowed_where_they_are_the_same(
    rewrite: Rewrite, tiny_checkpoint: Checkpoint
) -> None:
    keys = {"llama.attention.head_count_kv": [2, 2], "llama.feed_forward_length": [48, 48]}
    assert open_checkpoint(rewrite(keys)).config == tiny_checkpoint.config


def test_sliding_window_is_that_of_all_layers(rewrite: Rewrite, tiny_checkpoint: Checkpoint) -> None:
    config = open_checkpoint(rewrite({"llama.attention.sliding_window": 7})).config
    assert config == replace(tiny_checkpoint.config, window=7, windowed_layers=frozenset({0, 1}))


def test_sliding_window_of_0_is_none(rewrite: Rewrite, tiny_checkpoint: Checkpoint) -> None:
    assert open_checkpoint(rewrite({"llama.attention.sliding_window": 0})).config == tiny_checkpoint.config


def test_missing_key_value_heads_mean_as_many_as_heads(rewrite: Rewrite) -> None:
    expected = "tensor blk.0.attn_k.weight: expected shape (32, 32), found (16, 32)"
    assert refusal(rewrite({"llama.attention.head_count_kv": None})) == expected


def test_head_of_its_own_is_not_tied(rewrite: Rewrite) -> None:
    assert not open_checkpoint(rewrite({}, **{"output.weight": np.zeros((265, 32), np.float32)})).config.tied_head


def test_gpt2_has_layer_norms_biases_and_learned_positions(config_of: Callable[[str], GPTConfig]) -> None:
    config = config_of("gpt2")
    assert (config.norm, config.activation, config.gated, config.rope) == ("layer", "gelu_tanh", False, None)
    assert (config.qkv_bias, config.proj_bias, config.mlp_bias, config.tied_head) == (True, True, True, True)


def test_qwen2_has_biases_of_queries_keys_and_values_only(config_of: Callable[[str], GPTConfig]) -> None:
    config = config_of("qwen2")
    assert (config.qkv_bias, config.proj_bias, config.mlp_bias, config.qk_norm) == (True, False, False, False)


def test_qwen3_has_norms_of_queries_and_keys_and_a_head_size_of_its_own(
    config_of: Callable[[str], GPTConfig],
) -> None:
    config = config_of("qwen3")
    assert (config.qk_norm, config.qkv_bias, config.head_dim, config.n_embd // config.n_head) == (True, False, 24, 16)


def test_smollm3_does_not_rotate_every_fourth_layer(config_of: Callable[[str], GPTConfig]) -> None:
    config = config_of("smollm3")
    assert (config.n_layer, config.unrotated_layers, config.rope) == (5, {3}, Rope(2e6))
