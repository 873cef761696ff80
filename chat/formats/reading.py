"""Files of any format that can be read, known by what is in them and not by their names."""

import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TextIO

from chat.errors import Unreadable
from chat.formats.archive import ArchivedConversation
from chat.formats.chatgpt import read as read_chatgpt
from chat.formats.html import read as read_html
from chat.formats.json_text import load_json
from chat.formats.markdown import BEGIN as MARKDOWN_BEGIN
from chat.formats.markdown import read as read_markdown
from chat.formats.open_webui import read as read_open_webui
from chat.formats.openai import read as read_openai
from chat.formats.parley import read as read_parley
from chat.formats.sharegpt import read as read_sharegpt
from chat.formats.zip_file import read_zip, unpacking

MAX_LINE_CHARS = 128 * 2**20
"""Of a document, or of a line of JSON Lines: more is not taken into memory."""


def read_file(path: Path, skipped: list[str]) -> Iterator[ArchivedConversation]:
    """Yield the conversations of a file; `skipped` gets a line for whatever of them is left out.

    Raises Unreadable, whose text begins with the path; OSError.
    """
    try:
        if zipfile.is_zipfile(path):
            yield from _read_zip(path, skipped)
        else:
            with path.open(encoding="utf-8-sig", newline="\n") as file:
                yield from _read_text(file, skipped)
    except UnicodeDecodeError as error:
        raise Unreadable(str(path), f"expected UTF-8, found byte {error.object[error.start]:#04x}") from None
    except Unreadable as error:
        raise Unreadable(str(path), str(error)) from None


def _read_zip(path: Path, skipped: list[str]) -> Iterator[ArchivedConversation]:
    with path.open("rb") as file:
        for place, text in read_zip(file, "zip"):
            try:
                with unpacking("entry"):
                    yield from _read_text(text, skipped)
            except Unreadable as error:
                raise Unreadable(place, str(error)) from None


def _read_text(file: TextIO, skipped: list[str]) -> Iterator[ArchivedConversation]:
    first = next((line for line in _lines(file) if line.strip()), "")
    if not first:
        raise Unreadable("line 1", "expected conversations, found nothing")
    keys = _keys(first)
    if "format" in keys:
        yield from read_parley(chain([first], _lines(file)))
    elif first.lstrip().lower().startswith("<!doctype html"):
        yield from read_html(chain([first], _lines(file)))
    elif first.rstrip("\n") == MARKDOWN_BEGIN:
        yield from read_markdown(chain([first], _lines(file)), skipped)
    elif "messages" in keys and "id" not in keys:
        yield from read_openai(chain([first], _lines(file)), skipped)
    else:
        yield from _read_document(first + file.read(MAX_LINE_CHARS), skipped)


def _keys(line: str) -> set[str]:
    """Return the keys of a line that is a whole JSON object; none of any other."""
    try:
        value = load_json(line, "line 1")
    except Unreadable:
        return set()
    return set(value) if isinstance(value, dict) else set()


def _read_document(text: str, skipped: list[str]) -> Iterator[ArchivedConversation]:
    if len(text) >= MAX_LINE_CHARS:
        raise Unreadable("document", f"expected at most {MAX_LINE_CHARS:,} characters, found more")
    value = load_json(text, "document")
    items = value if isinstance(value, list) else [value]
    if not items:
        return iter(())
    first = items[0] if isinstance(items[0], dict) else {}
    if "mapping" in first:
        return read_chatgpt(items, "conversations", skipped)
    if "conversations" in first:
        return read_sharegpt(items, "conversations", skipped)
    if first.keys() & {"chat", "history", "messages"}:
        return read_open_webui(items, "conversations", skipped)
    raise Unreadable("document", "expected conversations of Parley, ChatGPT, Open WebUI, ShareGPT or OpenAI")


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(MAX_LINE_CHARS):
        if len(line) >= MAX_LINE_CHARS:
            raise Unreadable("a line", f"expected at most {MAX_LINE_CHARS:,} characters, found more")
        yield line
