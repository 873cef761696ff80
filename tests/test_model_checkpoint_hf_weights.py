"""The weights of a folder: found under whatever names older files give them, and checked before they are read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from families import FAMILIES, write_hf_folder
from hf_folders import (
    DOWN,
    EMBEDDING,
    HEAD,
    MAPPING,
    Tensors,
    assert_same_logits,
    change_tensors,
    copy_in_one_file,
    read_tensors,
    refusal,
)
from safetensors.torch import load_file, save_file

from model.checkpoint.checkpoint import load_model
from model.checkpoint.open import open_checkpoint


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny SmolLM2 in several files, not to be changed."""
    return write_hf_folder(FAMILIES["smollm2"].make(), tmp_path_factory.mktemp("hf") / "sharded")


@pytest.fixture
def folder(sharded: Path, tmp_path: Path) -> Path:
    """A copy of it in one file, to be changed."""
    return copy_in_one_file(sharded, tmp_path / "x")


@pytest.fixture
def shards(sharded: Path, tmp_path: Path) -> Path:
    """A copy of it in several files, to be changed."""
    return Path(shutil.copytree(sharded, tmp_path / "x"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_each_type_are_read(folder: Path, dtype: torch.dtype) -> None:
    change_tensors(folder, lambda tensors: tensors.update({n: t.to(dtype) for n, t in tensors.items()}))
    expected = read_tensors(folder)[DOWN].float()
    assert torch.equal(load_model(open_checkpoint(folder)).h[1].mlp.c_proj.weight, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_converted_on_request(folder: Path, dtype: str) -> None:
    weight = load_model(open_checkpoint(folder), dtype=dtype).h[1].mlp.c_proj.weight
    assert torch.equal(weight, read_tensors(folder)[DOWN].to(getattr(torch, dtype)))


@pytest.mark.parametrize("name", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("family", ["gpt2", "smollm2"])
def test_encoded_rows_are_those_of_the_file(family: str, name: str, tmp_path: Path) -> None:
    folder = copy_in_one_file(write_hf_folder(FAMILIES[family].make(), tmp_path / "sharded"), tmp_path / "x")
    dtype = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[name]
    change_tensors(folder, lambda tensors: tensors.update({n: t.to(dtype) for n, t in tensors.items()}))
    weights = open_checkpoint(folder).weights
    parameters = ["h.1.attn.c_k.weight", "h.1.mlp.c_proj.weight", "ln_f.weight"]
    for parameter in [*parameters, "h.0.attn.c_v.bias"] if family == "gpt2" else parameters:
        assert weights.encoding(parameter) == name
        encoded = torch.from_numpy(weights.encoded_rows(parameter, 3, 20)).view(dtype)
        assert torch.equal(encoded.squeeze(1), weights.rows(parameter, 3, 20))


def test_model_saved_without_its_head_is_read(folder: Path) -> None:
    def drop_prefixes(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    change_tensors(folder, drop_prefixes)
    assert_same_logits(folder)


def test_buffers_of_older_files_are_ignored(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    assert_same_logits(folder)


def test_gpt2_files_of_before_are_read(tmp_path: Path) -> None:
    folder = write_hf_folder(FAMILIES["gpt2"].make(), tmp_path / "x")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in read_tensors(folder).items()}
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 128, 128).tril(), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert_same_logits(folder)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_head_beside_a_tied_embedding_counts(folder: Path, factor: float) -> None:
    change_tensors(folder, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING] * factor}))
    assert_same_logits(folder)


def test_head_that_is_the_embedding_again_is_kept_once(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    model = load_model(open_checkpoint(folder))
    assert model.lm_head.weight is model.wte.weight


def test_links_into_a_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    for path in list(folder.iterdir()):
        path.rename(tmp_path / "blobs" / path.name)
        path.symlink_to(Path("../blobs") / path.name)
    assert_same_logits(folder)


BAD_TENSORS: list[tuple[Callable[[Tensors], object], str]] = [
    (lambda t: t.pop(DOWN), f"tensor {DOWN}: expected shape (64, 96), found no such tensor"),
    (lambda t: t.pop(EMBEDDING), f"tensor {EMBEDDING}: expected shape (265, 64), found no such tensor"),
    (
        lambda t: t.update({DOWN: t[DOWN].T}),
        f"model.safetensors: tensor {DOWN}: expected shape (64, 96), found (96, 64)",
    ),
    (
        lambda t: t.update({DOWN: t[DOWN].to(torch.int8)}),
        f"model.safetensors: tensor {DOWN}: expected one of F64, F32, F16, BF16, found I8",
    ),
    (
        lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}),
        "model.safetensors: tensor model.layers.0.self_attn.q_proj.bias: expected none of this name",
    ),
    (
        lambda t: t.update({"norm.weight": torch.ones(64)}),
        "model.safetensors: tensor norm.weight: expected it once, found it in model.safetensors as well",
    ),
    (
        lambda t: t[DOWN].fill_(torch.nan),
        "weights h.1.mlp.c_proj.weight: expected finite numbers of torch.float32, found NaN or Inf",
    ),
]


@pytest.mark.parametrize(("change", "expected"), BAD_TENSORS)
def test_bad_tensor_is_named(folder: Path, change: Callable[[Tensors], object], expected: str) -> None:
    change_tensors(folder, change)
    assert refusal(folder) == expected


BAD_FILES = [
    ("../x.safetensors", "the name of a file in this folder that ends in .safetensors, found '../x.safetensors'"),
    ("/x.safetensors", "the name of a file in this folder that ends in .safetensors, found '/x.safetensors'"),
    ("a/x.safetensors", "the name of a file in this folder that ends in .safetensors, found 'a/x.safetensors'"),
    ("C:x.safetensors", "the name of a file in this folder that ends in .safetensors, found 'C:x.safetensors'"),
    ("..\\x.safetensors", "the name of a file in this folder that ends in .safetensors, found '..\\\\x.safetensors'"),
    ("x.bin", "the name of a file in this folder that ends in .safetensors, found 'x.bin'"),
    ("", "the name of a file in this folder that ends in .safetensors, found ''"),
    (7, "a text, found 7"),
]


@pytest.mark.parametrize(("file", "expected"), BAD_FILES)
def test_index_names_files_of_its_folder_only(shards: Path, file: object, expected: str) -> None:
    for path in shards.parent / "x.safetensors", shards / "x.bin":
        shutil.copy(next(shards.glob("*.safetensors")), path)
    index = json.loads((shards / MAPPING).read_text())
    index["weight_map"][DOWN] = file
    (shards / MAPPING).write_text(json.dumps(index))
    assert refusal(shards) == f"{MAPPING}: weight_map: {DOWN}: expected {expected}"


def test_index_that_names_missing_files_or_tensors_is_refused(shards: Path) -> None:
    index = json.loads((shards / MAPPING).read_text())
    file = index["weight_map"].pop(DOWN)
    index["weight_map"]["nothing"] = file
    (shards / MAPPING).write_text(json.dumps(index))
    assert refusal(shards) == f"{file}: tensor 'nothing': expected as in {MAPPING}, found no such tensor"
    (shards / file).unlink()
    assert refusal(shards) == f"{file}: expected a file, found nothing"


def test_tensor_in_two_files_is_refused(shards: Path) -> None:
    first, second, *_ = sorted(path.name for path in shards.glob("*.safetensors"))
    name, tensor = next(iter(load_file(shards / first).items()))
    save_file({**load_file(shards / second), name: tensor}, shards / second)
    assert refusal(shards).endswith(f"tensor {name}: expected it once, found it in {first} as well")
