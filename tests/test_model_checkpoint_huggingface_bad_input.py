"""Damaged folders are refused quickly, in one line and in little memory, whatever is wrong with them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from families import FAMILIES, write_hf_folder
from hf_folders import copy_in_one_file


def test_damaged_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    sharded = write_hf_folder(FAMILIES["smollm2"].make(), tmp_path / "sharded")
    folder = copy_in_one_file(sharded, tmp_path / "x")
    command = [sys.executable, ROOT / "tests" / "hf_corruptions.py", folder]
    child = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    report = json.loads(child.stdout)
    assert report["complaints"] == []
    assert report["created"] == []
    assert report["counts"]["model.safetensors"] > 1000
    assert min(report["counts"].values()) > 20
