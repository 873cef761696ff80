"""GGUF files of the whole family compute what transformers computes."""

from collections.abc import Iterator

import pytest
import torch
from families import FAMILIES, VOCAB_SIZE, greedy, oracle_logits, packed_logits, stepwise_logits, texts, whole_logits
from gguf_files import write_gguf
from torch.testing import assert_close

from model.checkpoint.checkpoint import Checkpoint, load_model
from model.checkpoint.open import open_checkpoint
from model.gpt import GPT

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """For networks so tiny, threads are all waiting."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(name: str, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_gguf(FAMILIES[name].make(), tmp_path_factory.mktemp(name) / "tiny.gguf"))


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> GPT:
    return load_model(checkpoint)


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
