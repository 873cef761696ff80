"""The network against transformers, which reads the same GGUF file in fp32; and packed texts against each alone."""

from copy import deepcopy
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
from model.engine.runner import Chunk
from model.engine.torch_runner import TorchRunner
from model.gpt import GPT
from model.packed_linear import pack_linears

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
def replies(default_model: GPT, prompts: list[list[int]]) -> list[list[int]]:
    """The likeliest tokens, all ten replies at the same time; with the end token where one came."""
    model = deepcopy(default_model)
    pack_linears(model)
    runner = TorchRunner(model, 400)
    chats = [list(prompt) for prompt in prompts]
    starts = [0] * len(chats)
    for _ in range(N_TOKENS):
        going = [i for i, chat in enumerate(chats) if starts[i] == 0 or chat[-1] != 2]
        chunks = [Chunk(chats[i][starts[i] :], starts[i], range(i, 400, len(chats)), 1) for i in going]
        for i, token_id in zip(going, runner.run(chunks).argmax(-1).tolist(), strict=True):
            starts[i] = len(chats[i])
            chats[i].append(token_id)
    return [chat[len(prompt) :] for chat, prompt in zip(chats, prompts, strict=True)]


def alone(model: GPT, token_ids: Tensor) -> Tensor:
    """The logits (T, V) of one sequence (T,)."""
    return model(token_ids, [len(token_ids)])


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


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), seed=st.integers(0, 2**32))
@torch.inference_mode()
def test_packed_sequences_have_the_logits_that_each_has_alone(tiny_model: GPT, lengths: list[int], seed: int) -> None:
    token_ids = random_ids(sum(lengths), seed=seed)
    expected = torch.cat([alone(tiny_model, piece) for piece in token_ids.split(lengths)])
    assert_close(tiny_model(token_ids, lengths), expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_only_the_wanted_logits_are_returned(tiny_model: GPT) -> None:
    token_ids, lengths = random_ids(12), [5, 4, 3]
    rows = tiny_model(token_ids, lengths)
    assert_close(tiny_model(token_ids, lengths, n_logits=[2, 0, 3]), rows[[3, 4, 9, 10, 11]], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_later_tokens_do_not_change_earlier_logits(tiny_model: GPT) -> None:
    token_ids = torch.arange(60)
    assert_close(alone(tiny_model, token_ids)[:20], alone(tiny_model, token_ids[:20]), atol=1e-4, rtol=0)


def test_more_tokens_than_the_context_are_a_mistake(tiny_model: GPT) -> None:
    with pytest.raises(AssertionError, match="257 tokens exceed 256"):
        alone(tiny_model, torch.zeros(257, dtype=torch.long))
