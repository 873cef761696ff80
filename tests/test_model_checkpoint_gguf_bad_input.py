"""Thousands of damaged GGUF files: each is refused in one line, at once and in little memory, or is the same model."""

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def test_damaged_files_are_refused_or_the_same_model(tmp_path: Path) -> None:
    program = ROOT / "tests" / "gguf_corruptions.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.run([sys.executable, str(program), str(tmp_path)], env=environment, capture_output=True)
    assert child.returncode == 0, child.stderr.decode()
    report = json.loads(child.stdout)
    assert report["complaints"] == []
    kinds = {"template", "heavy header", "cut header", "cut data", "flipped byte", "extreme number"}
    assert report["counts"].keys() == kinds
    assert sum(report["counts"].values()) > 7000
    assert report["files"] == ["damaged.gguf", "heavy-0.gguf", "heavy-1.gguf", "heavy-2.gguf"]
