"""Packed weights: taken apart again, they are what the package gguf reads from the same bytes."""

import subprocess
import sys
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from conftest import ROOT
from families import FAMILIES, write_hf_folder
from gguf import GGMLQuantizationType, dequantize
from gguf.constants import GGML_QUANT_SIZES
from gguf_files import write_gguf
from hf_folders import change_tensors, copy_in_one_file
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint.checkpoint import Checkpoint, load_model
from model.checkpoint.open import open_checkpoint
from model.errors import CheckpointError
from model.native.weights import Kind, Matrix, pack, read_vector
from model.parameters import Shape, parameter_shapes

FLOATS = ["F16", "BF16", "F32"]
EXACT = {"Q4_0": Kind.Q4, "Q4_1": Kind.Q4, "Q8_0": Kind.Q8, "Q5_0": Kind.Q8, "IQ4_NL": Kind.Q8}
EXACT |= {name: Kind[name] for name in FLOATS}
REQUANTIZED = ["Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "IQ2_S", "IQ4_XS", "NVFP4"]


@dataclass
class OneParameter:
    """Weights of a checkpoint that is not there: every parameter is this one."""

    name: str
    data: np.ndarray

    def encoding(self, parameter: str) -> str:
        return self.name

    def encoded_rows(self, parameter: str, start: int, stop: int) -> np.ndarray:
        return self.data[start:stop]


def checkpoint_of(name: str, data: np.ndarray) -> Checkpoint:
    return cast(Checkpoint, SimpleNamespace(path=Path("x.gguf"), weights=OneParameter(name, data)))


def random_rows(name: str, shape: Shape, seed: int = 0) -> np.ndarray:
    """Return rows of random bytes; without this bit no float at the end of two bytes, or of four, exceeds 2."""
    block_size, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    n_bytes = shape[1] // block_size * block_bytes
    return np.random.default_rng(seed).integers(256, size=(shape[0], n_bytes), dtype=np.uint8) & 0xBF


def unpack(matrix: Matrix) -> np.ndarray:
    """Return the values (rows, columns), and look at what pads them."""
    n_groups, n_blocks = -(-matrix.n_rows // 32), -(-matrix.n_columns // 32)
    blocks = matrix.data.reshape(n_groups, n_blocks, -1)

    def part(start: int, stop: int, kind: type) -> np.ndarray:
        return blocks[..., start * 32 : stop * 32].view(kind).reshape(n_groups, n_blocks, -1, 32)

    if matrix.kind is Kind.Q4:
        words, scales = part(0, 16, np.uint32), part(16, 20, np.uint32)
        d, m = (half.astype(np.uint16).view(np.float16) for half in (scales & 0xFFFF, scales >> 16))
        nibbles = words[..., None, :] >> np.array([0, 8, 16, 24, 4, 12, 20, 28], np.uint32)[:, None] & 15
        values = nibbles.reshape(n_groups, n_blocks, 32, 32) * d.astype(np.float32) + m
        assert blocks.shape[-1] == 20 * 32
    elif matrix.kind is Kind.Q8:
        words, d = part(0, 32, np.uint32), part(32, 34, np.float16)
        bytes_ = words[..., None, :] >> np.arange(0, 32, 8, dtype=np.uint32)[:, None] & 255
        values = bytes_.astype(np.uint8).view(np.int8).reshape(n_groups, n_blocks, 32, 32) * d.astype(np.float32)
        assert blocks.shape[-1] == 34 * 32
    elif matrix.kind is Kind.BF16:
        values = (part(0, 64, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = part(0, blocks.shape[-1] // 32, np.float16 if matrix.kind is Kind.F16 else np.float32)
    values = np.moveaxis(values, -1, 1).reshape(n_groups * 32, n_blocks * 32)
    assert not values[matrix.n_rows :].any()
    assert not values[:, matrix.n_columns :].any()
    return values[: matrix.n_rows, : matrix.n_columns].astype(np.float32)


@given(
    name=st.sampled_from([*EXACT]),
    n_rows=st.integers(1, 70),
    n_columns=st.integers(1, 100),
    seed=st.integers(0, 9),
)
@settings(deadline=None)
def test_numbers_are_those_that_the_gguf_package_reads(name: str, n_rows: int, n_columns: int, seed: int) -> None:
    shape = (n_rows, n_columns if name in FLOATS else -(-n_columns // 32) * 32)
    rows = random_rows(name, shape, seed)
    matrix = pack(checkpoint_of(name, rows), "wte.weight", shape)
    assert (matrix.kind, matrix.n_rows, matrix.n_columns) == (EXACT[name], *shape)
    np.testing.assert_array_equal(unpack(matrix), dequantize(rows, GGMLQuantizationType[name]))


@pytest.mark.parametrize("name", REQUANTIZED)
def test_other_types_are_requantized_to_the_nearest_8_bit_numbers(name: str) -> None:
    shape = (50, 512)
    rows = random_rows(name, shape)
    rows[0] = 0
    matrix = pack(checkpoint_of(name, rows), "wte.weight", shape)
    expected = dequantize(rows, GGMLQuantizationType[name])
    largest = np.abs(expected.reshape(50, -1, 32)).max(-1).repeat(32, -1)
    assert matrix.kind is Kind.Q8
    # Half a step of the scale, which is rounded up in fp16: by 2^-10 of itself, or to the next multiple of 2^-24
    assert (np.abs(unpack(matrix) - expected) <= 0.5 * (largest / 127 * 1.001 + 2**-24)).all()


def test_matrix_longer_than_what_is_read_at_a_time_is_whole() -> None:
    rows = random_rows("Q8_0", (3003, 1024))
    matrix = pack(checkpoint_of("Q8_0", rows), "wte.weight", (3003, 1024))
    np.testing.assert_array_equal(unpack(matrix), dequantize(rows, GGMLQuantizationType.Q8_0))


@pytest.mark.parametrize(("name", "d_at"), [("Q4_0", 0), ("Q6_K", 208)])
def test_scale_that_fp16_does_not_hold_makes_the_matrix_fp32(name: str, d_at: int) -> None:
    rows = random_rows(name, (20, 256)) | 1
    rows[7, d_at : d_at + 2] = np.frombuffer(np.float16(-60_000).tobytes(), np.uint8)
    matrix = pack(checkpoint_of(name, rows), "wte.weight", (20, 256))
    assert matrix.kind is Kind.F32
    np.testing.assert_array_equal(unpack(matrix), dequantize(rows, GGMLQuantizationType[name]))


def test_numbers_of_64_bits_become_fp32() -> None:
    numbers = np.random.default_rng(0).normal(size=(5, 33))
    matrix = pack(checkpoint_of("F64", numbers.view(np.uint8)), "wte.weight", (5, 33))
    assert matrix.kind is Kind.F32
    np.testing.assert_array_equal(unpack(matrix), numbers.astype(np.float32))


SCALES = [("Q4_0", 0), ("Q4_1", 0), ("Q4_1", 2), ("Q8_0", 0), ("Q5_0", 0), ("Q6_K", 208)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "start"), [*SCALES, ("F16", 510), ("BF16", 510), ("F32", 1020)])
def test_number_that_is_not_finite_is_refused(name: str, start: int, value: float) -> None:
    number = np.array(value, np.float32 if name in ("BF16", "F32") else np.float16).tobytes()
    number = number[2:] if name == "BF16" else number
    rows = random_rows(name, (20, 256)) | 1
    rows[19, start : start + len(number)] = [*number]
    with pytest.raises(CheckpointError) as caught:
        pack(checkpoint_of(name, rows), "wte.weight", (20, 256))
    expected = "x.gguf: weights wte.weight: expected finite numbers of torch.float32, found NaN or Inf"
    assert str(caught.value) == expected


def test_matrices_and_vectors_lie_at_whole_lines_of_the_cache(tiny_checkpoint: Checkpoint) -> None:
    for parameter, shape in parameter_shapes(tiny_checkpoint.config):
        if len(shape) == 1:
            data = read_vector(tiny_checkpoint, parameter, shape)
            assert (data.shape, data.dtype) == (shape, np.float32)
        else:
            data = pack(tiny_checkpoint, parameter, shape).data
        assert data.ctypes.data % 64 == 0
        assert data.flags.c_contiguous


def test_vector_that_is_not_finite_is_refused() -> None:
    checkpoint = checkpoint_of("F64", np.full((3, 1), 1e300).view(np.uint8))
    with pytest.raises(CheckpointError, match=r"^x\.gguf: weights ln_f\.bias: expected finite numbers"):
        read_vector(checkpoint, "ln_f.bias", (3,))


@pytest.mark.parametrize("name", ["Q4_1", "Q8_0", "Q6_K", "F32"])
def test_packing_takes_memory_for_a_few_rows_alone(name: str) -> None:
    shape = (8192, 1024)
    checkpoint = checkpoint_of(name, random_rows(name, shape))
    tracemalloc.start()
    matrix = pack(checkpoint, "wte.weight", shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < matrix.data.nbytes + 24_000_000


def assert_packed_is_loaded(checkpoint: Checkpoint) -> None:
    """Every parameter, packed, is that of the network in PyTorch, exactly."""
    loaded = load_model(checkpoint).state_dict()
    for parameter, shape in parameter_shapes(checkpoint.config):
        if len(shape) == 1:
            numbers = read_vector(checkpoint, parameter, shape)
        else:
            numbers = unpack(pack(checkpoint, parameter, shape))
        np.testing.assert_array_equal(numbers, loaded[parameter].numpy(), parameter)


@pytest.mark.parametrize("name", ["gpt2", "llama3.1", "smollm3", "qwen2", "qwen3"])
def test_network_of_each_family_is_packed_from_both_formats(name: str, tmp_path: Path) -> None:
    assert_packed_is_loaded(open_checkpoint(write_gguf(FAMILIES[name].make(), tmp_path / "x.gguf")))
    assert_packed_is_loaded(open_checkpoint(write_hf_folder(FAMILIES[name].make(), tmp_path / "x")))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_folder_of_each_type_is_packed(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = copy_in_one_file(write_hf_folder(FAMILIES[name].make(), tmp_path / "sharded"), tmp_path / "x")
    change_tensors(folder, lambda tensors: tensors.update({n: t.to(dtype) for n, t in tensors.items()}))
    checkpoint = open_checkpoint(folder)
    assert_packed_is_loaded(checkpoint)
    kinds = {torch.float64: Kind.F32, torch.float16: Kind.F16, torch.bfloat16: Kind.BF16}
    assert pack(checkpoint, "h.0.mlp.c_up.weight", (96, 64)).kind is kinds[dtype]


@pytest.mark.parametrize("parameter", ["h.0.attn.c_q.weight", "h.7.attn.c_v.weight", "h.29.mlp.c_proj.weight"])
def test_matrix_of_the_default_model_stays_as_it_is_in_the_file(default_checkpoint: Checkpoint, parameter: str) -> None:
    shape = dict(parameter_shapes(default_checkpoint.config))[parameter]
    matrix = pack(default_checkpoint, parameter, shape)
    assert matrix.kind is Kind.Q4
    assert matrix.data.nbytes == shape[0] * shape[1] * 5 // 8
    np.testing.assert_array_equal(unpack(matrix), default_checkpoint.weights.rows(parameter, 0, shape[0]).numpy())


def test_packing_gguf_needs_no_torch(tiny_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from model.checkpoint.open import open_checkpoint; "
        "from model.native.weights import pack, read_vector; checkpoint = open_checkpoint(Path(sys.argv[1])); "
        "pack(checkpoint, 'h.1.attn.c_q.weight', (32, 32)); read_vector(checkpoint, 'ln_f.weight', (32,)); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, tiny_path], cwd=ROOT).returncode == 0
