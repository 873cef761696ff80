"""Opening a checkpoint of whichever format a path holds."""

from pathlib import Path

from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.gguf import open_gguf
from model.checkpoint.huggingface import PICKLES, open_folder, refuse_pickle
from model.errors import CheckpointError


def open_checkpoint(path: Path) -> Checkpoint:
    """Read and check everything but the weights: of a GGUF file, or of a folder in Hugging Face's layout.

    Needs no torch, so that a wrong file is refused at once. Raises CheckpointError.
    """
    if path.is_dir():
        return open_folder(path)
    if path.is_file() and path.suffix in PICKLES:
        refuse_pickle(path, path.parent)
    if path.is_file() and path.suffix == ".safetensors":
        expected = "a GGUF file or a folder of the Hugging Face hub's layout"
        raise CheckpointError(f"{path}: expected {expected}, found weights alone: give the folder that they are in")
    return open_gguf(path)
