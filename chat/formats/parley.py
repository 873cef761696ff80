"""Parley's own format, which loses nothing: JSON Lines, a conversation in each.

A line is {"format": "parley", "version": 3, "conversation": …}; `conversation` follows the schema of
`ArchivedConversation`. Lines stand on their own, so files can be cut and joined, and are read and written one by one.
Versions 1 and 2, which lack some fields of `LATER`, are read as well. A chain (chain.py) is read as a whole, if it
holds.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from chat.errors import Unreadable
from chat.formats.archive import LATER, LATER_IN_MESSAGES, VERSION, ArchivedConversation, archive_schema, check
from chat.formats.chain import Verifier, is_link
from chat.formats.json_text import dump_json, load_json

_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
    """Yield a line for each conversation."""
    for conversation in conversations:
        line = {"format": "parley", "version": VERSION, "conversation": conversation}
        yield dump_json(line) + "\n"


def read(lines: Iterable[str]) -> Iterator[ArchivedConversation]:
    """Yield the conversations of lines; raises Unreadable, which names the line, also where a chain does not hold."""
    chain: Verifier | None = None
    is_first, number = True, 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        value = load_json(line, place)
        if is_link(value) and chain is None:
            if not is_first:
                raise Unreadable(place, "it has a hash, and lines before it have none")
            chain = Verifier()
        if chain is not None and (fault := chain.take(line.encode())):
            raise Unreadable(place, fault)
        is_first = False
        yield from _read(value, place)
    if chain is not None and (fault := chain.missing_end()):
        raise Unreadable(f"line {number + 1}", fault)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a line."""
    conversation = archive_schema()
    definitions = conversation.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A line of a file of Parley, version {VERSION}",
        "type": "object",
        "required": ["format", "version"],
        "additionalProperties": False,
        "properties": {
            "format": {"const": "parley"},
            "version": {"const": VERSION},
            "previous": {
                "anyOf": [_HASH, {"type": "null"}],
                "description": "In a chain: the hash of the line before; null in the first line.",
            },
            "conversation": conversation,
            "conversations": {
                "type": "integer",
                "minimum": 0,
                "description": "In the last line of a chain, in place of a conversation: how many there are.",
            },
            "hash": {
                **_HASH,
                "description": 'In a chain, the last field: the SHA-256 of the bytes of the line before `,"hash":`.',
            },
        },
        "oneOf": [{"required": ["conversation"]}, {"required": ["previous", "conversations", "hash"]}],
        "dependentRequired": {"previous": ["hash"], "hash": ["previous"]},
        "$defs": definitions,
    }


def _read(value: object, place: str) -> Iterator[ArchivedConversation]:
    if not isinstance(value, dict) or value.get("format") != "parley":
        raise Unreadable(place, 'expected an object with "format": "parley"')
    version = value.get("version")
    if version not in range(1, VERSION + 1):
        raise Unreadable(place, f"version: expected 1 to {VERSION}, got {version!r}")
    if "conversation" in value or "conversations" not in value:  # which closes a chain
        conversation = value.get("conversation")
        yield check(_with_later_fields(conversation) if version != VERSION else conversation, place)


def _with_later_fields(conversation: object) -> object:
    """Return what a line of an earlier version holds with the fields that came later."""
    if not isinstance(conversation, dict) or not isinstance(messages := conversation.get("messages"), list):
        return conversation  # which `check` refuses
    messages = [{**LATER_IN_MESSAGES, **message} if isinstance(message, dict) else message for message in messages]
    return {**LATER, **conversation, "messages": messages}
