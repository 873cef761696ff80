"""The command line in a process of its own, which starts in milliseconds: a server forks it that has imported it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from child_process import FORKS

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def run_app(
    *arguments: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Do what `python app.py` does, and return how it ended; a lone surrogate is a raw byte."""
    with TemporaryDirectory() as name:
        files = [Path(name) / stream for stream, _ in STREAMS]
        files[0].write_bytes(text.encode(errors="surrogateescape"))
        variables = dict(os.environ if environment is None else environment)
        process = FORKS.Process(target=_run, args=(arguments, cwd or Path.cwd(), variables, files))
        process.start()
        process.join()
        stdout, stderr = (file.read_bytes().decode(errors="surrogateescape") for file in files[1:])
    assert process.exitcode is not None, "it has been joined"
    return subprocess.CompletedProcess(arguments, process.exitcode, stdout, stderr)


def _run(arguments: tuple[str, ...], cwd: Path, environment: dict[str, str], files: list[Path]) -> None:
    for number, ((stream, mode), path) in enumerate(zip(STREAMS, files, strict=True)):
        with path.open(mode) as file:
            os.dup2(file.fileno(), number)
        setattr(sys, stream, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["app.py", *arguments]
    import app

    app.main()
