"""The digest of a checkpoint: by which one knows later that a reply was written by the same model."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from model.checkpoint.gguf_parts import read_gguf_parts
from model.checkpoint.hf_config import family_of
from model.checkpoint.hf_weights import read_tensors
from model.checkpoint.huggingface import (
    CONFIG_FILE,
    GENERATION_FILE,
    MAX_BYTES,
    TEMPLATE_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
)
from model.checkpoint.json_file import read_json

BUFFER_BYTES = 2**20

_JSON_AND_TEMPLATE = (CONFIG_FILE, GENERATION_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, TEMPLATE_FILE)


def checkpoint_digest(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> str:
    """Return the SHA-256, in hex, of the files that a checkpoint is read from.

    Of one file it is what `sha256sum` prints. Of several it is that of their digests in ascending order, so that it
    matters what each holds, but not what it is called. Calls `progress` with the number of bytes done and of all.

    Raises CheckpointError for files that are no checkpoint, OSError for one that cannot be read.
    """
    files = _files(path)
    total = sum(file.stat().st_size for file in files)
    buffer, done = memoryview(bytearray(BUFFER_BYTES)), 0
    digests = []
    for file in files:
        digest = sha256()
        with file.open("rb", buffering=0) as opened:
            while n_read := opened.readinto(buffer):
                digest.update(buffer[:n_read])
                done += n_read
                progress(done, total)
        digests.append(digest)
    if len(digests) == 1:
        return digests[0].hexdigest()
    return sha256(b"".join(sorted(digest.digest() for digest in digests))).hexdigest()


def _files(path: Path) -> set[Path]:
    """Return what `open_checkpoint` reads: the parts of a GGUF file, or the weights, JSON and template of a folder.

    The index of a folder does not count: it says what the files of weights are called, and they say what they hold.
    """
    if not path.is_dir():
        header = read_gguf_parts(path)
        return {header.path, *(tensor.path for tensor in header.tensors.values())}
    layout = family_of(read_json(path / CONFIG_FILE, MAX_BYTES)).layout
    weights = {tensor.path for tensor in read_tensors(path, layout).values()}
    return weights | {path / name for name in _JSON_AND_TEMPLATE if (path / name).exists()}
