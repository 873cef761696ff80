"""The digest of a checkpoint tells models apart by what their files hold, whatever the files are called."""

import shutil
import tracemalloc
from hashlib import sha256
from pathlib import Path

import gguf
import numpy as np
import pytest
from families import FAMILIES, write_hf_folder
from gguf_files import write_gguf
from hf_folders import MAPPING

from model.checkpoint.catalog import CATALOG, DEFAULT_MODEL
from model.checkpoint.digest import BUFFER_BYTES, checkpoint_digest
from model.checkpoint.open import open_checkpoint
from model.errors import CheckpointError


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny SmolLM2 in several files, not to be changed."""
    return write_hf_folder(FAMILIES["smollm2"].make(), tmp_path_factory.mktemp("hf") / "sharded")


@pytest.fixture
def folder(sharded: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(sharded, tmp_path / "x"))


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """A model in three GGUF files."""
    write_gguf(FAMILIES["llama3"].make(), tmp_path / "tiny.gguf", split_max_tensors=10)
    return sorted(tmp_path.glob("tiny-*.gguf"))


def test_the_digest_of_one_file_is_its_sha256(tiny_path: Path, tmp_path: Path) -> None:
    renamed = Path(shutil.copy(tiny_path, tmp_path / "other.gguf"))
    assert checkpoint_digest(tiny_path) == checkpoint_digest(renamed) == sha256(tiny_path.read_bytes()).hexdigest()


def test_the_digest_of_a_known_model_is_the_one_it_was_fetched_by(default_path: Path) -> None:
    assert checkpoint_digest(default_path) == CATALOG[DEFAULT_MODEL].sha256


def test_one_bit_makes_another_model(tiny_path: Path, tmp_path: Path) -> None:
    content = bytearray(tiny_path.read_bytes())
    content[-1] ^= 1
    (tmp_path / "changed.gguf").write_bytes(content)
    assert checkpoint_digest(tmp_path / "changed.gguf") != checkpoint_digest(tiny_path)


def test_all_parts_count_whichever_is_given(parts: list[Path]) -> None:
    before = checkpoint_digest(parts[0])
    assert [checkpoint_digest(part) for part in parts[1:]] == [before] * 2
    for part in parts:
        content = part.read_bytes()
        part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert checkpoint_digest(parts[0]) != before
        part.write_bytes(content)
    assert checkpoint_digest(parts[0]) == before


def test_parts_may_be_renamed(parts: list[Path]) -> None:
    before = checkpoint_digest(parts[0])
    renamed = [part.rename(part.with_name(part.name.replace("tiny", "a-model"))) for part in parts]
    assert checkpoint_digest(renamed[0]) == before


def test_every_file_of_a_folder_that_is_read_counts(folder: Path) -> None:
    before = checkpoint_digest(folder)
    files = sorted(path for path in folder.iterdir() if path.name != MAPPING)
    for path in files:
        content = path.read_bytes()
        is_json = path.suffix != ".safetensors"
        path.write_bytes(content + b"\n" if is_json else content[:-1] + bytes([content[-1] ^ 1]))
        assert checkpoint_digest(folder) != before, path.name
        path.write_bytes(content)
    assert checkpoint_digest(folder) == before
    assert {"chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json"} < {f.name for f in files}
    assert len(list(folder.glob("*.safetensors"))) > 1


def test_files_of_a_folder_that_are_not_read_do_not_count(folder: Path) -> None:
    before = checkpoint_digest(folder)
    (folder / "README.md").write_text("A model.")
    assert checkpoint_digest(folder) == before


def test_files_of_weights_may_be_renamed_and_the_folder_moved(folder: Path) -> None:
    before = checkpoint_digest(folder)
    shards = sorted(folder.glob("*.safetensors"))
    index = (folder / MAPPING).read_text()
    for number, path in enumerate(reversed(shards)):  # so that their names are in another order
        index = index.replace(path.name, f"{number}.safetensors")
        path.rename(folder / f"{number}.safetensors")
    (folder / MAPPING).write_text(index)
    moved = folder.rename(folder.with_name("moved"))
    open_checkpoint(moved)
    assert checkpoint_digest(moved) == before


def test_it_counts_where_one_file_ends_and_the_next_begins(folder: Path) -> None:
    config, generation = folder / "config.json", folder / "generation_config.json"
    config.write_bytes(config.read_bytes() + b"\n")
    before = checkpoint_digest(folder)
    config.write_bytes(config.read_bytes()[:-1])
    generation.write_bytes(b"\n" + generation.read_bytes())
    assert checkpoint_digest(folder) != before


def test_progress_is_told_in_bytes_of_all_files(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    checkpoint_digest(folder, lambda done, total: told.append((done, total)))
    total = sum(path.stat().st_size for path in folder.iterdir() if path.name != MAPPING)
    assert told == sorted(told)
    assert told[-1] == (total, total)
    assert {of_all for _, of_all in told} == {total}


def test_a_large_file_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "large.gguf", "llama")
    writer.add_tensor("zeros", np.zeros(16 * BUFFER_BYTES // 4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tracemalloc.start()
    try:
        checkpoint_digest(tmp_path / "large.gguf")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * BUFFER_BYTES


@pytest.mark.parametrize("name", ["missing.gguf", "."])
def test_what_is_no_checkpoint_has_no_digest(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError):
        checkpoint_digest(tmp_path / name)
