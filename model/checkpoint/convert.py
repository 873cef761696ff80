"""Writing a checkpoint as a folder of the Hugging Face hub's layout, which transformers and vLLM load.

Weights go through memory a few rows at a time. The folder appears when it is complete, or not at all.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from model.checkpoint.checkpoint import ITEM_BYTES, Checkpoint, DType, read_rows
from model.checkpoint.hf_config import write_config
from model.checkpoint.hf_families import Family, Layout
from model.checkpoint.hf_weights import INDEX_FILE, WEIGHTS_FILE, place_of
from model.checkpoint.huggingface import (
    CONFIG_FILE,
    GENERATION_FILE,
    SAMPLING_KEYS,
    TEMPLATE_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
)
from model.checkpoint.json_file import Json
from model.checkpoint.safetensors_file import header_bytes
from model.checkpoint.tokenizer_json import write_tokenizer_json
from model.errors import CheckpointError
from model.parameters import Shape, parameter_shapes
from model.sampling_params import SamplingParams

MAX_FILE_BYTES = 2_000_000_000  # of weights

STORED_TYPES: Mapping[DType, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

Progress = Callable[[int, int], None]


def convert(checkpoint: Checkpoint, folder: Path, progress: Progress, *, dtype: DType = "float32") -> None:
    """Write a checkpoint of any format to a new folder, its weights converted to `dtype`.

    Calls `progress` with the number of tensors done and of all. Raises CheckpointError, and leaves nothing behind: the
    folder is there and not empty, or cannot be written; the network is of no family that transformers knows; a weight
    is not a finite number in `dtype`, or cannot be read.
    """
    family, config_json = _write_config(checkpoint)
    tensors = _tensors(checkpoint, family.layout)
    ids = _special_ids(checkpoint)
    with _new_folder(folder) as new:
        _write_json(new / CONFIG_FILE, {**config_json, **ids, "torch_dtype": dtype})
        _write_json(new / GENERATION_FILE, {**ids, **_sampling_keys(checkpoint.sampling_params)})
        _write_tokenizer(checkpoint, new)
        _write_weights(checkpoint, tensors, new, progress, dtype)


def _write_config(checkpoint: Checkpoint) -> tuple[Family, dict[str, Json]]:
    try:
        return write_config(checkpoint.config)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from None


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write to, which takes this one's place in the end, and is gone if something fails before."""
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise CheckpointError(f"{folder}: expected a new or empty folder, found something in its place")
        # Beside it, since a rename cannot cross file systems
        with TemporaryDirectory(prefix=".parley-", dir=folder.absolute().parent) as beside:
            new = Path(beside, "folder")
            new.mkdir()
            yield new
            os.replace(new, folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written: {error.strerror}") from None


def _special_ids(checkpoint: Checkpoint) -> dict[str, Json]:
    named = checkpoint.chat_template.variables
    bos_id = checkpoint.tokenizer.control_tokens.get(named.get("bos_token", ""), checkpoint.bos_id)
    # All three: what is missing would be a default of the family
    return {"bos_token_id": bos_id, "eos_token_id": [*sorted(checkpoint.end_ids)] or None, "pad_token_id": None}


def _sampling_keys(params: SamplingParams) -> dict[str, Json]:
    if params == SamplingParams():
        return {}  # nobody has recommended these
    if params.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, **{key: getattr(params, key) for key in SAMPLING_KEYS}}


def _write_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    template = checkpoint.chat_template
    settings: dict[str, Json] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # takes tokenizer.json as it is
        "clean_up_tokenization_spaces": False,
        "model_max_length": checkpoint.config.n_ctx,
        **template.variables,
    }
    _write_text(folder / TOKENIZER_FILE, write_tokenizer_json(checkpoint.tokenizer, checkpoint.bos_id))
    _write_json(folder / TOKENIZER_CONFIG_FILE, settings)
    if template.source is not None:
        _write_text(folder / TEMPLATE_FILE, template.source)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor to be written, and the parameters of GPT that it is made of, one after another."""

    shape: Shape
    transposed: bool
    parameters: list[tuple[str, Shape]] = field(default_factory=list)


def _tensors(checkpoint: Checkpoint, layout: Layout) -> dict[str, _Tensor]:
    tensors: dict[str, _Tensor] = {}
    for parameter, shape in parameter_shapes(checkpoint.config):
        place = place_of(parameter, layout)
        tensor = tensors.setdefault(place.tensor, _Tensor(place.tensor_shape(shape), place.transposed))
        tensor.parameters.append((parameter, shape))
    return tensors


def _write_weights(
    checkpoint: Checkpoint, tensors: dict[str, _Tensor], folder: Path, progress: Progress, dtype: DType
) -> None:
    """Write all tensors to one file, or to several with an index."""
    sizes = {name: math.prod(tensor.shape) * ITEM_BYTES[dtype] for name, tensor in tensors.items()}
    groups = _split(sizes)
    weight_map: dict[str, Json] = {}
    for number, names in enumerate(groups, 1):
        file_name = WEIGHTS_FILE if len(groups) == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
        with _new_file(folder / file_name) as file:
            file.write(header_bytes({name: tensors[name].shape for name in names}, STORED_TYPES[dtype]))
            for name in names:
                for numbers in _numbers(checkpoint, tensors[name], dtype):
                    file.write(numbers)
                weight_map[name] = file_name
                progress(len(weight_map), len(tensors))
    if len(groups) > 1:
        metadata: dict[str, Json] = {"total_size": sum(sizes.values())}
        _write_json(folder / INDEX_FILE, {"metadata": metadata, "weight_map": weight_map})


def _split(sizes: dict[str, int]) -> list[list[str]]:
    """Return the names in groups, each for one file."""
    groups: list[list[str]] = [[]]
    for name, size in sizes.items():
        if groups[-1] and size + sum(map(sizes.__getitem__, groups[-1])) > MAX_FILE_BYTES:
            groups.append([])
        groups[-1].append(name)
    return groups


def _numbers(checkpoint: Checkpoint, tensor: _Tensor, dtype: DType) -> Iterator[memoryview]:
    import torch

    chunks: Iterable[torch.Tensor] = (
        rows
        for parameter, shape in tensor.parameters
        for rows in read_rows(checkpoint, parameter, shape, getattr(torch, dtype))
    )
    if tensor.transposed:  # in one piece, a row of the file being a column
        chunks = [torch.cat(list(chunks)).T]
    for chunk in chunks:
        yield chunk.contiguous().view(torch.uint8).numpy().data


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write_text(path: Path, text: str) -> None:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{path.name}: expected Unicode, found {error.reason}") from None
    with _new_file(path) as file:
        file.write(data)


def _write_json(path: Path, values: Mapping[str, Json]) -> None:
    _write_text(path, json.dumps(values, indent=2) + "\n")
