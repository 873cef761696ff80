"""The network against transformers, which reads the same GGUF file in fp32; and cached against uncached."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, PreTrainedModel

from model.chat_template import ChatMessage
from model.checkpoint.gguf import Checkpoint
from model.engine.engine import Engine
from model.engine.runner import TorchRunner
from model.engine.sequence import Limits
from model.gpt import GPT
from model.kv_cache import KVCache
from model.sampling import SamplingParams

N_TOKENS = 64

# Each begins with the user and alternates; "system:" marks a system message.
CONVERSATIONS = [
    ["What is the capital of France?"],
    ["Count from 1 to 20."],
    ["system: You are a patient teacher.", "Why is the sky blue?"],
    ["Translate 'good morning' into German."],
    ["Hi! I'm Ada.", "Hello Ada! How can I help you today?", "Write a letter to my cat."],
    ["def add(a, b):\n    return", "It adds two numbers.", "Write   a class `Stack` in Python."],
    ["Wie heißt die Hauptstadt von Griechenland?", "Athen.", "Ευχαριστώ! 谢谢 🙏 Erzähl mir mehr."],
    ["Name a fruit.", "Apple.", "Another.", "Banana.", "How do I grow them?"],
    ["system: You are a pirate.", "Ahoy!", "Arr!", "Where is the gold?", "On the island.", "Write a song about it."],
    ["2 + 2?", "4", "And 3 + 3?", "6", "And 10 * 10?", "100", "Then  explain  what a prime number is."],
]


def messages_of(texts: list[str]) -> list[ChatMessage]:
    system = [ChatMessage("system", text.removeprefix("system: ")) for text in texts if text.startswith("system: ")]
    turns = [text for text in texts if not text.startswith("system: ")]
    return system + [ChatMessage("assistant" if i % 2 else "user", text) for i, text in enumerate(turns)]


def load_oracle(path: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)


@pytest.fixture(scope="module")
def oracle(default_path: Path) -> PreTrainedModel:
    return load_oracle(default_path)


@pytest.fixture(scope="module")
def prompts(default_checkpoint: Checkpoint) -> list[list[int]]:
    return [default_checkpoint.chat_template.encode(messages_of(texts)) for texts in CONVERSATIONS]


@pytest.fixture(scope="module")
def replies(default_checkpoint: Checkpoint, default_model: GPT, prompts: list[list[int]]) -> list[list[int]]:
    """What the engine answers at temperature 0, all ten at the same time; with the end token where one came."""
    engine = Engine(
        TorchRunner(default_model), default_checkpoint.tokenizer, Limits(8192, frozenset({2}), n_cached=100_000)
    )
    params = SamplingParams(temperature=0, max_tokens=N_TOKENS)
    generations = [engine.submit(token_ids, params, owner=f"owner {i}") for i, token_ids in enumerate(prompts)]
    replies = [[token_id for piece in generation for token_id in piece.token_ids] for generation in generations]
    engine.close()
    return [
        reply + [2] * (generation.finish_reason == "stop")
        for reply, generation in zip(replies, generations, strict=True)
    ]


def in_pieces(model: GPT, token_ids: Tensor, lengths: list[int]) -> Tensor:
    """The logits of token_ids (1, T), run through a cache in pieces of these lengths, and then one by one."""
    cache, pieces, start = KVCache(model.config), [], 0
    for length in [*lengths, *[1] * token_ids.size(1)]:
        if piece := token_ids[:, start : start + length].tolist()[0]:
            pieces.append(model(torch.tensor([piece]), cache))
        start += length
    assert cache.length == token_ids.size(1)
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("i", range(10))
@torch.inference_mode()
def test_greedy_reply_has_the_ids_of_transformers(
    oracle: PreTrainedModel, prompts: list[list[int]], replies: list[list[int]], i: int
) -> None:
    # Where each token is the oracle's first choice after those before it, the oracle would have written the same
    prompt, reply = prompts[i], replies[i]
    assert len(reply) == N_TOKENS or reply[-1] == 2
    choices = oracle(torch.tensor([prompt + reply])).logits[0].argmax(-1).tolist()
    assert choices[len(prompt) - 1 : -1] == reply


@pytest.mark.slow
@pytest.mark.parametrize("i", range(10))
def test_greedy_reply_is_what_transformers_generates(
    oracle: PreTrainedModel, prompts: list[list[int]], replies: list[list[int]], i: int
) -> None:
    token_ids = torch.tensor([prompts[i]])
    mask = torch.ones_like(token_ids)
    generated = oracle.generate(token_ids, attention_mask=mask, max_new_tokens=N_TOKENS, do_sample=False)
    assert generated[0, len(prompts[i]) :].tolist() == replies[i]


def test_golden_reply_about_france(default_checkpoint: Checkpoint, replies: list[list[int]]) -> None:
    assert default_checkpoint.tokenizer.decode(replies[0]) == "The capital of France is Paris."


@pytest.mark.parametrize("i", range(10))
@torch.inference_mode()
def test_logits_over_whole_prompts_are_those_of_transformers(
    oracle: PreTrainedModel, default_model: GPT, prompts: list[list[int]], i: int
) -> None:
    token_ids = torch.tensor([prompts[i]])
    assert_close(default_model(token_ids), oracle(token_ids).logits, atol=1e-3, rtol=0)


@torch.inference_mode()
def test_logits_of_a_thousand_tokens_are_those_of_transformers(
    oracle: PreTrainedModel, default_model: GPT, prompts: list[list[int]]
) -> None:
    token_ids = torch.tensor([sum(prompts * 2, [])[:1000]])
    assert_close(default_model(token_ids), oracle(token_ids).logits, atol=1e-3, rtol=0)


@torch.inference_mode()
def test_tiny_models_logits_over_the_whole_context_are_those_of_transformers(tiny_path: Path, tiny_model: GPT) -> None:
    token_ids = torch.randint(265, (3, 256), generator=torch.Generator().manual_seed(0))
    assert_close(tiny_model(token_ids), load_oracle(tiny_path)(token_ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("lengths", [[1] * 20, [128, 128, 44], [5, 1, 64, 200], [299, 1]])
@torch.inference_mode()
def test_default_models_cached_logits_equal_uncached(
    default_model: GPT, prompts: list[list[int]], lengths: list[int]
) -> None:
    token_ids = torch.tensor([sum(prompts, [])[: sum(lengths)]])
    assert_close(in_pieces(default_model, token_ids, lengths), default_model(token_ids), atol=1e-3, rtol=0)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 40), max_size=8), n_single=st.integers(0, 5), seed=st.integers(0, 2**32))
@torch.inference_mode()
def test_cached_logits_equal_uncached_for_any_split(
    tiny_model: GPT, lengths: list[int], n_single: int, seed: int
) -> None:
    n_tokens = max(1, min(sum(lengths) + n_single, 256))
    token_ids = torch.randint(265, (1, n_tokens), generator=torch.Generator().manual_seed(seed))
    assert_close(in_pieces(tiny_model, token_ids, lengths), tiny_model(token_ids), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_token_by_token_equals_uncached_up_to_the_full_context(tiny_model: GPT) -> None:
    token_ids = torch.arange(256)[None]
    assert_close(in_pieces(tiny_model, token_ids, []), tiny_model(token_ids), atol=1e-4, rtol=0)


@settings(deadline=None)
@given(kept=st.integers(0, 50), seed=st.integers(0, 2**32))
@torch.inference_mode()
def test_truncated_cache_goes_on_as_if_the_rest_had_never_been(tiny_model: GPT, kept: int, seed: int) -> None:
    first, second = torch.randint(265, (2, 1, 50), generator=torch.Generator().manual_seed(seed))
    cache = KVCache(tiny_model.config)
    tiny_model(first, cache)
    cache.truncate(kept)
    expected = tiny_model(torch.cat([first[:, :kept], second], dim=1))[:, kept:]
    assert_close(tiny_model(second, cache), expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_copied_prefix_goes_on_like_the_cache_it_came_from(tiny_model: GPT) -> None:
    token_ids = torch.arange(3, 43).unsqueeze(0)
    cache, copy = KVCache(tiny_model.config), KVCache(tiny_model.config)
    tiny_model.next_logits(token_ids, cache)
    copy.copy_prefix(cache, 30)
    expected = tiny_model(token_ids)[0, -1]
    assert_close(tiny_model.next_logits(token_ids[:, 30:], copy), expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_memory_that_was_never_written_is_never_read(tiny_model: GPT) -> None:
    cache = KVCache(tiny_model.config)
    cache._keys.fill_(torch.nan)
    cache._values.fill_(torch.nan)
    token_ids = torch.arange(30)[None]
    assert_close(tiny_model(token_ids, cache), tiny_model(token_ids), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_next_logits_are_the_last_of_all(tiny_model: GPT) -> None:
    token_ids = torch.arange(30)[None]
    logits = tiny_model.next_logits(token_ids, KVCache(tiny_model.config))
    assert logits.shape == (265,)
    assert_close(logits, tiny_model(token_ids)[0, -1], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_batch_has_the_logits_of_its_rows(tiny_model: GPT) -> None:
    token_ids = torch.randint(265, (4, 30), generator=torch.Generator().manual_seed(0))
    rows = torch.cat([tiny_model(row[None]) for row in token_ids])
    assert_close(tiny_model(token_ids), rows, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_later_tokens_do_not_change_earlier_logits(tiny_model: GPT) -> None:
    token_ids = torch.arange(60)[None]
    assert_close(tiny_model(token_ids)[:, :20], tiny_model(token_ids[:, :20]), atol=1e-4, rtol=0)


def test_more_tokens_than_the_context_are_a_mistake(tiny_model: GPT) -> None:
    with pytest.raises(AssertionError, match="257 tokens exceed 256"):
        tiny_model(torch.zeros(1, 257, dtype=torch.long))


def test_cache_cannot_be_cut_to_more_than_it_holds(tiny_model: GPT) -> None:
    with pytest.raises(AssertionError, match="cannot cut a cache of 0 positions to 1"):
        KVCache(tiny_model.config).truncate(1)
