"""GGUF files and folders of the whole family compute what transformers computes, and so do folders that we write."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from families import (
    FAMILIES,
    VOCAB_SIZE,
    greedy,
    one_thread,
    oracle_logits,
    packed_logits,
    stepwise_logits,
    texts,
    whole_logits,
    write_hf_folder,
)
from gguf_files import write_gguf
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from model.checkpoint.checkpoint import load_model
from model.checkpoint.convert import convert
from model.checkpoint.open import open_checkpoint
from model.gpt import GPT

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
WRITERS = {"tiny.gguf": write_gguf, "folder": write_hf_folder}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=WRITERS)
def model(name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GPT:
    path = tmp_path_factory.mktemp(name) / request.param
    return load_model(open_checkpoint(WRITERS[request.param](FAMILIES[name].make(), path)))


def write_again(path: Path, folder: Path) -> Path:
    convert(open_checkpoint(path), folder, lambda done, total: None)
    return folder


def test_logits_are_those_of_transformers(name: str, model: GPT) -> None:
    assert_close(whole_logits(model), oracle_logits(name), **TOLERANCE)


def test_logits_token_by_token_are_those_of_transformers(name: str, model: GPT) -> None:
    assert_close(stepwise_logits(model), oracle_logits(name), **TOLERANCE)


def test_logits_of_packed_texts_are_those_of_transformers(name: str, model: GPT) -> None:
    assert_close(packed_logits(model), oracle_logits(name), **TOLERANCE)


@torch.inference_mode()
def test_greedy_continuation_has_the_tokens_of_transformers(name: str, model: GPT) -> None:
    # Where each token is the oracle's first choice after those before it, the oracle would have written the same
    prompt = texts()[2]
    token_ids = greedy(model, prompt, 50)
    choices = FAMILIES[name].make()(token_ids[None]).logits[0].argmax(-1)
    assert torch.equal(choices[prompt.numel() - 1 : -1], token_ids[prompt.numel() :])


@pytest.mark.slow
def test_greedy_continuation_is_what_transformers_generates(name: str, model: GPT) -> None:
    prompt = texts()[2]
    oracle, mask = FAMILIES[name].make(), torch.ones_like(prompt)[None]
    never = VOCAB_SIZE  # instead of the token that would end the text
    generated = oracle.generate(
        prompt[None], attention_mask=mask, do_sample=False, max_new_tokens=50, eos_token_id=never
    )
    assert generated[0].tolist() == greedy(model, prompt, 50).tolist()


def test_folder_written_again_has_the_same_tensors(name: str, tmp_path: Path) -> None:
    folder = write_hf_folder(FAMILIES[name].make(), tmp_path / "folder")
    again = write_again(folder, tmp_path / "again")
    expected = {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}
    assert_close(load_file(again / "model.safetensors"), expected, rtol=0, atol=0)
    assert open_checkpoint(again).config == open_checkpoint(folder).config


@torch.inference_mode()
def test_transformers_computes_the_same_from_a_converted_gguf_file(name: str, tmp_path: Path) -> None:
    folder = write_again(write_gguf(FAMILIES[name].make(), tmp_path / "tiny.gguf"), tmp_path / "folder")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.set_attn_implementation("eager")
    assert_close([model(text[None]).logits[0] for text in texts()], oracle_logits(name), **TOLERANCE)
