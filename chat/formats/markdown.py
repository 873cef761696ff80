"""Markdown with a YAML header: the shown branch of each conversation, to read.

A message is a heading, a comment with its figures, and its text as it is; only a line that would look like one of the
headings, comments or separators gets a backslash in front. Other branches, sampling, token ids and feedback are left
out.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from chat.formats.archive import ArchivedConversation, ArchivedMessage
from chat.formats.linear import shown_path

NEXT = "<!-- next conversation -->"
HEADER = ("id", "title", "created_at", "updated_at", "model", "system_prompt")

_MARKED = re.compile(r"^(\\*)(## (?:User|Assistant|System)|<!-- (?:id:|next conversation).*)$", re.MULTILINE)


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
    """Yield each conversation as a document, with separators between them."""
    for number, conversation in enumerate(conversations):
        if number:
            yield f"\n{NEXT}\n"
        yield _header(conversation)
        for message in shown_path(conversation):
            yield _section(message)


def _header(conversation: ArchivedConversation) -> str:
    values: dict[str, Any] = dict(conversation)
    lines = [f"{name}: {json.dumps(values[name], ensure_ascii=False)}" for name in HEADER]
    title = " ".join((conversation["title"] or "Untitled").split())
    return "\n".join(["---", *lines, "---", "", f"# {title}", ""])


def _section(message: ArchivedMessage) -> str:
    figures = [f"id: {message['id']}", message["created_at"], message["status"]]
    if message["model"]:
        figures.append(f"model: {json.dumps(message['model'], ensure_ascii=True)}")
    text = _MARKED.sub(r"\\\g<0>", message["content"])
    return f"\n## {message['role'].capitalize()}\n<!-- {' · '.join(figures)} -->\n\n{text}\n"
