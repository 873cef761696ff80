"""Which of two replies to the same message its owner prefers: what training by DPO needs.

An edit that is not rated -1 is preferred to what it edits; else a reply rated 1 to one that is not; else the shown one,
if it is not rated, to one rated -1. Replies without text, and the same text twice, make no pair.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations

from chat.formats.archive import ArchivedConversation, ArchivedMessage
from chat.formats.linear import ChatMessage, by_id, chat_messages, path_to, shown_path


@dataclass(frozen=True, slots=True)
class Preference:
    """A better and a worse reply to a prompt, which ends with a message of the user."""

    prompt: list[ChatMessage]
    better: ChatMessage
    worse: ChatMessage


def preferences(conversations: Iterable[ArchivedConversation]) -> Iterator[Preference]:
    """Yield all pairs that there are in conversations."""
    for conversation in conversations:
        messages = by_id(conversation)
        for better, worse in _pairs(conversation, messages):
            prompt = chat_messages(conversation, path_to(messages, better["parent_id"]))
            yield Preference(prompt, _reply(better), _reply(worse))


def _reply(message: ArchivedMessage) -> ChatMessage:
    return {"role": "assistant", "content": message["content"]}


def _pairs(
    conversation: ArchivedConversation, messages: Mapping[str, ArchivedMessage]
) -> Iterator[tuple[ArchivedMessage, ArchivedMessage]]:
    shown = {message["id"] for message in shown_path(conversation)}
    replies: dict[str, list[ArchivedMessage]] = {}
    for message in messages.values():
        parent_id = message["parent_id"]
        if message["role"] == "assistant" and parent_id is not None and messages[parent_id]["role"] == "user":
            replies.setdefault(parent_id, []).append(message)
    for siblings in replies.values():
        for reply, other in permutations(siblings, 2):
            have_texts = reply["content"].strip() and other["content"].strip()
            if (
                have_texts
                and reply["content"] != other["content"]
                and _is_preferred(reply, other, reply["id"] in shown)
            ):
                yield reply, other


def _is_preferred(reply: ArchivedMessage, other: ArchivedMessage, is_shown: bool) -> bool:
    if _is_edit(reply, other) or _is_edit(other, reply):
        edit = reply if _is_edit(reply, other) else other
        if _rating(edit) != -1:
            return edit is reply
    if _rating(reply) == 1 or _rating(other) == 1:
        return _rating(reply) == 1 and _rating(other) != 1
    return is_shown and _rating(reply) is None and _rating(other) == -1


def _is_edit(message: ArchivedMessage, other: ArchivedMessage) -> bool:
    return message["origin"] == "edited" and message["origin_id"] == other["id"]


def _rating(message: ArchivedMessage) -> int | None:
    feedback = message["feedback"]
    return feedback["rating"] if feedback else None
