"""One branch of a conversation, for formats that know no others."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from chat.formats.archive import ArchivedConversation, ArchivedMessage


class ChatMessage(TypedDict):
    """A message as OpenAI's API and TRL write it."""

    role: str
    content: str


def by_id(conversation: ArchivedConversation) -> dict[str, ArchivedMessage]:
    """Return the messages of a conversation, by their ids."""
    return {message["id"]: message for message in conversation["messages"]}


def path_to(messages: Mapping[str, ArchivedMessage], message_id: str | None) -> list[ArchivedMessage]:
    """Return the messages from the beginning to one of them, with it; none if there is no id."""
    path = []
    while message_id is not None:
        path.append(messages[message_id])
        message_id = messages[message_id]["parent_id"]
    return path[::-1]


def shown_path(conversation: ArchivedConversation) -> list[ArchivedMessage]:
    """Return the branch that the owner sees."""
    return path_to(by_id(conversation), conversation["active_leaf_id"])


def chat_messages(conversation: ArchivedConversation, path: Sequence[ArchivedMessage]) -> list[ChatMessage]:
    """Return what a model reads on a path: the system prompt, if there is one, and then the messages."""
    messages = [ChatMessage(role=message["role"], content=message["content"]) for message in path]
    if conversation["system_prompt"]:
        messages.insert(0, ChatMessage(role="system", content=conversation["system_prompt"]))
    return messages
