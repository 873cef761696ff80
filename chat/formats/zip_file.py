"""Zip files: with a file for each conversation, or as the data export of ChatGPT.

Nothing is unpacked to a disk and no name is used as a path. Sizes that a zip file claims are not believed: what is
counted is what comes out.
"""

import re
import struct
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import chain
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo
from zlib import error as ZlibError

import regex

from chat.errors import Unreadable
from chat.formats.archive import ArchivedConversation
from chat.formats.sink import Sink

MAX_UNPACKED_BYTES = 256 * 2**20  # of a file in a zip file: it is held in memory
MAX_TOTAL_BYTES = 4 * 2**30  # of all of them
_CHUNK_BYTES = 2**20
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
    parts = (conversation["created_at"][:10], _slug(conversation["title"] or ""), _slug(conversation["id"]))
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


def _slug(text: str) -> str:
    """Return the letters and digits of a text with hyphens between them: at most 80 bytes."""
    slug: str = _APART.sub("-", unicodedata.normalize("NFKC", text)).strip("-")
    return slug.encode()[:80].decode(errors="ignore").strip("-")


def read_zip(file: BinaryIO, place: str) -> Iterator[tuple[str, str]]:
    """Yield the place and text of each `conversations.json` or else, without one, of each file that may be readable.

    None is further down than a folder. Raises Unreadable.
    """
    try:
        with ZipFile(file) as archive:
            entries = _wanted(archive.infolist(), _CHATGPT) or _wanted(archive.infolist(), _READABLE)
            if not entries:
                raise Unreadable(place, "expected a file of conversations in the zip file, found none")
            n_left = MAX_TOTAL_BYTES
            for entry in entries:
                content = _unpack(archive, entry, n_left, place)
                n_left -= len(content)
                yield f"{place}: {entry.filename}", content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(place, f"expected UTF-8, found something else ({error.reason} at {error.start})") from None
    except (BadZipFile, ZlibError, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise Unreadable(place, f"expected a zip file that can be unpacked ({error})") from None


def _wanted(entries: Iterable[ZipInfo], name: re.Pattern[str]) -> list[ZipInfo]:
    return sorted((entry for entry in entries if name.fullmatch(entry.filename)), key=lambda entry: entry.filename)


def _unpack(archive: ZipFile, entry: ZipInfo, n_left: int, place: str) -> bytearray:
    if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise Unreadable(place, f"expected deflated entries, got compression method {entry.compress_type}")
    content = bytearray()
    with archive.open(entry) as unpacked:
        while chunk := unpacked.read(_CHUNK_BYTES):
            content += chunk
            if len(content) > MAX_UNPACKED_BYTES:
                raise Unreadable(place, f"expected at most {MAX_UNPACKED_BYTES:,} bytes of conversations, found more")
            if len(content) > n_left:
                raise Unreadable(
                    place, f"expected at most {MAX_TOTAL_BYTES:,} bytes of conversations in all, found more"
                )
    return content
