"""CSV (RFC 4180): a row for each message of all branches, for spreadsheets.

A text that a spreadsheet could take for a formula gets an apostrophe in front: one that begins, after spaces, quotes
and control characters, with one of = + - @ in any width (CWE-1236). So the texts are not always those of the messages;
Parley's own format loses nothing. The file begins with a byte order mark, by which Excel knows UTF-8.
"""

import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator
from io import StringIO

from chat.formats.archive import ArchivedConversation, ArchivedMessage
from chat.formats.linear import shown_path

BYTE_ORDER_MARK = "\ufeff"
COLUMNS = (
    *("conversation_id", "conversation_title", "message_id", "parent_id", "is_shown", "seq", "role", "content"),
    *("created_at", "model", "status", "prompt_tokens", "completion_tokens", "finish_reason", "rating", "comment"),
)

_FORMULA = re.compile(r"[\s\"'\x00-\x1f\x7f\u200b-\u200f\ufeff]*[=+\-@]")


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
    """Yield the header and a row for each message."""
    yield BYTE_ORDER_MARK + _row(COLUMNS)
    for conversation in conversations:
        shown = {message["id"] for message in shown_path(conversation)}
        for message in conversation["messages"]:
            yield _row(_cells(conversation, message, is_shown=message["id"] in shown))


def harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    beginning = unicodedata.normalize("NFKC", text[:200])  # full-width signs count as well
    return f"'{text}" if _FORMULA.match(beginning) or text[:1] in ("\t", "\r") else text


def _cells(conversation: ArchivedConversation, message: ArchivedMessage, *, is_shown: bool) -> list[object]:
    opinion = message["feedback"]
    return [
        *(conversation["id"], conversation["title"], message["id"], message["parent_id"], int(is_shown)),
        *(message["seq"], message["role"], message["content"], message["created_at"], message["model"]),
        *(message["status"], message["prompt_tokens"], message["completion_tokens"], message["finish_reason"]),
        *((opinion["rating"], opinion["comment"]) if opinion else (None, None)),
    ]


def _row(cells: Iterable[object]) -> str:
    line = StringIO()
    csv.writer(line).writerow([harmless(cell) if isinstance(cell, str) else cell for cell in cells])
    return line.getvalue()
