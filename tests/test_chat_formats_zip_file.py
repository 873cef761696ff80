"""The zip file of a data export is read within bounds, whatever it claims."""

import io
import json
import random
import tracemalloc
import unicodedata
import zipfile
from contextlib import suppress
from itertools import repeat
from pathlib import Path

import pytest
from archives import conversations
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import Unreadable
from chat.formats import chatgpt, parley, zip_file
from chat.formats.archive import ArchivedConversation
from chat.formats.table import find_format
from chat.formats.zip_file import read_zip, unpacking, write_zip

EXPORT = (Path(__file__).parent / "data" / "chatgpt_export.json").read_bytes()


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def read(content: bytes) -> list[tuple[str, str]]:
    texts = []
    for place, text in read_zip(io.BytesIO(content), "export.zip"):
        with unpacking(place):
            texts.append((place, text.read(2**20)))  # no more than that is taken into memory
    return texts


@pytest.mark.parametrize("folder", ["", "export/", "2024-01-01 ….export/"])
def test_the_conversations_of_an_export_are_found(folder: str) -> None:
    files = {"user.json": b"{}", "chat.html": b"<html>", f"{folder}conversations.json": EXPORT, "file-x.png": b"\x89"}
    [(place, text)] = read(zipped(files))
    assert place == f"export.zip: {folder}conversations.json"
    [conversation] = chatgpt.read(json.loads(text), place, [])
    assert conversation["title"] == "Iceland"


def test_an_export_in_numbered_files_is_read_in_order() -> None:
    files = {f"conversations-00{number}.json": str(number).encode() for number in (2, 0, 1)}
    assert [text for _, text in read(zipped(files))] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "name",
    [
        "../conversations.json",
        "/conversations.json",
        "a/../conversations.json",
        "a/b/conversations.json",
        "..\\conversations.json",
        "__MACOSX/._conversations.json",
        "conversations.json/x",
        "shared_conversations.json",
    ],
)
def test_no_other_name_is_read(name: str) -> None:
    assert read(zipped({name: b"[1]", "conversations.json": b"[]"})) == [("export.zip: conversations.json", "[]")]


@pytest.mark.parametrize(
    "name", ["../a.json", "/a.json", "a/b/c.json", "..\\a.json", "__MACOSX/a.json", ".a.json", "a.txt"]
)
def test_a_zip_without_a_file_of_conversations_is_refused(name: str) -> None:
    with pytest.raises(Unreadable, match=r"^export.zip: expected a file of conversations in the zip file, found none$"):
        read(zipped({name: b"[]"}))


def test_a_bomb_is_refused_before_anything_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_file, "MAX_TOTAL_BYTES", 2**20)
    bombs = [zipped({"a.json": bytes(2**20 + 1)}), zipped({f"{name}.json": bytes(2**18) for name in "abcde"})]
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    for bomb in bombs:
        with pytest.raises(Unreadable, match="expected at most 1,048,576 bytes of conversations in all, found more"):
            read(bomb)


def test_as_many_bytes_as_may_be_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_file, "MAX_TOTAL_BYTES", 2**20)
    assert len(read(zipped({f"{name}.json": bytes(2**18) for name in "abcd"}))) == 4


def test_a_size_that_is_a_lie_is_refused_before_it_fills_the_memory() -> None:
    size = 64 * 2**20 + 12_345
    content = zipped({"conversations.json": bytes(size)}).replace(size.to_bytes(4, "little"), b"\x05\0\0\0")
    tracemalloc.start()
    with pytest.raises(Unreadable, match="expected a zip file that can be unpacked"):
        read(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_an_entry_is_read_line_by_line() -> None:
    content = zipped({"a.jsonl": (b" " * 1_000 + b"\n") * 2**16})
    tracemalloc.start()
    [n_lines] = [sum(1 for _ in text) for _, text in read_zip(io.BytesIO(content), "export.zip")]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_lines == 2**16
    assert peak < 8 * 2**20


def test_broken_utf_8_is_refused() -> None:
    with pytest.raises(Unreadable, match="expected UTF-8, found something else"):
        read(zipped({"conversations.json": b'["\xff"]'}))


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert read(zipped({"conversations.json": b"\xef\xbb\xbf[]"}))[0][1] == "[]"


def test_other_compression_is_refused() -> None:
    with pytest.raises(Unreadable, match="expected deflated entries, got compression method 14"):
        read(zipped({"conversations.json": b"[]"}, zipfile.ZIP_LZMA))


def test_an_encrypted_entry_is_refused() -> None:
    content = bytearray(zipped({"conversations.json": b"[]"}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(Unreadable, match="is encrypted"):
        read(bytes(content))


@given(several=st.lists(conversations(), max_size=4))
def test_what_is_written_as_a_zip_has_safe_names_and_comes_back(several: list[ArchivedConversation]) -> None:
    content = b"".join(write_zip(several, find_format("parley").write, ".jsonl"))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
    assert len({unicodedata.normalize("NFKD", name.casefold()) for name in names}) == len(several)
    assert all(len(name.encode()) < 255 and not set(name) & set('/\\:*?"<>|\0\n\r ') for name in names)
    for name, conversation in zip(names, several, strict=True):
        assert name.startswith(conversation["created_at"][:10])
        assert name.endswith(".jsonl")
    if several:
        assert sorted(text for _, text in read(content)) == sorted(parley.write(several))


def test_a_conversation_of_which_there_is_nothing_to_write_has_no_file() -> None:
    written = write_zip([nothing_to_prefer()], find_format("preferences_trl").write, ".jsonl")
    assert zipfile.ZipFile(io.BytesIO(b"".join(written))).namelist() == []


def nothing_to_prefer() -> ArchivedConversation:
    return next(iter(chatgpt.read(json.loads(EXPORT), "x", [])))


def test_years_that_a_zip_cannot_write_are_its_first_or_last() -> None:
    conversation = nothing_to_prefer()
    for year, written in (("0001", 1980), ("9999", 2107)):
        conversation["updated_at"] = f"{year}-01-02T03:04:05.000006Z"
        content = b"".join(write_zip([conversation], find_format("parley").write, ".jsonl"))
        [entry] = zipfile.ZipFile(io.BytesIO(content)).infolist()
        assert entry.date_time == (written, 1, 2, 3, 4, 4)


def test_a_zip_is_written_in_constant_memory() -> None:
    [conversation] = chatgpt.read(json.loads(EXPORT), "x", [])
    conversation["messages"][0]["content"] = random.Random(0).randbytes(2**19).hex()
    tracemalloc.start()
    size = sum(len(piece) for piece in write_zip(repeat(conversation, 40), find_format("parley").write, ".jsonl"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 20 * 2**19
    assert peak < 16 * 2**20


GOOD = zipped({"conversations.json": EXPORT[:400]})


@given(place=st.integers(0, len(GOOD) - 1), new=st.binary(min_size=1, max_size=4), end=st.integers(0, len(GOOD)))
def test_damage_is_refused_or_harmless(place: int, new: bytes, end: int) -> None:
    for damaged in (GOOD[:place] + new + GOOD[place + len(new) :], GOOD[:end]):
        with suppress(Unreadable):
            assert [text for _, text in read(damaged)] == [EXPORT[:400].decode()]
