"""A program that opens thousands of damaged GGUF files in one process, and prints what went wrong as JSON.

Usage: gguf_corruptions.py FOLDER

Each file must be refused in one line, or be the same model as the undamaged one, apart from what the damaged number or
text says itself; in no more than 2 seconds and 300 MB, without a new file.
"""

import json
import os
import random
import resource
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import gguf
import numpy as np

from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.gguf_header import read_gguf_header
from model.checkpoint.open import open_checkpoint
from model.errors import CheckpointError

MAX_SECONDS, MAX_BYTES = 2.0, 300 << 20
TEMPLATE = "{{ messages[0]['content'] }}"
HOSTILE_TEMPLATES = [
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(10**4) %}{% for j in range(10**4) %}{{ i }}{% endfor %}{% endfor %}",
    "{{ cycler.__init__.__globals__.os.popen('touch escaped').read() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ 'a' * 10**10 }}",
]
EXTREMES = [0, 1 << 16, 1 << 31, 1 << 32, 1 << 60, (1 << 61) + 4, 1 << 63, (1 << 64) - 1]

# What a damaged value may change: of the checkpoint, only what the value stands for
MAY_CHANGE = {
    "llama.context_length": {"n_ctx"},
    "llama.attention.layer_norm_rms_epsilon": {"norm_eps"},
    "llama.attention.sliding_window": {"window", "windowed_layers"},
    "llama.rope.freq_base": {"rope"},
    "llama.rope.scaling.factor": {"rope"},
    "tokenizer.ggml.add_bos_token": {"bos_id"},
    "tokenizer.ggml.bos_token_id": {"bos_id"},
    "tokenizer.ggml.eos_token_id": {"end_ids"},
    "tokenizer.ggml.tokens": {"end_ids"},
    "tokenizer.ggml.token_type": {"end_ids"},
    "general.sampling.temp": {"sampling_params"},
    "general.sampling.top_k": {"sampling_params"},
}


def write_smallest_gguf(path: Path, template: str = TEMPLATE) -> Path:
    """Write a model of one layer and nine tokens, with many kinds of keys.

    No tensor is smaller than the alignment: in its padding, a wrong type or size would go unnoticed.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(16)
    writer.add_name("damaged")
    writer.add_sampling_temp(0.5)
    writer.add_sampling_top_k(7)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(4)
    writer.add_value_length(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(32)
    writer.add_rope_dimension_count(4)
    writer.add_rope_freq_base(500_000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(2.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "ï", "¿", "½", "a", "b", "ab"])
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template(template)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(8, np.float32))
    for name in ("attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.eye(8, dtype=np.float32))
    for name in ("blk.0.attn_k", "blk.0.attn_v"):
        writer.add_tensor(f"{name}.weight", np.eye(4, 8, dtype=np.float32))
    writer.add_tensor("token_embd.weight", np.eye(9, 8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@dataclass(frozen=True)
class Layout:
    """Where the parts of a file's header are, as the package gguf reads it."""

    keys: dict[int, str]  # by the position of each byte of a value and its type
    words: list[int]  # the positions of all 64-bit numbers
    end: int  # of the header, before the padding

    @classmethod
    def of(cls, path: Path) -> "Layout":
        reader = gguf.GGUFReader(path)
        keys, words, end = {}, [8, 16], 0
        fields = [field for key, field in reader.fields.items() if not key.startswith("GGUF.")]
        for field in [*fields, *(tensor.field for tensor in reader.tensors)]:
            position = field.offset
            for i, part in enumerate(field.parts):
                if part.dtype == np.uint64:
                    words += range(position, position + part.nbytes, 8)
                if i >= 2 or field.name.startswith("general.sampling."):  # a recommendation may get lost
                    keys |= dict.fromkeys(range(position, position + part.nbytes), field.name)
                position += part.nbytes
            end = position
        return cls(keys, words, end)


@dataclass(frozen=True)
class Case:
    """A damaged file; `key` is the one whose value is damaged, if one is."""

    kind: str
    content: bytes
    key: str = ""


def cases(good: bytes, layout: Layout) -> Iterator[Case]:
    for length in range(layout.end + 1):
        yield Case("cut header", good[:length])
    data = random.Random(0)
    for length in sorted(data.sample(range(layout.end + 1, len(good)), 200)):
        yield Case("cut data", good[:length])
    for mask in (0x01, 0xFF):
        for position in range(layout.end):
            damaged = bytearray(good)
            damaged[position] ^= mask
            yield Case("flipped byte", bytes(damaged), layout.keys.get(position, ""))
    for position in layout.words:
        for number in EXTREMES:
            yield Case("extreme number", good[:position] + struct.pack("<Q", number) + good[position + 8 :])


def write_heavy(good: bytes, layout: Layout, folder: Path) -> list[Path]:
    """Write files whose headers are as large as the limits allow."""
    few, many = 60_000, 2_000_000
    keys = b"".join(string(b"general.key%d" % i) + struct.pack("<IB", 0, 0) for i in range(few))
    strings = string(b"general.tags") + struct.pack("<IIQ", 9, 8, many) + string(b"tag") * many
    text = string(b"general.description") + struct.pack("<I", 8) + string(b"a" * (60 << 20))
    paths = []
    for n_keys, content in ((few, keys), (1, strings), (1, text)):
        (n_before,) = struct.unpack("<Q", good[16:24])
        header = good[:16] + struct.pack("<Q", n_before + n_keys) + content + good[24 : layout.end]
        paths.append(folder / f"heavy-{len(paths)}.gguf")
        paths[-1].write_bytes(header + bytes(-len(header) % 16) + good[-(-layout.end // 16) * 16 :])
    return paths


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def facts_of(checkpoint: Checkpoint) -> dict[str, object]:
    """All that must not change unnoticed."""
    tensors = read_gguf_header(checkpoint.path).tensors.values()
    facts = asdict(checkpoint.config) | {name: getattr(checkpoint, name) for name in ("bos_id", "end_ids")}
    facts["sampling_params"] = checkpoint.sampling_params
    facts["n_vocab"] = checkpoint.tokenizer.n_vocab
    start = min(tensor.offset for tensor in tensors)
    facts["tensors"] = [(tensor.name, tensor.shape, tensor.type, tensor.offset - start) for tensor in tensors]
    return facts


def complaint_about(path: Path, key: str, expected: dict[str, object]) -> str | None:
    """Return what is wrong with how a damaged file is opened."""
    start = time.process_time()
    try:
        checkpoint = open_checkpoint(path)
        seconds = time.process_time() - start
    except CheckpointError as error:
        seconds = time.process_time() - start
        text = str(error)
        in_one_line = text.startswith(f"{path}: ") and text.isprintable() and len(text) < 600
        complaint = None if in_one_line else f"not one line: {text!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    else:
        facts = facts_of(checkpoint)
        changed = {name for name in expected if facts[name] != expected[name]}
        complaint = None if changed <= MAY_CHANGE.get(key, set()) else f"wrong model: {changed} changed"
    return complaint or (f"{seconds:.1f} s" if seconds > MAX_SECONDS else None)


def main(folder: Path) -> None:
    os.chdir(folder)
    path = write_smallest_gguf(folder / "damaged.gguf")
    good, layout, expected = path.read_bytes(), Layout.of(path), facts_of(open_checkpoint(path))
    heavy = write_heavy(good, layout, folder)
    templates = [Case("template", write_smallest_gguf(path, source).read_bytes()) for source in HOSTILE_TEMPLATES]
    n_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
    counts = {"heavy header": len(heavy)}
    complaints = [f"{path.name}: {complaint}" for path in heavy if (complaint := complaint_about(path, "", expected))]
    for case in chain(templates, cases(good, layout)):
        counts[case.kind] = counts.get(case.kind, 0) + 1
        path.write_bytes(case.content)
        if complaint := complaint_about(path, case.key, expected):
            complaints.append(f"{case.kind} {counts[case.kind]} {case.key}: {complaint}")
    print(json.dumps({"counts": counts, "complaints": complaints, "files": sorted(os.listdir(folder))}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
