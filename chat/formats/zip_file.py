"""The conversations in the zip file of a data export.

Nothing is unpacked to a disk and no name is used as a path. Sizes that a zip file claims are not believed: what is
counted is what comes out.
"""

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo
from zlib import error as ZlibError

from chat.errors import Unreadable

MAX_UNPACKED_BYTES = 256 * 2**20  # of all that is read from one file
_CHUNK_BYTES = 2**20
_NAME = re.compile(r"(?:[^/\\]*[^./\\][^/\\]*/)?conversations(?:-\d+)?\.json")  # large exports are cut in numbered ones


def read_zip(file: BinaryIO, place: str) -> Iterator[tuple[str, str]]:
    """Yield the place and text of each `conversations.json`, the first folder down at most; raises Unreadable."""
    try:
        with ZipFile(file) as archive:
            entries = sorted(filter(_is_wanted, archive.infolist()), key=lambda entry: entry.filename)
            if not entries:
                raise Unreadable(place, "expected a conversations.json in the zip file, found none")
            n_left = MAX_UNPACKED_BYTES
            for entry in entries:
                content = _unpack(archive, entry, n_left, place)
                n_left -= len(content)
                yield f"{place}: {entry.filename}", content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(place, f"expected UTF-8, found something else ({error.reason} at {error.start})") from None
    except (BadZipFile, ZlibError, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise Unreadable(place, f"expected a zip file that can be unpacked ({error})") from None


def _is_wanted(entry: ZipInfo) -> bool:
    return _NAME.fullmatch(entry.filename) is not None


def _unpack(archive: ZipFile, entry: ZipInfo, limit: int, place: str) -> bytearray:
    if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise Unreadable(place, f"expected deflated entries, got compression method {entry.compress_type}")
    content = bytearray()
    with archive.open(entry) as unpacked:
        while chunk := unpacked.read(_CHUNK_BYTES):
            content += chunk
            if len(content) > limit:
                raise Unreadable(place, f"expected at most {MAX_UNPACKED_BYTES:,} bytes of conversations, found more")
    return content
