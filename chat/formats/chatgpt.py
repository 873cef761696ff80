"""The data export of ChatGPT, `conversations.json`: an array of conversations, each a tree of nodes.

Read: texts of users, assistants and visible system messages with all their branches. Left out and reported: hidden
messages, tools with what was sent to them, thoughts, images; their children go to the nearest message above.

Written: what the export has for such messages. It has no place for ratings, comments, pins, presets, sampling
parameters, token ids, counts and durations, and knows of the end of a reply only whether it was reached. The system
prompt becomes a system message above all others.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from chat.formats.archive import ArchivedConversation, ArchivedMessage
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

_SPOKEN = ("text", "multimodal_text", "code")


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
    """Yield the text of a `conversations.json`."""
    return write_array(map(_written, conversations))


def read(value: object, place: str, skipped: list[str]) -> Iterator[ArchivedConversation]:
    """Yield the conversations of a parsed `conversations.json`; raises Unreadable."""
    return read_each(items_of(value, place), skipped, _read)


def _read(item: Mapping[str, Any], place: str, losses: Losses) -> ArchivedConversation:
    mapping = expect_object(item.get("mapping"), f"{place}.mapping")
    system_prompt = next(filter(None, map(_system_prompt, mapping.values())), None)
    created_at = read_time(item.get("create_time"), UNKNOWN_TIME, losses)
    nodes = {
        node_id: _read_node(node, f"{place}.mapping[{shortened(node_id)}]", created_at, losses)
        for node_id, node in mapping.items()
    }
    messages = placed_in_tree(nodes, f"{place}.mapping")
    return imported_conversation(
        item.get("conversation_id") or item.get("id"),
        item.get("title"),
        list(messages.values()),
        place,
        created_at=created_at,
        updated_at=read_time(item.get("update_time"), created_at, losses),
        active_leaf_id=shown_leaf(nodes, messages, item.get("current_node"), losses),
        system_prompt=system_prompt,
    )


def _read_node(value: object, place: str, created_at: str, losses: Losses) -> Node:
    node = expect_object(value, place)
    is_left_out = node.get("message") is None or _system_prompt(node) is not None
    return Node(
        parent_id=expect_parent(node.get("parent"), f"{place}.parent"),
        child_ids=expect_array(node.get("children") or [], f"{place}.children"),
        message=None if is_left_out else _read_message(node["message"], f"{place}.message", created_at, losses),
    )


def _read_message(value: object, place: str, created_at: str, losses: Losses) -> ArchivedMessage | None:
    message = expect_object(value, place)
    author = expect_object(message.get("author"), f"{place}.author")
    role = expect_role(author.get("role"), f"{place}.author.role")
    metadata = expect_object(message.get("metadata") or {}, f"{place}.metadata")
    content = expect_object(message.get("content"), f"{place}.content")
    kind = content.get("content_type")
    if role is None or message.get("recipient") not in (None, "all"):
        losses["messages of and to tools left out"] += 1
    elif kind not in _SPOKEN:
        losses[f"messages of the type {shortened(kind)} left out"] += 1
    else:
        text = text_of(content.get("text") if kind == "code" else content.get("parts"), losses) or ""
        if not (metadata.get("is_visually_hidden_from_conversation") or role == "system" and not text.strip()):
            time = read_time(message.get("create_time"), created_at, losses)
            return imported_message(role, text, time, text_or_none(metadata.get("model_slug")))
        losses["hidden messages left out"] += bool(text.strip())  # most exports begin with an empty one
    return None


def _system_prompt(node: object) -> str | None:
    """Return the text of the message that `write` makes of a system prompt; None for any other node."""
    match node:
        case {"message": {"metadata": {"is_user_system_message": True}, "content": {"parts": [str(text)]}}}:
            return text
    return None


def _written(conversation: ArchivedConversation) -> dict[str, Any]:
    messages, system_prompt = conversation["messages"], conversation["system_prompt"]
    taken = {message["id"] for message in messages}
    root_id, system_id = _free("client-created-root", taken), _free("system-prompt", taken)
    top_id = system_id if system_prompt else root_id
    children: dict[str, list[str]] = {}
    for message in messages:
        children.setdefault(message["parent_id"] or top_id, []).append(message["id"])
    mapping = {root_id: _node(root_id, None, [system_id] if system_prompt else children.get(top_id, []), None)}
    if system_prompt:
        prompt = imported_message("system", system_prompt, conversation["created_at"])
        written = _written_message({**prompt, "id": system_id}, {"is_user_system_message": True})
        mapping[system_id] = _node(system_id, root_id, children.get(system_id, []), written)
    for message in messages:
        metadata = {"model_slug": message["model"]} if message["model"] else {}
        mapping[message["id"]] = _node(
            message["id"],
            message["parent_id"] or top_id,
            children.get(message["id"], []),
            _written_message(message, metadata),
        )
    return {
        "title": conversation["title"],
        "create_time": seconds_of(conversation["created_at"]),
        "update_time": seconds_of(conversation["updated_at"]),
        "mapping": mapping,
        "moderation_results": [],
        "current_node": conversation["active_leaf_id"] or top_id,
        "conversation_id": conversation["id"],
        "id": conversation["id"],
    }


def _node(node_id: str, parent_id: str | None, child_ids: list[str], message: dict[str, Any] | None) -> dict[str, Any]:
    return {"id": node_id, "message": message, "parent": parent_id, "children": child_ids}


def _written_message(message: ArchivedMessage, metadata: Mapping[str, object]) -> dict[str, Any]:
    is_complete = message["status"] == "complete"
    return {
        "id": message["id"],
        "author": {"role": message["role"], "name": None, "metadata": {}},
        "create_time": seconds_of(message["created_at"]),
        "update_time": None,
        "content": {"content_type": "text", "parts": [message["content"]]},
        "status": "finished_successfully" if is_complete else "finished_partial_completion",
        "end_turn": is_complete if message["role"] == "assistant" else None,
        "weight": 1.0,
        "metadata": metadata,
        "recipient": "all",
    }


def _free(name: str, taken: Container[str]) -> str:
    while name in taken:
        name += "-"
    return name
