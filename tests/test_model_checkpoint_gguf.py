"""Checkpoints: a good file becomes the network it describes, a bad one is refused in one line."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, dequantize, quantize

from model.checkpoint.gguf import Checkpoint, load_model, open_checkpoint
from model.errors import CheckpointError
from model.gpt import GPT

Quantization = GGMLQuantizationType
Rewrite = Callable[..., Path]

DOWN, EPSILON = "blk.1.ffn_down.weight", "llama.attention.layer_norm_rms_epsilon"
F32 = np.float32

BAD_KEYS = [
    ({"general.architecture": "mamba"}, "general.architecture: expected 'llama', found 'mamba'"),
    ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model: expected 'gpt2' (byte-level BPE), found 'llama'"),
    ({"tokenizer.ggml.pre": "gpt-5"}, "pre-tokenizer: expected one of smollm, found 'gpt-5'"),
    ({"tokenizer.ggml.pre": None}, "key tokenizer.ggml.pre: expected str, found nothing"),
    ({"tokenizer.chat_template": None}, "key tokenizer.chat_template: expected str, found nothing"),
    (
        {"tokenizer.ggml.tokens": ["a", "b"]},
        "tokenizer: expected 265 tokens as in token_embd.weight, found 2 with 265 types",
    ),
    (
        {"tokenizer.ggml.token_type": [1]},
        "tokenizer: expected 265 tokens as in token_embd.weight, found 265 with 1 types",
    ),
    (
        {"tokenizer.ggml.merges": ["l l", "h e"]},
        "merge 1 makes 'he': expected a token with an id above 260, found 259",
    ),
    ({"tokenizer.ggml.bos_token_id": 265}, "tokenizer.ggml.bos_token_id: expected a token, found 265"),
    ({"tokenizer.ggml.eos_token_id": None}, "key tokenizer.ggml.eos_token_id: expected int, found nothing"),
    ({"llama.attention.head_count": None}, "key llama.attention.head_count: expected int, found nothing"),
    ({"llama.attention.head_count": "4"}, "key llama.attention.head_count: expected int, found str"),
    ({"llama.attention.head_count": 5}, "n_embd must be an even multiple of n_head, got 32 and 5"),
    ({"llama.attention.head_count_kv": 3}, "n_head must be a multiple of n_kv_head, got 4 and 3"),
    ({"llama.attention.head_count": 0}, "n_head must be at least 1, got 0"),
    ({"llama.embedding_length": 64}, "tensor token_embd.weight: expected shape (265, 64), found (265, 32)"),
    ({EPSILON: 0.0}, "rope_base and norm_eps must be positive, got 10000.0 and 0.0"),
    ({"llama.block_count": 1}, "tensor blk.1.attn_norm.weight: expected none of this name in a llama model"),
    ({"llama.block_count": 2**32 - 1}, "tensor blk.2.attn_norm.weight: expected shape (32,), found no such tensor"),
]
BAD_TENSORS = [
    (DOWN, None, f"tensor {DOWN}: expected shape (32, 48), found no such tensor"),
    (DOWN, np.zeros((48, 32), F32), f"tensor {DOWN}: expected shape (32, 48), found (48, 32)"),
    (DOWN, np.zeros(32 * 48, F32), f"tensor {DOWN}: expected shape (32, 48), found (1536,)"),
    (DOWN, np.zeros((32, 48), np.int8), f"tensor {DOWN}: expected weights, found type I8"),
    (DOWN, np.zeros((32, 48), np.float64), f"tensor {DOWN}: expected weights, found type F64"),
    ("token_embd.weight", None, "tensor token_embd.weight: expected in the file, found nothing"),
    ("output_norm.weight", None, "tensor output_norm.weight: expected shape (32,), found no such tensor"),
    ("output.weight", np.zeros((9, 32), F32), "tensor output.weight: expected shape (265, 32), found (9, 32)"),
    ("blk.0.attn_q.bias", np.ones(32, F32), "tensor blk.0.attn_q.bias: expected none of this name in a llama model"),
    ("rope_freqs.weight", np.ones(4, F32), "tensor rope_freqs.weight: expected none of this name in a llama model"),
]


@pytest.fixture
def rewrite(tiny_path: Path, tmp_path: Path) -> Rewrite:
    """A function that writes the tiny file again with other keys and tensors; None leaves one out."""

    def write(keys: dict[str, object] | None = None, **tensors: object) -> Path:
        reader, path = GGUFReader(tiny_path), tmp_path / "changed.gguf"
        metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
        metadata |= keys or {}
        writer = GGUFWriter(path, str(metadata.pop("general.architecture")))
        for key, value in metadata.items():
            if value is not None:
                add_key(writer, key, value)
        weights = {tensor.name: tensor.data for tensor in reader.tensors}
        for name, tensor in (weights | tensors).items():
            if isinstance(tensor, tuple):
                writer.add_tensor(name, tensor[0], raw_dtype=tensor[1])
            elif tensor is not None:
                writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def add_key(writer: GGUFWriter, key: str, value: object) -> None:
    kinds = {int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32, str: GGUFValueType.STRING}
    if isinstance(value, list):
        writer.add_key_value(key, value, GGUFValueType.ARRAY, sub_type=kinds[type(value[0])])
    else:
        writer.add_key_value(key, value, kinds[type(value)])


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(open_checkpoint(path))
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def contents(path: Path, key: str) -> list:
    return GGUFReader(path).fields[key].contents()


def test_default_checkpoint_is_smollm2(default_checkpoint: Checkpoint, default_model: GPT) -> None:
    config = default_checkpoint.config
    assert (config.n_layer, config.n_head, config.n_kv_head, config.n_embd, config.n_inner) == (30, 9, 3, 576, 1536)
    assert (config.vocab_size, config.n_ctx, config.rope_base, config.tied_head) == (49_152, 8_192, 100_000.0, True)
    assert default_checkpoint.end_ids == {0, 2}
    assert sum(parameter.numel() for parameter in default_model.parameters()) == 134_515_008


def test_opening_reads_no_weights(default_path: Path) -> None:
    start = time.thread_time()
    open_checkpoint(default_path)
    assert time.thread_time() - start < 2


def test_rewritten_file_is_the_same_model(rewrite: Rewrite, tiny_model: GPT) -> None:
    model = load_model(open_checkpoint(rewrite()))
    token_ids = torch.arange(20)[None]
    assert torch.equal(model(token_ids), tiny_model(token_ids))


def test_progress_counts_every_tensor(tiny_checkpoint: Checkpoint) -> None:
    calls: list[tuple[int, int]] = []
    load_model(tiny_checkpoint, lambda done, total: calls.append((done, total)))
    assert calls == [(i, 20) for i in range(1, 21)]


def test_loaded_model_needs_no_gradients(tiny_model: GPT) -> None:
    assert not any(parameter.requires_grad for parameter in tiny_model.parameters())
    assert not tiny_model.training


@pytest.mark.parametrize("name", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_tensor_of_each_type_is_dequantized(rewrite: Rewrite, name: str) -> None:
    kind, weights = Quantization[name], np.random.default_rng(0).normal(size=(48, 32)).astype(np.float32)
    raw = weights.astype(np.float16) if name == "F16" else quantize(weights, kind)
    path = rewrite(**{"blk.0.ffn_up.weight": (raw, kind)})
    loaded = load_model(open_checkpoint(path)).h[0].mlp.c_up.weight.numpy()
    np.testing.assert_array_equal(loaded, dequantize(raw, kind))
    np.testing.assert_allclose(loaded, weights, atol=0.3)


def test_default_weights_are_those_that_the_gguf_package_reads(default_path: Path, default_model: GPT) -> None:
    tensors = {tensor.name: tensor for tensor in GGUFReader(default_path).tensors}
    down = tensors["blk.7.ffn_down.weight"]
    assert down.tensor_type.name == "Q4_1"
    expected = dequantize(down.data, down.tensor_type).reshape(576, 1536)
    np.testing.assert_array_equal(default_model.h[7].mlp.c_proj.weight.numpy(), expected)


@pytest.mark.parametrize(("keys", "expected"), BAD_KEYS)
def test_bad_key_is_named_with_what_was_expected_and_found(
    rewrite: Rewrite, keys: dict[str, object], expected: str
) -> None:
    assert refusal(rewrite(keys)) == expected


@pytest.mark.parametrize("source", ["{% if %}", "{% for m in messages %}", "{{ 1 +* 2 }}"])
def test_template_that_is_no_jinja_is_refused(rewrite: Rewrite, source: str) -> None:
    text = refusal(rewrite({"tokenizer.chat_template": source}))
    assert text.startswith("chat template: expected Jinja, found TemplateSyntaxError: ")


@pytest.mark.parametrize(("name", "tensor", "expected"), BAD_TENSORS)
def test_bad_tensor_is_named_with_what_was_expected_and_found(
    rewrite: Rewrite, name: str, tensor: np.ndarray | None, expected: str
) -> None:
    assert refusal(rewrite(**{name: tensor})) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weight_that_is_not_finite_is_refused(rewrite: Rewrite, value: float, dtype: type) -> None:
    weights = np.zeros((32, 48), dtype)
    weights[31, 47] = value
    assert refusal(rewrite(**{DOWN: weights})) == f"tensor {DOWN}: expected finite numbers, found NaN or Inf"


def test_vocabulary_of_another_size_than_the_embedding_is_refused(rewrite: Rewrite) -> None:
    text = refusal(rewrite(**{"token_embd.weight": np.zeros((300, 32), np.float32)}))
    assert text == "tokenizer: expected 300 tokens as in token_embd.weight, found 265 with 265 types"


def test_repeated_tokens_are_refused(rewrite: Rewrite, tiny_path: Path) -> None:
    tokens = contents(tiny_path, "tokenizer.ggml.tokens")
    text = refusal(rewrite({"tokenizer.ggml.tokens": [*tokens[:100], tokens[99], *tokens[101:]]}))
    assert text == "vocabulary: expected 265 different tokens, found repeated ones"


def test_head_of_its_own_is_loaded(rewrite: Rewrite) -> None:
    head = np.random.default_rng(1).normal(size=(265, 32)).astype(np.float32)
    checkpoint = open_checkpoint(rewrite(**{"output.weight": head}))
    model = load_model(checkpoint)
    assert not checkpoint.config.tied_head
    np.testing.assert_array_equal(model.lm_head.weight.numpy(), head)
    assert not torch.equal(model.lm_head.weight, model.wte.weight)


def test_missing_key_value_heads_mean_as_many_as_heads(rewrite: Rewrite) -> None:
    expected = "tensor blk.0.attn_k.weight: expected shape (32, 32), found (16, 32)"
    assert refusal(rewrite({"llama.attention.head_count_kv": None})) == expected


def test_end_ids_are_the_files_and_those_of_known_names(rewrite: Rewrite) -> None:
    assert open_checkpoint(rewrite({"tokenizer.ggml.eos_token_id": 77})).end_ids == {0, 2, 77}
