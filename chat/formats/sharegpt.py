"""ShareGPT, the layout of many training sets: an array of conversations, each a list of {"from", "value"}.

It holds one branch, the shown one, and nothing but its texts; it is read with the speakers system, human or user, and
gpt, chatgpt, assistant or model. What tools say and are told is left out and reported.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from chat.errors import Unreadable
from chat.formats.archive import ArchivedConversation
from chat.formats.foreign import (
    UNKNOWN_TIME,
    Losses,
    expect_array,
    expect_object,
    imported_message,
    items_of,
    linear_conversation,
    read_each,
    shortened,
)
from chat.formats.json_array import write_array
from chat.formats.linear import chat_messages, shown_path
from storage.tables import Role

_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
_ROLES: Mapping[str, Role | None] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": None,
    "function_call": None,
    "observation": None,
}


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
    """Yield the text of a file with the shown branch of each conversation that has one."""
    return write_array(_written(conversation) for conversation in conversations if conversation["messages"])


def read(value: object, place: str, skipped: list[str]) -> Iterator[ArchivedConversation]:
    """Yield the conversations of a parsed file; raises Unreadable."""
    return read_each(items_of(value, place), skipped, _read)


def _written(conversation: ArchivedConversation) -> dict[str, Any]:
    messages = chat_messages(conversation, shown_path(conversation))
    turns = [{"from": _SPEAKERS[message["role"]], "value": message["content"]} for message in messages]
    return {"id": conversation["id"], "conversations": turns}


def _read(item: Mapping[str, Any], place: str, losses: Losses) -> ArchivedConversation:
    messages = []
    for number, turn in enumerate(expect_array(item.get("conversations"), f"{place}.conversations")):
        where = f"{place}.conversations[{number}]"
        turn = expect_object(turn, where)
        speaker, text = turn.get("from"), turn.get("value")
        if not isinstance(speaker, str) or speaker not in _ROLES:
            raise Unreadable(f"{where}.from", f"expected one of {', '.join(_ROLES)}, got {shortened(speaker)}")
        role = _ROLES[speaker]
        if role is None:
            losses["messages of and to tools left out"] += 1
        elif not isinstance(text, str):
            raise Unreadable(f"{where}.value", f"expected a text, got {shortened(text)}")
        else:
            messages.append(imported_message(role, text, UNKNOWN_TIME))
    return linear_conversation(item.get("id"), messages, place)
