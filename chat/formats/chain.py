"""Parley's own format with a chain of hashes, by which a changed, missing, moved or added line is found.

A line ends in `"hash"`, the SHA-256 of all its bytes before that field, and has in `"previous"` the hash of the line
before. A last line without a conversation counts them and closes the chain, so that a file that is cut off is found
too. It is no signature: who can write the whole file anew can close a new chain. The closing hash stands for all of
the file; kept elsewhere, it proves that too.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from chat.errors import ChatError, Unreadable
from chat.formats.archive import VERSION, ArchivedConversation
from chat.formats.json_text import dump_json, load_json

_LINE = re.compile(
    rb'(?P<hashed>\{"format":"parley","version":\d+,"previous":(?:null|"(?P<previous>[0-9a-f]{64})"),'
    rb'"(?P<kind>conversations?)":(?P<content>.*)),"hash":"(?P<hash>[0-9a-f]{64})"\}\n',
    re.DOTALL,
)
_FIELDS = ("previous", "conversations", "hash")  # that only the lines of a chain have


class ChainMissing(ChatError):
    """No line of the file has a field of a chain."""

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


class Verifier:
    """Takes the lines of a chain one after the other."""

    def __init__(self) -> None:
        self.n_conversations = 0
        self.hash: bytes | None = None  # of the last line
        self.is_closed = False

    def take(self, line: bytes) -> str | None:
        """Go on by a line; return what is wrong with it, if it does not hold."""
        link = _LINE.fullmatch(line)
        if link is None:
            return _fault_of_layout(line)
        if fault := self._fault(link):
            return fault
        self.hash, self.is_closed = link["hash"], _closes(link)
        self.n_conversations += not self.is_closed
        return None

    def missing_end(self) -> str | None:
        """Return what is wrong if no line comes any more."""
        return None if self.is_closed else "the line that closes the chain is missing, and maybe others before it"

    def _fault(self, link: re.Match[bytes]) -> str | None:
        if self.is_closed:
            return "it comes after the line that closes the chain"
        if hashlib.sha256(link["hashed"]).hexdigest().encode() != link["hash"]:
            return "it was changed: its hash is not that of its content"
        if link["previous"] != self.hash:
            return "it does not follow the line before: one is missing, or was added or moved"
        if _closes(link) and link["content"] != str(self.n_conversations).encode():
            return f"it closes a chain of another number of conversations than {self.n_conversations}"
        return None


def verify(lines: Iterable[bytes]) -> Chain:
    """Return the chain of a file's lines; raises ChainBroken, ChainMissing."""
    lines = iter(lines)
    chain, number = Verifier(), 0
    for number, line in enumerate(lines, start=1):
        if fault := chain.take(line):
            if number == 1 and not any(map(_may_be_link, itertools.chain([line], lines))):
                break
            raise ChainBroken(number, fault)
    if chain.hash is None:
        raise ChainMissing
    if fault := chain.missing_end():
        raise ChainBroken(number + 1, fault)
    return Chain(chain.n_conversations, chain.hash.decode())


def is_link(value: object) -> bool:
    """Whether a parsed line is, or was, one of a chain."""
    return isinstance(value, dict) and any(name in value for name in _FIELDS)


def _may_be_link(line: bytes) -> bool:
    if _LINE.fullmatch(line):
        return True
    try:
        return is_link(load_json(line.decode(), "line"))
    except (UnicodeDecodeError, Unreadable):
        return False


def _closes(link: re.Match[bytes]) -> bool:
    return link["kind"] == b"conversations"


def _fault_of_layout(line: bytes) -> str:
    if line.endswith(b"\r\n") and _LINE.fullmatch(line[:-2] + b"\n"):
        return "it ends in CRLF: another program changed the ends of lines, which a chain has as LF"
    return "it has no hash at its end, or another layout"


def _linked(fields: dict[str, object]) -> tuple[bytes, str]:
    """Return a line with its hash at its end, and the hash."""
    line = dump_json({"format": "parley", "version": VERSION, **fields})
    hashed = line.removesuffix("}").encode()
    digest = hashlib.sha256(hashed).hexdigest()
    return hashed + f',"hash":"{digest}"}}\n'.encode(), digest
