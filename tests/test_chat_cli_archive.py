"""`parley export` and `parley import`: conversations leave and come back, and nothing is written over."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from command_line import run_app
from conftest import ROOT, ask

from chat.cli.archive import describe, export_conversations, import_file, select
from chat.data_folder import open_database
from chat.errors import NothingSelected, Unreadable
from chat.exports import find_write
from chat.formats import parley as parley_format
from chat.formats.archive import ArchivedConversation, from_tree
from chat.formats.table import FORMATS, find_format
from chat.imports import ImportReport
from chat.settings import SettingsError
from storage.archive import ArchiveStore, Selection
from storage.conversations import ConversationStore
from storage.database import Database
from storage.errors import ConversationNotFound
from storage.feedback import FeedbackStore

EVERYTHING = Selection()
NO_FLAGS = dict.fromkeys(("channel", "site_id", "since", "until", "rating"))


@contextmanager
def open_archive(data: Path) -> Iterator[ArchiveStore]:
    with open_database(data) as database:
        yield ArchiveStore(database)


@pytest.fixture
def data(tmp_path: Path, database: Database, store: ConversationStore) -> Path:
    """A data folder with two conversations."""
    ask(store, "One?")
    ask(store, "Two?")
    return tmp_path


def test_what_is_exported_comes_back_in_another_data_folder(data: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "all.jsonl", tmp_path / "other"
    assert run_app("export", "--data", str(data), "--all", "-o", str(file)).returncode == 0
    imported = run_app("import", "--data", str(other), str(file))
    assert imported.stdout == "2 conversations with 4 messages, 0 of which stand beside another, were added.\n"
    assert run_app("export", "--data", str(other), "--all").stdout == file.read_text()
    again = run_app("import", "--data", str(other), str(file))
    assert again.stdout.splitlines()[1:] == [
        "One?: it is here already",
        "Two?: it is here already",
    ]


def test_stdout_loses_nothing_whatever_the_terminal_can_show(
    data: Path, store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(store, "Größe 中文 🦜?")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    command = [sys.executable, str(ROOT / "app.py"), "export", "--data", str(data), "--all"]
    written = subprocess.run(command, capture_output=True, check=True).stdout
    with open_archive(data) as archive:
        export_conversations(archive, "local", Selection(), find_format("parley").write, data / "out")
    assert written == (data / "out").read_bytes()
    assert "Größe 中文 🦜?".encode() in written


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_written(data: Path, tmp_path: Path, name: str) -> None:
    if name.startswith("preferences"):
        pytest.skip("there are no pairs of replies")
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install -e '.[parquet]'")
    output = tmp_path / f"out{FORMATS[name].suffix}"
    with open_archive(data) as archive:
        export_conversations(archive, "local", Selection(), find_format(name).write, output)
    content = output.read_bytes()
    assert b"One?" in content
    assert b"Two?" in content


def test_conversations_are_selected_by_id_channel_date_and_rating(data: Path, store: ConversationStore) -> None:
    with open_archive(data) as archive:
        first, second = archive.ids("local", Selection())
        assert archive.ids("local", select([second], False, **NO_FLAGS)) == [second]
        assert archive.ids("local", select(None, False, **NO_FLAGS | {"channel": "widget"})) == []
        assert archive.ids("local", select(None, False, **NO_FLAGS | {"since": "2020-01-01"})) == [first, second]
        assert archive.ids("local", select(None, False, **NO_FLAGS | {"until": "2020-01-01"})) == []
        reply = store.path("local", second)[-1]
        FeedbackStore(store._database).rate("local", reply.id, rating=1)
        assert archive.ids("local", select(None, False, **NO_FLAGS | {"rating": 1})) == [second]
        assert archive.ids("local", select(None, False, **NO_FLAGS | {"rating": -1})) == []
        store.update("local", first, trashed=True)
        assert archive.ids("local", select(None, True, **NO_FLAGS)) == [second]
        assert archive.ids("eve", select(None, True, **NO_FLAGS)) == []


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"channel": "fax"}, "--channel: expected one of ui, widget, api, import, terminal, got 'fax'"),
        ({"since": "yesterday"}, "--since: expected a date such as 2026-01-31, got 'yesterday'"),
        ({"until": "2026-02-30"}, "--until: expected a date such as 2026-01-31, got '2026-02-30'"),
        (
            {"since": "0001-01-01T00:00:00+14:00"},
            "--since: expected a date such as 2026-01-31, got '0001-01-01T00:00:00+14:00'",
        ),
        (
            {"until": "9999-12-31T23:59:59-14:00"},
            "--until: expected a date such as 2026-01-31, got '9999-12-31T23:59:59-14:00'",
        ),
        ({"rating": 5}, "--rating: expected 1 or -1, got 5"),
    ],
)
def test_flags_that_are_wrong_are_refused(flags: dict[str, object], reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        select(None, False, **NO_FLAGS | flags)  # type: ignore[arg-type]
    assert str(refused.value) == reason


def test_an_export_of_nothing_in_particular_is_refused(data: Path) -> None:
    exported = run_app("export", "--data", str(data))
    assert (exported.returncode, exported.stdout) == (2, "")
    assert exported.stderr.startswith("parley: ids: expected those of conversations, or all, or a filter")


def test_what_is_not_there_is_not_exported(data: Path, tmp_path: Path) -> None:
    with open_archive(data) as archive:
        with pytest.raises(ConversationNotFound, match=r"^There is no conversation x\.$"):
            export_conversations(archive, "local", Selection(ids=["x"]), find_format("parley").write, None)
        with pytest.raises(NothingSelected):
            export_conversations(archive, "eve", Selection(), find_format("parley").write, None)


def test_a_file_that_is_there_is_not_written_over(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.txt"
    output.write_text("mine")
    with open_archive(data) as archive, pytest.raises(SettingsError, match="mine.txt is there already"):
        export_conversations(archive, "local", Selection(), find_format("text").write, output)
    assert output.read_text() == "mine"


def test_a_file_that_appears_meanwhile_and_one_named_part_are_left_alone(data: Path, tmp_path: Path) -> None:
    output, part = tmp_path / "out.txt", tmp_path / "out.txt.part"
    part.write_text("mine")

    def write(conversations: Iterable[ArchivedConversation]) -> Iterator[bytes]:
        output.write_text("theirs")
        yield b"ours"

    before = {*tmp_path.iterdir()}
    with open_archive(data) as archive, pytest.raises(SettingsError, match="out.txt is there already"):
        export_conversations(archive, "local", Selection(), write, output)
    assert (output.read_text(), part.read_text()) == ("theirs", "mine")
    assert {*tmp_path.iterdir()} == before | {output}


def test_an_export_without_anything_says_so(data: Path) -> None:
    exported = run_app("export", "--data", str(data), "--all", "--format", "preferences_trl")
    assert (exported.returncode, exported.stdout) == (0, "")
    assert exported.stderr == "The selected conversations have nothing that the format preferences_trl takes.\n"


def test_an_export_that_fails_leaves_no_file(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, owner_id: str, selection: Selection) -> object:
        raise OSError("no")

    monkeypatch.setattr("storage.archive.ArchiveStore.trees", fail)
    before = sorted(tmp_path.iterdir())
    with open_archive(data) as archive, pytest.raises(OSError, match="no"):
        export_conversations(archive, "local", Selection(), find_format("text").write, tmp_path / "out.txt")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe", "expected UTF-8, found byte 0xff"),
        (b"{}", "document: expected conversations of Parley, ChatGPT"),
        (b"\n", "line 1: expected conversations, found nothing"),
        (b'{"format": "other"}', 'line 1: expected an object with "format": "parley"'),
    ],
)
def test_a_file_that_is_none_is_refused_by_its_name(data: Path, tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with open_archive(data) as archive, pytest.raises(Unreadable) as refused:
        import_file(archive, "local", path)
    assert str(refused.value).startswith(f"{path}: {reason}")


READABLE = ["parley", "html", "chatgpt", "open_webui", "sharegpt", "openai", "markdown"]


@pytest.mark.parametrize("name", READABLE)
def test_what_other_programs_take_comes_back_and_is_known_by_its_content(data: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / "out"  # no suffix: it is not what formats are known by
    with open_archive(data) as archive:
        export_conversations(archive, "local", Selection(), find_format(name).write, output)
        report = import_file(archive, "bob", output)
        assert (report.conversations, report.messages, report.skipped) == (2, 4, [])
        [first, _] = [from_tree(tree) for tree in archive.trees("bob", Selection())]
        assert sorted(message["content"] for message in first["messages"])[1] == "Yes."
        assert first["created_at"] > "2020"
        assert import_file(archive, "bob", output).conversations == 0


@pytest.mark.parametrize("name", READABLE)
def test_a_zip_has_a_file_for_each_conversation_and_comes_back(data: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / "out"
    with open_archive(data) as archive:
        write = find_write(name, chained=False, zipped=True)
        export_conversations(archive, "local", Selection(), write, output)
        with ZipFile(output) as zipped:
            assert [entry.partition("-One-")[2] for entry in zipped.namelist()][0].endswith(find_format(name).suffix)
            assert len(zipped.namelist()) == 2
        report = import_file(archive, "bob", output)
        assert (report.conversations, report.messages, report.skipped) == (2, 4, [])


def test_a_zip_goes_to_stdout(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "app.py"), "export", "--data", str(data), "--all", "--zip"]
    written = subprocess.run(command, capture_output=True, check=True).stdout
    with ZipFile(BytesIO(written)) as zipped:
        assert zipped.testzip() is None
        assert len(zipped.namelist()) == 2


def test_what_is_redacted_is_counted_on_stderr(data: Path, store: ConversationStore) -> None:
    ask(store, "Is ada@example.com yours, or bob@example.com?")
    exported = run_app("export", "--data", str(data), "--query", "yours", "--redact", "--format", "text")
    assert "Is [e-mail] yours, or [e-mail]?" in exported.stdout
    assert "example.com" not in exported.stdout
    assert exported.stderr == "Redacted: 2 e-mail.\n"  # the title, made anew, is not counted


def test_a_chain_is_verified_and_imported(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    assert run_app("export", "--data", str(data), "--all", "--chain", "-o", str(file)).returncode == 0
    good = run_app("verify", str(file))
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("2 conversations are as they were written, up to the hash ")
    with open_archive(data) as archive:
        assert import_file(archive, "bob", file).conversations == 2
    file.write_bytes(file.read_bytes().replace(b"Two?", b"Too?"))
    bad = run_app("verify", str(file))
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr == f"parley: {file}: line 2: it was changed: its hash is not that of its content\n"
    assert run_app("export", "--data", str(data), "--all", "-o", str(tmp_path / "plain")).returncode == 0
    plain = run_app("verify", str(tmp_path / "plain"))
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.startswith(f"parley: {tmp_path / 'plain'}: expected a chain of hashes")


def test_the_schema_is_printed() -> None:
    assert json.loads(run_app("schema").stdout) == parley_format.schema()


def test_a_report_says_what_was_added_and_what_not() -> None:
    report = ImportReport(1_000, 20_000, 3, ["A: it is here already"])
    assert describe(report) == (
        "1,000 conversations with 20,000 messages, 3 of which stand beside another, were added.\nA: it is here already"
    )
