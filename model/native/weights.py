"""The weights in the layout that the kernels of decode.c read: quantized as in the file, rows interleaved.

A matrix is kept as groups of 32 rows, which are lanes of vector registers, and a group as blocks of 32 columns; what
pads it to whole blocks is zero. The types of files: llama.cpp's ggml/src/ggml-common.h.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from gguf import dequantize
from gguf.constants import GGMLQuantizationType

from model.checkpoint.checkpoint import CHUNK_NUMBERS, Checkpoint
from model.errors import CheckpointError
from model.parameters import Shape

BLOCK = 32  # columns
ROWS = 32  # of a group
ALIGNMENT = 64  # bytes: a line of the cache


class Kind(IntEnum):
    """What the blocks of a matrix hold; the numbers are known to decode.c."""

    Q4 = 0  # 4-bit n, value d·n + m
    Q8 = 1  # 8-bit q, value d·q
    F16 = 2
    BF16 = 3
    F32 = 4


@dataclass(frozen=True, slots=True)
class Matrix:
    """A parameter as the kernels read it."""

    kind: Kind
    n_rows: int  # without padding
    n_columns: int
    data: np.ndarray  # bytes, aligned: the blocks of the first group of rows, then those of the next


# Blocks of 32 columns and 32 rows; the last index is always the row
_PACKED = {
    # column 8j + i: the lower half of byte i of n[j]; column 8j + 4 + i: its upper half; so are d and m in the scales
    Kind.Q4: np.dtype([("n", "<u4", (4, ROWS)), ("scales", "<u4", (ROWS,))]),
    # column 4j + i: byte i of q[j]
    Kind.Q8: np.dtype([("q", "<u4", (8, ROWS)), ("scales", "<f2", (ROWS,))]),
    Kind.F16: np.dtype([("w", "<f2", (BLOCK, ROWS))]),
    Kind.BF16: np.dtype([("w", "<u2", (BLOCK, ROWS))]),
    Kind.F32: np.dtype([("w", "<f4", (BLOCK, ROWS))]),
}

# Whatever else a file has is requantized to Q8
_KINDS = {"Q4_0": Kind.Q4, "Q4_1": Kind.Q4, "F16": Kind.F16, "BF16": Kind.BF16, "F32": Kind.F32, "F64": Kind.F32}

# Blocks in files. In those of 4 bits, byte i has column i in its low half and column 16 + i in its high half
_STORED = {
    "Q4_0": np.dtype([("d", "<f2"), ("n", "<u1", (BLOCK // 2,))]),
    "Q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("n", "<u1", (BLOCK // 2,))]),
    "Q8_0": np.dtype([("d", "<f2"), ("q", "<i1", (BLOCK,))]),
}

# Bytes of a block whose 32 values are whole numbers of 8 bits times the fp16 at its beginning
_SCALED_BYTES = {"Q5_0": 22, "IQ4_NL": 18}


def pack(checkpoint: Checkpoint, parameter: str, shape: Shape) -> Matrix:
    """Read a parameter of two dimensions into the kernels' layout.

    F64 becomes F32. Quantized types are kept exactly as far as Q4 or Q8 can express them; the others are requantized
    to Q8. Beside the result, a few rows are in memory. Raises CheckpointError when a weight is not a finite number, or
    cannot be read.
    """
    preferred = _KINDS.get(checkpoint.weights.encoding(parameter), Kind.Q8)
    for kind in (preferred, Kind.F32):  # the latter for scales that fp16 does not hold
        with suppress(OverflowError):
            return _pack(checkpoint, parameter, shape, kind)
    raise _not_finite(checkpoint, parameter)


def _pack(checkpoint: Checkpoint, parameter: str, shape: Shape, kind: Kind) -> Matrix:
    """Read a parameter into a matrix of this kind; raises OverflowError when it cannot hold the numbers."""
    n_rows, n_columns = shape
    n_groups, n_blocks = -(-n_rows // ROWS), -(-n_columns // BLOCK)
    layout = _PACKED[kind]
    data = _aligned(n_groups * n_blocks * layout.itemsize)
    groups = data.view(layout).reshape(n_groups, n_blocks)
    first = 0
    for fields in _read_blocks(checkpoint, parameter, shape, kind):
        for name, values in fields.items():  # (rows, blocks, …)
            if not _is_finite(name, values, kind):
                raise OverflowError(f"weights {parameter}: too large for {kind.name}")
            by_row = values.reshape(-1, ROWS, *values.shape[1:])
            groups[name][first : first + len(by_row)] = np.moveaxis(by_row, 1, -1)
        first += len(by_row)
    return Matrix(kind, n_rows, n_columns, data)


def _read_blocks(
    checkpoint: Checkpoint, parameter: str, shape: Shape, kind: Kind
) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield the fields of all blocks of some groups of rows, each as (rows, blocks, …)."""
    n_rows, n_columns = shape
    encoding = checkpoint.weights.encoding(parameter)
    step = ROWS * max(1, CHUNK_NUMBERS // (ROWS * n_columns))
    for start in range(0, n_rows, step):
        rows = checkpoint.weights.encoded_rows(parameter, start, min(start + step, n_rows))
        rows = np.pad(rows, ((0, -len(rows) % ROWS), (0, 0)))  # zero bytes are zeros in each type
        with np.errstate(all="ignore"):  # the caller looks for what is not finite
            if kind is Kind.Q4:
                yield _q4(encoding, rows)
            elif kind is Kind.Q8:
                yield _q8(encoding, rows)
            elif kind is Kind.F32:
                yield {"w": _in_blocks(_decode(encoding, rows))}
            else:
                yield {"w": _in_blocks(rows.view("<f2" if kind is Kind.F16 else "<u2"))}


def _q4(encoding: str, rows: np.ndarray) -> Mapping[str, np.ndarray]:
    blocks = rows.view(_STORED[encoding])
    eight = blocks["n"].view("<u4").reshape(*blocks.shape, 2, 2)  # bytes 8j to 8j + 7, in two words
    low, high = eight & 0x0F0F0F0F, eight >> 4 & 0x0F0F0F0F
    n = np.concatenate([words[..., 0] | words[..., 1] << 4 for words in (low, high)], -1)
    d = blocks["d"]
    m = blocks["m"] if encoding == "Q4_1" else -8 * d  # Q4_0 is d·(n - 8)
    return {"n": n, "scales": np.stack([d, m], -1).view("<u4")[..., 0]}


def _q8(encoding: str, rows: np.ndarray) -> Mapping[str, np.ndarray]:
    if encoding == "Q8_0":
        blocks = rows.view(_STORED[encoding])
        return {"q": np.ascontiguousarray(blocks["q"]).view("<u4"), "scales": blocks["d"]}
    if encoding in _SCALED_BYTES:
        scales = rows.reshape(len(rows), -1, _SCALED_BYTES[encoding])[..., :2].view("<f2")[..., 0]
        d = scales.copy()
        scales[:] = 1  # then the values are the whole numbers
        return {"q": _in_blocks(_decode(encoding, rows)).astype(np.int8).view("<u4"), "scales": d}
    return _quantize(_in_blocks(_decode(encoding, rows)))


def _quantize(values: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return blocks of fp32 (rows, blocks, 32) as whole numbers up to ±127 and a scale in fp16."""
    exact = np.abs(values).max(-1) / 127
    d = exact.astype("<f2")
    d = np.where(d < exact, np.nextafter(d, np.float16(np.inf)), d)  # rounded up: no number comes to lie beyond 127
    divisors = np.where(d == 0, 1, d).astype(np.float32)
    return {"q": np.rint(values / divisors[..., None]).astype(np.int8).view("<u4"), "scales": d}


def _decode(encoding: str, rows: np.ndarray) -> np.ndarray:
    """Return encoded rows (rows, bytes) as fp32 (rows, columns)."""
    if encoding == "F64":
        return rows.view("<f8").astype(np.float32)
    return dequantize(rows, GGMLQuantizationType[encoding])


def _in_blocks(numbers: np.ndarray) -> np.ndarray:
    """Return numbers (rows, columns) as (rows, blocks, 32), filled up with zeros."""
    return np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % BLOCK))).reshape(len(numbers), -1, BLOCK)


def _is_finite(name: str, values: np.ndarray, kind: Kind) -> bool:
    """Whether scales or weights are finite; other fields always are."""
    if kind is Kind.BF16:
        return bool(((values & 0x7F80) != 0x7F80).all())
    return name not in ("scales", "w") or bool(np.isfinite(values.view("<f2") if kind is Kind.Q4 else values).all())


def read_vector(checkpoint: Checkpoint, parameter: str, shape: Shape) -> np.ndarray:
    """Read a parameter as fp32 of its shape, aligned; raises CheckpointError as `pack` does."""
    encoding = checkpoint.weights.encoding(parameter)
    with np.errstate(all="ignore"):
        numbers = _decode(encoding, checkpoint.weights.encoded_rows(parameter, 0, shape[0])).reshape(shape)
    if not np.isfinite(numbers).all():
        raise _not_finite(checkpoint, parameter)
    vector = _aligned(numbers.nbytes).view(np.float32).reshape(shape)
    vector[:] = numbers
    return vector


def _not_finite(checkpoint: Checkpoint, parameter: str) -> CheckpointError:
    expected = "expected finite numbers of torch.float32, found NaN or Inf"  # as where PyTorch reads them
    return CheckpointError(f"{checkpoint.path}: weights {parameter}: {expected}")


def _aligned(n_bytes: int) -> np.ndarray:
    """Return so many zero bytes from an address that is a multiple of ALIGNMENT."""
    memory = np.zeros(n_bytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + n_bytes]
