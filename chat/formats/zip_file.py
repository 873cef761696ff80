"""Zip files: with a file for each conversation, or as the data export of ChatGPT.

Nothing is unpacked to a disk and no name is used as a path. What a zip file claims to hold is counted before anything
is read; `zipfile` gives out no more of an entry than it claims, and refuses one that has more.
"""

import re
import struct
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from io import TextIOWrapper
from itertools import chain
from typing import BinaryIO, TextIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo
from zlib import error as ZlibError

import regex

from chat.errors import Unreadable
from chat.formats.archive import ArchivedConversation
from chat.formats.sink import Sink

MAX_TOTAL_BYTES = 4 * 2**30  # of all files in a zip file that are read
_FOLDER = r"(?!__MACOSX/)(?:[^/\\]*[^./\\][^/\\]*/)?"  # at most one, and none that leads elsewhere
_CHATGPT = re.compile(_FOLDER + r"conversations(?:-\d+)?\.json")  # large exports are cut in numbered ones
_READABLE = re.compile(_FOLDER + r"[^./\\][^/\\]*\.(?:jsonl|json|html|md)")
_APART = regex.compile(r"[^\p{L}\p{M}\p{N}]+")
_FIRST_YEAR, _LAST_YEAR = 1980, 2107  # that a zip file can write

Write = Callable[[Iterable[ArchivedConversation]], Iterator[bytes]]


def write_zip(conversations: Iterable[ArchivedConversation], write: Write, suffix: str) -> Iterator[bytes]:
    """Yield a zip file with a file for each conversation, if a format has something to write of it."""
    sink, names = Sink(), set[str]()
    with ZipFile(sink, "w") as archive:
        for conversation in conversations:
            pieces = write([conversation])
            first = next(pieces, None)
            if first is None:
                continue
            with archive.open(_entry(conversation, names, suffix), "w") as entry:
                for piece in chain([first], pieces):
                    entry.write(piece)
                    yield sink.take()
    yield sink.take()


def _entry(conversation: ArchivedConversation, names: set[str], suffix: str) -> ZipInfo:
    """Return the entry of a conversation, under a name that no other has on any system, and add it to the names."""
    updated_at = datetime.fromisoformat(conversation["updated_at"])
    parts = (conversation["created_at"][:10], slug(conversation["title"] or ""), slug(conversation["id"]))
    stem = "-".join(filter(None, parts))
    name, number = stem, 1
    while _folded(name) in names:
        number += 1
        name = f"{stem}-{number}"
    names.add(_folded(name))
    year = min(max(updated_at.year, _FIRST_YEAR), _LAST_YEAR)
    entry = ZipInfo(name + suffix, (year, *updated_at.timetuple()[1:6]))
    entry.compress_type = ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    return entry


def _folded(name: str) -> str:
    """Return a name as those systems compare it that know neither cases nor forms of Unicode."""
    return unicodedata.normalize("NFKD", name.casefold())


def slug(text: str) -> str:
    """Return the letters and digits of a text with hyphens between them: at most 80 bytes."""
    name: str = _APART.sub("-", unicodedata.normalize("NFKC", text)).strip("-")
    return name.encode()[:80].decode(errors="ignore").strip("-")


def read_zip(file: BinaryIO, place: str) -> Iterator[tuple[str, TextIO]]:
    """Yield the place and text of each `conversations.json` or else, without one, of each file that may be readable.

    None is further down than a folder. A text is open until the next one is asked for, and to be read in `unpacking`.
    Raises Unreadable.
    """
    with unpacking(place), ZipFile(file) as archive:
        entries = _wanted(archive.infolist(), _CHATGPT) or _wanted(archive.infolist(), _READABLE)
        _check(entries, place)
        for entry in entries:
            with TextIOWrapper(archive.open(entry), "utf-8-sig", newline="\n") as text:
                yield f"{place}: {entry.filename}", text


@contextmanager
def unpacking(place: str) -> Iterator[None]:
    """Turn what a broken zip file raises while it is read into Unreadable."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise Unreadable(place, f"expected UTF-8, found something else ({error.reason} at {error.start})") from None
    except (BadZipFile, ZlibError, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise Unreadable(place, f"expected a zip file that can be unpacked ({error})") from None


def _wanted(entries: Iterable[ZipInfo], name: re.Pattern[str]) -> list[ZipInfo]:
    return sorted((entry for entry in entries if name.fullmatch(entry.filename)), key=lambda entry: entry.filename)


def _check(entries: Sequence[ZipInfo], place: str) -> None:
    if not entries:
        raise Unreadable(place, "expected a file of conversations in the zip file, found none")
    for entry in entries:
        if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise Unreadable(place, f"expected deflated entries, got compression method {entry.compress_type}")
    if sum(entry.file_size for entry in entries) > MAX_TOTAL_BYTES:
        raise Unreadable(place, f"expected at most {MAX_TOTAL_BYTES:,} bytes of conversations in all, found more")
