"""Folders of the Hugging Face hub with something changed, and what is said of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import texts
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from model.checkpoint.checkpoint import load_model
from model.checkpoint.open import open_checkpoint
from model.errors import CheckpointError

MAPPING, DOWN = "model.safetensors.index.json", "model.layers.1.mlp.down_proj.weight"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
Tensors = dict[str, Tensor]


def copy_in_one_file(sharded: Path, folder: Path) -> Path:
    shutil.copytree(sharded, folder, ignore=shutil.ignore_patterns("model*"))
    save_file(read_tensors(sharded), folder / "model.safetensors", {"format": "pt"})
    return folder


def read_tensors(folder: Path) -> Tensors:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def change_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = read_tensors(folder)
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def change_json(path: Path, **values: Any) -> None:
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | values))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(open_checkpoint(folder))
    text = str(caught.value)
    assert text.startswith(f"{folder}")
    assert text.isprintable()
    return text.removeprefix(f"{folder}: ").removeprefix(f"{folder}/")


def assert_same_logits(folder: Path) -> None:
    text = texts()[0]
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(text[None]).logits[0]
    model = load_model(open_checkpoint(folder))
    torch.testing.assert_close(model(text, [text.numel()]), expected, rtol=0, atol=1e-4)
