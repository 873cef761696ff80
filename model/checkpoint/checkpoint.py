"""A checkpoint, whatever its format: everything about a model but its weights, and how to get at those."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from model.chat_template import ChatTemplate
from model.config import GPTConfig
from model.errors import CheckpointError
from model.parameters import Shape, parameter_shapes
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from model.gpt import GPT

DType = Literal["float32", "bfloat16", "float16"]
ITEM_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

CHUNK_NUMBERS = 2**20  # read at a time: what a conversion needs beside the weights stays small


# What ends a turn in the families' vocabularies; files name one of them at most, and their templates write others
_END_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>")


def known_end_ids(tokenizer: Tokenizer) -> set[int]:
    """Return the ids of those control tokens that end a reply whatever the checkpoint's files say."""
    return {tokenizer.control_tokens[token] for token in _END_TOKENS if token in tokenizer.control_tokens}


class Weights(Protocol):
    """The weights in a checkpoint's files, under the names of GPT's parameters."""

    def rows(self, parameter: str, start: int, stop: int) -> "torch.Tensor":
        """Read rows of a parameter, in any float type, as (stop - start, …); raises CheckpointError."""

    def encoding(self, parameter: str) -> str:
        """Return how `encoded_rows` gives a parameter: F64, F32, F16, BF16, or GGML's name of a quantized type."""

    def encoded_rows(self, parameter: str, start: int, stop: int) -> np.ndarray:
        """Read rows of a parameter as the file has them, as bytes (stop - start, bytes per row), without torch.

        The rows of a parameter of one dimension are its numbers. Raises CheckpointError.
        """


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything about a model but its weights."""

    path: Path
    config: GPTConfig
    tokenizer: Tokenizer
    chat_template: ChatTemplate
    bos_id: int | None  # begins every text that no chat template begins
    end_ids: frozenset[int]  # tokens that end a reply
    sampling_params: SamplingParams  # as its makers recommend
    weights: Weights


def load_model(
    checkpoint: Checkpoint,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    dtype: DType = "float32",
) -> "GPT":
    """Build the network and fill it with the checkpoint's weights, converted to `dtype`.

    Calls `progress` with the number of tensors done and of all. Beside what stays, a few rows are in memory.

    Raises CheckpointError when a weight is not a finite number, or cannot be read.
    """
    import torch

    from model.gpt import GPT

    shapes = dict(parameter_shapes(checkpoint.config))
    weights = {}
    for n_done, (name, shape) in enumerate(shapes.items(), 1):
        weights[name] = _read(checkpoint, name, shape, getattr(torch, dtype))
        progress(n_done, len(shapes))
    # Some checkpoints of tied heads hold the matrix twice, and say it is not shared
    is_tied = checkpoint.config.tied_head or torch.equal(weights["lm_head.weight"], weights["wte.weight"])
    if is_tied:
        weights["lm_head.weight"] = weights["wte.weight"]
    with torch.device("meta"):
        model = GPT(checkpoint.config)
    model.load_state_dict(weights, assign=True)
    if is_tied:
        model.lm_head.weight = model.wte.weight  # assigned, it has become a parameter of its own
    return model.requires_grad_(False).eval()


def read_rows(checkpoint: Checkpoint, parameter: str, shape: Shape, dtype: "torch.dtype") -> Iterator["torch.Tensor"]:
    """Yield the rows of a parameter, a few at a time, converted to `dtype`.

    Raises CheckpointError when one holds a number that is not finite, or cannot be read.
    """
    import torch

    step = max(1, CHUNK_NUMBERS // math.prod(shape[1:]))
    for start in range(0, shape[0], step):
        rows = checkpoint.weights.rows(parameter, start, min(start + step, shape[0])).to(dtype)
        if not torch.stack(rows.aminmax()).isfinite().all():  # NaN is both; a mask of all rows takes four times as long
            raise CheckpointError(
                f"{checkpoint.path}: weights {parameter}: expected finite numbers of {dtype}, found NaN or Inf"
            )
        yield rows


def _read(checkpoint: Checkpoint, parameter: str, shape: Shape, dtype: "torch.dtype") -> "torch.Tensor":
    import torch

    weights, end = torch.empty(shape, dtype=dtype), 0
    for rows in read_rows(checkpoint, parameter, shape, dtype):
        start, end = end, end + rows.shape[0]
        weights[start:end] = rows
    return weights
