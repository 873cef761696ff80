"""Parley's own format with a chain of hashes, by which a changed, missing, moved or added line is found.

A line ends in `"hash"`, the SHA-256 of all its bytes before that field, and has in `"previous"` the hash of the line
before. A last line without a conversation counts them and closes the chain, so that a file that is cut off is found
too. It is no signature: who can write the whole file anew can close a new chain. The closing hash stands for all of
the file; kept elsewhere, it proves that too.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from chat.errors import ChatError
from chat.formats.archive import ArchivedConversation
from chat.formats.parley import VERSION

_LINE = re.compile(
    rb'(?P<hashed>\{"format":"parley","version":\d+,"previous":(?:null|"(?P<previous>[0-9a-f]{64})"),'
    rb'"(?P<kind>conversations?)":.*),"hash":"(?P<hash>[0-9a-f]{64})"\}\n',
    re.DOTALL,
)


class ChainMissing(ChatError):
    """No line of the file has a hash."""

    def __init__(self) -> None:
        super().__init__("expected a chain of hashes, as `parley export --chain` writes, found none")


class ChainBroken(ChatError):
    """The text names the first line that does not hold."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"line {number}: {reason}")


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that holds."""

    n_conversations: int
    hash: str  # of its closing line


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[bytes]:
    """Yield a line for each conversation, and the one that closes the chain."""
    previous: str | None = None
    n_conversations = 0
    for conversation in conversations:
        line, previous = _linked({"previous": previous, "conversation": conversation})
        n_conversations += 1
        yield line
    yield _linked({"previous": previous, "conversations": n_conversations})[0]


def verify(lines: Iterable[bytes]) -> Chain:
    """Return the chain of a file's lines; raises ChainBroken, ChainMissing."""
    lines = iter(lines)
    previous, n_conversations, is_closed, number = None, 0, False, 0
    for number, line in enumerate(lines, start=1):
        link = _LINE.fullmatch(line)
        if link is None and number == 1 and not any(map(_LINE.fullmatch, lines)):
            break
        if fault := _fault(link, previous, is_closed):
            raise ChainBroken(number, fault)
        assert link is not None, "a line without a hash is a fault"
        previous, is_closed = link["hash"], link["kind"] == b"conversations"
        n_conversations += not is_closed
    if previous is None:
        raise ChainMissing
    if not is_closed:
        raise ChainBroken(number + 1, "the line that closes the chain is missing, and maybe others before it")
    return Chain(n_conversations, previous.decode())


def _fault(link: re.Match[bytes] | None, previous: bytes | None, is_closed: bool) -> str | None:
    if link is None:
        return "it has no hash at its end, or another layout"
    if is_closed:
        return "it comes after the line that closes the chain"
    if hashlib.sha256(link["hashed"]).hexdigest().encode() != link["hash"]:
        return "it was changed: its hash is not that of its content"
    if link["previous"] != previous:
        return "it does not follow the line before: one is missing, or was added or moved"
    return None


def _linked(fields: dict[str, object]) -> tuple[bytes, str]:
    """Return a line with its hash at its end, and the hash."""
    line = json.dumps({"format": "parley", "version": VERSION, **fields}, ensure_ascii=False, separators=(",", ":"))
    hashed = line.removesuffix("}").encode()
    digest = hashlib.sha256(hashed).hexdigest()
    return hashed + f',"hash":"{digest}"}}\n'.encode(), digest
