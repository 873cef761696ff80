"""Files of safetensors: eight bytes with the length of the header, the header in JSON, then the numbers.

Read and written by our own code: the package believes a header of 100 MB, names neither what it expected nor what it
found, and wants all tensors in memory before it writes one.
The format: https://github.com/huggingface/safetensors#format
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.checkpoint.json_file import JsonObject, open_file, parse_json, shown
from model.errors import CheckpointError

if TYPE_CHECKING:
    import torch

MAX_HEADER = 2 << 20  # bytes; a thousand tensors take 150 kB
METADATA = "__metadata__"

# The format's names of types: bytes per number
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
SIZES |= {"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}

# Those that weights may have; NumPy knows no BF16, whose bits travel as integers
WEIGHT_TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies, and in what encoding."""

    path: Path
    name: str
    type: str
    shape: tuple[int, ...]
    offset: int  # from the start of the file

    @property
    def n_bytes(self) -> int:
        """How long it is in the file."""
        return math.prod(self.shape) * SIZES[self.type]

    def read(self, *part: slice) -> "torch.Tensor":
        """Copy a part of the tensor, as `read_array` does."""
        import torch

        tensor = torch.from_numpy(self.read_array(*part))
        return tensor.view(torch.bfloat16) if self.type == "BF16" else tensor

    def read_array(self, *part: slice) -> np.ndarray:
        """Copy a part of the tensor, whose type is one of WEIGHT_TYPES, mapping the file only meanwhile.

        Raises CheckpointError when the file is gone or has been cut since its header was read.
        """
        kind = WEIGHT_TYPES[self.type]
        try:
            mapped = np.memmap(self.path, kind, mode="r", offset=self.offset, shape=self.shape)
        except (OSError, ValueError) as error:  # ValueError: it ends before the tensor does
            raise CheckpointError(f"{self.path}: tensor {self.name}: cannot be read: {error}") from None
        return np.array(mapped[part], order="C")


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read the header of `path` and check all of it: every tensor by name, none overlapping, no byte unaccounted for.

    Memory and time are bounded by the limit above, whatever the file says. Raises CheckpointError.
    """
    with open_file(path) as file:
        n_file = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        n_header, limit = int.from_bytes(prefix, "little"), min(MAX_HEADER, n_file - 8)
        if len(prefix) < 8:
            raise CheckpointError(f"{path.name}: expected 8 bytes and more, found {len(prefix)}")
        if n_header > limit:
            raise CheckpointError(f"{path.name}: header: expected at most {limit:,} bytes, found {n_header:,}")
        header = parse_json(file.read(n_header), f"{path.name}: header")
    tensors = [_parse_tensor(path, header, name, 8 + n_header) for name in header.values if name != METADATA]
    _check_layout(path, tensors, 8 + n_header, n_file)
    return {tensor.name: tensor for tensor in tensors}


def _parse_tensor(path: Path, header: JsonObject, name: str, start: int) -> StoredTensor:
    if not 1 <= len(name) <= 256 or not name.isprintable():
        raise CheckpointError(f"{header.where}: expected names of 1 to 256 printable characters, found {shown(name)}")
    entry = JsonObject(f"{path.name}: tensor {name}", header.child(name).values)
    kind, shape, offsets = entry.text("dtype"), _sizes(entry, "shape"), _sizes(entry, "data_offsets")
    if kind not in SIZES:
        entry.refuse("dtype", f"one of {', '.join(SIZES)}")
    n_bytes = math.prod(shape) * SIZES[kind]  # in Python's integers, which do not wrap around
    if len(offsets) != 2 or offsets[1] - offsets[0] != n_bytes:
        raise CheckpointError(
            f"{entry.where}: data_offsets: expected two that are {n_bytes:,} bytes apart, found {offsets}"
        )
    return StoredTensor(path, name, kind, shape, start + offsets[0])


def _sizes(entry: JsonObject, key: str) -> tuple[int, ...]:
    sizes = entry.integers(key)
    if len(sizes) > 8 or not all(0 <= size < 2**63 for size in sizes):
        raise CheckpointError(
            f"{entry.where}: {key}: expected at most 8 whole numbers from 0 to 2**63, found {str(sizes):.80}"
        )
    return tuple(sizes)


def _check_layout(path: Path, tensors: list[StoredTensor], start: int, n_file: int) -> None:
    end = start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.n_bytes)):
        if tensor.offset != end:
            raise CheckpointError(
                f"{path.name}: tensor {tensor.name}: expected to begin at byte {end:,}, where the one before it ends, "
                f"found {tensor.offset:,}"
            )
        end += tensor.n_bytes
    if end != n_file:
        raise CheckpointError(f"{path.name}: expected {end:,} bytes as in its header, found {n_file:,}")


def header_bytes(shapes: Mapping[str, tuple[int, ...]], kind: str) -> bytes:
    """Return what stands before the numbers in a file of tensors of one type, which follow in the order given."""
    entries: dict[str, object] = {METADATA: {"format": "pt"}}  # transformers before 5 refuse a file without
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * SIZES[kind]
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text
