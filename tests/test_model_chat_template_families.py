"""The chat templates of the whole family: ids as from transformers' apply_chat_template.

The templates in tests/data are written in each family's style: with the features that its own uses, and its format.
"""

from functools import cache
from pathlib import Path
from typing import cast

import pytest
import tokenizers
from conftest import MERGES
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from model.chat_template import ChatMessage, ChatTemplate
from model.tokenizer import Tokenizer, byte_alphabet

DATA = Path(__file__).parent / "data"
FAMILIES = ["llama2", "llama3", "mistral_v1", "mistral_v3", "qwen2", "qwen3", "smollm2", "smollm3"]
SPECIAL_TOKENS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
SPECIAL_TOKENS += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
USER_DEFINED_TOKENS = ["<think>", "</think>", "[INST]", "[/INST]"]
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}

ALPHABET = byte_alphabet()
MERGED = [*MERGES, "Ċ Ċ", "Ġ Ġ"]  # line ends and spaces merge across the borders of contents
VOCABULARY = {token: i for i, token in enumerate([*ALPHABET, *(merge.replace(" ", "") for merge in MERGED)])}

PIECES = st.sampled_from(["hello", "the", " ", "\n", "\n\n", "\t", "\u2003", "\xa0", "<", "'s", "é", "你", "😀"])
TEXTS = st.lists(PIECES, max_size=6).map("".join)
FLAGS = st.sampled_from(["", "/think", "/no_think", "/system_override"])
SYSTEM_PROMPTS = st.none() | st.tuples(TEXTS, FLAGS, TEXTS).map("".join)


def bare_tokenizer() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(BPE(VOCABULARY, [tuple(merge.split(" ")) for merge in MERGED]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def oracle_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = bare_tokenizer()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in USER_DEFINED_TOKENS])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


class OrdinaryTokenizer:
    """Stands for Tokenizer, with the ids of the oracle: only the templates are compared."""

    def __init__(self) -> None:
        self.control_tokens = {token: ORACLE.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
        self.control_tokens |= {token: ORACLE.convert_tokens_to_ids(token) for token in USER_DEFINED_TOKENS}
        self._bare = bare_tokenizer()
        self._bytes_of = {i: bytes(ALPHABET[char] for char in token) for token, i in VOCABULARY.items()}
        self._bytes_of |= {self.control_tokens[token]: token.encode() for token in USER_DEFINED_TOKENS}

    def encode(self, text: str) -> list[int]:
        return self._bare.encode(text).ids

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes_of.get(token_id, b"")


ORACLE = oracle_tokenizer()
TOKENIZER = cast(Tokenizer, OrdinaryTokenizer())


@cache
def source_of(family: str) -> str:
    return (DATA / f"{family}.jinja").read_text()


@cache
def template_of(family: str, *, enable_thinking: bool = False) -> ChatTemplate:
    return ChatTemplate(source_of(family), TOKENIZER, VARIABLES, enable_thinking=enable_thinking)


def oracle_ids(family: str, messages: list[ChatMessage], *, enable_thinking: bool = False) -> list[int]:
    plain = [{"role": message.role, "content": message.content} for message in messages]
    options = {"add_generation_prompt": True, "enable_thinking": enable_thinking, "return_dict": False}
    return ORACLE.apply_chat_template(plain, chat_template=source_of(family), **options, **VARIABLES)


def alternate(system: str | None, texts: list[str]) -> list[ChatMessage]:
    """A conversation that ends with a question."""
    turns = [ChatMessage("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
    return [*([] if system is None else [ChatMessage("system", system)]), *turns[: (len(turns) - 1) // 2 * 2 + 1]]


@pytest.mark.parametrize(
    ("family", "enable_thinking"),
    [*((family, False) for family in FAMILIES if family != "mistral_v1"), ("qwen3", True), ("smollm3", True)],
)
@settings(max_examples=40, deadline=None)
@given(system=SYSTEM_PROMPTS, texts=st.lists(TEXTS, min_size=1, max_size=9))
def test_conversation_has_the_ids_of_transformers(
    family: str, enable_thinking: bool, system: str | None, texts: list[str]
) -> None:
    messages = alternate(system, texts)
    expected = oracle_ids(family, messages, enable_thinking=enable_thinking)
    assert template_of(family, enable_thinking=enable_thinking).encode(messages) == expected


@settings(max_examples=40, deadline=None)
@given(system=TEXTS, texts=st.lists(TEXTS, min_size=1, max_size=9))
def test_system_prompt_goes_into_the_first_question_where_there_is_no_place_for_it(
    system: str, texts: list[str]
) -> None:
    merged = alternate(None, [f"{system}\n\n{texts[0]}", *texts[1:]])
    encode = template_of("mistral_v1").encode
    assert encode(alternate(system, texts)) == encode(merged) == oracle_ids("mistral_v1", merged)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_begins_alike_when_the_conversation_grows(family: str) -> None:
    encode = template_of(family).encode
    reply = ChatMessage("assistant", "hello the")
    question = ChatMessage("user", "hello")
    first, second = encode([question]), encode([question, reply, question])
    shared = ORACLE.decode(first, skip_special_tokens=False).removesuffix("<think>\n\n</think>\n\n")
    assert ORACLE.decode(second, skip_special_tokens=False).startswith(shared)


THOUGHTS = "<think>\nhello </think> the\n</think>\n\n"


@pytest.mark.parametrize("family", ["qwen3", "smollm3"])
@pytest.mark.parametrize("reply", ["hello", f"{THOUGHTS}hello\n", f"{THOUGHTS}\n", "<think>\nthe", "</think> hello "])
def test_thoughts_in_the_ids_of_a_reply_are_treated_as_by_the_template(family: str, reply: str) -> None:
    written = tuple(ORACLE.encode(reply, add_special_tokens=False))
    question = ChatMessage("user", "the")
    messages = [question, ChatMessage("assistant", reply, written), question]
    token_ids = template_of(family, enable_thinking=True).encode(messages)
    assert token_ids == oracle_ids(family, messages, enable_thinking=True)


def test_thoughts_of_earlier_replies_are_left_out_with_their_ids() -> None:
    encode = template_of("qwen3", enable_thinking=True).encode
    question, reply = ChatMessage("user", "the"), "hello"
    odd = TOKENIZER.encode("hel") + TOKENIZER.encode("lo")
    written = (*ORACLE.encode(THOUGHTS, add_special_tokens=False), *odd)
    plain = [question, ChatMessage("assistant", reply, tuple(odd)), question]
    assert encode([question, ChatMessage("assistant", THOUGHTS + reply, written), question]) == encode(plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_thoughts_that_a_user_types_are_text(family: str) -> None:
    encode = template_of(family).encode
    control_ids = set(TOKENIZER.control_tokens.values())
    thoughts, plain = encode([ChatMessage("user", f"{THOUGHTS}hello")]), encode([ChatMessage("user", "hello")])
    assert [i for i in thoughts if i in control_ids] == [i for i in plain if i in control_ids]
    assert f"{THOUGHTS}hello" in ORACLE.decode(thoughts)
