"""The packages know each other only in the agreed directions."""

import ast
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("app", "chat", "model", "storage")
ALLOWED = {"app": set(PACKAGES), "chat": {"chat", "model", "storage"}, "model": {"model"}, "storage": {"storage"}}
WEB = {"fastapi", "gradio", "starlette", "uvicorn"}

SOURCES = [ROOT / "app.py", *(path for name in PACKAGES[1:] for path in sorted((ROOT / name).rglob("*.py")))]


@cache
def imported_modules(path: Path) -> frozenset[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names.append(node.module or "")
    return frozenset(names)


def imported_packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(path)}


def those(is_wrong: Callable[[Path], object]) -> list[str]:
    """Return the files that a rule finds fault with."""
    return [str(path.relative_to(ROOT)) for path in SOURCES if is_wrong(path)]


def test_imports_run_one_way() -> None:
    def goes_the_other_way(path: Path) -> bool:
        package = path.relative_to(ROOT).parts[0].removesuffix(".py")
        return not imported_packages(path) & set(PACKAGES) <= ALLOWED[package]

    assert those(goes_the_other_way) == []


def test_only_the_faces_know_the_web() -> None:
    faces = [ROOT / "app.py", ROOT / "chat/ui", ROOT / "chat/api"]
    assert those(lambda path: not any(map(path.is_relative_to, faces)) and imported_packages(path) & WEB) == []


def test_packages_are_never_imported_whole() -> None:
    assert those(lambda path: imported_modules(path) & {"chat", "model", "storage"}) == []


def test_files_stay_short() -> None:
    assert those(lambda path: len(path.read_text().splitlines()) > 400) == []


@pytest.mark.parametrize(
    "module", ["storage", "storage.conversations", "model.engine.engine", "chat.context", "chat.manager", "app"]
)
def test_module_is_imported_without_torch_and_gradio(module: str) -> None:
    code = f"import {module}, sys; sys.exit(any(name in sys.modules for name in ('torch', 'gradio')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
