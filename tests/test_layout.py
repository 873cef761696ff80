"""The packages know each other only in the agreed directions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("app", "chat", "model", "storage")
ALLOWED = {"app": set(PACKAGES), "chat": {"chat", "model", "storage"}, "model": {"model"}, "storage": {"storage"}}
WEB = {"fastapi", "gradio", "starlette", "uvicorn"}

SOURCES = [ROOT / "app.py", *(path for name in PACKAGES[1:] for path in sorted((ROOT / name).rglob("*.py")))]


def imported_modules(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names.append(node.module or "")
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    ours = {name.split(".")[0] for name in imported_modules(path)} & set(PACKAGES)
    assert ours <= ALLOWED[package]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_faces_know_the_web(path: Path) -> None:
    is_face = path == ROOT / "app.py" or path.is_relative_to(ROOT / "chat/ui") or path.is_relative_to(ROOT / "chat/api")
    assert is_face or not {name.split(".")[0] for name in imported_modules(path)} & WEB


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_are_never_imported_whole(path: Path) -> None:
    assert not set(imported_modules(path)) & {"chat", "model", "storage"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize(
    "module", ["storage", "storage.conversations", "model.engine.engine", "chat.context", "chat.manager", "app"]
)
def test_module_is_imported_without_torch_and_gradio(module: str) -> None:
    code = f"import {module}, sys; sys.exit(any(name in sys.modules for name in ('torch', 'gradio')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
