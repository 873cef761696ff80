"""The plain definition of the native kernels and what they compute themselves, as one library."""

import ctypes
import os
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import ROOT

from model.native.build import load_library

NATIVE = ROOT / "model" / "native"

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None and "CI" not in os.environ, reason="no C compiler")


def whole_source() -> str:
    """Return reference.c with what it includes, so that a library is known by all that it was made of."""
    decode = (NATIVE / "decode.c").read_text()
    include = '#include "decode.c"\n'
    reference = (NATIVE / "reference.c").read_text()
    assert include in reference
    return reference.replace(include, decode)


@cache
def load_reference(*, without: str = "") -> ctypes.CDLL:
    """Compile it, once and for all sessions until one of the files changes; without some instructions if wanted so."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "reference.c")
        undefined = {"__AVX512F__": ["__AVX512F__", "__AVX512VNNI__"]}.get(without, [without] if without else [])
        path.write_text("".join(f"#undef {name}\n" for name in undefined) + whole_source())
        return load_library(path)
