"""Packed layers compute what the layers compute that they replace."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from families import FAMILIES, one_thread, oracle_logits, packed_logits, write_hf_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from model.checkpoint.checkpoint import Checkpoint, load_model
from model.checkpoint.open import open_checkpoint
from model.gpt import GPT
from model.packed_linear import PackedLinear, pack_linears


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def count(module: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(part, kind) for part in module.modules())


@settings(deadline=None)
@given(n_in=st.integers(1, 70), n_out=st.integers(1, 70), n_rows=st.integers(1, 70), bias=st.booleans())
@torch.inference_mode()
def test_packed_layer_of_any_shape_equals_the_layer(n_in: int, n_out: int, n_rows: int, bias: bool) -> None:
    linear, x = nn.Linear(n_in, n_out, bias), torch.randn(n_rows, n_in)
    assert_close(PackedLinear(linear)(x), linear(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "llama3"])  # biases everywhere, some, none
def test_packed_network_has_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    model = load_model(open_checkpoint(write_hf_folder(FAMILIES[name].make(), tmp_path)))
    n_linears = count(model, nn.Linear)
    pack_linears(model)
    assert (count(model, nn.Linear), count(model, PackedLinear)) == (0, n_linears)
    assert_close(packed_logits(model), oracle_logits(name), atol=1e-4, rtol=0)


def test_embedding_that_is_also_the_head_stays_as_it_is(tiny_model: GPT) -> None:
    model = deepcopy(tiny_model)
    pack_linears(model)
    assert torch.equal(model.wte.weight, tiny_model.wte.weight)


def test_other_types_stay_as_they_are(tiny_checkpoint: Checkpoint) -> None:
    model = load_model(tiny_checkpoint, dtype="bfloat16")
    pack_linears(model)
    assert count(model, PackedLinear) == 0
