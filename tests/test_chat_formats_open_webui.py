"""Chats of Open WebUI come in from all three layouts, and what goes out comes back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archives import conversations
from foreign_files import JSON, places, refusal, replaced, shape
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.errors import Unreadable
from chat.formats import open_webui
from chat.formats.archive import ArchivedConversation, check

EXPORT = Path(__file__).parent / "data" / "open_webui_export.json"


def export() -> list[dict[str, Any]]:
    value: list[dict[str, Any]] = json.loads(EXPORT.read_text(encoding="utf-8"))
    return value


def read(value: object) -> list[ArchivedConversation]:
    return list(open_webui.read(value, "chats.json", []))


@settings(deadline=None)
@given(conversation=conversations())
def test_what_is_written_is_read_as_the_same_tree(conversation: ArchivedConversation) -> None:
    skipped: list[str] = []
    value = json.loads("".join(open_webui.write([conversation])))
    came = list(open_webui.read(value, "x", skipped))
    if not conversation["messages"]:
        assert came == []
        assert "no messages" in skipped[0]
        return
    [back] = came
    assert check(back, "x") == back
    assert skipped == []
    assert shape(back["messages"]) == shape(conversation["messages"])
    assert back["title"] == (None if conversation["title"] == "New Chat" else conversation["title"])
    assert (back["system_prompt"] or None) == (conversation["system_prompt"] or None)
    for field in ("id", "active_leaf_id", "pinned", "archived"):
        assert back[field] == conversation[field]
    assert back["created_at"][:19] == conversation["created_at"][:19]
    assert back["updated_at"][:19] == conversation["updated_at"][:19]
    before = {message["id"]: message for message in conversation["messages"]}
    for message in back["messages"]:
        assert message["created_at"][:19] == before[message["id"]]["created_at"][:19]
        feedback, given = message["feedback"], before[message["id"]]["feedback"]
        assert (feedback["rating"] if feedback else None) == (given["rating"] if given else None)
        assert (feedback["comment"] if feedback else None) == ((given["comment"] or None) if given else None)


@given(conversation=conversations())
def test_a_row_is_what_the_import_takes(conversation: ArchivedConversation) -> None:
    [row] = json.loads("".join(open_webui.write([conversation])))
    assert isinstance(row["chat"]["title"], str)
    assert type(row["created_at"]) is type(row["updated_at"]) is int
    history = row["chat"]["history"]
    for message_id, message in history["messages"].items():
        assert message["id"] == message_id
        assert all(history["messages"][child]["parentId"] == message_id for child in message["childrenIds"])
    ids = [message["id"] for message in row["chat"]["messages"]]
    assert ids[-1:] == [history["currentId"]] * bool(ids)


def test_an_export_keeps_branches_models_ratings_and_the_system_prompt() -> None:
    skipped: list[str] = []
    conversation = next(open_webui.read(export(), "chats.json", skipped))
    assert shape(conversation["messages"]) == [
        (None, "u1", "user", "Hi"),
        ("u1", "a1", "assistant", "Hello!"),
        ("u1", "a2", "assistant", "Good day."),
        ("a2", "u2", "user", "See the picture"),
    ]
    assert conversation["active_leaf_id"] == "a2"
    assert (conversation["title"], conversation["system_prompt"]) == ("Greetings", "Be polite.")
    assert (conversation["pinned"], conversation["archived"]) == (True, False)
    assert [message["model"] for message in conversation["messages"]] == [None, "llama", "qwen", None]
    worse, better = conversation["messages"][1]["feedback"], conversation["messages"][2]["feedback"]
    assert worse is not None
    assert (worse["rating"], worse["comment"]) == (-1, "Too loud")
    assert better is not None
    assert (better["rating"], better["comment"]) == (1, None)


def test_the_report_tells_what_is_left_out() -> None:
    skipped: list[str] = []
    list(open_webui.read(export(), "chats.json", skipped))
    assert sorted(skipped) == [
        "Greetings: images and other attachments left out (1)",
        "Greetings: messages without text or role left out (1)",
        "Old: messages of tools left out (1)",
    ]


def test_a_chat_that_is_its_own_row_is_read() -> None:
    conversation = read(export())[1]
    assert [message["content"] for message in conversation["messages"]] == ["Hi", "Salut !"]
    assert (conversation["title"], conversation["system_prompt"]) == (None, "Answer in French.")
    assert conversation["created_at"] == "2023-07-22T04:26:40.000000Z"


def test_messages_that_are_a_list_are_one_branch() -> None:
    first, second = read(export())[2]["messages"]
    assert (first["content"], second["content"], second["parent_id"]) == ("1", "2", first["id"])
    assert first["created_at"] == "2023-07-22T04:26:40.000000Z"


def test_children_that_no_list_names_are_kept_last() -> None:
    value = export()[:1]
    value[0]["chat"]["history"]["messages"]["u1"]["childrenIds"] = ["gone", 5, "a2"]
    assert [message["id"] for message in read(value)[0]["messages"]] == ["u1", "a2", "u2", "a1"]


def changed(path: str, new: object) -> Callable[[Any], None]:
    """A function that sets a field of the first row, named like chat.history."""

    def change(row: Any) -> None:
        replaced(row, path.split("."), new)

    return change


MESSAGE = "chat.history.messages.u1"
TWICE = [{"id": "x", "role": "user", "content": "1"}, {"id": "x", "role": "assistant", "content": "2"}]
BAD = {
    "a chat that is null": (changed("chat", None), "[0].chat: expected an object, got None"),
    "a chat without messages": (changed("chat", {}), "[0]: expected a chat with a history or messages, found neither"),
    "an id twice": (changed("chat", {"messages": TWICE}), "[0].messages[1].id: expected another one, got 'x' again"),
    "messages that are a text": (changed("chat.history.messages", "x"), "history.messages: expected an object, got"),
    "an unknown role": (changed(f"{MESSAGE}.role", "king"), "messages['u1'].role: expected user, assistant, system"),
    "an orphan": (changed(f"{MESSAGE}.parentId", "gone"), "messages: 'u1': expected a parent in the file, got 'gone'"),
    "a cycle": (changed(f"{MESSAGE}.parentId", "u2"), "expected a tree, found a cycle or what hangs on one (5 mess"),
    "a parent that is a number": (changed(f"{MESSAGE}.parentId", 5), "expected the id of a parent, got 5"),
    "an annotation that is a number": (changed(f"{MESSAGE}.annotation", 5), "annotation: expected an object, got 5"),
    "params that are a list": (changed("chat.params", [1]), "params: expected an object, got an array"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_chat_is_refused_with_place_and_reason(name: str) -> None:
    change, reason = BAD[name]
    value = export()
    change(value[0])
    with pytest.raises(Unreadable) as refused:
        read(value)
    assert str(refused.value).startswith("chats.json[0]")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@given(data=st.data())
def test_no_value_of_json_in_any_place_makes_it_stumble(data: st.DataObject) -> None:
    value = export()
    replaced(value, data.draw(st.sampled_from(list(places(value)))), data.draw(JSON))
    assert "\n" not in refusal(open_webui.read(value, "x", []))
