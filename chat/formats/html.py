"""One HTML page: read offline, with all branches and a search, and imported again.

The page asks for nothing, and its policy lets nothing run but its own script. Each conversation stands there twice: as
text, all of whose messages are there and those of the shown branch are seen, and below it as a line of Parley's own
format in a block that no browser runs. transcript.html is the template.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from chat.errors import Unreadable
from chat.formats.archive import ArchivedConversation, ArchivedMessage
from chat.formats.linear import shown_path
from chat.formats.parley import read as read_lines
from chat.formats.parley import write as write_lines

FOLDER = Path(__file__).parent
MARK = '<meta name="generator" content="Parley">'
BLOCK = '<script type="application/json">'
ENDS = {
    "stopped": "Stopped.",
    "interrupted": "Interrupted: Parley was ended while it wrote this.",
    "error": "An error ended this reply.",
}
LENGTH_END = "The reply reached its limit of tokens."
EMPTY_END = "The model gave no answer."
RATINGS = {1: "rated good", -1: "rated bad"}

_FENCED = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)\n(?P<code>.*?)(?:^ {0,3}(?P=fence)[`~]*[ \t]*(?:\n|\Z)|\Z)",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text: a fenced block of code, or what is between two of them."""

    text: str
    is_code: bool = False
    language: str = ""


@dataclass(frozen=True, slots=True)
class MessageView:
    """A message as the template shows it."""

    role: str
    parent: int | str  # the parent's place in the conversation, or nothing
    is_shown: bool
    version: int  # which one this is of the messages in its place, from 1
    n_versions: int
    created_at: str
    facts: list[str]
    pieces: list[Piece]
    end: str | None  # how it ended, if not by itself
    comment: list[Piece]


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation as the template shows it."""

    number: int
    title: str
    created_at: str
    facts: list[str]
    system_prompt: list[Piece]
    messages: list[MessageView]
    json: Markup  # the line that is imported again


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
    """Yield a page, piece by piece."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["source"] = _source
    style, script = (Markup((FOLDER / f"transcript.{suffix}").read_text("utf-8")) for suffix in ("css", "js"))
    views = (_conversation(number, conversation) for number, conversation in enumerate(conversations, start=1))
    yield from environment.get_template("transcript.html").generate(conversations=views, style=style, script=script)


def read(lines: Iterable[str]) -> Iterator[ArchivedConversation]:
    """Yield the conversations of a page's lines; raises Unreadable, which names the line."""
    yield from read_lines(_blocks(lines))


def _blocks(lines: Iterable[str]) -> Iterator[str]:
    """Yield a line for each line of a page: what stands in its block, or nothing."""
    is_ours, last = False, ""
    for line in lines:
        is_ours = is_ours or MARK in line
        yield line.partition(BLOCK)[2].partition("</script>")[0] if is_ours else ""
        last = line.strip() or last
    if not is_ours:
        raise Unreadable("page", "expected one that Parley wrote")
    if not last.endswith("</html>"):
        raise Unreadable("page", "expected </html> at its end: the rest is missing")


def _conversation(number: int, conversation: ArchivedConversation) -> ConversationView:
    messages = conversation["messages"]
    n_messages = f"{len(messages)} message{'' if len(messages) == 1 else 's'}"
    facts = (n_messages, conversation["model"], "pinned" if conversation["pinned"] else None)
    [line] = write_lines([conversation])
    return ConversationView(
        number=number,
        title=conversation["title"] or "Untitled",
        created_at=conversation["created_at"],
        facts=[fact for fact in facts if fact],
        system_prompt=_pieces(conversation["system_prompt"] or ""),
        messages=_messages(conversation),
        json=Markup(line.rstrip("\n").replace("<", r"\u003c")),  # so that nothing in it can end the block
    )


def _messages(conversation: ArchivedConversation) -> list[MessageView]:
    messages = conversation["messages"]
    places = {message["id"]: place for place, message in enumerate(messages)}
    n_versions = Counter(message["parent_id"] for message in messages)
    versions = {parent_id: count(1) for parent_id in n_versions}
    branch = {message["id"] for message in shown_path(conversation)}
    return [
        MessageView(
            role=message["role"],
            parent=places[message["parent_id"]] if message["parent_id"] is not None else "",
            is_shown=message["id"] in branch,
            version=next(versions[message["parent_id"]]),
            n_versions=n_versions[message["parent_id"]],
            created_at=message["created_at"],
            facts=_facts(message),
            pieces=_pieces(message["content"]),
            end=_end(message),
            comment=_pieces((message["feedback"] and message["feedback"]["comment"]) or ""),
        )
        for message in messages
    ]


def _facts(message: ArchivedMessage) -> list[str]:
    rating = message["feedback"] and message["feedback"]["rating"]
    facts = (message["model"], "pinned" if message["pinned"] else None, RATINGS[rating] if rating else None)
    return [fact for fact in facts if fact]


def _end(message: ArchivedMessage) -> str | None:
    end = ENDS.get(message["status"])
    if message["finish_reason"] == "length":
        end = LENGTH_END
    elif message["role"] == "assistant" and message["status"] == "complete" and not message["content"]:
        end = EMPTY_END
    return " ".join(filter(None, (end, message["error"]))) or None


def _pieces(text: str) -> list[Piece]:
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # as browsers do
    pieces, end = [], 0
    for block in _FENCED.finditer(text):
        pieces += [Piece(text[end : block.start()]), Piece(block["code"], is_code=True, language=block["info"].strip())]
        end = block.end()
    return [piece for piece in (*pieces, Piece(text[end:])) if piece.is_code or piece.text]


def _visible(value: object) -> object:
    """Return what is shown of a value: HTML cannot hold NUL."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _source(text: str) -> Markup:
    """Return how a content security policy names an inline script or style."""
    return Markup(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
