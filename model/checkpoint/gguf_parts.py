"""A model split over several GGUF files, read as if it were one.

The parts stand side by side as NAME-00001-of-00003.gguf and so on; the first one has all metadata. Names and keys are
those of llama.cpp's gguf-split.
"""

import re
from dataclasses import replace
from pathlib import Path

from model.checkpoint.gguf_header import GGUFHeader, TensorInfo, read_gguf_header

_PART_NAME = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")


def read_gguf_parts(path: Path) -> GGUFHeader:
    """Read the header of `path` and, if that is one of several parts, of all others, which are checked against it.

    The result has the metadata and path of the first part, and the tensors of all. Raises CheckpointError.
    """
    header = read_gguf_header(path)
    n_parts = header.integer("split.count", 1)
    if n_parts == 1:
        return header
    parts = [read_gguf_header(part_path) for part_path in _part_paths(header, n_parts)]
    for number, part in enumerate(parts):
        _check_part(part, number, parts[0])
    return replace(parts[0], tensors=_merged(parts))


def _part_paths(header: GGUFHeader, n_parts: int) -> list[Path]:
    match = _PART_NAME.fullmatch(header.path.name)
    if not match or int(match[2]) != n_parts:
        expected = f"NAME-00001-of-{n_parts:05}.gguf and so on, as it is one of {n_parts:,} parts"
        raise header.refusal("the file name", expected, repr(header.path.name))
    names = [f"{match[1]}-{number:05}-of-{n_parts:05}.gguf" for number in range(1, n_parts + 1)]
    return [header.path.with_name(name) for name in names]


def _check_part(part: GGUFHeader, number: int, first: GGUFHeader) -> None:
    if part.integer("split.no") != number:
        raise part.refusal("key split.no", f"{number}", f"{part.integer('split.no')}")
    for key in part.metadata.keys() - {"split.no"}:
        if part.metadata[key] != first.metadata.get(key):
            expected = f"the same as in {first.path.name}"
            raise part.refusal(f"key {key}", expected, "another value: parts of different models")


def _merged(parts: list[GGUFHeader]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for part in parts:
        for name, tensor in part.tensors.items():
            if name in tensors:
                raise part.refusal(f"tensor {name}", "it once", f"it in {tensors[name].path.name} as well")
            tensors[name] = tensor
    n_tensors = parts[0].integer("split.tensors.count")
    if len(tensors) != n_tensors:
        raise parts[0].refusal("key split.tensors.count", f"{len(tensors):,} as in all parts", f"{n_tensors:,}")
    return tensors
