import contextlib
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

from model.checkpoint import gguf_header
from model.checkpoint.gguf_header import GGUFHeader, read_gguf_header
from model.errors import CheckpointError

F32, Q4_1 = GGMLQuantizationType.F32, GGMLQuantizationType.Q4_1
INT8, UINT32, BOOL, STRING, ARRAY = 1, 4, 7, 8, 9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small file with every type of value, alone and in an array, and tensors of 1 to 3 dimensions."""
    writer = GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_bool("a.flag", True)
    writer.add_string("a.text", "zwölf")
    writer.add_custom_alignment(64)
    samples = {"INT": -7, "UINT": 7, "FLOAT": 0.5, "BOOL": True, "STRING": "é"}
    for kind in GGUFValueType:
        if kind != GGUFValueType.ARRAY:
            sample = samples[kind.name.rstrip("0123456789")]
            writer.add_key_value(f"one.{kind.name}", sample, kind)
            writer.add_key_value(f"many.{kind.name}", [sample] * 3, GGUFValueType.ARRAY, sub_type=kind)
    writer.add_tensor("norm", np.ones(5, dtype=np.float32))
    writer.add_tensor("weight", np.zeros((2, 3, 20), dtype=np.uint8), raw_dtype=Q4_1)
    writer.add_tensor("half", np.ones((3, 2), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "tiny.gguf"


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def array(kind: int, n_items: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, n_items) + items


def tensor(name: bytes, dims: list[int], kind: int = F32, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf(*pairs: bytes, tensors: tuple[bytes, ...] = (), data: bytes = bytes(256)) -> bytes:
    counts = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs))
    header = counts + b"".join(pairs) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + data


def header_end(path: Path) -> int:
    return min(tensor.offset for tensor in read_gguf_header(path).tensors.values())


def test_reads_the_metadata_that_the_gguf_package_reads(path: Path) -> None:
    fields = GGUFReader(path).fields
    expected = {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}
    metadata = read_gguf_header(path).metadata
    assert metadata == expected
    assert len(metadata) == 4 + 2 * 12


def test_reads_the_tensors_that_the_gguf_package_reads(path: Path) -> None:
    expected = [
        (t.name, tuple(reversed(t.shape.tolist())), t.tensor_type, t.data_offset, t.n_bytes)
        for t in GGUFReader(path).tensors
    ]
    tensors = read_gguf_header(path).tensors
    assert [(t.name, t.shape, t.type, t.offset, t.n_bytes) for t in tensors.values()] == expected
    assert tensors["weight"].shape == (2, 3, 32)
    assert list(tensors) == ["norm", "weight", "half"]


def test_reads_version_2_and_no_other(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4] + struct.pack("<I", 2) + content[8:])
    assert read_gguf_header(path).text("a.text") == "zwölf"
    path.write_bytes(content[:4] + struct.pack("<I", 4) + content[8:])
    with pytest.raises(CheckpointError, match=r"tiny.gguf: the version of GGUF: expected 2 or 3, found 4$"):
        read_gguf_header(path)


def test_header_cut_at_any_byte_is_refused(path: Path) -> None:
    content, cut = path.read_bytes(), path.with_name("cut.gguf")
    for length in range(header_end(path) + 1):
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut.gguf: .* needs bytes .* the file ends at"):
            read_gguf_header(cut)


def test_cut_data_names_the_tensor_and_the_bytes(path: Path) -> None:
    weight = read_gguf_header(path).tensors["weight"]
    path.write_bytes(path.read_bytes()[: weight.offset + 100])
    start, cut, end = weight.offset, weight.offset + 100, weight.offset + 120
    with pytest.raises(CheckpointError) as caught:
        read_gguf_header(path)
    assert str(caught.value) == (f"{path}: tensor weight needs bytes {start:,} to {end:,}, the file ends at {cut:,}")


def test_flipped_byte_is_refused_or_leaves_the_tensors_inside_the_file(path: Path) -> None:
    content, flipped = bytearray(path.read_bytes()), path.with_name("flipped.gguf")
    for position in range(header_end(path)):
        content[position] ^= 0x80
        flipped.write_bytes(content)
        content[position] ^= 0x80
        with contextlib.suppress(CheckpointError):
            tensors = read_gguf_header(flipped).tensors.values()
            assert all(tensor.offset + tensor.n_bytes <= len(content) for tensor in tensors)


HOSTILE = {
    "empty file": (b"", "the magic number of a GGUF file needs bytes 0 to 4, the file ends at 0"),
    "another format": (b"PK\x03\x04" * 9, r"expected b'GGUF', found b'PK\x03\x04'"),
    "big-endian": (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "expected little-endian, found big-endian"),
    "a million keys": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 10**6), "at most 65,536, found 1,000,000"),
    "a million tensors": (struct.pack("<4sIQQ", b"GGUF", 3, 10**6, 0), "at most 65,536, found 1,000,000"),
    "endless key": (gguf(struct.pack("<Q", 1 << 60)), "the name of key 0: expected at most 67,108,864 bytes"),
    "endless string": (gguf(pair(b"k", STRING, struct.pack("<Q", 1 << 60))), "found one more of 1,152,921,5"),
    "endless array": (gguf(pair(b"k", ARRAY, array(INT8, 1 << 60))), "found one more of 1,152,921,5"),
    "string beyond the end": (gguf(pair(b"k", STRING, struct.pack("<Q", 60 << 20))), "the file ends at"),
    "array beyond the end": (gguf(pair(b"k", ARRAY, array(INT8, 999))), "key k needs bytes 49 to 1,048"),
    "array of arrays": (gguf(pair(b"k", ARRAY, array(ARRAY, 1, array(INT8, 0)))), "the value type 9"),
    "unknown value type": (gguf(pair(b"k", 13, b"")), "key k: expected numbers, bools or strings, found the"),
    "bool of 2": (gguf(pair(b"k", BOOL, b"\x02")), "key k: expected a byte 0 or 1 for a bool, found 2"),
    "key twice": (gguf(*[pair(b"k", BOOL, b"\x01")] * 2), "key k: expected it once, found it twice"),
    "key not UTF-8": (
        gguf(pair(b"k\xff", BOOL, b"\x01")),
        "the name of key 0: expected UTF-8, found the byte",
    ),
    "key of two lines": (gguf(pair(b"k\nk", BOOL, b"\x01")), r"printable characters, found 'k\nk'"),
    "empty key": (gguf(pair(b"", BOOL, b"\x01")), "expected 1 to 256 printable characters, found ''"),
    "tensor not UTF-8": (gguf(tensors=(tensor(b"\xc3", [1]),)), "the name of tensor 0: expected UTF-8"),
    "tensor twice": (gguf(tensors=(tensor(b"w", [8]), tensor(b"w", [8], offset=32))), "found it twice"),
    "no dimensions": (gguf(tensors=(tensor(b"w", []),)), "expected 1 to 4 dimensions, found 0"),
    "five dimensions": (gguf(tensors=(tensor(b"w", [1] * 5),)), "expected 1 to 4 dimensions, found 5"),
    "a dimension of 0": (gguf(tensors=(tensor(b"w", [4, 0]),)), "of at least 1, found [4, 0]"),
    "wrapping product": (
        gguf(tensors=(tensor(b"w", [4194305, 4194305, 211106198978564]),)),
        "tensor w needs bytes 96 to 14,855,285,193,791,046,168,434,704,496, the file ends at 352",
    ),
    "type without a meaning": (gguf(tensors=(tensor(b"w", [32], kind=4),)), "a known type, found type 4"),
    "broken block": (gguf(tensors=(tensor(b"w", [33], Q4_1),)), "Q4_1 blocks of 32, found 33 columns"),
    "misaligned offset": (
        gguf(tensors=(tensor(b"w", [8], offset=16),)),
        "tensor w: expected it from byte 64 on, found byte 80",
    ),
    "offset beyond the end": (
        gguf(tensors=(tensor(b"w", [8], offset=1 << 63),)),
        "tensor w: expected it from byte 64 on, found byte 9,223,",
    ),
    "overlap": (
        gguf(tensors=(tensor(b"w", [9]), tensor(b"v", [8], offset=32))),
        "tensor v: expected it from byte 160 on, found byte 128",
    ),
    "gap": (
        gguf(tensors=(tensor(b"w", [8]), tensor(b"v", [8], offset=64))),
        "tensor v: expected it from byte 128 on, found byte 160",
    ),
    "bytes left over": (
        gguf(tensors=(tensor(b"w", [8]), tensor(b"v", [24], offset=32))),
        "the end of the last tensor: expected the file's, 352, found 224",
    ),
    "alignment of 48": (
        gguf(pair(b"general.alignment", UINT32, struct.pack("<I", 48))),
        "key general.alignment: expected a power of two up to 65,536, found 48",
    ),
    "alignment of 0": (gguf(pair(b"general.alignment", UINT32, bytes(4))), "up to 65,536, found 0"),
    "alignment of 2^17": (
        gguf(pair(b"general.alignment", UINT32, struct.pack("<I", 1 << 17))),
        "up to 65,536, found 131,072",
    ),
    "alignment in words": (
        gguf(pair(b"general.alignment", STRING, string(b"32"))),
        "expected int, found str",
    ),
}


@pytest.mark.parametrize(("content", "complaint"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_file_is_refused_at_once_with_its_fault(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError) as caught:
        read_gguf_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert complaint in str(caught.value)
    assert peak < 1 << 20


def test_limits_hold_for_all_arrays_and_strings_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = string(b"word")
    path.write_bytes(gguf(pair(b"a", ARRAY, array(STRING, 2, text * 2)), pair(b"b", ARRAY, array(STRING, 1, text))))
    monkeypatch.setattr(gguf_header, "MAX_ARRAY_ITEMS", 2)
    with pytest.raises(CheckpointError, match="key b: expected at most 2 items in all arrays, found one more of 1$"):
        read_gguf_header(path)
    monkeypatch.setattr(gguf_header, "MAX_ARRAY_ITEMS", 3)
    monkeypatch.setattr(gguf_header, "MAX_STRING_BYTES", 13)  # the keys count too
    with pytest.raises(CheckpointError, match="key b: expected at most 13 bytes in all strings, found one more of 4$"):
        read_gguf_header(path)


def test_missing_file_and_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a GGUF file, found nothing$"):
        read_gguf_header(tmp_path / "missing.gguf")
    with pytest.raises(CheckpointError, match="expected a GGUF file, found a folder or device$"):
        read_gguf_header(tmp_path)
    with pytest.raises(CheckpointError, match="expected a readable file, found File name too long$"):
        read_gguf_header(tmp_path / ("long" * 100))


def test_vocabulary_of_150k_tokens_is_within_the_limits(tmp_path: Path) -> None:
    words = b"".join(string(b"word%d" % number) for number in range(150_000))
    merges = b"".join(string(b"wo rd%d" % number) for number in range(150_000))
    path = tmp_path / "wide.gguf"
    path.write_bytes(
        gguf(
            pair(b"tokens", ARRAY, array(STRING, 150_000, words)),
            pair(b"merges", ARRAY, array(STRING, 150_000, merges)),
        )
    )
    header = read_gguf_header(path)
    assert header.strings("tokens")[-1] == "word149999"
    assert len(header.strings("merges")) == 150_000


@pytest.fixture
def header() -> GGUFHeader:
    metadata = {
        "flag": True,
        "n": 3,
        "x": 0.5,
        "s": "abc",
        "ns": [1, 2],
        "ss": ["a"],
        "bs": [True],
        "none": [],
    }
    return GGUFHeader(Path("a.gguf"), metadata, {})


def test_getters_give_values_of_their_kind(header: GGUFHeader) -> None:
    assert header.text("s") == "abc"
    assert header.integer("n") == 3
    assert header.number("x") == 0.5
    assert header.strings("ss") == ["a"]
    assert header.integers("ns") == [1, 2]
    assert header.integers("none") == []


def test_number_takes_an_integer_for_a_float(header: GGUFHeader) -> None:
    assert isinstance(header.number("n"), float)
    assert header.number("n") == 3.0


def test_getters_give_the_default_only_for_a_missing_key(header: GGUFHeader) -> None:
    assert header.integer("missing", 5) == 5
    assert header.strings("missing", []) == []
    assert header.integer("n", 5) == 3
    with pytest.raises(CheckpointError, match=r"^a.gguf: key s: expected int, found str$"):
        header.integer("s", 5)


def test_getters_refuse_missing_keys_and_other_kinds(header: GGUFHeader) -> None:
    with pytest.raises(CheckpointError, match=r"^a.gguf: key missing: expected str, found nothing$"):
        header.text("missing")
    with pytest.raises(CheckpointError, match=r"key flag: expected int, found bool$"):
        header.integer("flag")
    with pytest.raises(CheckpointError, match=r"key bs: expected array of int, found array of bool$"):
        header.integers("bs")
    with pytest.raises(CheckpointError, match=r"key none: expected int, found empty array$"):
        header.integer("none")
