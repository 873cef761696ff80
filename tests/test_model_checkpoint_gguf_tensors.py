"""The tensors of GGUF files: names, shapes, rows in parts, and every type of number that the package gguf reads."""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize, quantize
from gguf.constants import GGML_QUANT_SIZES
from gguf_files import refusal, rewrite_gguf, write_gguf

from model.checkpoint.checkpoint import Checkpoint, load_model
from model.checkpoint.gguf_header import GGUFHeader, TensorInfo, read_gguf_header
from model.checkpoint.gguf_tensors import GGUFWeights, read_rows
from model.checkpoint.open import open_checkpoint
from model.errors import CheckpointError
from model.gpt import GPT

Rewrite = Callable[..., Path]
Type = GGMLQuantizationType

DOWN, F32 = "blk.1.ffn_down.weight", np.float32
OTHER_NAME = "expected none of this name, found it"
BAD_TENSORS = [
    (DOWN, None, f"tensor {DOWN}: expected shape (32, 48), found no such tensor"),
    (DOWN, np.zeros((48, 32), F32), f"tensor {DOWN}: expected shape (32, 48), found (48, 32)"),
    (DOWN, np.zeros(32 * 48, F32), f"tensor {DOWN}: expected shape (32, 48), found (1536,)"),
    (DOWN, np.zeros((32, 48), np.int8), f"tensor {DOWN}: expected weights, found the type I8"),
    (DOWN, np.zeros((32, 48), np.float64), f"tensor {DOWN}: expected weights, found the type F64"),
    ("token_embd.weight", None, "tensor token_embd.weight: expected it in the file, found nothing"),
    ("output_norm.weight", None, "tensor output_norm.weight: expected shape (32,), found no such tensor"),
    ("output.weight", np.zeros((9, 32), F32), "tensor output.weight: expected shape (265, 32), found (9, 32)"),
    ("blk.0.attn_q.bias", np.ones(32, F32), "tensor blk.0.attn_k.bias: expected shape (16,), found no such tensor"),
    ("blk.1.attn_q.bias", np.ones(32, F32), f"tensor blk.1.attn_q.bias: {OTHER_NAME}"),
    ("blk.2.attn_q.weight", np.ones((32, 32), F32), f"tensor blk.2.attn_q.weight: {OTHER_NAME}"),
    ("blk.0.attn_rot_embd.weight", np.ones(4, F32), f"tensor blk.0.attn_rot_embd.weight: {OTHER_NAME}"),
    ("blk.0.ffn_gate_inp.weight", np.ones((4, 32), F32), f"tensor blk.0.ffn_gate_inp.weight: {OTHER_NAME}"),
]
READABLE = [kind for kind in Type if kind.name not in ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K", "Q1_0")]


@pytest.fixture
def rewrite(tiny_path: Path, tmp_path: Path) -> Rewrite:
    """A function that writes the tiny file again with other tensors."""
    return lambda **tensors: rewrite_gguf(tiny_path, tmp_path / "changed.gguf", {}, **tensors)


def rows_of(kind: GGMLQuantizationType) -> np.ndarray:
    """Ten rows of bytes of a type: quantized noise, or, where the package cannot quantize, finite random bytes."""
    random, (block_size, block_bytes) = np.random.default_rng(0), GGML_QUANT_SIZES[kind]
    try:
        return quantize(random.normal(size=(10, 2 * max(block_size, 32))).astype(F32), kind)
    except NotImplementedError:
        rows = random.integers(256, size=(100, 2 * block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        return rows[np.isfinite(dequantize(rows, kind)).all(1)][:10]


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TensorInfo]:
    """A tensor of each type, as read from the header of one file; and of each a first row by itself."""
    path = tmp_path_factory.mktemp("types") / "types.gguf"
    writer = GGUFWriter(path, "llama")
    for kind in READABLE:
        writer.add_tensor(kind.name, rows_of(kind), raw_dtype=kind)
        writer.add_tensor(f"{kind.name} row", rows_of(kind)[0], raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_gguf_header(path).tensors


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)
def test_rows_of_each_type_are_those_that_the_gguf_package_reads(
    tensors: dict[str, TensorInfo], kind: GGMLQuantizationType
) -> None:
    tensor, expected = tensors[kind.name], dequantize(rows_of(kind), kind)
    assert tensor.shape == expected.shape
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(read_rows(tensor, slice(None)), expected)
    parts = [read_rows(tensor, slice(start, start + 3)) for start in range(0, 10, 3)]
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    np.testing.assert_array_equal(read_rows(tensor, np.array([7, 2])), expected[[7, 2]])


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)
def test_tensor_of_one_dimension_has_numbers_for_rows(
    tensors: dict[str, TensorInfo], kind: GGMLQuantizationType
) -> None:
    tensor, expected = tensors[f"{kind.name} row"], dequantize(rows_of(kind)[0], kind)
    assert tensor.shape == expected.shape
    np.testing.assert_array_equal(read_rows(tensor, slice(5, 20)), expected[5:20])


def test_reading_takes_memory_for_the_rows_alone(tmp_path: Path) -> None:
    path, shape = tmp_path / "large", (100_000, 1024)
    with path.open("wb") as file:
        file.truncate(4 * shape[0] * shape[1])
    tracemalloc.start()
    read_rows(TensorInfo(path, "large", shape, Type.F32, 0, 4 * shape[0] * shape[1]), slice(99_000, 99_010))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


@pytest.mark.parametrize("name", ["F16", "BF16", "Q4_0", "Q5_1", "Q8_0"])
def test_quantized_tensor_is_loaded(rewrite: Rewrite, name: str) -> None:
    kind, weights = Type[name], np.random.default_rng(0).normal(size=(48, 32)).astype(F32)
    raw = quantize(weights, kind)
    loaded = load_model(open_checkpoint(rewrite(**{"blk.0.ffn_up.weight": (raw, kind)}))).h[0].mlp.c_up.weight.numpy()
    np.testing.assert_array_equal(loaded, dequantize(raw, kind))
    np.testing.assert_allclose(loaded, weights, atol=0.3)


@pytest.mark.parametrize("name", ["Q4_0", "Q6_K", "F16"])
def test_encoded_rows_are_those_of_the_file(
    tensors: dict[str, TensorInfo], name: str, tiny_checkpoint: Checkpoint
) -> None:
    header = GGUFHeader(Path(), {}, {"token_embd.weight": tensors[name]})
    weights = GGUFWeights(header, tiny_checkpoint.config, pairs_side_by_side=True)
    assert weights.encoding("wte.weight") == name
    encoded = weights.encoded_rows("wte.weight", 3, 8)
    np.testing.assert_array_equal(encoded, rows_of(Type[name]).view(np.uint8)[3:8])
    assert encoded.flags.writeable


def test_encoded_rows_of_rotated_pairs_are_in_our_order(tiny_checkpoint: Checkpoint) -> None:
    weights = tiny_checkpoint.weights
    for parameter in "h.1.attn.c_q.weight", "h.1.attn.c_k.weight":
        assert weights.encoding(parameter) == "F32"
        expected = weights.rows(parameter, 2, 13).numpy()
        np.testing.assert_array_equal(weights.encoded_rows(parameter, 2, 13).view(F32), expected)


def test_encoded_numbers_of_a_vector_are_fp32(rewrite: Rewrite) -> None:
    raw = quantize(np.random.default_rng(0).normal(size=32).astype(F32)[None], Type.Q8_0)[0]
    weights = open_checkpoint(rewrite(**{"output_norm.weight": (raw, Type.Q8_0)})).weights
    assert weights.encoding("ln_f.weight") == "F32"
    expected = dequantize(raw, Type.Q8_0)[5:20, None]
    np.testing.assert_array_equal(weights.encoded_rows("ln_f.weight", 5, 20).view(F32), expected)


def test_fused_queries_keys_and_values_are_taken_apart(rewrite: Rewrite, tiny_path: Path, tiny_model: GPT) -> None:
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(tiny_path).tensors}
    changed: dict[str, np.ndarray | None] = {}
    for block in ("blk.0.", "blk.1."):
        names = [f"{block}attn_{part}.weight" for part in "qkv"]
        changed |= {f"{block}attn_qkv.weight": np.concatenate([tensors[name] for name in names])}
        changed |= dict.fromkeys(names)
    loaded = load_model(open_checkpoint(rewrite(**changed))).state_dict()
    torch.testing.assert_close(loaded, tiny_model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "tensor", "expected"), BAD_TENSORS)
def test_bad_tensor_is_named_with_what_was_expected_and_found(
    rewrite: Rewrite, name: str, tensor: np.ndarray | None, expected: str
) -> None:
    assert refusal(rewrite(**{name: tensor})) == expected


def test_divisors_of_frequencies_are_unknown_where_positions_are_learned(tmp_path: Path) -> None:
    path = write_gguf(FAMILIES["gpt2"].make(), tmp_path / "gpt2.gguf")
    text = refusal(rewrite_gguf(path, tmp_path / "changed.gguf", {}, **{"rope_freqs.weight": np.ones(8, F32)}))
    assert text == f"tensor rope_freqs.weight: {OTHER_NAME}"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [F32, np.float16])
def test_weight_that_is_not_finite_is_refused(rewrite: Rewrite, value: float, dtype: type) -> None:
    weights = np.zeros((32, 48), dtype)
    weights[31, 47] = value
    expected = "weights h.1.mlp.c_proj.weight: expected finite numbers of torch.float32, found NaN or Inf"
    assert refusal(rewrite(**{DOWN: weights})) == expected


def test_file_that_was_cut_after_opening_is_refused(rewrite: Rewrite) -> None:
    checkpoint = open_checkpoint(rewrite())
    os.truncate(checkpoint.path, 20_000)
    with pytest.raises(CheckpointError, match=r"changed.gguf: tensor .*: cannot be read: mmap length"):
        load_model(checkpoint)
    with pytest.raises(CheckpointError, match=r"changed.gguf: tensor .*: cannot be read: mmap length"):
        checkpoint.weights.encoded_rows("h.1.mlp.c_proj.weight", 0, 32)
