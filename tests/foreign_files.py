"""What the tests of foreign formats share: the shape of a tree, and any JSON in any place of a file."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

from chat.errors import Unreadable
from chat.formats.archive import ArchivedConversation, ArchivedMessage, check

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def shape(messages: Sequence[ArchivedMessage]) -> list[tuple[str | None, str, str, str]]:
    """What a tree says: parent, id, role and text of each message, siblings in their order."""
    children: dict[str | None, list[ArchivedMessage]] = {}
    for message in messages:
        children.setdefault(message["parent_id"], []).append(message)
    told: list[tuple[str | None, str, str, str]] = []
    waiting = children.get(None, [])[::-1]
    while waiting:
        message = waiting.pop()
        told.append((message["parent_id"], message["id"], message["role"], message["content"]))
        waiting.extend(children.get(message["id"], [])[::-1])
    return told


def places(value: Any) -> Iterator[list[Any]]:
    """Yield the way to each value inside a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield [key]
        yield from ([key, *rest] for rest in places(inner))


def replaced(value: Any, place: Sequence[Any], new: object) -> None:
    """Put something else into a place."""
    *where, last = place
    for key in where:
        value = value[key]
    value[last] = new


def refusal(conversations: Iterable[ArchivedConversation]) -> str:
    """Return why conversations were refused while they were read; nothing if all of them are some."""
    try:
        for conversation in conversations:
            check(conversation, "x")
    except Unreadable as refused:
        return str(refused)
    return ""
