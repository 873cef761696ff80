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
from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.engine.runner import TorchRunner
from model.engine.sequence import Limits
from model.gpt import GPT
from model.kv_cache import KVCache
from model.sampling_params import SamplingParams

N_TOKENS = 50

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
        TorchRunner(default_model, 512), default_checkpoint.tokenizer, Limits(512, frozenset({2}), n_cached=100_000)
    )
    params = SamplingParams(temperature=0, max_tokens=N_TOKENS)
    generations = [engine.submit(token_ids, params, owner=f"owner {i}") for i, token_ids in enumerate(prompts)]
    replies = [[token_id for piece in generation for token_id in piece.token_ids] for generation in generations]
    engine.close()
    return [
        reply + [2] * (generation.finish_reason == "stop")
        for reply, generation in zip(replies, generations, strict=True)
    ]


def alone(model: GPT, token_ids: Tensor, cache: KVCache | None = None) -> Tensor:
    """The logits (T, V) of one sequence (T,)."""
    return model(token_ids, [len(token_ids)], [cache] if cache else None)


def new_cache(model: GPT) -> KVCache:
    return KVCache(model.config, 1024)


def in_pieces(model: GPT, token_ids: Tensor, lengths: list[int]) -> Tensor:
    """The logits of token_ids (T,), run through a cache in pieces of these lengths, and then one by one."""
    cache, pieces, start = new_cache(model), [], 0
    for length in [*lengths, *[1] * len(token_ids)]:
        if len(piece := token_ids[start : start + length]):
            pieces.append(alone(model, piece, cache))
        start += length
    assert cache.length == len(token_ids)
    return torch.cat(pieces)


def random_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(265, shape, generator=torch.Generator().manual_seed(seed))


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
    token_ids = torch.tensor(prompts[i])
    assert_close(alone(default_model, token_ids), oracle(token_ids[None]).logits[0], atol=1e-3, rtol=0)


@torch.inference_mode()
def test_logits_of_a_thousand_tokens_are_those_of_transformers(
    oracle: PreTrainedModel, default_model: GPT, prompts: list[list[int]]
) -> None:
    token_ids = torch.tensor(sum(prompts * 2, [])[:1000])
    assert_close(alone(default_model, token_ids), oracle(token_ids[None]).logits[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("lengths", [[1] * 20, [128, 128, 44], [5, 1, 64, 200], [299, 1]])
@torch.inference_mode()
def test_default_models_cached_logits_equal_uncached(
    default_model: GPT, prompts: list[list[int]], lengths: list[int]
) -> None:
    token_ids = torch.tensor(sum(prompts, [])[: sum(lengths)])
    assert_close(in_pieces(default_model, token_ids, lengths), alone(default_model, token_ids), atol=1e-3, rtol=0)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 40), max_size=8), n_single=st.integers(0, 5), seed=st.integers(0, 2**32))
@torch.inference_mode()
def test_cached_logits_equal_uncached_for_any_split(
    tiny_model: GPT, lengths: list[int], n_single: int, seed: int
) -> None:
    token_ids = random_ids(max(1, min(sum(lengths) + n_single, 256)), seed=seed)
    assert_close(in_pieces(tiny_model, token_ids, lengths), alone(tiny_model, token_ids), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_token_by_token_equals_uncached_up_to_the_full_context(tiny_model: GPT) -> None:
    token_ids = torch.arange(256)
    assert_close(in_pieces(tiny_model, token_ids, []), alone(tiny_model, token_ids), atol=1e-4, rtol=0)


@settings(deadline=None)
@given(kept=st.integers(0, 50), seed=st.integers(0, 2**32))
@torch.inference_mode()
def test_truncated_cache_goes_on_as_if_the_rest_had_never_been(tiny_model: GPT, kept: int, seed: int) -> None:
    first, second = random_ids(2, 50, seed=seed)
    cache = new_cache(tiny_model)
    alone(tiny_model, first, cache)
    cache.truncate(kept)
    expected = alone(tiny_model, torch.cat([first[:kept], second]))[kept:]
    assert_close(alone(tiny_model, second, cache), expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_copied_prefix_goes_on_like_the_cache_it_came_from(tiny_model: GPT) -> None:
    token_ids = torch.arange(3, 43)
    cache, copy = new_cache(tiny_model), new_cache(tiny_model)
    tiny_model.next_logits(token_ids, [40], [cache])
    copy.copy_prefix(cache, 30)
    expected = alone(tiny_model, token_ids)[-1:]
    assert_close(tiny_model.next_logits(token_ids[30:], [10], [copy]), expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_memory_that_was_never_written_is_never_read(tiny_model: GPT) -> None:
    cache = new_cache(tiny_model)
    cache._keys.fill_(torch.nan)
    cache._values.fill_(torch.nan)
    token_ids = torch.arange(30)
    assert_close(alone(tiny_model, token_ids, cache), alone(tiny_model, token_ids), atol=1e-4, rtol=0)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), seed=st.integers(0, 2**32))
@torch.inference_mode()
def test_packed_sequences_have_the_logits_that_each_has_alone(tiny_model: GPT, lengths: list[int], seed: int) -> None:
    token_ids = random_ids(sum(lengths), seed=seed)
    expected = torch.cat([alone(tiny_model, piece) for piece in token_ids.split(lengths)])
    assert_close(tiny_model(token_ids, lengths), expected, atol=1e-4, rtol=0)


@settings(deadline=None)
@given(
    cached=st.lists(st.integers(0, 40), min_size=3, max_size=3),
    lengths=st.lists(st.integers(1, 40), min_size=3, max_size=3),
)
@torch.inference_mode()
def test_packed_sequences_go_on_from_their_own_caches(tiny_model: GPT, cached: list[int], lengths: list[int]) -> None:
    caches = [new_cache(tiny_model) for _ in cached]
    texts = [random_ids(before + length) for before, length in zip(cached, lengths, strict=True)]
    for text, before, cache in zip(texts, cached, caches, strict=True):
        if before:
            alone(tiny_model, text[:before], cache)
    new = torch.cat([text[before:] for text, before in zip(texts, cached, strict=True)])
    expected = torch.stack([alone(tiny_model, text)[-1] for text in texts])
    assert_close(tiny_model.next_logits(new, lengths, caches), expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_later_tokens_do_not_change_earlier_logits(tiny_model: GPT) -> None:
    token_ids = torch.arange(60)
    assert_close(alone(tiny_model, token_ids)[:20], alone(tiny_model, token_ids[:20]), atol=1e-4, rtol=0)


def test_more_tokens_than_the_context_are_a_mistake(tiny_model: GPT) -> None:
    with pytest.raises(AssertionError, match="257 tokens exceed 256"):
        alone(tiny_model, torch.zeros(257, dtype=torch.long))


def test_cache_cannot_be_cut_to_more_than_it_holds(tiny_model: GPT) -> None:
    with pytest.raises(AssertionError, match="cannot cut a cache of 0 positions to 1"):
        new_cache(tiny_model).truncate(1)
