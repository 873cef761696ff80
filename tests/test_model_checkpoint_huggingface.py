"""Folders of the Hugging Face hub: a good one becomes the checkpoint it describes, a bad one is refused in one line."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CHAT_TEMPLATE, ROOT
from families import FAMILIES, VOCAB_SIZE, build_tokenizer, write_hf_folder
from hf_folders import EMBEDDING, MAPPING, assert_same_logits, change_json, change_tensors, copy_in_one_file, refusal
from transformers.models.auto.tokenization_auto import AutoTokenizer

from model.chat_template import ChatMessage
from model.checkpoint.checkpoint import load_model
from model.checkpoint.open import open_checkpoint
from model.errors import CheckpointError
from model.sampling_params import SamplingParams


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny SmolLM2 in several files, not to be changed."""
    return write_hf_folder(FAMILIES["smollm2"].make(), tmp_path_factory.mktemp("hf") / "sharded")


@pytest.fixture
def folder(sharded: Path, tmp_path: Path) -> Path:
    """A copy of it in one file, to be changed."""
    return copy_in_one_file(sharded, tmp_path / "x")


def test_folder_is_the_checkpoint_that_it_describes(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    assert (checkpoint.config.n_layer, checkpoint.config.n_embd, checkpoint.config.tied_head) == (2, 64, True)
    assert (checkpoint.path, checkpoint.bos_id, checkpoint.end_ids) == (sharded, None, {0, 2})
    assert checkpoint.sampling_params == SamplingParams()
    assert checkpoint.tokenizer.encode("hello the") == build_tokenizer().encode("hello the")


def test_prompt_is_that_of_transformers(sharded: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    ids = open_checkpoint(sharded).chat_template.encode(
        [ChatMessage("system", "Be brief."), ChatMessage("user", "hello")]
    )
    assert ids == build_tokenizer().apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def test_opening_needs_no_torch(sharded: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from model.checkpoint.open import open_checkpoint\n"
        "open_checkpoint(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, sharded], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000, b'{"a": NaN}'])
def test_broken_json_is_named(folder: Path, file: str, data: bytes) -> None:
    (folder / file).write_bytes(data)
    assert refusal(folder).startswith(f"{file}: expected ")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert refusal(folder) == f"{file}: expected a file, found nothing"


@pytest.mark.parametrize("file", ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"])
def test_file_that_may_be_missing_may_be_missing(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert open_checkpoint(folder).end_ids == {0, 2}


def test_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == f"weights: expected model.safetensors or {MAPPING}, found neither"


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickles_are_refused_with_the_way_to_convert_them(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Evil(folder / "ran")))
    convert = f"M.from_pretrained('{folder}').save_pretrained('{folder}', safe_serialization=True)\""
    assert refusal(folder).startswith(f"{name}: expected safetensors, found a pickle, which can run any program")
    assert refusal(folder).endswith(convert)
    with pytest.raises(CheckpointError, match=rf"{name}: expected safetensors, found a pickle"):
        open_checkpoint(folder / name)
    assert not (folder / "ran").exists()


def test_nothing_in_a_folder_is_run(folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(pickle.dumps(Evil(folder / "ran")))
    for module in "modeling_llama", "configuration_llama", "tokenization_llama", "__init__":
        (folder / f"{module}.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    change_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"})
    load_model(open_checkpoint(folder))
    assert not (folder / "ran").exists()


def test_the_path_of_weights_alone_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="found weights alone: give the folder that they are in$"):
        open_checkpoint(folder / "model.safetensors")


def test_sentencepiece_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    expected = "tokenizer.json: expected byte-level BPE, found only tokenizer.model, which is of SentencePiece"
    assert refusal(folder) == expected


@pytest.mark.parametrize(("n_rows", "holds"), [(VOCAB_SIZE + 7, True), (VOCAB_SIZE - 1, False)])
def test_embedding_may_have_more_rows_than_there_are_tokens(folder: Path, n_rows: int, holds: bool) -> None:
    change_json(folder / "config.json", vocab_size=n_rows)
    change_tensors(
        folder, lambda t: t.update({EMBEDDING: torch.nn.functional.pad(t[EMBEDDING], (0, 0, 0, 9))[:n_rows]})
    )
    if holds:
        assert_same_logits(folder)
    else:
        assert refusal(folder) == "tokenizer.json: expected at most 264 tokens as in the embedding, found 265"


def test_end_ids_are_all_that_the_files_name(folder: Path) -> None:
    change_json(folder / "config.json", eos_token_id=7)
    change_json(folder / "generation_config.json", eos_token_id=[8, 9])
    change_json(folder / "tokenizer_config.json", eos_token={"content": "!", "special": True})
    exclamation = build_tokenizer().convert_tokens_to_ids("!")
    assert open_checkpoint(folder).end_ids == {0, 2, 7, 8, 9, exclamation}


@pytest.mark.parametrize("adds", [True, False])
def test_token_before_every_text_is_that_of_transformers(folder: Path, adds: bool) -> None:
    change_json(folder / "tokenizer_config.json", add_bos_token=not adds)  # which means nothing beside tokenizer.json
    if adds:
        token, begin = (
            {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]},
            {"id": "<|im_start|>", "type_id": 0},
        )
        single = [{"SpecialToken": begin}, {"Sequence": {"id": "A", "type_id": 0}}]
        processor = {
            "type": "TemplateProcessing",
            "single": single,
            "pair": single,
            "special_tokens": {token["id"]: token},
        }
        change_json(folder / "tokenizer.json", post_processor=processor)
    bos_id = open_checkpoint(folder).bos_id
    assert bos_id == (1 if adds else None)
    assert AutoTokenizer.from_pretrained(folder)("the").input_ids[:-2] == [1] * adds


@pytest.mark.parametrize(
    ("values", "params"),
    [
        ({}, SamplingParams()),
        ({"temperature": 0.7}, SamplingParams(temperature=0.7)),
        ({"do_sample": False, "temperature": 0.7}, SamplingParams(temperature=0.0, top_p=1.0)),
        ({"do_sample": True}, SamplingParams(temperature=1.0, top_p=1.0)),
        ({"do_sample": True, "top_k": 20, "top_p": None}, SamplingParams(temperature=1.0, top_p=1.0, top_k=20)),
        (
            {"top_p": 0.8, "min_p": 0.1, "typical_p": 0.9, "repetition_penalty": 1.05},
            SamplingParams(top_p=0.8, min_p=0.1, typical_p=0.9, repetition_penalty=1.05),
        ),
    ],
)
def test_sampling_is_what_the_makers_recommend(folder: Path, values: dict[str, Any], params: SamplingParams) -> None:
    change_json(folder / "generation_config.json", **values)
    assert open_checkpoint(folder).sampling_params == params


@pytest.mark.parametrize(
    ("file", "values", "expected"),
    [
        ("generation_config.json", {"temperature": -1}, "temperature must be between 0 and 100, got -1"),
        ("generation_config.json", {"top_k": 1.5}, "top_k must be a whole number, 0 or more, got 1.5"),
        ("generation_config.json", {"do_sample": "yes"}, "do_sample: expected true or false, found 'yes'"),
        (
            "generation_config.json",
            {"eos_token_id": [265]},
            "eos_token_id: expected ids of tokens below 265, found a list of 1",
        ),
        ("config.json", {"eos_token_id": -1}, "eos_token_id: expected ids of tokens below 265, found -1"),
        ("config.json", {"eos_token_id": "2"}, "eos_token_id: expected a whole number, found '2'"),
        ("tokenizer_config.json", {"eos_token": 3}, "eos_token: expected a text, found 3"),
        ("tokenizer_config.json", {"eos_token": "</s>"}, "eos_token: expected a token of tokenizer.json, found '</s>'"),
        ("tokenizer_config.json", {"eos_token": {}}, "eos_token: content: expected a text, found nothing"),
    ],
)
def test_wrong_value_is_named(folder: Path, file: str, values: dict[str, Any], expected: str) -> None:
    change_json(folder / file, **values)
    assert refusal(folder) == f"{file}: {expected}"


NAMED = [{"name": "tool_use", "template": "{{ 1 }}"}, {"name": "default", "template": CHAT_TEMPLATE}]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, NAMED])
def test_template_may_stand_in_the_settings(folder: Path, template: object) -> None:
    (folder / "chat_template.jinja").unlink()
    change_json(folder / "tokenizer_config.json", chat_template=template)
    assert open_checkpoint(folder).chat_template.source == CHAT_TEMPLATE


def test_template_of_its_own_file_counts(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", chat_template="{{ 1 }}")
    assert open_checkpoint(folder).chat_template.source == CHAT_TEMPLATE


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (7, "tokenizer_config.json: chat_template: expected a text, found 7"),
        (NAMED[:1], "tokenizer_config.json: chat_template: expected one that is named default, found a list of 1"),
        ([7], "tokenizer_config.json: chat_template: expected a list of objects, found a list of 1"),
        ([{"name": "default"}], "tokenizer_config.json: chat_template[0]: template: expected a text, found nothing"),
        ("{% if %}", "chat template: expected Jinja, found TemplateSyntaxError: "),
    ],
)
def test_wrong_template_is_refused(folder: Path, template: object, expected: str) -> None:
    (folder / "chat_template.jinja").unlink()
    change_json(folder / "tokenizer_config.json", chat_template=template)
    assert refusal(folder).startswith(expected)


def test_transcript_begins_with_the_token_that_gpt2_names_by_number(tmp_path: Path) -> None:
    folder = write_hf_folder(FAMILIES["gpt2"].make(), tmp_path / "x")
    (folder / "tokenizer_config.json").unlink()
    (folder / "chat_template.jinja").unlink()
    prompt = open_checkpoint(folder).chat_template.encode([ChatMessage("user", "hello")])
    assert prompt[0] == FAMILIES["gpt2"].config().bos_token_id
    change_json(folder / "config.json", bos_token_id=300)
    assert refusal(folder) == "config.json: bos_token_id: expected ids of tokens below 265, found 300"


def test_template_file_is_limited(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"x" * (3 << 20))
    assert refusal(folder) == "chat_template.jinja: expected at most 2,097,152 bytes, found more"
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    assert refusal(folder) == "chat_template.jinja: expected UTF-8, found invalid start byte"
