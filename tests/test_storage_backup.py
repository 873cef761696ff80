"""Backups are whole whatever happens meanwhile, and a restore changes everything or nothing."""

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from storage.backup import BackupExists, back_up, copies_of, restore
from storage.conversations import ConversationStore
from storage.database import Database, backups_of, dbapi
from storage.errors import DatabaseTooNew, DatabaseUnusable, StorageError

TABLES = ("conversations", "messages", "feedback", "alembic_version")
OFFSETS = 200  # of bytes that are damaged, one after another

WRITE_TURNS = """
import sys
from pathlib import Path
from storage.conversations import ConversationStore
from storage.database import Database

store = ConversationStore(Database(Path(sys.argv[1])))
conversation = store.create("ada", channel="api")
while True:
    store.begin_turn("ada", conversation.id, content="x" * 9_000, parent_id=None, model="m", params={}, seed=0)
    print("written", flush=True)
"""

BE_KILLED = """
import os, signal, sys
from pathlib import Path
from storage import backup

def die(done, total):
    os.kill(os.getpid(), signal.SIGKILL)

getattr(backup, sys.argv[1])(*map(Path, sys.argv[2:]), progress=die)
"""


def ignore(done: int, total: int) -> None:
    """A progress function that shows nothing."""


def say(store: ConversationStore, content: str) -> None:
    """Store a conversation with a whole turn."""
    chat = store.create("ada", channel="ui").id
    _, reply = store.begin_turn(
        "ada", chat, content=content, parent_id=None, model="m", params={}, seed=1, title=content[:40]
    )
    store.finish_reply("ada", reply.id, content="Fine.", status="complete", finish_reason="stop", token_ids=[1])


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(dbapi.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in TABLES}


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.fixture
def path(database: Database, store: ConversationStore) -> Path:
    """A database that nobody has open, with one conversation."""
    say(store, "Hello")
    database.close()
    return database.path


@pytest.fixture
def backup(path: Path) -> Path:
    return back_up(path, ignore)


# back_up


def test_a_backup_has_every_row(database: Database, store: ConversationStore) -> None:
    for number in range(30):
        say(store, f"Hello {number}")
    assert rows(back_up(database.path, ignore)) == rows(database.path)


def test_a_backup_is_one_private_file_named_by_its_time(path: Path, backup: Path) -> None:
    assert re.fullmatch(r"parley-\d{8}-\d{6}\.db", backup.name)
    assert names(backup.parent) == {backup.name}
    assert backup.parent == path.parent / "backups"
    assert [oct(file.stat().st_mode & 0o777) for file in (backup, backup.parent)] == ["0o600", "0o700"]


def test_a_backup_can_be_read_where_nothing_can_be_written(backup: Path) -> None:
    before = rows(backup)
    uri = f"{backup.as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert names(backup.parent) == {backup.name}
    assert len(before["messages"]) == 2


def test_a_backup_tells_how_far_it_is(database: Database, store: ConversationStore) -> None:
    for _ in range(600):
        store.create("ada", channel="ui", system_prompt="x" * 9_000)
    calls: list[tuple[int, int]] = []
    back_up(database.path, lambda done, total: calls.append((done, total)))
    assert len(calls) > 1
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


def test_a_backup_is_of_one_moment_while_another_process_writes(database: Database) -> None:
    command = [sys.executable, "-c", WRITE_TURNS, str(database.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        read = writer.stdout.readline
        for _ in range(1_000):  # so much that the copy takes several steps
            read()
        calls: list[int] = []

        def let_it_write(done: int, total: int) -> None:
            assert [read() for _ in range(20)] == ["written\n"] * 20
            calls.append(done)

        copy = back_up(database.path, let_it_write)
        writer.kill()
        writer.stdout.read()
    assert len(calls) > 2
    assert calls == sorted(set(calls)), "the copy never begins anew"
    assert len(rows(copy)["messages"]) % 2 == 0, "a turn is two rows, in one transaction"


def test_a_backup_waits_for_no_writer(database: Database, store: ConversationStore) -> None:
    say(store, "Hello")
    with database.write() as session:
        session.connection().exec_driver_sql("UPDATE messages SET content = 'Bye'")
        copy = back_up(database.path, ignore)
    assert "Bye" not in str(rows(copy))


def test_a_backup_overwrites_nothing(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.db"
    target.write_text("My diary")
    with pytest.raises(BackupExists, match=r"already a file .*mine\.db: choose another name"):
        back_up(path, ignore, target)
    assert target.read_text() == "My diary"
    assert not target.with_name("mine.db.partial").exists()


def test_a_copy_that_another_backup_is_writing_is_left_alone(path: Path, tmp_path: Path) -> None:
    partial = tmp_path / "mine.db.partial"
    partial.write_text("half")
    with pytest.raises(BackupExists, match=r"mine\.db\.partial"):
        back_up(path, ignore, tmp_path / "mine.db")
    assert partial.read_text() == "half"


def test_a_backup_that_fails_leaves_nothing(path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(path, fail)
    assert names(path.parent / "backups") == set()


def test_a_backup_that_is_killed_does_not_count_as_one(path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", BE_KILLED, "back_up", path]).returncode == -signal.SIGKILL
    assert backups_of(path) == []
    assert len(copies_of(path)) == 1, "but an erasure names it"


def test_a_missing_database_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable, match="there is no such file"):
        back_up(tmp_path / "parley.db", ignore)
    assert not (tmp_path / "parley.db").exists()


def test_a_damaged_database_is_not_backed_up(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(DatabaseUnusable, match="it is damaged"):
        back_up(path, ignore)
    assert names(path.parent / "backups") == set()


def test_a_database_with_a_broken_reference_is_not_backed_up(path: Path) -> None:
    with closing(dbapi.connect(path)) as connection:  # foreign keys are off unless asked for
        connection.execute("DELETE FROM messages WHERE seq = 1")
        connection.commit()
    with pytest.raises(DatabaseUnusable, match="it is damaged"):
        back_up(path, ignore)


# restore


def test_a_restore_brings_every_row_back(path: Path, backup: Path, store: ConversationStore) -> None:
    before, content = rows(path), backup.read_bytes()
    say(store, "Too much")
    store._database.close()
    restore(backup, path, ignore)
    assert rows(path) == before
    assert backup.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_restore_keeps_the_old_database(path: Path, backup: Path, store: ConversationStore) -> None:
    say(store, "Keep me")
    store._database.close()
    before = rows(path)
    aside = restore(backup, path, ignore)
    assert aside is not None
    assert re.fullmatch(r"parley-replaced-\d{8}-\d{6}\.db", aside.name)
    assert rows(aside) == before


def test_the_last_writes_of_a_process_that_was_killed_are_kept_too(path: Path, backup: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_TURNS, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.kill()
    assert path.with_name("parley.db-wal").stat().st_size
    aside = restore(backup, path, ignore)
    assert aside is not None
    assert len(rows(aside)["messages"]) >= 4
    assert len(rows(path)["messages"]) == 2


def test_a_restore_into_an_empty_folder(path: Path, backup: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert restore(backup, tmp_path / "new" / "parley.db", ignore) is None
    assert names(tmp_path / "new") == {"parley.db"}
    assert rows(tmp_path / "new" / "parley.db") == rows(path)


def test_a_database_that_somebody_has_open_is_not_replaced(path: Path, backup: Path, store: ConversationStore) -> None:
    say(store, "I am writing")
    with pytest.raises(DatabaseUnusable, match="another program keeps it locked"):
        restore(backup, path, ignore)
    assert len(store.recent("ada")) == 2


def test_a_damaged_database_is_replaced_and_kept(path: Path, backup: Path) -> None:
    path.write_bytes(b"\xff" * 8192)
    path.with_name("parley.db-wal").write_bytes(b"\xfe" * 4096)  # must not meet the next database
    aside = restore(backup, path, ignore)
    assert aside is not None
    assert aside.read_bytes() == b"\xff" * 8192
    assert names(path.parent) == {"parley.db", "backups", aside.name}
    assert rows(path) == rows(backup)


def of_another_program(backup: Path) -> None:
    backup.unlink()
    with closing(dbapi.connect(backup)) as connection:
        connection.execute("CREATE TABLE notes (id)")


def of_a_newer_parley(backup: Path) -> None:
    with closing(dbapi.connect(backup)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()


def cut(backup: Path) -> None:
    os.truncate(backup, backup.stat().st_size // 2)


@pytest.mark.parametrize(
    ("spoil", "refusal"),
    [
        (of_another_program, "it is not one of Parley"),
        (of_a_newer_parley, "has schema revision 9999"),
        (cut, "it is damaged"),
        (lambda backup: backup.write_bytes(b"Dear diary, " * 500), "it is not a SQLite database"),
        (lambda backup: backup.write_bytes(b""), "it is not one of Parley"),
        (Path.unlink, "there is no such file"),
    ],
    ids=["of another program", "of a newer Parley", "cut", "no database", "empty", "missing"],
)
def test_what_is_no_good_backup_changes_nothing(
    spoil: Callable[[Path], object], refusal: str, path: Path, backup: Path
) -> None:
    spoil(backup)
    before = path.read_bytes()
    with pytest.raises((DatabaseUnusable, DatabaseTooNew), match=refusal) as refused:
        restore(backup, path, ignore)
    assert str(backup) in str(refused.value)
    assert path.read_bytes() == before
    assert names(path.parent) == {"parley.db", "backups"}


def test_a_restore_that_is_killed_changes_nothing_and_can_be_repeated(path: Path, backup: Path) -> None:
    before = path.read_bytes()
    command = [sys.executable, "-c", BE_KILLED, "restore", str(backup), str(path)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    restore(backup, path, ignore)
    assert not any(name.endswith(".partial") for name in names(path.parent))


# the start


def test_a_damaged_file_is_refused_with_the_newest_backup(path: Path, backup: Path) -> None:
    shutil.copy(backup, backup.with_name("parley-20200101-000000.db"))
    content = path.read_bytes()
    for damaged in (b"Dear diary, " * 500, content[:4096] + b"\xff" * (len(content) - 4096)):
        path.write_bytes(damaged)
        with pytest.raises(DatabaseUnusable) as refused:
            Database(path).check()
        assert str(refused.value).endswith(f"; the newest backup is {backup}.")
        assert path.read_bytes() == damaged


def structure(path: Path) -> list[tuple[object, ...]]:
    """Open a database as the start does, and return which messages are where."""
    database = Database(path)
    try:
        database.check()
        database.migrate()
        with database.read() as session:
            connection = session.connection()
            return [
                tuple(row)
                for query in (
                    "SELECT id, owner_id, active_leaf_id FROM conversations ORDER BY id",
                    "SELECT conversation_id, seq, id, parent_id FROM messages ORDER BY conversation_id, seq",
                )
                for row in connection.exec_driver_sql(query)
            ]
    finally:
        database.close()


def test_no_damaged_byte_changes_which_messages_there_are(database: Database, store: ConversationStore) -> None:
    for number in range(100):
        say(store, f"Hello {number} " * 30)
    database.close()
    path, content, expected = database.path, bytearray(database.path.read_bytes()), structure(database.path)
    backup, chance = back_up(path, ignore), random.Random(12)
    refusals: list[str] = []
    for offset in chance.sample(range(len(content)), OFFSETS):
        path.write_bytes(content[:offset] + bytes([content[offset] ^ chance.randrange(1, 256)]) + content[offset + 1 :])
        try:
            assert structure(path) == expected
        except StorageError as error:
            refusals.append(str(error))
        for leftover in path.parent.glob("parley.db-*"):
            leftover.unlink()
    damages = [refusal for refusal in refusals if "it is damaged" in refusal]  # the path has the word too
    assert len(damages) > OFFSETS / 20
    assert all(str(backup) in damage for damage in damages)


def test_a_text_that_is_damaged_is_named_when_it_is_read(path: Path, backup: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"Hello", b"H\xffllo"))
    database = Database(path)
    with pytest.raises(DatabaseUnusable, match="it is damaged") as refused:
        ConversationStore(database).recent("ada")
    assert str(backup) in str(refused.value)
    database.close()


@pytest.mark.parametrize("places", [1, -1], ids=["in one place", "wherever it is"])
def test_a_name_in_the_schema_that_is_damaged_is_refused(places: int, path: Path, backup: Path) -> None:
    name = b"ix_messages_parent_id"
    assert name in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(name, name.replace(b"e", b"\xce"), places))
    assert_refused_everywhere(path, backup)


def test_an_index_that_misses_a_row_is_refused(path: Path, backup: Path) -> None:
    content = path.read_bytes()
    assert b"ada20" in content, "an index has the owner before the time"
    path.write_bytes(content.replace(b"ada20", b"adb20"))
    assert_refused_everywhere(path, backup)


def assert_refused_everywhere(path: Path, backup: Path) -> None:
    for use in (Database(path).check, lambda: back_up(path, ignore, path.with_name("copy.db"))):
        with pytest.raises(DatabaseUnusable, match="it is damaged") as refused:
            use()
        assert str(backup) in str(refused.value)
