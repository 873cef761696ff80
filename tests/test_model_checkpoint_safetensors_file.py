"""Files of safetensors: read as the package safetensors reads them, or refused in one line; written so that it can."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint.safetensors_file import MAX_HEADER, header_bytes, read_header
from model.errors import CheckpointError

TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
    "c": torch.tensor([[0.5]], dtype=torch.float16),
    "d": torch.tensor([3.0], dtype=torch.float64),
    "e": torch.zeros(0, 5),
    "mask": torch.tensor([True, False]),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "x.safetensors", {"format": "pt"})
    return tmp_path / "x.safetensors"


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    text = str(caught.value)
    assert text.startswith("x.safetensors: ")
    assert text.isprintable()
    return text.removeprefix("x.safetensors: ")


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(start: int, stop: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


def test_tensors_are_those_that_the_package_wrote(path: Path) -> None:
    tensors = read_header(path)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: tuple(t.shape) for n, t in TENSORS.items()}
    for name in "a.weight", "b", "c", "d":
        read = tensors[name].read(slice(None))
        assert read.dtype == TENSORS[name].dtype
        assert torch.equal(read, TENSORS[name])


def test_a_part_is_read(path: Path) -> None:
    tensor = read_header(path)["a.weight"]
    assert torch.equal(tensor.read(slice(1, 3)), TENSORS["a.weight"][1:3])
    assert torch.equal(tensor.read(slice(None), slice(1, 3)), TENSORS["a.weight"][:, 1:3])


def test_the_package_reads_what_we_write(tmp_path: Path) -> None:
    numbers = np.arange(7, dtype=np.float32)
    shapes = {"x": (2, 3), "ä": (1,)}
    (tmp_path / "x.safetensors").write_bytes(header_bytes(shapes, "F32") + numbers.tobytes())
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded["x"].flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert loaded["ä"].tolist() == [6]


def test_numbers_begin_at_a_multiple_of_eight() -> None:
    assert {len(header_bytes({"x" * n: (1,)}, "BF16")) % 8 for n in range(1, 10)} == {0}


def mutations(data: bytes, n_header: int) -> dict[str, bytes]:
    random = np.random.default_rng(0)
    cuts = [*range(n_header), *random.integers(n_header, len(data), 200).tolist()]
    changed = {f"cut at {end}": data[:end] for end in cuts}
    for i in range(n_header):
        for bits in 0x01, int(random.integers(2, 256)):
            changed[f"byte {i} ^ {bits}"] = data[:i] + bytes([data[i] ^ bits]) + data[i + 1 :]
    return changed


def test_a_broken_file_is_refused_or_read_as_the_package_reads_it(path: Path) -> None:
    data = path.read_bytes()
    n_header = 8 + int.from_bytes(data[:8], "little")
    outcomes = {"read": 0, "refused": 0}
    for changed in mutations(data, n_header).values():
        path.write_bytes(changed)
        try:
            tensors = read_header(path)
        except CheckpointError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        with safetensors.safe_open(path, "pt") as oracle:
            assert set(oracle.keys()) == set(tensors)
            for name, tensor in tensors.items():
                assert tensor.shape == tuple(oracle.get_slice(name).get_shape())
                assert tensor.type == oracle.get_slice(name).get_dtype()
    assert outcomes["refused"] > 1000
    assert outcomes["read"] > 10  # such as another letter in a name


BROKEN = [
    (b"", None, "header: expected JSON, found Expecting value: line 1 column 1 (char 0)"),
    ({}, 2**63, "header: expected at most 2 bytes, found 9,223,372,036,854,775,808"),
    ({}, 2**64 - 1, "header: expected at most 2 bytes, found 18,446,744,073,709,551,615"),
    (b'{"a": {}, "a": {}}', None, "header: expected JSON, found the key a twice"),
    (b"[" * 50_000, None, "header: expected JSON, found too many brackets inside one another"),
    ({"a": 1}, None, "header: a: expected an object, found 1"),
    ({"": entry(0, 0)}, None, "header: expected names of 1 to 256 printable characters, found ''"),
    ({"a\nb": entry(0, 0)}, None, "header: expected names of 1 to 256 printable characters, found 'a\\nb'"),
    ({"a": {"dtype": "F32"}}, None, "tensor a: shape: expected a list, found nothing"),
    (
        {"a": entry(0, 4, dtype="F8_E4M3")},
        None,
        "tensor a: dtype: expected one of F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL, "
        "found 'F8_E4M3'",
    ),
    (
        {"a": entry(0, 4, [-1])},
        None,
        "tensor a: shape: expected at most 8 whole numbers from 0 to 2**63, found [-1]",
    ),
    (
        {"a": entry(-4, 0, [1])},
        None,
        "tensor a: data_offsets: expected at most 8 whole numbers from 0 to 2**63, found [-4, 0]",
    ),
    (
        {"a": entry(4, 0, [1])},
        None,
        "tensor a: data_offsets: expected two that are 4 bytes apart, found (4, 0)",
    ),
    (
        {"a": entry(0, 4, [2**62, 4, 1])},  # 2**66 bytes are none in 64 bits
        None,
        "tensor a: data_offsets: expected two that are 73,786,976,294,838,206,464 bytes apart, found (0, 4)",
    ),
    ({"a": entry(0, 4)}, None, "expected 73 bytes as in its header, found 69"),
    ({"a": entry(0, 400)}, None, "expected 473 bytes as in its header, found 73"),
]


@pytest.mark.parametrize(("header", "length", "expected"), BROKEN)
def test_header_that_lies_is_refused(tmp_path: Path, header: object, length: int | None, expected: str) -> None:
    assert refusal(write(tmp_path / "x.safetensors", header, length=length)) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 8), (4, 12), "tensor b: expected to begin at byte {8}, where the one before it ends, found {4}"),
        ((0, 8), (0, 8), "tensor b: expected to begin at byte {8}, where the one before it ends, found {0}"),
        ((0, 8), (12, 16), "tensor b: expected to begin at byte {8}, where the one before it ends, found {12}"),
        ((4, 8), (8, 12), "tensor a: expected to begin at byte {0}, where the one before it ends, found {4}"),
    ],
)
def test_tensors_that_overlap_or_leave_holes_are_refused(
    tmp_path: Path, first: tuple[int, int], second: tuple[int, int], expected: str
) -> None:
    header = {"a": entry(*first), "b": entry(*second)}
    path = write(tmp_path / "x.safetensors", header, b"\0" * 16)
    start = 8 + len(json.dumps(header))
    for offset in 0, 4, 8, 12:
        expected = expected.replace(f"{{{offset}}}", str(start + offset))
    assert refusal(path) == expected


def test_bytes_that_are_of_no_tensor_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {"a": entry(0, 4)}, b"\0" * 8)
    assert refusal(path) == "expected 73 bytes as in its header, found 77"


@pytest.mark.parametrize(
    "make", [lambda n: b'{"__metadata__":[' + b"{}," * (n // 3), lambda n: b"{" + b'"a":{},' * (n // 7)]
)
def test_longest_header_is_refused_quickly(tmp_path: Path, make: Callable[[int], bytes]) -> None:
    path = write(tmp_path / "x.safetensors", make(MAX_HEADER - 100))
    start = time.thread_time()
    refusal(path)
    assert time.thread_time() - start < 2


def test_file_that_was_cut_since_is_refused(path: Path) -> None:
    tensor = read_header(path)["a.weight"]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=r"x\.safetensors: tensor a\.weight: cannot be read: mmap length"):
        tensor.read(slice(None))
    path.unlink()
    with pytest.raises(CheckpointError, match=r"x\.safetensors: tensor a\.weight: cannot be read: .*No such file"):
        tensor.read(slice(None))
