"""The machine that measurements are made on: what it is, and how fast it reads memory."""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoint.checkpoint import Checkpoint
from model.parameters import parameter_shapes

BUFFER_BYTES = 512 * 2**20  # more than any cache holds
N_READS = 7

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def describe_machine(distributions: Iterable[str]) -> dict[str, Any]:
    """Return what the machine is, what it runs, and the versions of the packages that take part."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "caches": _caches(),
        "system": platform.platform(),
        "compiler": _compiler(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in distributions},
    }


def measure_bandwidth(n_threads: int) -> float:
    """Return how many bytes a second so many threads read from memory together: the best of a few times."""
    buffer = np.ones(BUFFER_BYTES // 8, np.int64)
    parts = np.array_split(buffer, n_threads)
    seconds = []
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(N_READS):
            start = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))  # without the GIL, and with hardly anything to compute
            seconds.append(time.perf_counter() - start)
    return BUFFER_BYTES / min(seconds)


def bytes_per_token(checkpoint: Checkpoint) -> int:
    """Return how many bytes of weights, as they are in the file, each new token of one chat needs.

    That is all of them, but for the table of embeddings where it is not the head as well.
    """
    total = 0
    for name, shape in parameter_shapes(checkpoint.config):
        if name not in ("wte.weight", "wpe.weight") or (name == "wte.weight" and checkpoint.config.tied_head):
            total += shape[0] * checkpoint.weights.encoded_rows(name, 0, 1).nbytes
    return total


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _caches() -> list[str]:
    """Return the caches of the first core, such as L1 Data 32K."""
    folders = sorted(_CACHES.glob("index*"))
    names = [[(folder / name).read_text().strip() for name in ("level", "type", "size")] for folder in folders]
    return [f"L{level} {kind} {size}" for level, kind, size in names]


def _compiler() -> str | None:
    if shutil.which("cc") is None:
        return None
    return subprocess.run(["cc", "--version"], capture_output=True, text=True).stdout.partition("\n")[0]


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
