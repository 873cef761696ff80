"""The C source of the kernels, compiled for this machine when it is first needed, and loaded.

A library stays in the user's cache folder under a name that says what it was made of and what is in it: machines may
share the folder, processes may write to it at once, and a file that was cut is never loaded.
"""

import ctypes
import hashlib
import logging
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from platformdirs import user_cache_path

logger = logging.getLogger(__name__)

# GCC and Clang know -march=native on x86, -mcpu=native on ARM. -ffast-math would break the checks for NaN
_NATIVE = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
_FLAGS = ("-O3", _NATIVE, "-std=gnu11", "-fPIC", "-shared", "-pthread")
_LIBRARIES = ("-lm",)
_ZIG_FOLDERS = ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")

SILENT_SECONDS = 2.0  # a compilation that takes longer is announced
MAX_SECONDS = 600

# The lines of /proc/cpuinfo that tell for which instructions a compiler chooses: of x86, ARM and RISC-V
_CPU_KEYS = {"model name", "flags", "Features", "CPU implementer", "CPU part", "isa", "uarch"}


class BuildError(Exception):
    """There is no library; the text says why in one line, fit for a log."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C compiler of this machine."""

    command: tuple[str, ...]
    version: str
    environment: Mapping[str, str]

    def compile(self, source: Path, library: Path) -> None:
        """Compile a C file into a library; raises BuildError."""
        command = [*self.command, *_FLAGS, str(source), "-o", str(library), *_LIBRARIES]
        notice = threading.Timer(SILENT_SECONDS, logger.info, ["Compiling the native kernels (once) ..."])
        notice.start()
        try:
            result = _run(command, self.environment)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"{' '.join(self.command)}: {error}") from None
        finally:
            notice.cancel()
        if result.returncode != 0:
            logger.debug("%s\n%s", " ".join(command), result.stderr)
            raise BuildError(f"{' '.join(self.command)}: {_first_error(result)}")


def load_library(source: Path) -> ctypes.CDLL:
    """Load what a C file compiles to, and compile it unless this machine has done so before.

    Calls into the library leave other threads of Python running. Where nothing can be kept in the cache folder, or
    others could write there, the library is compiled for this process alone. Raises BuildError: another system than
    Linux and macOS, no compiler, one that fails, nowhere to write to.
    """
    if os.name != "posix":
        raise BuildError(f"expected Linux or macOS, found {platform.system()}")
    try:
        with TemporaryDirectory(prefix="parley-") as scratch:
            return _load_library(source, Path(scratch))
    except OSError as error:
        raise BuildError(str(error)) from None


def _load_library(source: Path, scratch: Path) -> ctypes.CDLL:
    compiler = _find_compiler(scratch)
    key = _fingerprint(source, compiler)
    try:
        folder = _cache_folder()
        return _find_library(folder, key) or _build(source, compiler, folder, key)
    except OSError as error:
        logger.warning("%s; the native kernels are compiled for this process alone", error)
    return _build(source, compiler, scratch, key)  # once loaded, a library may be deleted


def _find_compiler(scratch: Path) -> Compiler:
    # Zig would leave 50 MB in the user's cache folder, and fails where it cannot
    environment = {**os.environ, "LC_ALL": "C", **dict.fromkeys(_ZIG_FOLDERS, str(scratch))}
    for command in _candidates():
        try:
            result = _run([*command, "--version"], environment)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if result.returncode == 0:
            return Compiler(command, result.stdout.partition("\n")[0], environment)
    raise BuildError("no C compiler found: tried $CC, cc, gcc, clang and the Python package ziglang")


def _candidates() -> Iterator[tuple[str, ...]]:
    if named := os.environ.get("CC", "").split():
        yield tuple(named)
    yield from (("cc",), ("gcc",), ("clang",))
    if find_spec("ziglang"):
        yield sys.executable, "-m", "ziglang", "cc"


def _run(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
        timeout=MAX_SECONDS,
    )


def _first_error(result: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    lines = [line for line in lines if "error: " in line] or lines  # GCC names the function first
    return lines[0] if lines else f"status {result.returncode}"


def _fingerprint(source: Path, compiler: Compiler) -> str:
    made_of = (source.read_bytes(), _FLAGS, _LIBRARIES, compiler.command, compiler.version, _cpu())
    return hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]


def _cpu() -> str:
    """Return whatever -march=native may depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:  # macOS has none
        lines = [f"model name: {platform.processor()}"]
    known = {line for line in lines if line.partition(":")[0].strip() in _CPU_KEYS}
    return "\n".join([platform.machine(), *sorted(known)])


def _cache_folder() -> Path:
    """Return the folder of libraries, made if need be; raises OSError where there can be none that is safe."""
    folder = user_cache_path("parley") / "native"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours_alone(folder):
        raise PermissionError(f"{folder}: expected a folder that no other user can write to")
    return folder


def _is_ours_alone(path: Path) -> bool:
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _find_library(folder: Path, key: str) -> ctypes.CDLL | None:
    """Load a library that is there, whole, and fit for this system."""
    for path in folder.glob(f"{key}-*.so"):
        if not _is_ours_alone(path) or path != _library_path(folder, key, path.read_bytes()):
            continue
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:  # made on a machine with another C library
            logger.debug("%s: compiling it again", error)
    return None


def _build(source: Path, compiler: Compiler, folder: Path, key: str) -> ctypes.CDLL:
    """Compile a library into `folder`, where it appears whole or not at all, and load it."""
    with TemporaryDirectory(prefix=".build-", dir=folder) as temporary:
        new = Path(temporary, "library.so")
        compiler.compile(source, new)
        new.chmod(0o700)  # whatever the umask
        path = _library_path(folder, key, new.read_bytes())
        os.replace(new, path)
    return ctypes.CDLL(str(path))


def _library_path(folder: Path, key: str, data: bytes) -> Path:
    return folder / f"{key}-{hashlib.sha256(data).hexdigest()[:32]}.so"
