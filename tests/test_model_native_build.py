"""The kernels are compiled once, by whatever compiler there is, and only what this user has made is ever loaded."""

import ctypes
import hashlib
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from native_library import needs_compiler

from model.native import build
from model.native.build import BuildError, load_library

pytestmark = needs_compiler

SOURCE = """
#include <math.h>
#include <pthread.h>
static void *root(void *x) { *(double *)x = sqrt(*(double *)x); return 0; }
double root_of(double x) {
    pthread_t thread;
    pthread_create(&thread, 0, root, &x);
    pthread_join(thread, 0);
    return x;
}
int is_nan(double x) { return x != x; }
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "root.c").write_text(SOURCE)
    return tmp_path / "root.c"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that libraries are kept in."""
    monkeypatch.setattr(build, "user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "parley" / "native"


@pytest.fixture
def compiler(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A function that writes a script in $CC's place; it appends each of its calls that compiles to a file."""

    def write(script: str = 'exec cc "$@"') -> Path:
        path, calls = tmp_path / "my-cc", tmp_path / "calls"
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec cc --version\necho >> {calls}\n{script}\n')
        path.chmod(0o700)
        monkeypatch.setenv("CC", str(path))
        return calls

    return write


def root_of_two(library: ctypes.CDLL) -> float:
    library.root_of.argtypes, library.root_of.restype = [ctypes.c_double], ctypes.c_double
    return float(library.root_of(2.0))


def test_library_is_compiled_and_loaded(source: Path, folder: Path) -> None:
    assert root_of_two(load_library(source)) == math.sqrt(2)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in folder.iterdir()] == [".so"]


def test_nan_is_not_a_number_to_what_is_compiled(source: Path, folder: Path) -> None:
    library = load_library(source)
    library.is_nan.argtypes = [ctypes.c_double]
    assert [library.is_nan(math.nan), library.is_nan(1.0)] == [1, 0]


def test_library_is_compiled_once(source: Path, compiler: Callable[[], Path]) -> None:
    calls = compiler()
    assert root_of_two(load_library(source)) == root_of_two(load_library(source))
    assert calls.read_text() == "\n"


@pytest.mark.parametrize("part", ["_cpu", "_FLAGS"])
def test_another_cpu_or_other_flags_make_another_library(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    load_library(source)
    monkeypatch.setattr(build, part, (lambda: "another") if part == "_cpu" else (*build._FLAGS, "-g"))
    load_library(source)
    assert len(list(folder.iterdir())) == 2


def test_another_source_makes_another_library(source: Path, folder: Path) -> None:
    load_library(source)
    source.write_text("int answer(void) { return 42; }")
    assert load_library(source).answer() == 42


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()  # this process has it in memory
    path.write_bytes(data[: len(data) // 2])
    path.chmod(0o700)


def replace_by_what_cannot_be_loaded(path: Path) -> None:
    path.unlink()
    digest = hashlib.sha256(b"rubbish").hexdigest()[:32]
    path.with_name(f"{path.stem.partition('-')[0]}-{digest}.so").write_bytes(b"rubbish")


def let_others_write(path: Path) -> None:
    path.chmod(0o777)


@pytest.mark.parametrize("damage", [cut, replace_by_what_cannot_be_loaded, let_others_write])
def test_library_that_is_not_to_be_trusted_is_compiled_again(
    source: Path, folder: Path, compiler: Callable[[], Path], damage: Callable[[Path], None]
) -> None:
    calls = compiler()
    load_library(source)
    path, *_ = folder.iterdir()
    data = path.read_bytes()
    damage(path)
    assert root_of_two(load_library(source)) == math.sqrt(2)
    assert len(calls.read_text()) == 2
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_folder_that_others_can_write_to_is_not_used(
    source: Path, folder: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    folder.mkdir(parents=True)
    folder.chmod(mode)
    assert root_of_two(load_library(source)) == math.sqrt(2)
    assert not list(folder.iterdir())
    expected = f"{folder}: expected a folder that no other user can write to"
    assert caplog.messages == [f"{expected}; the native kernels are compiled for this process alone"]


def test_folder_of_another_user_is_not_used(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load_library(source)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert root_of_two(load_library(source)) == math.sqrt(2)
    assert "expected a folder that no other user can write to" in caplog.text


def test_without_a_cache_folder_the_library_is_compiled_for_the_process(
    source: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("in the way")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    assert root_of_two(load_library(source)) == math.sqrt(2)
    assert not list((tmp_path / "tmp").iterdir())


def test_nowhere_to_write_to_is_said(
    source: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "cache"))
    with pytest.raises(BuildError, match=r"Not a directory"):
        load_library(source)


def test_no_compiler_is_said(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(BuildError) as caught:
        load_library(source)
    assert str(caught.value) == "no C compiler found: tried $CC, cc, gcc, clang and the Python package ziglang"


@pytest.mark.parametrize("named", ["/nowhere/cc", "false", " ", '"'])
def test_compiler_that_does_not_work_is_passed_over(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("CC", named)
    assert root_of_two(load_library(source)) == math.sqrt(2)


def test_ziglang_compiles_where_there_is_no_compiler(
    source: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ziglang").mkdir()
    script = "import os, sys\nassert sys.argv.pop(1) == 'cc'\nos.execvp('cc', ['cc', *sys.argv[1:]])\n"
    (tmp_path / "ziglang" / "__main__.py").write_text(script)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    *_, found = build._candidates()
    monkeypatch.setattr(build, "_candidates", lambda: [found])
    assert root_of_two(load_library(source)) == math.sqrt(2)


def test_error_of_the_compiler_is_given_in_one_line(
    source: Path, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "cc")
    source.write_text("int f(void) { return x; }\nint g(void) { return y; }\n")
    with caplog.at_level(logging.DEBUG), pytest.raises(BuildError) as caught:
        load_library(source)
    text = str(caught.value)
    assert text.startswith(f"cc: {source}:1:")
    assert "error: " in text
    assert text.isprintable()
    assert "return y" in caplog.text
    assert not list(folder.iterdir())


@pytest.mark.parametrize("script", ["exit 3", "kill -SEGV $$"])
def test_compiler_that_fails_without_a_word_is_said(source: Path, compiler: Callable[[str], Path], script: str) -> None:
    compiler(script)
    with pytest.raises(BuildError, match=r"my-cc: status (3|-11)$"):
        load_library(source)


def test_compiler_that_hangs_is_ended(
    source: Path, compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler("exec sleep 60")
    monkeypatch.setattr(build, "MAX_SECONDS", 0.2)
    with pytest.raises(BuildError, match=r"my-cc: .*timed out after 0.2 seconds"):
        load_library(source)


@pytest.mark.parametrize(("seconds", "announced"), [(0.0, True), (60.0, False)])
def test_compilation_is_announced_when_it_takes_long(
    source: Path,
    compiler: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    announced: bool,
) -> None:
    compiler('sleep 0.1; exec cc "$@"')
    monkeypatch.setattr(build, "SILENT_SECONDS", seconds)
    with caplog.at_level(logging.INFO):
        load_library(source)
    assert caplog.messages == ["Compiling the native kernels (once) ..."] * announced


def test_processes_compile_at_the_same_time(source: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from model.native.build import load_library; "
    code += "sys.exit(load_library(Path(sys.argv[1])).is_nan())"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, str(source)]
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4


def test_other_systems_have_no_library(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.platform, "system", lambda: "Windows")
    monkeypatch.setattr(build.os, "name", "nt")
    with pytest.raises(BuildError, match=r"^expected Linux or macOS, found Windows$"):
        load_library(source)
