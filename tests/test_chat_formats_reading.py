"""A file is known by what is in it, read in bounded memory, and refused with its name when it is none."""

import json
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

from chat.errors import Unreadable
from chat.formats import reading
from chat.formats.reading import read_file

DATA = ROOT / "tests" / "data"
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


def read(path: Path) -> int:
    """Return how many conversations a file has."""
    return len(list(read_file(path, [])))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize("name", ["chatgpt_export.json", "open_webui_export.json"])
def test_exports_of_other_programs_are_known(name: str) -> None:
    assert read(DATA / name) >= 1


def test_a_zip_of_chatgpt_is_known(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(DATA / "chatgpt_export.json", "conversations.json")
    assert read(file) == read(DATA / "chatgpt_export.json")


@pytest.mark.parametrize(
    "value",
    [
        [{"id": "a", "conversations": [{"from": "human", "value": "Hi"}]}],
        {"id": "a", "conversations": [{"from": "human", "value": "Hi"}]},
        {"messages": MESSAGES},
        {"id": "a", "title": "A", "history": {"currentId": "1", "messages": {"1": {"id": "1", **MESSAGES[0]}}}},
    ],
    ids=["ShareGPT", "one of ShareGPT", "OpenAI", "one of Open WebUI"],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_documents_are_known_however_they_are_written(file: Path, value: object, indent: int | None) -> None:
    if indent and value == {"messages": MESSAGES}:
        pytest.skip("a line of JSON Lines is one line")
    file.write_text("\ufeff\n" + json.dumps(value, indent=indent), encoding="utf-8")
    assert read(file) == 1


def test_lines_of_openai_are_read_one_by_one(file: Path) -> None:
    file.write_text(3 * (json.dumps({"messages": MESSAGES}) + "\n"))
    assert read(file) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "line 1: expected conversations, found nothing"),
        (b"\n \n", "line 1: expected conversations, found nothing"),
        (b"text", "document: expected JSON"),
        (b"[1]", "document: expected conversations of"),
        (b'[{"a": 1}]', "document: expected conversations of"),
        (b"[" * 100_000, "document: expected JSON of at most 100 levels, found more"),
        (b"\x89PNG\r\n", "expected UTF-8, found byte 0x89"),
        (b"PK\x05\x06" + bytes(18), "zip: expected a file of conversations in the zip file, found none"),
        (b"---\ntitle\n", "conversation 1: expected a header between two lines ---"),
    ],
)
def test_what_holds_no_conversations_is_refused_with_its_name(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)
    with pytest.raises(Unreadable) as refused:
        read(file)
    assert str(refused.value).startswith(f"{file}: {reason}")
    assert "\n" not in str(refused.value)


def test_an_array_of_none_has_no_conversations(file: Path) -> None:
    file.write_text("[]")
    assert read(file) == 0


def test_a_zip_of_files_of_several_formats_is_read_and_a_bad_one_is_named(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(DATA / "open_webui_export.json", "all/one.json")
        archive.writestr("all/two.jsonl", json.dumps({"messages": MESSAGES}))
        archive.writestr("__MACOSX/._two.jsonl", b"\xff")
        archive.writestr("all/three.txt", "no conversations")
    assert read(file) == read(DATA / "open_webui_export.json") + 1
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("all/x.json", "{}")
    with pytest.raises(Unreadable, match=r": zip: all/x.json: document: expected conversations of"):
        read(file)


@pytest.mark.parametrize(
    "content", ["[" + " " * 2_000, "x" * 2_000, "[\n" + " " * 2_000, json.dumps({"format": "parley"}) + " " * 2_000]
)
def test_what_is_too_much_for_the_memory_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(reading, "MAX_LINE_CHARS", 1_000)
    file.write_text(content)
    with pytest.raises(Unreadable, match=r"at most 1,000 characters, found more$"):
        read(file)
