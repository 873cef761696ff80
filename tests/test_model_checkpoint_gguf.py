"""GGUF files: a good one becomes the checkpoint it describes, a bad tokenizer or template is refused in one line."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CHAT_TEMPLATE
from gguf import GGUFReader, dequantize
from gguf_files import refusal, rewrite_gguf

from model.chat_template import TRANSCRIPT_STOP
from model.checkpoint.checkpoint import Checkpoint, load_model
from model.checkpoint.open import open_checkpoint
from model.gpt import GPT
from model.sampling_params import SamplingParams

Rewrite = Callable[..., Path]

ADD_BOS = "tokenizer.ggml.add_bos_token"
BAD_KEYS = [
    ({"tokenizer.ggml.model": "llama"}, "key tokenizer.ggml.model: expected 'gpt2' (byte-level BPE), found 'llama'"),
    ({"tokenizer.ggml.pre": None}, "key tokenizer.ggml.pre: expected str, found nothing"),
    (
        {"tokenizer.ggml.tokens": ["a", "b"]},
        "key tokenizer.ggml.tokens: expected 265 tokens as in token_embd.weight, found 2",
    ),
    ({"tokenizer.ggml.token_type": [1]}, "token types: expected 265, one for each token, found 1"),
    ({"tokenizer.ggml.bos_token_id": 265}, "key tokenizer.ggml.bos_token_id: expected a token below 265, found 265"),
    ({"tokenizer.ggml.eot_token_id": -1}, "key tokenizer.ggml.eot_token_id: expected a token below 265, found -1"),
    ({"tokenizer.ggml.eos_token_id": "2"}, "key tokenizer.ggml.eos_token_id: expected int, found str"),
    ({ADD_BOS: 1}, f"key {ADD_BOS}: expected bool, found int"),
    ({"general.sampling.temp": -0.5}, "temperature must be between 0 and 100, got -0.5"),
    ({"general.sampling.top_k": 0.5}, "key general.sampling.top_k: expected int, found float"),
]


@pytest.fixture
def rewrite(tiny_path: Path, tmp_path: Path) -> Rewrite:
    """A function that writes the tiny file again with other keys and tensors."""
    return lambda keys, **tensors: rewrite_gguf(tiny_path, tmp_path / "changed.gguf", keys, **tensors)


def contents(path: Path, key: str) -> list:
    return GGUFReader(path).fields[key].contents()


def test_default_checkpoint_is_smollm2(default_checkpoint: Checkpoint, default_model: GPT) -> None:
    config = default_checkpoint.config
    assert (config.n_layer, config.n_head, config.n_kv_head, config.n_embd, config.n_inner) == (30, 9, 3, 576, 1536)
    assert (config.vocab_size, config.n_ctx, config.tied_head) == (49_152, 8_192, True)
    assert config.rope is not None
    assert config.rope.base == 100_000
    assert (default_checkpoint.bos_id, default_checkpoint.end_ids) == (None, {0, 2})
    assert sum(parameter.numel() for parameter in default_model.parameters()) == 134_515_008


def test_opening_reads_no_weights(default_path: Path) -> None:
    start = time.thread_time()
    open_checkpoint(default_path)
    assert time.thread_time() - start < 2


def test_rewritten_file_is_the_same_model(rewrite: Rewrite, tiny_model: GPT) -> None:
    model = load_model(open_checkpoint(rewrite({})))
    token_ids = torch.arange(20)
    assert torch.equal(model(token_ids, [20]), tiny_model(token_ids, [20]))


def test_default_weights_are_those_that_the_gguf_package_reads(default_path: Path, default_model: GPT) -> None:
    tensors = {tensor.name: tensor for tensor in GGUFReader(default_path).tensors}
    down = tensors["blk.7.ffn_down.weight"]
    assert down.tensor_type.name == "Q4_1"
    expected = dequantize(down.data, down.tensor_type).reshape(576, 1536)
    np.testing.assert_array_equal(default_model.h[7].mlp.c_proj.weight.numpy(), expected)


@pytest.mark.parametrize(("keys", "expected"), BAD_KEYS)
def test_bad_key_is_named_with_what_was_expected_and_found(
    rewrite: Rewrite, keys: dict[str, object], expected: str
) -> None:
    assert refusal(rewrite(keys)) == expected


@pytest.mark.parametrize("source", ["{% if %}", "{% for m in messages %}", "{{ 1 +* 2 }}"])
def test_template_that_is_no_jinja_is_refused(rewrite: Rewrite, source: str) -> None:
    text = refusal(rewrite({"tokenizer.chat_template": source}))
    assert text.startswith("chat template: expected Jinja, found TemplateSyntaxError: ")


def test_vocabulary_of_another_size_than_the_embedding_is_refused(rewrite: Rewrite) -> None:
    text = refusal(rewrite({}, **{"token_embd.weight": np.zeros((300, 32), np.float32)}))
    assert text == "key tokenizer.ggml.tokens: expected 300 tokens as in token_embd.weight, found 265"


def test_end_ids_are_those_that_the_file_names_and_those_of_known_texts(rewrite: Rewrite) -> None:
    keys = {"tokenizer.ggml.eos_token_id": 77, "tokenizer.ggml.eot_token_id": 78, "tokenizer.ggml.eom_token_id": 79}
    assert open_checkpoint(rewrite(keys)).end_ids == {0, 2, 77, 78, 79}


def test_ordinary_token_that_looks_like_an_end_is_none(rewrite: Rewrite, tiny_path: Path) -> None:
    types = contents(tiny_path, "tokenizer.ggml.token_type")
    tokens = contents(tiny_path, "tokenizer.ggml.tokens")
    keys = {"tokenizer.ggml.tokens": ["<|x|>", *tokens[1:]], "tokenizer.ggml.token_type": types}
    assert open_checkpoint(rewrite(keys)).end_ids == {2}


def test_file_without_special_tokens_names_none(rewrite: Rewrite) -> None:
    checkpoint = open_checkpoint(rewrite({"tokenizer.ggml.bos_token_id": None, "tokenizer.ggml.eos_token_id": None}))
    assert (checkpoint.bos_id, checkpoint.end_ids) == (None, {0, 2})


def test_special_tokens_are_the_variables_of_the_template(rewrite: Rewrite) -> None:
    keys = {"tokenizer.chat_template": "{{ eos_token }}{{ bos_token }}", "tokenizer.ggml.bos_token_id": None}
    assert open_checkpoint(rewrite(keys)).chat_template.encode([]) == [2]


@pytest.mark.parametrize("pre", ["smollm", "llama-bpe"])
@pytest.mark.parametrize(("add_bos", "expected"), [(True, 1), (False, None)])
def test_bos_begins_texts_where_the_file_says_so(
    rewrite: Rewrite, pre: str, add_bos: bool, expected: int | None
) -> None:
    assert open_checkpoint(rewrite({ADD_BOS: add_bos, "tokenizer.ggml.pre": pre})).bos_id == expected


@pytest.mark.parametrize(("pre", "expected"), [("smollm", None), ("gpt-2", None), ("qwen2", None), ("llama-bpe", 1)])
def test_bos_begins_texts_of_llama3_where_the_file_says_nothing(
    rewrite: Rewrite, pre: str, expected: int | None
) -> None:
    assert open_checkpoint(rewrite({"tokenizer.ggml.pre": pre})).bos_id == expected


def test_file_without_a_default_template_has_the_transcript(rewrite: Rewrite) -> None:
    keys = {"tokenizer.chat_template": None, "tokenizer.chat_template.tool_use": CHAT_TEMPLATE}
    assert open_checkpoint(rewrite(keys)).chat_template.stop == TRANSCRIPT_STOP


def test_recommended_sampling_is_read_and_the_rest_is_the_default(rewrite: Rewrite) -> None:
    keys = {"general.sampling.temp": 0.6, "general.sampling.top_k": 20, "general.sampling.penalty_repeat": 1.1}
    expected = SamplingParams(temperature=0.6, top_k=20, repetition_penalty=1.1)
    assert open_checkpoint(rewrite(keys)).sampling_params == expected


def test_file_that_recommends_nothing_has_the_default_sampling(tiny_checkpoint: Checkpoint) -> None:
    assert tiny_checkpoint.sampling_params == SamplingParams()
