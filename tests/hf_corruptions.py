"""Opens damaged folders of the Hugging Face hub, in a process of its own whose memory is limited.

Run by test_model_checkpoint_huggingface_bad_input.py with a folder, one file of weights in it; prints JSON.
"""

import json
import os
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from model.checkpoint.hf_weights import MAX_INDEX
from model.checkpoint.huggingface import MAX_BYTES
from model.checkpoint.open import open_checkpoint
from model.checkpoint.safetensors_file import MAX_HEADER
from model.errors import CheckpointError

MAX_SECONDS, MAX_MEMORY = 2, 300_000_000
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json")


def heavy(n_bytes: int) -> Iterator[bytes]:
    """Yield JSON that takes much to read, as long as allowed."""
    n_bytes -= 100
    yield b'{"__metadata__": [' + b"{}," * (n_bytes // 3) + b"{}]}"
    yield b"{" + b",".join(b'"%x":{}' % i for i in range(n_bytes // 12)) + b"}"
    yield b"{" + b'"a":0,' * (n_bytes // 6) + b'"a":0}'
    yield b'{"weight_map": {' + b",".join(b'"%x":"%x.safetensors"' % (i, i) for i in range(n_bytes // 32)) + b"}}"
    yield b'{"model_type": "' + b"\\u0061" * (n_bytes // 6) + b'"}'
    yield b'{"a":' * (n_bytes // 5)
    yield b"[" * n_bytes


def with_length(header: bytes, n_header: int | None = None) -> bytes:
    return (len(header) if n_header is None else n_header).to_bytes(8, "little") + header


def cases(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield names of files, each with what is to stand in it."""
    weights, index = (folder / WEIGHTS).read_bytes(), json.dumps({"weight_map": {"a": WEIGHTS}}).encode()
    n_header = 8 + int.from_bytes(weights[:8], "little")
    for name in SETTINGS:
        good = (folder / name).read_bytes()
        yield from ((name, good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :]) for i in range(0, len(good), 4))
    yield from (("config.json", content) for content in heavy(MAX_BYTES))
    yield from ((WEIGHTS, with_length(content)) for content in heavy(MAX_HEADER))
    yield from ((WEIGHTS, with_length(b"{}", n)) for n in (3, 2**31, 2**32, 2**63, 2**64 - 1))
    yield from ((WEIGHTS, weights[:i] + bytes([weights[i] ^ 1]) + weights[i + 1 :]) for i in range(0, n_header, 4))
    yield from ((WEIGHTS, weights[:i]) for i in range(0, n_header, 4))
    yield from ((WEIGHTS, weights[: random.Random(i).randrange(n_header, len(weights))]) for i in range(200))
    (folder / WEIGHTS).unlink()
    yield from ((INDEX, content) for content in heavy(MAX_INDEX))
    yield from ((INDEX, index[:i]) for i in range(len(index)))


def complaint_about(folder: Path) -> str | None:
    """Return what is wrong with how a damaged folder is refused, if it is."""
    start = time.process_time()
    try:
        open_checkpoint(folder)
        text = f"{folder}: "
    except CheckpointError as error:
        text = str(error)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    seconds = time.process_time() - start
    if not (text.startswith(f"{folder}: ") and text.isprintable() and len(text) < 600):
        return f"not one line: {text!r:.600}"
    return f"{seconds:.1f} s" if seconds > MAX_SECONDS else None


def main(folder: Path) -> None:
    os.chdir(folder)
    before = sorted(os.listdir(folder))
    n_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MAX_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
    counts, complaints = dict.fromkeys([*SETTINGS, WEIGHTS, INDEX], 0), []
    for name, content in cases(folder):
        kept = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_bytes(content)
        if complaint := complaint_about(folder):
            complaints.append(f"{name} {content[:40]!r}: {complaint}")
        counts[name] += 1
        if kept is not None:
            (folder / name).write_bytes(kept)
    created = sorted(set(os.listdir(folder)) - {*before, INDEX})
    print(json.dumps({"counts": counts, "complaints": complaints, "created": created}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
