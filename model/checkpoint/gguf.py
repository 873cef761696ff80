"""Checkpoints in GGUF files: what the network looks like, its tokenizer, its chat template, its weights.

Opening reads the header alone and needs no torch, so that a wrong file is refused at once; the weights follow in
`load_model`. Format: the GGUF specification of the ggml project; keys: llama.cpp.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.chat_template import ChatTemplate
from model.checkpoint.checkpoint import Checkpoint, known_end_ids
from model.checkpoint.gguf_config import read_architecture, read_config
from model.checkpoint.gguf_header import GGUFHeader
from model.checkpoint.gguf_parts import read_gguf_parts
from model.checkpoint.gguf_tensors import GGUFWeights, check_tensors
from model.config import GPTConfig
from model.errors import CheckpointError
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer
from model.vocabulary import Vocabulary

PREPENDING_BOS = frozenset({"llama3", "llama-v3", "llama-bpe", "tekken"})  # pre-tokenizers, where the file is silent


def open_gguf(path: Path) -> Checkpoint:
    """Read and check a GGUF file, or all parts of a split one, up to the weights.

    Raises CheckpointError: not GGUF, cut short, another architecture, a key that asks for what GPT does not do, a
    tensor missing or of another shape, a tokenizer that is not byte-level BPE.
    """
    header = read_gguf_parts(path)
    architecture = read_architecture(header)
    config = read_config(header, architecture)
    check_tensors(header, config)
    special_ids = _read_special_ids(header, config)
    tokenizer = _read_tokenizer(header, config)
    return Checkpoint(
        path=path,
        config=config,
        tokenizer=tokenizer,
        chat_template=_read_chat_template(header, tokenizer, special_ids),
        bos_id=_read_bos_id(header, special_ids),
        end_ids=_end_ids(tokenizer, special_ids),
        sampling_params=_read_sampling_params(header),
        weights=GGUFWeights(header, config, pairs_side_by_side=architecture.pairs_side_by_side),
    )


@contextmanager
def _naming(header: GGUFHeader) -> Iterator[None]:
    """Put the file's path before the text of an error that does not know it."""
    try:
        yield
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{header.path}: {error}") from None


def _read_special_ids(header: GGUFHeader, config: GPTConfig) -> dict[str, int]:
    """Return those of the tokens bos, eos, eot and eom that the file names."""
    special_ids = {}
    for name in ("bos", "eos", "eot", "eom"):
        key = f"tokenizer.ggml.{name}_token_id"
        if key in header.metadata:
            special_ids[name] = header.integer(key)
            if not 0 <= special_ids[name] < config.vocab_size:
                raise header.refusal(f"key {key}", f"a token below {config.vocab_size:,}", f"{special_ids[name]:,}")
    return special_ids


def _read_tokenizer(header: GGUFHeader, config: GPTConfig) -> Tokenizer:
    kind = header.text("tokenizer.ggml.model")
    if kind != "gpt2":
        raise header.refusal("key tokenizer.ggml.model", "'gpt2' (byte-level BPE)", repr(kind))
    tokens = header.strings("tokenizer.ggml.tokens")
    if len(tokens) != config.vocab_size:
        expected = f"{config.vocab_size:,} tokens as in token_embd.weight"
        raise header.refusal("key tokenizer.ggml.tokens", expected, f"{len(tokens):,}")
    pre, types = header.text("tokenizer.ggml.pre"), header.integers("tokenizer.ggml.token_type")
    merges = header.strings("tokenizer.ggml.merges")
    with _naming(header):
        return Tokenizer(Vocabulary.from_gguf(pre, tokens, types, merges))


def _read_chat_template(header: GGUFHeader, tokenizer: Tokenizer, special_ids: dict[str, int]) -> ChatTemplate:
    tokens = tokenizer.vocabulary.tokens
    variables = {f"{name}_token": tokens[special_ids[name]] for name in ("bos", "eos") if name in special_ids}
    source = header.text("tokenizer.chat_template") if "tokenizer.chat_template" in header.metadata else None
    with _naming(header):
        return ChatTemplate(source, tokenizer, variables)


def _read_bos_id(header: GGUFHeader, special_ids: dict[str, int]) -> int | None:
    prepends = header.flag("tokenizer.ggml.add_bos_token", header.text("tokenizer.ggml.pre") in PREPENDING_BOS)
    return special_ids.get("bos") if prepends else None


def _end_ids(tokenizer: Tokenizer, special_ids: dict[str, int]) -> frozenset[int]:
    named = {special_ids[name] for name in ("eos", "eot", "eom") if name in special_ids}
    return frozenset(named | known_end_ids(tokenizer))


def _read_sampling_params(header: GGUFHeader) -> SamplingParams:
    """Return what the makers recommend; where they do not, the defaults."""
    keys = {"temperature": "temp", "top_p": "top_p", "min_p": "min_p", "repetition_penalty": "penalty_repeat"}
    given: dict[str, Any] = {
        name: round(header.number(f"general.sampling.{key}"), 6)  # 0.6 is 0.60000002 in fp32
        for name, key in keys.items()
        if f"general.sampling.{key}" in header.metadata
    }
    if "general.sampling.top_k" in header.metadata:
        given["top_k"] = header.integer("general.sampling.top_k")
    with _naming(header):
        return SamplingParams(**given)
