"""The chats that Open WebUI exports and imports: an array of rows, each with a tree of messages.

Read: rows with a `chat`, the older layout in which the chat is the row, and the oldest one, whose messages are a list.
The roles tool and function, messages without text, and files are left out and reported.

Written: what its import takes. The system prompt becomes the chat's `params.system`, a rating the `annotation` of its
message. Its clock has whole seconds; it calls a chat without a title New Chat, and shows a system message that stands
between others like a reply. It has no place for pinned messages, presets, sampling parameters, token ids, counts and
durations, nor for how a reply ended.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from chat.errors import Unreadable
from chat.formats.archive import ArchivedConversation, ArchivedFeedback, ArchivedMessage
from chat.formats.foreign import (
    UNKNOWN_TIME,
    Losses,
    Node,
    expect_array,
    expect_object,
    expect_parent,
    expect_role,
    imported_conversation,
    imported_message,
    items_of,
    placed_in_tree,
    read_each,
    read_time,
    seconds_of,
    shortened,
    shown_leaf,
    text_of,
    text_or_none,
)
from chat.formats.json_array import write_array
from chat.formats.linear import shown_path
from storage.tables import new_id

UNTITLED = "New Chat"
_FIRST_MILLISECONDS = 10**11  # March 1973; as seconds, the year 5138


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
    """Yield the text of a file for Open WebUI's import."""
    return write_array(map(_written, conversations))


def read(value: object, place: str, skipped: list[str]) -> Iterator[ArchivedConversation]:
    """Yield the conversations of a parsed export; raises Unreadable."""
    return read_each(items_of(value, place), skipped, _read)


def _read(row: Mapping[str, Any], place: str, losses: Losses) -> ArchivedConversation:
    chat = expect_object(row["chat"], f"{place}.chat") if "chat" in row else row
    if "history" not in chat and "messages" not in chat:
        raise Unreadable(place, "expected a chat with a history or messages, found neither")
    title = row.get("title", chat.get("title"))
    params = expect_object(chat.get("params") or {}, f"{place}.params")
    created_at = read_time(_seconds(row, chat), UNKNOWN_TIME, losses)
    history = expect_object(chat.get("history") or {}, f"{place}.history")
    values = history.get("messages") or _chain(expect_array(chat.get("messages") or [], f"{place}.messages"), place)
    nodes = {
        node_id: _read_node(node, f"{place}.messages[{shortened(node_id)}]", created_at, losses)
        for node_id, node in expect_object(values, f"{place}.history.messages").items()
    }
    messages = placed_in_tree(nodes, f"{place}.messages")
    return imported_conversation(
        row.get("id"),
        None if title == UNTITLED else title,
        list(messages.values()),
        place,
        created_at=created_at,
        updated_at=read_time(row.get("updated_at"), created_at, losses),
        active_leaf_id=shown_leaf(nodes, messages, history.get("currentId"), losses),
        system_prompt=text_or_none(params.get("system")) or text_or_none(chat.get("system")),
        pinned=row.get("pinned") is True,
        archived=row.get("archived") is True,
    )


def _seconds(row: Mapping[str, Any], chat: Mapping[str, Any]) -> object:
    """Return when a chat began; the `timestamp` of most chats counts milliseconds."""
    timestamp = chat.get("timestamp")
    if row.get("created_at") is not None or not isinstance(timestamp, int | float):
        return row.get("created_at")
    return timestamp // 1000 if timestamp >= _FIRST_MILLISECONDS else timestamp


def _chain(values: list[Any], place: str) -> dict[str, dict[str, Any]]:
    """Return the messages of the oldest layout as those of a tree: each after the one before."""
    chain: dict[str, dict[str, Any]] = {}
    last_id = None
    for number, value in enumerate(values):
        message = expect_object(value, f"{place}.messages[{number}]")
        message_id = text_or_none(message.get("id")) or new_id()
        if message_id in chain:
            raise Unreadable(
                f"{place}.messages[{number}].id", f"expected another one, got {shortened(message_id)} again"
            )
        chain[message_id] = {**message, "parentId": last_id, "childrenIds": []}
        last_id = message_id
    return chain


def _read_node(value: object, place: str, created_at: str, losses: Losses) -> Node:
    message = expect_object(value, place)
    return Node(
        parent_id=expect_parent(message.get("parentId"), f"{place}.parentId"),
        child_ids=expect_array(message.get("childrenIds") or [], f"{place}.childrenIds"),
        message=_read_message(message, place, created_at, losses),
    )


def _read_message(message: Mapping[str, Any], place: str, created_at: str, losses: Losses) -> ArchivedMessage | None:
    text = text_of(message.get("content"), losses)
    if text is None or message.get("role") is None:
        losses["messages without text or role left out"] += 1
        return None
    role = expect_role(message["role"], f"{place}.role")
    if role is None:
        losses["messages of tools left out"] += 1
        return None
    losses["images and other attachments left out"] += bool(message.get("files"))
    time = read_time(message.get("timestamp"), created_at, losses)
    annotation = expect_object(message.get("annotation") or {}, f"{place}.annotation")
    imported = imported_message(role, text, time, text_or_none(message.get("model")) or None)
    return {**imported, "feedback": _read_feedback(annotation, time)}


def _read_feedback(annotation: Mapping[str, Any], time: str) -> ArchivedFeedback | None:
    given, comment = annotation.get("rating"), text_or_none(annotation.get("comment")) or None
    rating: Literal[-1, 1] | None = 1 if given == 1 else -1 if given == -1 else None
    if rating is None and comment is None:
        return None
    return {"rating": rating, "comment": comment, "created_at": time, "updated_at": time}


def _written(conversation: ArchivedConversation) -> dict[str, Any]:
    title, system_prompt = conversation["title"], conversation["system_prompt"]
    created_at, updated_at = int(seconds_of(conversation["created_at"])), int(seconds_of(conversation["updated_at"]))
    children: dict[str | None, list[str]] = {}
    for message in conversation["messages"]:
        children.setdefault(message["parent_id"], []).append(message["id"])
    messages = {
        message["id"]: _written_message(message, children.get(message["id"], []))
        for message in conversation["messages"]
    }
    return {
        "id": conversation["id"],
        "user_id": "",
        "title": UNTITLED if title is None else title,
        "chat": {
            "id": "",
            "title": UNTITLED if title is None else title,
            "models": [conversation["model"]] if conversation["model"] else [],
            "params": {"system": system_prompt} if system_prompt else {},
            "options": {},
            "history": {"currentId": conversation["active_leaf_id"], "messages": messages},
            "messages": [messages[message["id"]] for message in shown_path(conversation)],
            "tags": [],
            "timestamp": created_at * 1000,
            "files": [],
        },
        "meta": {},
        "pinned": conversation["pinned"],
        "archived": conversation["archived"],
        "folder_id": None,
        "share_id": None,
        "created_at": created_at,
        "updated_at": updated_at,
    }


def _written_message(message: ArchivedMessage, child_ids: list[str]) -> dict[str, Any]:
    written: dict[str, Any] = {
        "id": message["id"],
        "parentId": message["parent_id"],
        "childrenIds": child_ids,
        "role": message["role"],
        "content": message["content"],
        "timestamp": int(seconds_of(message["created_at"])),
    }
    if message["role"] != "user":
        model = message["model"] or ""
        written |= {"model": model, "modelName": model, "modelIdx": 0, "done": True}
    if feedback := message["feedback"]:
        written["annotation"] = {"rating": feedback["rating"], "comment": feedback["comment"] or ""}
    return written
