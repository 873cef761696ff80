"""OpenAI's fine-tuning data for chat models: JSON Lines, a conversation in each as {"messages": […]}.

It holds one branch, the shown one, up to its last reply; `weight` 0 keeps a reply that is rated -1 from being trained
on. A `weight` that is read makes no rating; tool calls, images and what is no message are left out and reported.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from chat.formats.archive import ArchivedConversation
from chat.formats.foreign import (
    UNKNOWN_TIME,
    Losses,
    expect_array,
    expect_object,
    expect_role,
    imported_message,
    linear_conversation,
    read_each,
    text_of,
)
from chat.formats.json_text import dump_json, load_json
from chat.formats.linear import chat_messages, shown_path


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
    """Yield a line for each conversation whose shown branch has a reply."""
    for conversation in conversations:
        path = shown_path(conversation)
        while path and path[-1]["role"] != "assistant":
            path.pop()
        if not path:
            continue
        messages: list[dict[str, object]] = [{**message} for message in chat_messages(conversation, path)]
        for written, message in zip(messages[-len(path) :], path, strict=True):
            if message["role"] == "assistant":
                feedback = message["feedback"]
                written["weight"] = 0 if feedback and feedback["rating"] == -1 else 1
        yield dump_json({"messages": messages}) + "\n"


def read(lines: Iterable[str], skipped: list[str]) -> Iterator[ArchivedConversation]:
    """Yield the conversations of lines; raises Unreadable, which names the line."""
    return read_each(_values(lines), skipped, _read)


def _values(lines: Iterable[str]) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"line {number}", load_json(line, f"line {number}")


def _read(item: Mapping[str, Any], place: str, losses: Losses) -> ArchivedConversation:
    messages = []
    for number, value in enumerate(expect_array(item.get("messages"), f"{place}: messages")):
        where = f"{place}: messages[{number}]"
        message = expect_object(value, where)
        given = message.get("role")
        role = expect_role("system" if given == "developer" else given, f"{where}.role")
        text = text_of(message.get("content"), losses)
        if role is None or text is None:
            losses["messages of and to tools left out"] += 1
        else:
            messages.append(imported_message(role, text, UNKNOWN_TIME))
    return linear_conversation(None, messages, place)
