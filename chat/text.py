"""The border that every text of a user crosses, whatever face it came through."""

import re

from chat.errors import BlankMessage, MessageTooLong

MAX_CHARS = 1_000_000  # checked before anything tokenizes the text

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Return the text as it can be stored and encoded everywhere.

    Lone surrogates become U+FFFD, NUL goes, and lines end in a newline. Nothing else is touched.
    """
    text = _LONE_SURROGATE.sub("\ufffd", text).replace("\0", "")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_message(text: str) -> str:
    """Return a user's message cleaned; raises BlankMessage or MessageTooLong."""
    if len(text) > MAX_CHARS:
        raise MessageTooLong(len(text), MAX_CHARS, "characters")
    text = clean(text)
    if not text.strip():
        raise BlankMessage
    return text
