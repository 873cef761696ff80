"""Markdown with a YAML header: the shown branch of each conversation, to read and to be imported again.

A message is a heading, a comment with its figures, and its text as it is; only a line that would look like one of the
headings, comments or separators gets a backslash in front. Values of the header and the comments are JSON, which is
YAML too. Other branches, sampling, token ids and feedback are left out.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from chat.errors import Unreadable
from chat.formats.archive import ArchivedConversation, ArchivedMessage, check
from chat.formats.foreign import UNKNOWN_TIME, imported_conversation, imported_message, without_messages
from chat.formats.json_text import dump_json, load_json
from chat.formats.linear import shown_path
from storage.tables import Role

BEGIN = "---"
NEXT = "<!-- next conversation -->"
HEADER = ("id", "title", "created_at", "updated_at", "model", "system_prompt")

_MARKED = re.compile(r"^(\\*)(## (?:User|Assistant|System)|<!-- (?:id:|next conversation).*)$", re.MULTILINE)

_ESCAPED = re.compile(rf"^\\(?={_MARKED.pattern[1:]})", re.MULTILINE)
_SECTION = re.compile(r"^## (User|Assistant|System)\n<!-- id: (.*) -->\n\n", re.MULTILINE)
_ROLES: dict[str, Role] = {"User": "user", "Assistant": "assistant", "System": "system"}


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
    """Yield each conversation as a document, with separators between them."""
    for number, conversation in enumerate(conversations):
        if number:
            yield f"\n{NEXT}\n"
        yield _header(conversation)
        for message in shown_path(conversation):
            yield _section(message)


def read(lines: Iterable[str], skipped: list[str]) -> Iterator[ArchivedConversation]:
    """Yield the conversations of lines, but for those without messages, of which `skipped` gets a line each.

    Raises Unreadable, which names the conversation by its number.
    """
    for number, document in enumerate(_documents(lines), start=1):
        conversation = _read(document, f"conversation {number}")
        if conversation["messages"]:
            yield conversation
        else:
            skipped.append(without_messages(conversation, f"conversation {number}"))


def _documents(lines: Iterable[str]) -> Iterator[str]:
    collected: list[str] = []
    for line in lines:
        if line.rstrip("\n") != NEXT:
            collected.append(line)
            continue
        yield "".join(collected).removesuffix("\n")
        collected.clear()
    yield "".join(collected)


def _header(conversation: ArchivedConversation) -> str:
    values: dict[str, Any] = dict(conversation)
    lines = [f"{name}: {dump_json(values[name])}" for name in HEADER]
    title = " ".join((conversation["title"] or "Untitled").split())
    return "\n".join([BEGIN, *lines, BEGIN, "", f"# {title}", ""])


def _section(message: ArchivedMessage) -> str:
    figures = [f"id: {_spell(message['id'])}", message["created_at"], message["status"]]
    if message["model"]:
        figures.append(f"model: {_spell(message['model'])}")
    text = _MARKED.sub(r"\\\g<0>", message["content"])
    return f"\n## {message['role'].capitalize()}\n<!-- {' · '.join(figures)} -->\n\n{text}\n"


def _spell(text: str) -> str:
    """Return a text as JSON that can end neither a comment nor one of its figures."""
    return json.dumps(text, ensure_ascii=True).replace(">", "\\u003e")


def _read(document: str, place: str) -> ArchivedConversation:
    sections = list(_SECTION.finditer(document))
    header = _read_header(document[: sections[0].start()] if sections else document, place)
    ends = [section.start() - 1 for section in sections[1:]] + [len(document)]
    messages: list[ArchivedMessage] = []
    for seq, (section, end) in enumerate(zip(sections, ends, strict=False), start=1):
        text = _ESCAPED.sub("", document[section.end() : end].removesuffix("\n"))
        message = _read_message(_ROLES[section[1]], text, section[2], f"{place}, message {seq}")
        messages.append({**message, "seq": seq, "parent_id": messages[-1]["id"] if messages else None})
    conversation = imported_conversation(
        header.get("id"),
        header.get("title"),
        messages,
        place,
        created_at=header.get("created_at", UNKNOWN_TIME),
        updated_at=header.get("updated_at"),
        system_prompt=header.get("system_prompt"),
    )
    return check({**conversation, "model": header.get("model")}, place)


def _read_header(text: str, place: str) -> dict[str, Any]:
    """Return the values of a header; a field that was taken out of it has none."""
    begin, *lines = text.lstrip("\n").split("\n")
    if begin != BEGIN or BEGIN not in lines:
        raise Unreadable(place, f"expected a header between two lines {BEGIN}")
    fields = [line.partition(": ") for line in lines[: lines.index(BEGIN)]]
    return {name: load_json(value, f"{place}, {name}") for name, _, value in fields}


def _read_message(role: Role, text: str, figures: str, place: str) -> ArchivedMessage:
    message_id, created_at, status, *rest = (*figures.split(" · "), "", "", "")
    model = load_json(rest[0].removeprefix("model: "), place) if rest[0] else None
    message = imported_message(role, text, created_at, model)
    if message_id.startswith('"'):  # older files have it as it is
        message_id = load_json(message_id, place)
    # both are checked with the conversation
    return {**message, "id": message_id, "status": status}  # type: ignore[typeddict-item]
