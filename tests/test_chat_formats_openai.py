"""Fine-tuning data holds the shown branch up to its last reply, and keeps bad replies from being trained on."""

import json
from typing import Any

import pytest
from archives import conversations
from foreign_files import JSON, places, refusal, replaced
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import Unreadable
from chat.formats import openai
from chat.formats.archive import ArchivedConversation
from chat.formats.linear import chat_messages, shown_path

LINE = {
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "{}", "tool_call_id": "1"},
        {"role": "assistant", "content": "Hello!", "weight": 0},
    ],
    "parallel_tool_calls": True,
}


def lines_of(conversation: ArchivedConversation) -> list[dict[str, Any]]:
    return [json.loads(line) for line in openai.write([conversation])]


def read(*values: object) -> list[ArchivedConversation]:
    return list(openai.read(map(json.dumps, values), []))


@given(conversation=conversations())
def test_a_line_is_the_shown_branch_to_its_last_reply(conversation: ArchivedConversation) -> None:
    path = shown_path(conversation)
    written = lines_of(conversation)
    if not any(message["role"] == "assistant" for message in path):
        assert written == []
        return
    [line] = written
    n_prompts = bool(conversation["system_prompt"])
    said = [(message["role"], message["content"]) for message in line["messages"][n_prompts:]]
    assert said == [(message["role"], message["content"]) for message in path[: len(said)]]
    assert said[-1][0] == "assistant"
    assert all(message["role"] != "assistant" for message in path[len(said) :])
    for message, original in zip(line["messages"][n_prompts:], path, strict=False):
        feedback = original["feedback"]
        expected = 0 if feedback and feedback["rating"] == -1 else 1
        assert message.get("weight") == (expected if message["role"] == "assistant" else None)


@given(conversation=conversations())
def test_what_is_written_is_read_as_it_was(conversation: ArchivedConversation) -> None:
    for line in openai.write([conversation]):
        [back] = openai.read([line], [])
        said = [(message["role"], message["content"]) for message in json.loads(line)["messages"]]
        if said[0] == ("system", ""):  # which is no system prompt
            said = said[1:]
        assert [(message["role"], message["content"]) for message in chat_messages(back, back["messages"])] == said


def test_tools_and_images_are_left_out_and_reported() -> None:
    skipped: list[str] = []
    [conversation] = openai.read(["\n", json.dumps(LINE)], skipped)
    assert conversation["system_prompt"] == "Be brief."
    assert [(message["role"], message["content"]) for message in conversation["messages"]] == [
        ("user", "Hi"),
        ("assistant", "Hello!"),
    ]
    assert [message["feedback"] for message in conversation["messages"]] == [None, None]
    assert sorted(skipped) == [
        "line 2: images and other attachments left out (1)",
        "line 2: messages of and to tools left out (2)",
    ]


BAD = {
    "no object": ("[]", "line 1: expected an object, got an array"),
    "no messages": ("{}", "line 1: messages: expected an array, got None"),
    "an unknown role": (
        '{"messages": [{"role": "king", "content": "x"}]}',
        "line 1: messages[0].role: expected user, assistant, system or tool, got 'king'",
    ),
    "brackets": ("[" * 1_000_000, "line 1: expected JSON of at most 100 levels, found more brackets in each other"),
    "a lone surrogate": (r'{"messages": [{"role": "user", "content": "\ud800"}]}', "line 1: expected whole characters"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_line_is_refused_with_place_and_reason(name: str) -> None:
    line, reason = BAD[name]
    with pytest.raises(Unreadable) as refused:
        list(openai.read([line], []))
    assert str(refused.value).startswith(reason)


@given(data=st.data())
def test_no_value_of_json_in_any_place_makes_it_stumble(data: st.DataObject) -> None:
    value = json.loads(json.dumps(LINE))
    replaced(value, data.draw(st.sampled_from(list(places(value)))), data.draw(JSON))
    assert "\n" not in refusal(openai.read([json.dumps(value)], []))
