"""Conversations of other programs become archived ones: what all readers of foreign formats share.

What these programs keep beyond conversations (images, tools, hidden messages) is left out and counted in `Losses`; a
tree that is none, and values of a wrong kind, are refused.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast, get_args

from chat.errors import Unreadable
from chat.formats.archive import ArchivedConversation, ArchivedMessage, check, spell_time
from storage.tables import Role, new_id

# Of what a file tells no time for: always the same, so that a file that is read twice gives the same conversations.
UNKNOWN_TIME = "1970-01-01T00:00:00.000000Z"
END_OF_TIME = 253_402_300_800  # seconds from 1970 to the year 10000, which datetime cannot hold
MAX_ID_CHARS = 200

Losses = Counter[str]  # how often something of a conversation was left out or replaced, by what it is


@dataclass(frozen=True, slots=True)
class Node:
    """A place in a foreign tree; without a message it is left out, and its children go to its parent."""

    parent_id: str | None
    child_ids: Sequence[object]  # in the order in which they are shown; parent_id says whose they are
    message: ArchivedMessage | None


def read_each(
    items: Iterable[tuple[str, object]],
    skipped: list[str],
    read_one: Callable[[dict[str, Any], str, Losses], ArchivedConversation],
) -> Iterator[ArchivedConversation]:
    """Yield what is read of (place, object) pairs, but for conversations without messages.

    `skipped` gets a line for each kind of loss. Raises Unreadable.
    """
    for place, item in items:
        losses = Losses()
        conversation = read_one(expect_object(item, place), place, losses)
        if conversation["messages"]:
            yield conversation
        else:
            skipped.append(without_messages(conversation, place))
        name = _name(conversation, place)
        skipped.extend(f"{name}: {what} ({count})" for what, count in losses.items() if count)


def without_messages(conversation: ArchivedConversation, place: str) -> str:
    """Return the line that a report has on a conversation without messages."""
    return f"{_name(conversation, place)}: left out, since it has no messages (1)"


def _name(conversation: ArchivedConversation, place: str) -> str:
    return " ".join((conversation["title"] or place).split())[:60]


def items_of(value: object, place: str) -> Iterator[tuple[str, object]]:
    """Yield the items of a JSON array, each after its place; raises Unreadable."""
    for number, item in enumerate(expect_array(value, place)):
        yield f"{place}[{number}]", item


def expect_object(value: object, place: str) -> dict[str, Any]:
    """Return a JSON object as it is; raises Unreadable."""
    if not isinstance(value, dict):
        raise Unreadable(place, f"expected an object, got {shortened(value)}")
    return value


def expect_array(value: object, place: str) -> list[Any]:
    """Return a JSON array as it is; raises Unreadable."""
    if not isinstance(value, list):
        raise Unreadable(place, f"expected an array, got {shortened(value)}")
    return value


def expect_parent(value: object, place: str) -> str | None:
    """Return the id of a message's parent, or nothing for a root; raises Unreadable."""
    if value is not None and not isinstance(value, str):
        raise Unreadable(place, f"expected the id of a parent, got {shortened(value)}")
    return value


def shortened(value: object) -> str:
    """Return how a message of an error shows a value."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def text_or_none(value: object) -> str | None:
    """Return a text as it is, and nothing for anything else."""
    return value if isinstance(value, str) else None


def text_of(content: object, losses: Losses) -> str | None:
    """Return the text of a content as OpenAI's API spells it, a text or a list of parts; None if it is neither."""
    if not isinstance(content, list):
        return text_or_none(content)
    texts = [part["text"] if isinstance(part, dict) and "text" in part else part for part in content]
    texts = [text for text in texts if isinstance(text, str)]
    losses["images and other attachments left out"] += len(content) - len(texts)
    return "\n".join(texts)


def read_time(seconds: object, fallback: str, losses: Losses) -> str:
    """Return seconds since 1970 as archived times are spelled; without any, or with absurd ones, the fallback."""
    if seconds is None:
        return fallback
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < END_OF_TIME:
        losses["times out of range replaced by the conversation's"] += 1
        return fallback
    return spell_time(datetime.fromtimestamp(seconds, UTC))


def seconds_of(time: str) -> float:
    """Return an archived time as seconds since 1970."""
    return datetime.fromisoformat(time).timestamp()


def expect_role(value: object, place: str) -> Role | None:
    """Return the role of a message, or nothing for that of a tool; raises Unreadable."""
    if value in ("tool", "function"):
        return None
    for role in get_args(Role):
        if value == role:
            return cast(Role, role)
    raise Unreadable(place, f"expected user, assistant, system or tool, got {shortened(value)}")


def imported_message(role: Role, content: str, created_at: str, model: str | None = None) -> ArchivedMessage:
    """Return a message that has all its fields, but no place in a conversation yet."""
    return {
        "id": new_id(),
        "parent_id": None,
        "seq": 0,
        "role": role,
        "content": content,
        "origin": "imported",
        "origin_id": None,
        "status": "complete",
        "finish_reason": None,
        "error": None,
        "model": model,
        "model_digest": None,
        "params": None,
        "seed": None,
        "token_ids": None,
        "prompt_shared": None,
        "prompt_ids": None,
        "ledger": None,
        "prompt_tokens": None,
        "cached_tokens": None,
        "completion_tokens": None,
        "ttft_ms": None,
        "duration_ms": None,
        "pinned": False,
        "created_at": created_at,
        "feedback": None,
    }


def placed_in_tree(nodes: Mapping[str, Node], place: str) -> dict[str, ArchivedMessage]:
    """Return the messages of a tree by the ids of their nodes, parents before children and siblings as they are shown.

    Ids stay if they fit. Raises Unreadable for a parent that is not there and for a cycle.
    """
    kept: dict[str, ArchivedMessage] = {}
    children = _children(nodes, place)
    waiting: list[tuple[str, str | None]] = [(root, None) for root in reversed(children.get(None, []))]
    n_seen = 0
    while waiting:
        node_id, parent_id = waiting.pop()
        n_seen += 1
        message = nodes[node_id].message
        if message is not None:
            own_id = node_id if 0 < len(node_id) <= MAX_ID_CHARS else message["id"]
            kept[node_id] = {**message, "id": own_id, "parent_id": parent_id, "seq": len(kept) + 1}
            parent_id = own_id
        waiting.extend((child, parent_id) for child in reversed(children.get(node_id, [])))
    if n_seen < len(nodes):
        raise Unreadable(place, f"expected a tree, found a cycle or what hangs on one ({len(nodes) - n_seen} messages)")
    return kept


def shown_leaf(
    nodes: Mapping[str, Node], messages: Mapping[str, ArchivedMessage], current: object, losses: Losses
) -> str | None:
    """Return the id of the message that the file shows last, or of its nearest ancestor that was kept."""
    node_id = text_or_none(current)
    if node_id is not None and node_id not in nodes:
        node_id = None
        losses["shown message not in the file, its last one shown instead"] += 1
    while node_id is not None and node_id not in messages:
        node_id = nodes[node_id].parent_id
    if node_id is not None:
        return messages[node_id]["id"]
    return next((message["id"] for message in reversed(list(messages.values()))), None)


def imported_conversation(
    conversation_id: object,
    title: object,
    messages: Sequence[ArchivedMessage],
    place: str,
    *,
    created_at: str,
    updated_at: str | None = None,
    active_leaf_id: str | None = None,
    system_prompt: str | None = None,
    pinned: bool = False,
    archived: bool = False,
) -> ArchivedConversation:
    """Return a conversation that shows its last message if no other is named; raises Unreadable."""
    title = text_or_none(title)
    fits = isinstance(conversation_id, str) and 0 < len(conversation_id) <= MAX_ID_CHARS
    conversation = {
        "id": conversation_id if fits else new_id(),
        "channel": "import",
        "site_id": None,
        "visitor_id": None,
        "visitor_name": None,
        "title": title,
        "title_source": None if title is None else "import",
        "preset": None,
        "system_prompt": system_prompt,
        "recap": False,
        "params": None,
        "model": None,  # theirs cannot answer here
        "active_leaf_id": active_leaf_id or (messages[-1]["id"] if messages else None),
        "pinned": pinned,
        "archived": archived,
        "created_at": created_at,
        "updated_at": updated_at or created_at,
        "messages": list(messages),
    }
    return check(conversation, place)


def linear_conversation(
    conversation_id: object, messages: Sequence[ArchivedMessage], place: str
) -> ArchivedConversation:
    """Return a conversation of one branch, whose first message is its system prompt if it is the system's."""
    is_prompted = bool(messages) and messages[0]["role"] == "system"
    branch: list[ArchivedMessage] = []
    for seq, message in enumerate(messages[is_prompted:], start=1):
        branch.append({**message, "seq": seq, "parent_id": branch[-1]["id"] if branch else None})
    system_prompt = messages[0]["content"] or None if is_prompted else None
    return imported_conversation(
        conversation_id, None, branch, place, created_at=UNKNOWN_TIME, system_prompt=system_prompt
    )


def _children(nodes: Mapping[str, Node], place: str) -> dict[str | None, list[str]]:
    children: dict[str | None, list[str]] = {}
    for node_id, node in nodes.items():
        if node.parent_id is not None and node.parent_id not in nodes:
            reason = f"expected a parent in the file, got {shortened(node.parent_id)}"
            raise Unreadable(f"{place}: {shortened(node_id)}", reason)
        children.setdefault(node.parent_id, []).append(node_id)
    return {parent_id: _in_order(siblings, parent_id, nodes) for parent_id, siblings in children.items()}


def _in_order(siblings: list[str], parent_id: str | None, nodes: Mapping[str, Node]) -> list[str]:
    """Return siblings as their parent lists them, those that it does not list last."""
    if parent_id is None:
        return siblings
    listed = nodes[parent_id].child_ids
    numbers = {child_id: number for number, child_id in enumerate(listed) if isinstance(child_id, str)}
    return sorted(siblings, key=lambda sibling: numbers.get(sibling, len(listed)))
