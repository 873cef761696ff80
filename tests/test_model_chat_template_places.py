"""Where the messages are in a prompt, for the templates of the whole family."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.chat_template import ChatMessage, ChatTemplate
from model.checkpoint.checkpoint import Checkpoint
from model.tokenizer import Tokenizer

DATA = Path(__file__).parent / "data"
FAMILIES = [path.stem for path in sorted(DATA.glob("*.jinja"))]
VARIABLES = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
PIECES = ["hello", " the", "\n", "\n\n", "  ", "'s", "é", "你", "😀", "<|im_end|>", "User:"]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join).filter(str.strip)


def make(family: str | None, checkpoint: Checkpoint) -> ChatTemplate:
    source = (DATA / f"{family}.jinja").read_text() if family else None
    return ChatTemplate(source, checkpoint.tokenizer, VARIABLES)


def written_by_model(text: str, checkpoint: Checkpoint) -> ChatMessage:
    """A reply in tokens of a character each, not those that the tokenizer would choose."""
    token_ids = [token_id for char in text for token_id in checkpoint.tokenizer.encode(char)]
    return ChatMessage("assistant", text, tuple(token_ids))


def spell(tokenizer: Tokenizer, token_ids: list[int], place: range) -> str:
    return b"".join(tokenizer.token_bytes(token_ids[i]) for i in place).decode(errors="replace")


@pytest.mark.parametrize("family", [None, *FAMILIES])
@settings(deadline=None, max_examples=100)
@given(texts=st.lists(TEXTS, min_size=3, max_size=6), written=st.booleans(), system=st.booleans())
def test_a_place_has_the_tokens_of_its_message_and_no_others(
    default_checkpoint: Checkpoint, family: str | None, texts: list[str], written: bool, system: bool
) -> None:
    """Each text is made one that comes once in the prompt, so that its tokens can be told."""
    template, tokenizer = make(family, default_checkpoint), default_checkpoint.tokenizer
    texts = [f"{text}q{i}{text}" for i, text in enumerate(texts[: len(texts) - 1 + len(texts) % 2])]
    messages = [ChatMessage("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
    if written:
        messages[1::2] = [written_by_model(message.content.strip(), default_checkpoint) for message in messages[1::2]]
    if system:
        messages.insert(0, ChatMessage("system", "Be  brief. "))
    token_ids, places = template.encode_and_locate(messages)
    assert token_ids == template.encode(messages)
    for message, place in zip(messages, places, strict=True):
        content = message.content.strip()
        assert content in spell(tokenizer, token_ids, place)
        assert content not in spell(tokenizer, token_ids, place[1:])
        assert content not in spell(tokenizer, token_ids, place[:-1])


@pytest.mark.parametrize("family", [None, *FAMILIES])
def test_messages_that_were_joined_have_a_place_each(default_checkpoint: Checkpoint, family: str | None) -> None:
    template, tokenizer = make(family, default_checkpoint), default_checkpoint.tokenizer
    texts = ["\n be brief ", "  hello\n", "the cat", "hello", "hello", "the cat"]
    system, one, two, reply, three, four = map(
        ChatMessage, ["system", *["user"] * 2, "assistant", *["user"] * 2], texts
    )
    token_ids, places = template.encode_and_locate([system, one.join(two), reply, three.join(four)])
    spelled = [spell(tokenizer, token_ids, place).strip() for place in places]
    assert spelled == [text.strip() for text in texts]


def test_of_a_reply_with_thoughts_only_what_the_template_writes_has_a_place(default_checkpoint: Checkpoint) -> None:
    template, tokenizer = make("qwen3", default_checkpoint), default_checkpoint.tokenizer
    question, reply = ChatMessage("user", "hello"), ChatMessage("assistant", "<think>\nhm\n</think>\n\nhello")
    token_ids, places = template.encode_and_locate([question, reply, question])
    spelled = [spell(tokenizer, token_ids, place) for place in places]
    assert spelled == ["hello", "hello", "hello"]
    assert places[0].stop < places[1].start < places[2].start


def test_what_the_template_does_not_write_has_no_place(tiny_checkpoint: Checkpoint) -> None:
    template = ChatTemplate("{{ messages[-1].content }}", tiny_checkpoint.tokenizer, {})
    messages = [ChatMessage("user", "hello"), ChatMessage("user", "the"), ChatMessage("user", " ")]
    assert template.encode_and_locate(messages[:2])[1] == [range(0), range(2)]
    assert template.encode_and_locate(messages)[1] == [range(0)] * 3


def test_what_the_template_writes_twice_is_from_the_first_to_the_last(tiny_checkpoint: Checkpoint) -> None:
    template = ChatTemplate("<{{ messages[0].content }}-{{ messages[0].content }}>", tiny_checkpoint.tokenizer, {})
    assert template.encode_and_locate([ChatMessage("user", "hello")])[1] == [range(1, 4)]


def test_a_text_that_the_tokenizer_composes_is_found(tiny_checkpoint: Checkpoint) -> None:
    vocabulary = tiny_checkpoint.tokenizer.vocabulary
    tokenizer = Tokenizer(replace(vocabulary, pre_tokenizer=replace(vocabulary.pre_tokenizer, normal_forms=("NFC",))))
    template = ChatTemplate(tiny_checkpoint.chat_template.source, tokenizer, {})
    messages = [ChatMessage("user", "e\u0301" * 5), ChatMessage("user", "the"), ChatMessage("user", "\ud800")]
    token_ids, places = template.encode_and_locate(messages)
    assert [spell(tokenizer, token_ids, place) for place in places] == ["é" * 5, "the", "\ufffd"]
