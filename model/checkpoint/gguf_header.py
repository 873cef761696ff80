"""The header of a GGUF file: its metadata, and where each of its tensors lies.

An own reader: the one of the package gguf believes what a file says, and takes seconds over a vocabulary.
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import os
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypeVar, cast

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from model.errors import CheckpointError

MAX_ENTRIES = 65_536  # keys, and tensors
MAX_NAME = 256  # characters in a key or in the name of a tensor
MAX_STRING_BYTES = 64 << 20  # in all strings together; the tokens and merges of a 150k vocabulary take 5 MB
MAX_ARRAY_ITEMS = 2 << 20  # in all arrays together; a 260k vocabulary with scores and merges takes 1.3 million
MAX_ALIGNMENT = 65_536
DEFAULT_ALIGNMENT = 32

# The format's numbers for the types of values, with the codes of struct
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9

Array: TypeAlias = list[str] | list[int] | list[float] | list[bool]
Value: TypeAlias = str | int | float | bool | Array
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies in the file, and in what encoding."""

    path: Path  # the file, of several that a model may be split over
    name: str
    shape: tuple[int, ...]  # PyTorch's order: the file's dimensions reversed
    type: GGMLQuantizationType
    offset: int  # from the start of the file
    n_bytes: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What a GGUF file says about itself.

    The getters raise `CheckpointError` for a key that is missing without a default, or holds another kind of
    value. A bool is no integer here; an integer is a number.
    """

    path: Path
    metadata: dict[str, Value]
    tensors: dict[str, TensorInfo]  # in the file's order

    def text(self, key: str, default: str | None = None) -> str:
        """The string at `key`."""
        return self._scalar(key, str, default)

    def integer(self, key: str, default: int | None = None) -> int:
        """The integer at `key`."""
        return self._scalar(key, int, default)

    def number(self, key: str, default: float | None = None) -> float:
        """The float or integer at `key`, as a float."""
        value = self.metadata.get(key, default)
        return float(value) if type(value) is int else self._scalar(key, float, default)

    def strings(self, key: str, default: list[str] | None = None) -> list[str]:
        """The array of strings at `key`."""
        return self._array(key, str, default)

    def integers(self, key: str, default: list[int] | None = None) -> list[int]:
        """The array of integers at `key`."""
        return self._array(key, int, default)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """The bool at `key`."""
        return self._scalar(key, bool, default)

    def refusal(self, what: str, expected: str, found: str) -> CheckpointError:
        """The error for a thing in this file that is not as expected."""
        return _refusal(self.path, what, expected, found)

    def _scalar(self, key: str, kind: type[T], default: T | None) -> T:
        value = self.metadata.get(key, default)
        if type(value) is kind:  # not isinstance(): True is an int
            return value
        raise self._wrong_kind(key, kind.__name__)

    def _array(self, key: str, kind: type[T], default: list[T] | None) -> list[T]:
        value = self.metadata.get(key, default)
        if isinstance(value, list) and all(type(item) is kind for item in value):
            return cast(list[T], value)
        raise self._wrong_kind(key, f"array of {kind.__name__}")

    def _wrong_kind(self, key: str, expected: str) -> CheckpointError:
        value = self.metadata.get(key)
        found = "nothing" if value is None else type(value).__name__
        if isinstance(value, list):
            found = f"array of {type(value[0]).__name__}" if value else "empty array"
        return self.refusal(f"key {key}", expected, found)


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read the header of `path` and check all of it, down to the last byte of each tensor.

    Memory and time are bounded by the limits above, whatever the file says.
    """
    try:
        if not path.is_file():
            raise _refusal(path, "the path", "a GGUF file", "a folder or device" if path.exists() else "nothing")
        with path.open("rb") as file:
            return _parse(_Reader(path, file))
    except OSError as error:
        raise _refusal(path, "the path", "a readable file", f"{error.strerror}") from error


def _refusal(path: Path, what: str, expected: str, found: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}: expected {expected}, found {found}")


class _Reader:
    """Reads little-endian values from a file, and none beyond its end or the limits.

    `what` names the thing being read, for the error text.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0
        self.string_bytes_left = MAX_STRING_BYTES
        self.array_items_left = MAX_ARRAY_ITEMS

    def refusal(self, what: str, expected: str, found: str) -> CheckpointError:
        return _refusal(self.path, what, expected, found)

    def beyond_end(self, what: str, start: int, end: int) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what} needs bytes {start:,} to {end:,}, the file ends at {self.size:,}")

    def take(self, n_bytes: int, what: str) -> bytes:
        end = self.position + n_bytes
        # read() allocates all that it is asked for, and gives less if the file has been cut meanwhile
        data = self.file.read(n_bytes) if end <= self.size else b""
        if len(data) < n_bytes:
            raise self.beyond_end(what, self.position, end)
        self.position = end
        return data

    def uint32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def uint64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def count(self, what: str) -> int:
        n_entries = self.uint64(what)
        if n_entries > MAX_ENTRIES:
            raise self.refusal(what, f"at most {MAX_ENTRIES:,}", f"{n_entries:,}")
        return n_entries

    def string(self, what: str) -> str:
        n_bytes = self.uint64(what)
        if n_bytes > self.string_bytes_left:
            limit = f"at most {MAX_STRING_BYTES:,} bytes in all strings"
            raise self.refusal(what, limit, f"one more of {n_bytes:,}")
        self.string_bytes_left -= n_bytes
        try:
            return self.take(n_bytes, what).decode()
        except UnicodeDecodeError as error:
            raise self.refusal(what, "UTF-8", f"the byte {error.object[error.start]:#04x}") from error

    def strings(self, n_items: int, what: str) -> list[str]:
        """As many calls of `string`, in half of the time: a header is tokens and merges for the most part."""
        read, texts = self.file.read, []
        left = limit = min(self.string_bytes_left, self.size - self.position)
        with suppress(UnicodeDecodeError):
            for _ in range(n_items):
                size = read(8)
                n_bytes = int.from_bytes(size, "little")
                if len(size) < 8 or n_bytes > left or len(data := read(n_bytes)) < n_bytes:
                    break
                texts.append(data.decode())
                left -= n_bytes
        self.string_bytes_left -= limit - left
        self.position += 8 * len(texts) + limit - left
        self.file.seek(self.position)
        return texts + [self.string(what) for _ in range(n_items - len(texts))]  # the first says what is wrong

    def name(self, what: str) -> str:
        name = self.string(what)
        # Names go into error texts and logs, where a line break or a terminal's control code must not
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise self.refusal(what, f"1 to {MAX_NAME} printable characters", f"{name[:64]!a}")
        return name

    def value(self, what: str) -> Value:
        kind = self.uint32(what)
        if kind != _ARRAY:
            return self.values(kind, 1, what)[0]
        kind, n_items = self.uint32(what), self.uint64(what)
        if n_items > self.array_items_left:
            limit = f"at most {MAX_ARRAY_ITEMS:,} items in all arrays"
            raise self.refusal(what, limit, f"one more of {n_items:,}")
        self.array_items_left -= n_items
        return self.values(kind, n_items, what)

    def values(self, kind: int, n_items: int, what: str) -> Array:
        if kind == _STRING:
            return self.strings(n_items, what)
        if kind not in _SCALARS:  # an array of arrays among them
            raise self.refusal(what, "numbers, bools or strings", f"the value type {kind}")
        layout = struct.Struct(f"<{n_items}{_SCALARS[kind]}")
        items = list(layout.unpack(self.take(layout.size, what)))
        if kind != _BOOL:
            return items
        if not set(items) <= {0, 1}:
            raise self.refusal(what, "a byte 0 or 1 for a bool", f"{max(items)}")
        return [item == 1 for item in items]

    def tensor(self, number: int) -> TensorInfo:
        """The next tensor; its offset counts from the start of the data, which is not known yet."""
        name = self.name(f"the name of tensor {number}")
        what = f"tensor {name}"
        n_dims = self.uint32(what)
        if not 1 <= n_dims <= 4:
            raise self.refusal(what, "1 to 4 dimensions", f"{n_dims:,}")
        dims = [self.uint64(what) for _ in range(n_dims)]
        if 0 in dims:
            raise self.refusal(what, "dimensions of at least 1", f"{dims}")
        type_number, offset = self.uint32(what), self.uint64(what)
        if type_number not in GGML_QUANT_SIZES:
            raise self.refusal(what, "a known type", f"type {type_number}")
        tensor_type = GGMLQuantizationType(type_number)
        block_size, block_bytes = GGML_QUANT_SIZES[tensor_type]
        if dims[0] % block_size:
            raise self.refusal(what, f"rows in {tensor_type.name} blocks of {block_size}", f"{dims[0]:,} columns")
        # In Python's integers, which do not wrap around, whatever the dimensions
        n_bytes = math.prod(dims) // block_size * block_bytes
        return TensorInfo(self.path, name, tuple(reversed(dims)), tensor_type, offset, n_bytes)


def _parse(reader: _Reader) -> GGUFHeader:
    _check_magic_and_version(reader)
    n_tensors, n_keys = reader.count("the number of tensors"), reader.count("the number of keys")
    metadata: dict[str, Value] = {}
    for number in range(n_keys):
        key = reader.name(f"the name of key {number}")
        if key in metadata:
            raise reader.refusal(f"key {key}", "it once", "it twice")
        metadata[key] = reader.value(f"key {key}")
    tensors: dict[str, TensorInfo] = {}
    for number in range(n_tensors):
        tensor = reader.tensor(number)
        if tensor.name in tensors:
            raise reader.refusal(f"tensor {tensor.name}", "it once", "it twice")
        tensors[tensor.name] = tensor
    header = GGUFHeader(reader.path, metadata, tensors)
    return replace(header, tensors=_placed(reader, header))


def _check_magic_and_version(reader: _Reader) -> None:
    magic = reader.take(4, "the magic number of a GGUF file")
    if magic != b"GGUF":
        raise reader.refusal("the first bytes of a GGUF file", f"{b'GGUF'!r}", f"{magic!r}")
    version = reader.take(4, "the version")
    if int.from_bytes(version, "big") in (2, 3):
        raise reader.refusal("the byte order", "little-endian", "big-endian")
    if (found := int.from_bytes(version, "little")) not in (2, 3):
        raise reader.refusal("the version of GGUF", "2 or 3", f"{found:,}")


def _placed(reader: _Reader, header: GGUFHeader) -> dict[str, TensorInfo]:
    """The tensors with offsets from the start of the file, when they lie there one right after another to its end."""
    alignment = header.integer("general.alignment", DEFAULT_ALIGNMENT)
    if not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise reader.refusal("key general.alignment", f"a power of two up to {MAX_ALIGNMENT:,}", f"{alignment:,}")
    start = end = -(-reader.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, tensor in header.tensors.items():
        if start + tensor.offset != end:
            raise reader.refusal(f"tensor {name}", f"it from byte {end:,} on", f"byte {start + tensor.offset:,}")
        if end + tensor.n_bytes > reader.size:
            raise reader.beyond_end(f"tensor {name}", end, end + tensor.n_bytes)
        tensors[name] = replace(tensor, offset=end)
        end += -(-tensor.n_bytes // alignment) * alignment
    if tensors and reader.size > end:
        raise reader.refusal("the end of the last tensor", f"the file's, {reader.size:,}", f"{end:,}")
    return tensors
