"""The programs that Parley can be measured against, by name: what each needs, and how it is opened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.bench.contestant import Contestant


@dataclass(frozen=True, slots=True)
class Peer:
    """A program to be measured against."""

    modules: tuple[str, ...]  # what must be installed
    distribution: str  # whose version is told
    open: Callable[[Path, int, int, Sequence[int]], Contestant]  # by path, threads, tokens of context, end tokens
    reads_folders: bool


def _open_llama_cpp(path: Path, n_threads: int, n_ctx: int, end_ids: Sequence[int]) -> Contestant:
    from model.bench.peer_llama_cpp import LlamaCpp

    return LlamaCpp(path, n_threads, n_ctx, end_ids)


def _open_transformers(path: Path, n_threads: int, n_ctx: int, end_ids: Sequence[int]) -> Contestant:
    from model.bench.peer_transformers import Transformers

    return Transformers(path, n_threads, end_ids)


PEERS = {
    "llama.cpp": Peer(("llama_cpp",), "llama-cpp-python", _open_llama_cpp, reads_folders=False),
    "transformers": Peer(("transformers", "accelerate"), "transformers", _open_transformers, reads_folders=True),
}
