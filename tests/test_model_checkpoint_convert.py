"""A folder that is written: transformers loads it as the same model, and it is there whole or not at all."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import FAMILIES, build_tokenizer, texts, write_hf_folder
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer

from model.chat_template import ChatMessage
from model.checkpoint import convert as module
from model.checkpoint.checkpoint import Checkpoint, Weights, load_model
from model.checkpoint.convert import convert
from model.checkpoint.open import open_checkpoint
from model.errors import CheckpointError
from model.gpt import GPT
from model.sampling_params import SamplingParams

TEXT = "hello the 123 <|im_end|> \u00e4\u6f22\U0001f600\n\n\tx"
FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_hf_folder(FAMILIES["smollm2"].make(), tmp_path_factory.mktemp("convert") / "hf"))


def write(checkpoint: Checkpoint, folder: Path, dtype: str = "float32") -> Path:
    convert(checkpoint, folder, lambda done, total: None, dtype=dtype)
    return folder


def refusal(checkpoint: Checkpoint, folder: Path, dtype: str = "float32") -> str:
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(CheckpointError) as caught:
        write(checkpoint, folder, dtype)
    assert sorted(folder.parent.rglob("*")) == before
    assert str(caught.value).isprintable()
    return str(caught.value)


class Changed:
    """Weights of a checkpoint, one of them changed, or the reading of it interrupted."""

    def __init__(self, weights: Weights, change: float | BaseException) -> None:
        self.weights = weights
        self.change = change

    def rows(self, parameter: str, start: int, stop: int) -> Tensor:
        if parameter != "h.1.mlp.c_up.weight":
            return self.weights.rows(parameter, start, stop)
        if isinstance(self.change, BaseException):
            raise self.change
        return self.weights.rows(parameter, start, stop).fill_(self.change)


def with_change(checkpoint: Checkpoint, change: float | BaseException) -> Checkpoint:
    return replace(checkpoint, weights=Changed(checkpoint.weights, change))


@pytest.mark.parametrize("source", ["gguf", "folder"])
def test_tokenizer_is_the_same_to_transformers(
    source: str, checkpoint: Checkpoint, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(
        write(checkpoint if source == "folder" else tiny_checkpoint, tmp_path / "x")
    )
    original = build_tokenizer()
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert tokenizer(TEXT).input_ids == original(TEXT).input_ids
    assert tokenizer.decode(tokenizer(TEXT).input_ids, skip_special_tokens=True) == TEXT.replace("<|im_end|>", "")
    assert (tokenizer.bos_token, tokenizer.eos_token) == (original.bos_token, original.eos_token)
    assert tokenizer.chat_template == original.chat_template


def test_prompt_is_the_same_to_transformers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write(checkpoint, tmp_path / "x"))
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], add_generation_prompt=True)
    assert prompt.input_ids == checkpoint.chat_template.encode([ChatMessage("user", "hello")])


def test_token_before_every_text_is_kept(tmp_path: Path) -> None:
    folder = write_hf_folder(FAMILIES["llama3"].make(), tmp_path / "hf")
    tokenizer = build_tokenizer()
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", pair="<|im_start|> $A $B", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.save_pretrained(folder)
    checkpoint = open_checkpoint(folder)
    again = write(checkpoint, tmp_path / "x")
    assert checkpoint.bos_id == open_checkpoint(again).bos_id == 1
    assert AutoTokenizer.from_pretrained(again)(TEXT).input_ids == [1, *checkpoint.tokenizer.encode(TEXT[:14]), 2] + (
        checkpoint.tokenizer.encode(TEXT[24:])
    )


def test_folder_has_the_files_of_a_hub(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = write(checkpoint, tmp_path / "x")
    assert sorted(path.name for path in folder.iterdir()) == ["chat_template.jinja", *FILES]
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_checkpoint_without_template_is_written_without(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (checkpoint.path / "chat_template.jinja").rename(tmp_path / "aside")
    folder = write(open_checkpoint(checkpoint.path), tmp_path / "x")
    (tmp_path / "aside").rename(checkpoint.path / "chat_template.jinja")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert open_checkpoint(folder).chat_template.source is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_converted(checkpoint: Checkpoint, tmp_path: Path, dtype: str) -> None:
    folder = write(checkpoint, tmp_path / "x", dtype)
    written = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in written.values()} == {f"torch.{dtype}"}
    expected = load_model(checkpoint, dtype=dtype).h[1].mlp.c_up.weight
    assert torch.equal(written["model.layers.1.mlp.up_proj.weight"], expected)
    assert str(AutoModelForCausalLM.from_pretrained(folder).dtype) == f"torch.{dtype}"


def test_weights_beyond_a_type_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    text = refusal(with_change(checkpoint, 70_000.0), tmp_path / "x", "float16")
    assert text.endswith("weights h.1.mlp.c_up.weight: expected finite numbers of torch.float16, found NaN or Inf")


def test_large_models_are_written_to_several_files(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 80_000)
    folder = write(checkpoint, tmp_path / "x")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    names = sorted(set(index["weight_map"].values()))
    assert names == [f"model-{number:05}-of-00005.safetensors" for number in range(1, 6)]
    assert max((folder / name).stat().st_size for name in names) < 80_000 + 2_000  # with the header
    assert index["metadata"]["total_size"] == sum(4 * p.numel() for p in load_model(checkpoint).parameters())
    text = texts()[0]
    expected = load_model(checkpoint)(text, [60])
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(folder)(text[None]).logits[0], expected)
    assert torch.equal(load_model(open_checkpoint(folder))(text, [60]), expected)


def test_progress_counts_tensors(checkpoint: Checkpoint, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    convert(checkpoint, tmp_path / "x", lambda done, total: calls.append((done, total)))
    assert calls == [(i, 20) for i in range(1, 21)]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.6, top_p=0.95, top_k=20, min_p=0.05, repetition_penalty=1.1),
        SamplingParams(temperature=1.0, top_p=1.0),
    ],
)
def test_recommended_sampling_is_kept(checkpoint: Checkpoint, tmp_path: Path, params: SamplingParams) -> None:
    folder = write(replace(checkpoint, sampling_params=params), tmp_path / "x")
    assert open_checkpoint(folder).sampling_params == params
    theirs = GenerationConfig.from_pretrained(folder)
    assert (theirs.do_sample, theirs.temperature, theirs.top_k) == (True, params.temperature, params.top_k)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (1, [0, 2])


def test_greedy_is_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = write(replace(checkpoint, sampling_params=SamplingParams(temperature=0.0)), tmp_path / "x")
    assert open_checkpoint(folder).sampling_params.temperature == 0
    assert GenerationConfig.from_pretrained(folder).do_sample is False


def test_empty_folder_is_filled(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert open_checkpoint(write(checkpoint, tmp_path / "x")).config == checkpoint.config


def test_what_is_there_is_not_overwritten(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("mine")
    for target in tmp_path / "x", tmp_path / "x" / "mine":
        expected = f"{target}: expected a new or empty folder, found something in its place"
        assert refusal(checkpoint, target) == expected


def test_folder_in_a_missing_one_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "missing" / "x"
    assert refusal(checkpoint, target) == f"{target}: cannot be written: No such file or directory"


def test_weight_that_is_not_finite_leaves_nothing_behind(checkpoint: Checkpoint, tmp_path: Path) -> None:
    text = refusal(with_change(checkpoint, float("nan")), tmp_path / "x")
    assert text.endswith("weights h.1.mlp.c_up.weight: expected finite numbers of torch.float32, found NaN or Inf")


def test_ctrl_c_leaves_nothing_behind(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(with_change(checkpoint, KeyboardInterrupt()), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_nothing_behind(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with full_disk(100_000):
        text = refusal(checkpoint, tmp_path / "x")
    assert text == f"{tmp_path / 'x'}: cannot be written: File too large"


def test_network_of_no_family_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    text = refusal(replace(checkpoint, config=replace(checkpoint.config, qk_norm=True, mlp_bias=True)), tmp_path / "x")
    assert text.endswith("found one that differs from llama in qk_norm")


@pytest.mark.slow  # half a gigabyte is written and read
def test_default_model_is_the_same_to_transformers(
    default_checkpoint: Checkpoint, default_model: GPT, tmp_path: Path
) -> None:
    folder = write(default_checkpoint, tmp_path / "x")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    text = (Path(__file__).parent.parent / "README.md").read_text()[:2000]
    token_ids = tokenizer(text, return_tensors="pt").input_ids[0]
    assert token_ids.tolist() == default_checkpoint.tokenizer.encode(text)
    assert tokenizer.chat_template == default_checkpoint.chat_template.source
    with torch.inference_mode():
        ours, theirs = default_model(token_ids, [token_ids.numel()]), model(token_ids[None]).logits[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
