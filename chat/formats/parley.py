"""Parley's own format, which loses nothing: JSON Lines, a conversation in each.

A line is {"format": "parley", "version": 1, "conversation": …}; `conversation` follows the schema of
`ArchivedConversation`. Lines stand on their own, so files can be cut and joined, and are read and written one by one.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from chat.errors import Unreadable
from chat.formats.archive import ArchivedConversation, archive_schema, check
from chat.formats.json_text import load_json

VERSION = 1


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
    """Yield a line for each conversation."""
    for conversation in conversations:
        line = {"format": "parley", "version": VERSION, "conversation": conversation}
        yield json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"


def read(lines: Iterable[str]) -> Iterator[ArchivedConversation]:
    """Yield the conversations of lines; raises Unreadable, which names the line."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _read(line, f"line {number}")


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a line."""
    conversation = archive_schema()
    definitions = conversation.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A conversation of Parley, version {VERSION}",
        "type": "object",
        "required": ["format", "version", "conversation"],
        "additionalProperties": False,
        "properties": {
            "format": {"const": "parley"},
            "version": {"const": VERSION},
            "conversation": conversation,
        },
        "$defs": definitions,
    }


def _read(line: str, place: str) -> ArchivedConversation:
    value = load_json(line, place)
    if not isinstance(value, dict) or value.get("format") != "parley":
        raise Unreadable(place, 'expected an object with "format": "parley"')
    if value.get("version") != VERSION:
        raise Unreadable(place, f"version: expected {VERSION}, got {value.get('version')!r}")
    return check(value.get("conversation"), place)
