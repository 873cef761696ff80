"""Models split over several GGUF files."""

import shutil
import struct
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from gguf_files import refusal, write_gguf

from model.checkpoint.checkpoint import load_model
from model.checkpoint.open import open_checkpoint
from model.errors import CheckpointError


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """A model in parts of ten tensors."""
    write_gguf(FAMILIES["llama3"].make(), tmp_path / "tiny.gguf", split_max_tensors=10)
    return sorted(tmp_path.glob("tiny-*.gguf"))


def set_key(path: Path, key: str, layout: str, value: int) -> None:
    content = path.read_bytes()
    start = content.index(key.encode()) + len(key) + 4  # after the type of the value
    number = struct.pack(layout, value)
    path.write_bytes(content[:start] + number + content[start + len(number) :])


@pytest.mark.parametrize("given", [0, 1, 2])
def test_any_part_opens_the_whole_model(parts: list[Path], given: int, tmp_path: Path) -> None:
    assert [part.name for part in parts] == [f"tiny-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    whole = load_model(open_checkpoint(write_gguf(FAMILIES["llama3"].make(), tmp_path / "whole.gguf")))
    model = load_model(open_checkpoint(parts[given]))
    torch.testing.assert_close(model.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_missing_part_is_named(parts: list[Path], missing: int) -> None:
    parts[missing].unlink()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(parts[missing - 1])
    assert str(caught.value) == f"{parts[missing]}: the path: expected a GGUF file, found nothing"


def test_cut_part_is_named(parts: list[Path]) -> None:
    parts[1].write_bytes(parts[1].read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match=rf"^{parts[1]}: tensor .* needs bytes .*, the file ends at"):
        open_checkpoint(parts[0])


def test_part_in_the_place_of_another_is_refused(parts: list[Path]) -> None:
    shutil.copy(parts[2], parts[1])
    assert refusal_of_part(parts[0], parts[1]) == "key split.no: expected 1, found 2"


def test_part_of_another_split_is_refused(parts: list[Path]) -> None:
    set_key(parts[2], "split.tensors.count", "<i", 99)
    expected = f"the same as in {parts[0].name}, found another value: parts of different models"
    assert refusal_of_part(parts[0], parts[2]) == f"key split.tensors.count: expected {expected}"


def test_wrong_number_of_tensors_is_refused(parts: list[Path]) -> None:
    for part in parts:
        set_key(part, "split.tensors.count", "<i", 99)
    assert refusal_of_part(parts[1], parts[0]) == "key split.tensors.count: expected 21 as in all parts, found 99"


def test_tensor_in_two_parts_is_refused(parts: list[Path]) -> None:
    content = parts[2].read_bytes()
    parts[2].write_bytes(content.replace(b"output_norm.weight", b"blk.0.ffn_a.weight"))
    content = parts[1].read_bytes()
    parts[1].write_bytes(content.replace(b"blk.1.attn_q.weight", b"blk.1.attn_k.weight", 1))
    text = refusal_of_part(parts[0], parts[1])
    assert text.startswith("tensor blk.1.attn_k.weight: expected it once, found it")


def test_part_under_another_name_is_refused(parts: list[Path], tmp_path: Path) -> None:
    path = parts[0].rename(tmp_path / "renamed.gguf")
    expected = "NAME-00001-of-00003.gguf and so on, as it is one of 3 parts, found 'renamed.gguf'"
    assert refusal(path) == f"the file name: expected {expected}"


def refusal_of_part(given: Path, named: Path) -> str:
    """Why the model of one part cannot be opened; the text names another part."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(given)
    assert str(caught.value).startswith(f"{named}: ")
    return str(caught.value).removeprefix(f"{named}: ")
