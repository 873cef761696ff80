"""A data export of ChatGPT comes in with all its branches, and what goes out comes back."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archives import conversations
from foreign_files import JSON, places, refusal, replaced, shape
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.errors import Unreadable
from chat.formats import chatgpt
from chat.formats.archive import ArchivedConversation, check
from chat.imports import Importer
from storage.archive import ArchiveStore
from storage.conversations import ConversationStore
from storage.database import Database

EXPORT = Path(__file__).parent / "data" / "chatgpt_export.json"


def export() -> list[dict[str, Any]]:
    value: list[dict[str, Any]] = json.loads(EXPORT.read_text(encoding="utf-8"))
    return value


def read(value: object) -> list[ArchivedConversation]:
    return list(chatgpt.read(value, "conversations.json", []))


@settings(deadline=None)
@given(conversation=conversations())
def test_what_is_written_is_read_as_the_same_tree(conversation: ArchivedConversation) -> None:
    for message in conversation["messages"]:  # ChatGPT begins its trees with blank system messages, which say nothing
        if message["role"] == "system" and not message["content"].strip():
            message["content"] = "Be brief."
    skipped: list[str] = []
    value = json.loads("".join(chatgpt.write([conversation])))
    came = list(chatgpt.read(value, "x", skipped))
    if not conversation["messages"]:
        assert came == []
        assert "no messages" in skipped[0]
        return
    [back] = came
    assert check(back, "x") == back
    assert skipped == []
    assert shape(back["messages"]) == shape(conversation["messages"])
    for field in ("id", "title", "active_leaf_id", "created_at", "updated_at"):
        assert back[field] == conversation[field]
    assert (back["system_prompt"] or None) == (conversation["system_prompt"] or None)
    times = {message["id"]: (message["created_at"], message["model"] or None) for message in conversation["messages"]}
    assert {message["id"]: (message["created_at"], message["model"]) for message in back["messages"]} == times


def test_several_conversations_make_one_array() -> None:
    value = export()
    assert json.loads("".join(chatgpt.write(read([value[0], value[0]])))) == 2 * json.loads(
        "".join(chatgpt.write(read(value)))
    )
    assert json.loads("".join(chatgpt.write([]))) == []


def test_an_export_keeps_its_side_branches_and_tells_what_it_lost() -> None:
    skipped: list[str] = []
    [conversation] = chatgpt.read(export(), "conversations.json", skipped)
    assert shape(conversation["messages"]) == [
        (None, "u1", "user", "What is the capital of Iceland?"),
        ("u1", "a1", "assistant", "Reykjavík."),
        ("a1", "u2", "user", "How many people live there?"),
        ("u2", "a2", "assistant", "About 140 000."),
        ("u1", "a1b", "assistant", "Reykjavik!"),
    ]
    assert conversation["active_leaf_id"] == "a2"
    assert [message["model"] for message in conversation["messages"]] == [None, "gpt-4", None, "gpt-4", "gpt-4o"]
    assert conversation["messages"][1]["created_at"] == "2023-11-14T22:13:22.250000Z"
    assert conversation["messages"][2]["created_at"] == conversation["created_at"] == "2023-11-14T22:13:20.120000Z"
    assert sorted(skipped) == [
        "Iceland: images and other attachments left out (1)",
        "Iceland: messages of and to tools left out (2)",
        "Iceland: messages of the type 'thoughts' left out (1)",
        "Iceland: messages of the type 'user_editable_context' left out (1)",
    ]


def test_an_export_is_stored_once(database: Database, store: ConversationStore) -> None:
    importer = Importer(ArchiveStore(database))
    report = importer.run("ada", read(export()))
    assert (report.conversations, report.messages, report.branches) == (1, 5, 1)
    assert importer.run("ada", read(export())).conversations == 0
    [row] = store.recent("ada")
    assert [message.content for message in store.path("ada", row.id)][-1] == "About 140 000."


def test_a_hidden_message_that_says_something_is_reported() -> None:
    value, skipped = export(), list[str]()
    value[0]["mapping"]["a1b"]["message"]["metadata"]["is_visually_hidden_from_conversation"] = True
    list(chatgpt.read(value, "x", skipped))
    assert "Iceland: hidden messages left out (1)" in skipped


def test_the_nearest_message_that_stays_is_shown_for_one_that_does_not() -> None:
    value = export()
    value[0]["current_node"] = "th1"
    [conversation] = read(value)
    assert conversation["active_leaf_id"] == "u2"


@pytest.mark.parametrize("current", ["nowhere", 5, ["a2"]])
def test_the_last_message_is_shown_where_the_file_names_none_of_its_own(current: object) -> None:
    value = export()
    value[0]["current_node"] = current
    [conversation] = read(value)
    assert conversation["active_leaf_id"] == "a1b"


@pytest.mark.parametrize("time", [-1, 1e300, 10**400, "2024-01-01", True, 1700000000000, float("inf")])
def test_a_time_out_of_range_becomes_the_conversation_s_and_is_reported(time: object) -> None:
    value, skipped = export(), list[str]()
    value[0]["mapping"]["u1"]["message"]["create_time"] = time
    [conversation] = chatgpt.read(value, "x", skipped)
    assert conversation["messages"][0]["created_at"] == conversation["created_at"]
    assert "Iceland: times out of range replaced by the conversation's (1)" in skipped


def test_the_last_moment_of_the_year_9999_is_a_time() -> None:
    value = export()
    value[0]["update_time"] = math.nextafter(253_402_300_800, 0)
    [conversation] = read(value)
    assert conversation["updated_at"].startswith("9999-12-31T23:59:59.99")


def test_a_branch_as_long_as_one_likes_is_read() -> None:
    nodes = {
        str(number): {
            "parent": str(number - 1) if number else None,
            "children": [str(number + 1)],
            "message": {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["x"]}},
        }
        for number in range(20_000)
    }
    [conversation] = read([{"mapping": nodes}])
    assert len(conversation["messages"]) == 20_000


def test_ids_that_do_not_fit_are_replaced() -> None:
    value = json.loads(EXPORT.read_text(encoding="utf-8").replace('"u1"', f'"{"u" * 201}"'))
    [conversation] = read(value)
    first, second = conversation["messages"][:2]
    assert len(first["id"]) == 32
    assert second["parent_id"] == first["id"]


def changed(path: str, new: object) -> Callable[[Any], None]:
    """A function that sets a field of the export's conversation, named like mapping.u1.parent."""

    def change(conversation: Any) -> None:
        *where, last = path.split(".")
        for part in where:
            conversation = conversation[part]
        conversation[last] = new

    return change


BAD = {
    "an orphan": (changed("mapping.u1.parent", "gone"), "'u1': expected a parent in the file, got 'gone'"),
    "a cycle": (changed("mapping.u1.parent", "a1"), "expected a tree, found a cycle or what hangs on one (8 messages)"),
    "its own parent": (changed("mapping.u1.parent", "u1"), "expected a tree, found a cycle"),
    "a parent that is a number": (changed("mapping.u1.parent", 5), "parent: expected the id of a parent, got 5"),
    "an unknown role": (
        changed("mapping.u1.message.author.role", "king"),
        "author.role: expected user, assistant, system or tool, got 'king'",
    ),
    "a role that is a list": (changed("mapping.u1.message.author.role", [1]), "got an array"),
    "no author": (changed("mapping.u1.message.author", None), "author: expected an object, got None"),
    "a mapping that is a list": (changed("mapping", []), "mapping: expected an object, got an array"),
    "a node that is a text": (changed("mapping.u1", "x"), "expected an object, got 'x'"),
    "a message that is a number": (changed("mapping.u1.message", 5), "message: expected an object, got 5"),
    "children that are an object": (changed("mapping.u1.children", {"a": 1}), "children: expected an array"),
    "content that is a text": (changed("mapping.u1.message.content", "Hi"), "content: expected an object, got 'Hi'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_export_is_refused_with_place_and_reason(name: str) -> None:
    change, reason = BAD[name]
    value = export()
    change(value[0])
    with pytest.raises(Unreadable) as refused:
        read(value)
    assert str(refused.value).startswith("conversations.json[0]")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@given(data=st.data())
def test_no_value_of_json_in_any_place_makes_it_stumble(data: st.DataObject) -> None:
    value = export()
    path = data.draw(st.sampled_from(list(places(value))))
    replaced(value, path, data.draw(JSON))
    assert "\n" not in refusal(chatgpt.read(value, "x", []))
