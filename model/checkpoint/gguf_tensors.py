"""The tensors of a GGUF file: under which names the parameters of GPT lie there, and what is in them.

Names: llama.cpp's (gguf-py/gguf/constants.py). The quantized types are read by the package gguf.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from gguf import dequantize
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from model.checkpoint.gguf_header import GGUFHeader, TensorInfo
from model.config import GPTConfig
from model.errors import CheckpointError
from model.parameters import Shape, parameter_shapes

if TYPE_CHECKING:
    import torch

_OUTSIDE = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"}
_IN_BLOCK = {
    "ln_1": "attn_norm",
    "attn.c_q": "attn_q",
    "attn.c_k": "attn_k",
    "attn.c_v": "attn_v",
    "attn.q_norm": "attn_q_norm",
    "attn.k_norm": "attn_k_norm",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_gate": "ffn_gate",
    "mlp.c_up": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter lies: in a tensor, or in some rows of one."""

    tensor: str
    shape: Shape  # of the whole tensor
    first_row: int


def parameter_places(header: GGUFHeader, config: GPTConfig) -> Iterator[tuple[str, Place]]:
    """Yield each parameter of GPT and the place where it should lie."""
    rows = {"attn.c_q": config.n_head * config.head_dim}
    rows["attn.c_k"] = rows["attn.c_v"] = config.n_kv_head * config.head_dim
    fused = rows if "blk.0.attn_qkv.weight" in header.tensors else {}
    first_rows = {"attn.c_q": 0, "attn.c_k": rows["attn.c_q"], "attn.c_v": rows["attn.c_q"] + rows["attn.c_k"]}
    for parameter, shape in parameter_shapes(config):
        module, _, kind = parameter.rpartition(".")
        if not module.startswith("h."):
            yield parameter, Place(f"{_OUTSIDE[module]}.{kind}", shape, 0)
            continue
        _, layer, part = module.split(".", 2)
        if part in fused:
            place = Place(f"blk.{layer}.attn_qkv.{kind}", (sum(rows.values()), *shape[1:]), first_rows[part])
        else:
            place = Place(f"blk.{layer}.{_IN_BLOCK[part]}.{kind}", shape, 0)
        yield parameter, place


def check_tensors(header: GGUFHeader, config: GPTConfig) -> None:
    """Raise CheckpointError unless the file has the network's tensors, in types that can be read, and no others."""
    known = {"rope_freqs.weight"} if config.rope is not None else set()  # read with the keys
    for _, place in parameter_places(header, config):
        known.add(place.tensor)
        found = header.tensors.get(place.tensor)
        if found is None:
            raise header.refusal(f"tensor {place.tensor}", f"shape {place.shape}", "no such tensor")
        if found.shape != place.shape:
            raise header.refusal(f"tensor {place.tensor}", f"shape {place.shape}", f"{found.shape}")
        if not _is_readable(found.type):
            raise header.refusal(f"tensor {place.tensor}", "weights", f"the type {found.type.name}")
    unknown = next((name for name in header.tensors if name not in known), None)
    if unknown is not None:
        raise header.refusal(f"tensor {unknown}", "none of this name", "it")


@cache
def _is_readable(kind: GGMLQuantizationType) -> bool:
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def read_rows(tensor: TensorInfo, rows: slice | np.ndarray) -> np.ndarray:
    """Read some rows of a tensor as fp32; it is mapped into memory only meanwhile. Raises CheckpointError."""
    encoded = _mapped(tensor)
    with np.errstate(all="ignore"):  # numbers that are not finite: whoever reads them looks
        if len(tensor.shape) == 1:  # one row of blocks
            numbers = dequantize(encoded, tensor.type)[0][rows]
        else:
            numbers = dequantize(encoded[rows], tensor.type)
    return np.require(numbers, np.float32, ["C", "W"]).reshape(-1, *tensor.shape[1:])  # a copy, unless it is one


def _mapped(tensor: TensorInfo) -> np.ndarray:
    """Map a tensor's bytes into memory, as (rows, bytes per row); one of one dimension is one row."""
    try:
        mapping = np.memmap(tensor.path, np.uint8, mode="r", offset=tensor.offset, shape=(tensor.n_bytes,))
    except (OSError, ValueError) as error:  # it has vanished or been cut since it was opened
        raise CheckpointError(f"{tensor.path}: tensor {tensor.name}: cannot be read: {error}") from None
    n_rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
    return np.asarray(mapping).reshape(n_rows, -1)  # slices of the subclass take three times as long


class GGUFWeights:
    """The parameters of a network in the tensors of a GGUF file."""

    def __init__(self, header: GGUFHeader, config: GPTConfig, *, pairs_side_by_side: bool) -> None:
        """Take a header that `check_tensors` has passed."""
        self._tensors = header.tensors
        self._head_dim = config.head_dim
        self._pairs_side_by_side = pairs_side_by_side
        self._places = dict(parameter_places(header, config))

    def rows(self, parameter: str, start: int, stop: int) -> "torch.Tensor":
        """Read rows of a parameter as fp32, (stop - start, …)."""
        import torch

        return torch.from_numpy(read_rows(*self._find(parameter, start, stop)))

    def encoding(self, parameter: str) -> str:
        """Return GGML's name of a parameter's type; F32 for one of one dimension, whose blocks are not cut."""
        tensor = self._tensors[self._places[parameter].tensor]
        return tensor.type.name if len(tensor.shape) > 1 else "F32"

    def encoded_rows(self, parameter: str, start: int, stop: int) -> np.ndarray:
        """Read rows of a parameter as the file has them, as bytes (stop - start, bytes per row)."""
        tensor, rows = self._find(parameter, start, stop)
        if len(tensor.shape) == 1:
            return read_rows(tensor, rows)[:, None].view(np.uint8)
        return np.require(_mapped(tensor)[rows], requirements="W")  # a copy, unless it is one

    def _find(self, parameter: str, start: int, stop: int) -> tuple[TensorInfo, slice | np.ndarray]:
        """Return where rows of a parameter lie: the tensor, and its rows."""
        place = self._places[parameter]
        rows: slice | np.ndarray = slice(place.first_row + start, place.first_row + stop)
        if self._pairs_side_by_side and (".c_q." in parameter or ".c_k." in parameter):
            rows = place.first_row + _halves_to_pairs(np.arange(start, stop), self._head_dim)
        return self._tensors[place.tensor], rows


def _halves_to_pairs(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Return where rows of a projection stand in a file that keeps the two of a rotated pair side by side."""
    head, row = np.divmod(rows, head_dim)
    half, pair = np.divmod(row, head_dim // 2)
    return head * head_dim + 2 * pair + half
