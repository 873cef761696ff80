"""ShareGPT holds the shown branch, and is read with all the names that its speakers go by."""

import json

import pytest
from archives import conversations
from foreign_files import JSON, places, refusal, replaced
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import Unreadable
from chat.formats import sharegpt
from chat.formats.archive import ArchivedConversation, digest
from chat.formats.linear import chat_messages, shown_path

TURNS = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "Hi"},
    {"from": "function_call", "value": "{}"},
    {"from": "observation", "value": "{}"},
    {"from": "gpt", "value": "Hello!"},
    {"from": "user", "value": "Bye"},
    {"from": "chatgpt", "value": "Bye!"},
]


def read(value: object, skipped: list[str] | None = None) -> list[ArchivedConversation]:
    return list(sharegpt.read(value, "x.json", [] if skipped is None else skipped))


def spoken(conversation: ArchivedConversation) -> list[tuple[str, str]]:
    messages = chat_messages(conversation, shown_path(conversation))
    return [(message["role"], message["content"]) for message in messages]


@given(conversation=conversations())
def test_the_shown_branch_comes_back(conversation: ArchivedConversation) -> None:
    said = spoken(conversation)
    came = read(json.loads("".join(sharegpt.write([conversation]))))
    has_messages = [role for role, _ in said] not in ([], ["system"])
    if said[:1] == [("system", "")]:  # which is no system prompt
        said = said[1:]
    assert [spoken(back) for back in came] == ([said] if has_messages else [])
    assert [back["id"] for back in came] in ([], [conversation["id"]])


def test_all_names_of_speakers_are_known_and_tools_are_left_out() -> None:
    skipped: list[str] = []
    [conversation] = read([{"id": "c1", "conversations": TURNS}], skipped)
    assert conversation["id"] == "c1"
    assert conversation["system_prompt"] == "Be brief."
    assert [(message["role"], message["content"], message["seq"]) for message in conversation["messages"]] == [
        ("user", "Hi", 1),
        ("assistant", "Hello!", 2),
        ("user", "Bye", 3),
        ("assistant", "Bye!", 4),
    ]
    assert skipped == ["x.json[0]: messages of and to tools left out (2)"]


def test_a_file_says_the_same_whenever_it_is_read() -> None:
    [one], [other] = read([{"id": "c1", "conversations": TURNS}]), read([{"id": "c1", "conversations": TURNS}])
    assert digest(one) == digest(other)


def test_a_conversation_without_messages_is_left_out_and_reported() -> None:
    skipped: list[str] = []
    assert read([{"conversations": []}, {"conversations": TURNS[:1]}], skipped) == []
    assert skipped == [f"x.json[{number}]: left out, since it has no messages (1)" for number in range(2)]


BAD = {
    "an object": ({"conversations": []}, "x.json: expected an array, got an object"),
    "a list of numbers": ([1], "x.json[0]: expected an object, got 1"),
    "no turns": ([{}], "x.json[0].conversations: expected an array, got None"),
    "an unknown speaker": (
        [{"conversations": [{"from": "king", "value": "x"}]}],
        "x.json[0].conversations[0].from: expected one of system, human,",
    ),
    "a speaker that is a list": ([{"conversations": [{"from": [], "value": "x"}]}], "got an array"),
    "a text that is a number": (
        [{"conversations": [{"from": "gpt", "value": 5}]}],
        "x.json[0].conversations[0].value: expected a text, got 5",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_conversation_is_refused_with_place_and_reason(name: str) -> None:
    value, reason = BAD[name]
    with pytest.raises(Unreadable) as refused:
        read(value)
    assert reason in str(refused.value)


@given(data=st.data())
def test_no_value_of_json_in_any_place_makes_it_stumble(data: st.DataObject) -> None:
    value = json.loads(json.dumps([{"id": "c1", "conversations": TURNS}]))
    replaced(value, data.draw(st.sampled_from(list(places(value)))), data.draw(JSON))
    assert "\n" not in refusal(sharegpt.read(value, "x.json", []))
