"""Tiny random models of the whole family, made with transformers: what the readers of checkpoints are held against.

Weights are far larger than those of a fresh model, so that attention has preferences and logits lie apart, and nothing
is left at 0 or 1 that a reader could forget: biases and norms are random as well.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from conftest import CHAT_TEMPLATE, CONTROL_TOKENS, MERGES, tiny_vocabulary
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer
from torch import Tensor
from transformers import (
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from model.config import BLOCK_SIZE
from model.gpt import GPT
from model.kv_cache import KVCache

N_CTX = 128
VOCAB_SIZE = len(tiny_vocabulary())


@dataclass(frozen=True)
class Family:
    """One kind of model: a name, and what makes its configuration."""

    name: str
    config: Callable[[], PreTrainedConfig]

    def make(self) -> PreTrainedModel:
        """Return the family's model, made once: fp32, in evaluation mode, not to be changed."""
        return _make(self.name)


@cache
def _make(name: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_config(FAMILIES[name].config(), dtype=torch.float32)
    random = torch.Generator().manual_seed(sum(name.encode()))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if parameter.ndim == 2:
                parameter.copy_(noise * (0.3 if is_embedding(parameter_name) else 0.2))
            else:
                parameter.copy_(noise * 0.3 + parameter_name.endswith(("norm.weight", "ln_1.weight", "ln_2.weight")))
    return model.eval()


def is_embedding(name: str) -> bool:
    return any(part in name for part in ("embed_tokens", "wte", "wpe"))


SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": N_CTX,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def llama(**changes: Any) -> Callable[[], PreTrainedConfig]:
    return lambda: LlamaConfig(**{**SIZES, "head_dim": 16, **changes})


def rope(kind: str, base: float, **numbers: float) -> dict[str, object]:
    return {"rope_type": kind, "rope_theta": base, **numbers}


def gpt2() -> PreTrainedConfig:
    sizes = {"vocab_size": VOCAB_SIZE, "n_positions": N_CTX, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96}
    return GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, pad_token_id=0)


LLAMA3_SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES = {
    family.name: family
    for family in [
        Family("gpt2", gpt2),
        Family("llama2", llama(num_key_value_heads=4)),
        Family("llama3", llama(rope_parameters=rope("default", 500_000.0))),
        Family(
            "llama3.1",
            llama(rope_parameters=rope("llama3", 500_000.0, original_max_position_embeddings=64, **LLAMA3_SCALING)),
        ),
        Family("linear", llama(rope_parameters=rope("linear", 10_000.0, factor=4.0))),
        Family(
            "yarn",
            lambda: Qwen2Config(
                **SIZES,
                rope_parameters=rope("yarn", 10_000.0, factor=4.0, original_max_position_embeddings=32),
            ),
        ),
        Family("smollm2", llama(tie_word_embeddings=True, rope_parameters=rope("default", 100_000.0))),
        Family("smollm3", lambda: SmolLM3Config(**{**SIZES, "num_hidden_layers": 5})),
        Family("mistral", lambda: MistralConfig(**SIZES, head_dim=16, sliding_window=16)),
        Family("qwen2", lambda: Qwen2Config(**SIZES, tie_word_embeddings=True)),
        Family("qwen3", lambda: Qwen3Config(**SIZES, head_dim=24)),
    ]
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tiny vocabulary as a tokenizer of transformers, cut as SmolLM2's."""
    vocabulary = {token: token_id for token_id, token in enumerate(tiny_vocabulary())}
    merges = [tuple(merge.split()) for merge in MERGES]
    tokenizer = HFTokenizer(models.BPE(vocab=vocabulary, merges=merges))
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    end, begin, finish = CONTROL_TOKENS
    names = {"bos_token": begin, "eos_token": finish, "pad_token": end, "unk_token": None}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE, **names)


def write_hf_folder(model: PreTrainedModel, folder: Path) -> Path:
    """Write a folder as a hub holds it: config.json, sharded safetensors, tokenizer.json, chat_template.jinja."""
    model.save_pretrained(folder, max_shard_size="100KB")
    build_tokenizer().save_pretrained(folder)
    return folder


@contextmanager
def one_thread() -> Iterator[None]:
    """For networks so tiny, threads are all waiting."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


# What a network computes for four texts of unequal lengths: by transformers, and by GPT in three ways

LENGTHS = [60, 2, 17, 33]


@cache
@torch.inference_mode(False)  # whoever asks first: their tensors serve every other test
def texts() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randint(VOCAB_SIZE, (length,), generator=random) for length in LENGTHS]


@cache
def oracle_logits(name: str) -> list[Tensor]:
    """The logits of transformers, for each text (length, vocab_size); by the most explicit of its ways to attend."""
    model = FAMILIES[name].make()
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        return [model(text[None]).logits[0] for text in texts()]


@torch.inference_mode()
def whole_logits(model: GPT) -> list[Tensor]:
    return [model(text, [text.numel()]) for text in texts()]


N_BLOCKS = N_CTX // BLOCK_SIZE  # of one text


def new_cache(model: GPT, n_blocks: int) -> KVCache:
    """A cache like the model's weights, full of what must never be read."""
    cache = KVCache(model.config, n_blocks, model.wte.weight.dtype, model.wte.weight.device)
    cache.keys.fill_(torch.nan)
    cache.values.fill_(torch.nan)
    return cache


@torch.inference_mode()
def stepwise_logits(model: GPT) -> list[Tensor]:
    """Token by token over a cache, its blocks in reverse."""
    cache, table = new_cache(model, N_BLOCKS), range(N_BLOCKS)[::-1]
    return [
        torch.cat([model(text[i : i + 1], [1], cache.view([i], [1], [table])) for i in range(text.numel())])
        for text in texts()
    ]


@torch.inference_mode()
def packed_logits(model: GPT) -> list[Tensor]:
    """All texts in one row, without padding: first the halves of all, then the rest over a cache that they share."""
    cache = new_cache(model, N_BLOCKS * len(LENGTHS))
    tables = [range(i, cache.n_blocks, len(LENGTHS)) for i in range(len(LENGTHS))]
    starts, halves = [0] * len(LENGTHS), []
    for texts_of_row in zip(*(text.chunk(2) for text in texts()), strict=True):
        lengths = [text.numel() for text in texts_of_row]
        halves.append(model(torch.cat(texts_of_row), lengths, cache.view(starts, lengths, tables)).split(lengths))
        starts = lengths
    return [torch.cat(parts) for parts in zip(*halves, strict=True)]


@torch.inference_mode()
def greedy(model: GPT, prompt: Tensor, n_tokens: int) -> Tensor:
    """The prompt (T,) and the most likely token after it, and so on."""
    cache, token_ids, start = new_cache(model, N_BLOCKS), prompt, 0
    for _ in range(n_tokens):
        length = token_ids.numel() - start
        view = cache.view([start], [length], [range(N_BLOCKS)])
        logits = model(token_ids[start:], [length], view, [1])
        token_ids, start = torch.cat([token_ids, logits.argmax(-1)]), start + length
    return token_ids
