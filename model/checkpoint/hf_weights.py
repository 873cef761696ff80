"""The weights of a folder in Hugging Face's layout: which file and tensor holds which parameter of GPT.

Names and layouts: `save_pretrained` of transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np

from model.checkpoint.hf_families import FUSED, Layout
from model.checkpoint.json_file import read_json, shown
from model.checkpoint.safetensors_file import WEIGHT_TYPES, StoredTensor, read_header
from model.config import GPTConfig
from model.errors import CheckpointError
from model.parameters import Shape, parameter_shapes

if TYPE_CHECKING:
    import torch

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX = 2 << 20  # bytes

HEAD = "lm_head"
BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # older files hold these constants as well


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter stands: in which tensor, and in which part of it."""

    tensor: str
    part: int = 0
    n_parts: int = 1
    transposed: bool = False

    def tensor_shape(self, shape: Shape) -> Shape:
        """Return the shape of the whole tensor, given that of the parameter."""
        rows, *columns = shape
        return (*columns, rows * self.n_parts) if self.transposed else (rows * self.n_parts, *columns)


def place_of(parameter: str, layout: Layout) -> Place:
    """Return where a layout keeps a parameter of GPT."""
    module, _, kind = parameter.rpartition(".")  # kind: weight or bias
    prefix = "" if module == HEAD else layout.prefix
    if module.startswith("h."):
        _, layer, module = module.split(".", 2)
        prefix += f"{layout.modules.get('h', 'h')}.{layer}."
    tensor = f"{prefix}{layout.modules.get(module, module)}.{kind}"
    transposed = layout.transposed and kind == "weight" and module.startswith(("attn.", "mlp."))
    if layout.transposed and module in FUSED:
        return Place(tensor, FUSED.index(module), len(FUSED), transposed)
    return Place(tensor, transposed=transposed)


class HFWeights:
    """The tensors of a folder under the names of GPT's parameters."""

    def __init__(self, tensors: Mapping[str, StoredTensor], config: GPTConfig, layout: Layout) -> None:
        """Check that the tensors are those of such a network, names, shapes and types; raises CheckpointError."""
        self._tensors = tensors
        self._places = {}
        for parameter, shape in parameter_shapes(config):
            place = place_of(parameter, layout)
            _check(tensors, place, shape)
            self._places[parameter] = (place, shape)
        known = {place.tensor for place, _ in self._places.values()}
        for name, tensor in tensors.items():
            if name not in known and not name.endswith(BUFFERS):
                raise CheckpointError(f"{tensor.path.name}: tensor {tensor.name}: expected none of this name")

    def rows(self, parameter: str, start: int, stop: int) -> "torch.Tensor":
        """Read rows of a parameter in the type of the file; it is mapped only meanwhile."""
        tensor, part = self._find(parameter, start, stop)
        return tensor.read(*part).T if len(part) > 1 else tensor.read(*part)

    def encoding(self, parameter: str) -> str:
        """Return the format's name of a parameter's type, one of WEIGHT_TYPES."""
        return self._tensors[self._places[parameter][0].tensor].type

    def encoded_rows(self, parameter: str, start: int, stop: int) -> np.ndarray:
        """Read rows of a parameter in the type of the file, as bytes (stop - start, bytes per row)."""
        tensor, part = self._find(parameter, start, stop)
        numbers = tensor.read_array(*part)
        rows = np.ascontiguousarray(numbers.T if len(part) > 1 else numbers)
        return rows.reshape(stop - start, -1).view(np.uint8)

    def _find(self, parameter: str, start: int, stop: int) -> tuple[StoredTensor, tuple[slice, ...]]:
        """Return where rows of a parameter lie: the tensor, and its rows, or all its rows and some of its columns."""
        place, (n_rows, *_) = self._places[parameter]
        first = place.part * n_rows
        rows = slice(first + start, first + stop)
        return self._tensors[place.tensor], (slice(None), rows) if place.transposed else (rows,)


def _check(tensors: Mapping[str, StoredTensor], place: Place, parameter_shape: Shape) -> None:
    shape, tensor = place.tensor_shape(parameter_shape), tensors.get(place.tensor)
    if tensor is None:
        raise CheckpointError(f"tensor {place.tensor}: expected shape {shape}, found no such tensor")
    where = f"{tensor.path.name}: tensor {tensor.name}"
    if tensor.shape != shape:
        raise CheckpointError(f"{where}: expected shape {shape}, found {tensor.shape}")
    if tensor.type not in WEIGHT_TYPES:
        raise CheckpointError(f"{where}: expected one of {', '.join(WEIGHT_TYPES)}, found {tensor.type}")


def read_tensors(folder: Path, layout: Layout) -> dict[str, StoredTensor]:
    """Read the headers of all files of weights: the tensors by their names in a whole model.

    Raises CheckpointError.
    """
    tensors: dict[str, StoredTensor] = {}
    for file, names in _files(folder).items():
        found = read_header(folder / file)
        for name in names:
            if name not in found:
                raise CheckpointError(
                    f"{file}: tensor {shown(name)}: expected as in {INDEX_FILE}, found no such tensor"
                )
        for name, tensor in found.items():
            # A model that was saved without its head has no prefixes
            full_name = name if name.startswith((layout.prefix, f"{HEAD}.")) else layout.prefix + name
            if full_name in tensors:
                other = tensors[full_name].path.name
                raise CheckpointError(f"{file}: tensor {name}: expected it once, found it in {other} as well")
            tensors[full_name] = tensor
    return tensors


def _files(folder: Path) -> dict[str, list[str]]:
    """Return the files of weights, each with the tensors that the index promises in it."""
    if (folder / WEIGHTS_FILE).exists():  # transformers, too, prefers it to an index
        return {WEIGHTS_FILE: []}
    files: dict[str, list[str]] = {}
    weight_map = read_json(folder / INDEX_FILE, MAX_INDEX).child("weight_map")
    for name in weight_map.values:
        file = weight_map.text(name)
        # A path must not leave the folder, whatever system it is meant for
        is_name = file == PurePosixPath(file).name == PureWindowsPath(file).name
        if not is_name or not file.endswith(".safetensors") or not file.isprintable():
            weight_map.refuse(name, "the name of a file in this folder that ends in .safetensors")
        files.setdefault(file, []).append(name)
    return files
