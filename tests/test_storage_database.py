"""How the file is opened, written by many, migrated and refused. Real files only: ':memory:' has no WAL."""

import hashlib
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from conftest import upgrade
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError

import storage.database
from storage.database import VERSIONS, Database, has_wal_reset_bug, sqlite_version
from storage.errors import DatabaseTooNew, DatabaseUnusable
from storage.tables import Base, Conversation

PRAGMA_VALUES = {
    "busy_timeout": 5000,
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "secure_delete": 1,
    "trusted_schema": int(tuple(map(int, sqlite_version().split("."))) < (3, 45)),
    "cell_size_check": 1,
    "mmap_size": 0,
    "wal_autocheckpoint": 1000,
    "journal_size_limit": 16777216,
}

needs_readers = pytest.mark.skipif(
    has_wal_reset_bug(sqlite_version()), reason="this SQLite reads over its one connection"
)

# Two conversations, one without messages, and a tree whose ids are not in order
OLD_ROWS = (
    "INSERT INTO conversations (id, owner_id, channel, title, title_source, params, pinned, archived, created_at, "
    "updated_at) VALUES ('c1', 'ada', 'ui', 'Hello', 'first_message', '{}', 1, 0, '2026-01-01', '2026-01-02'), "
    "('c2', 'bob', 'widget', NULL, NULL, NULL, 0, 1, '2026-01-03', '2026-01-03')",
    "INSERT INTO messages (id, conversation_id, parent_id, seq, role, content, status, seed, token_ids, pinned, "
    "created_at) VALUES ('m9', 'c1', NULL, 1, 'user', 'Hi', 'complete', NULL, NULL, 0, '2026-01-01'), "
    "('m3', 'c1', 'm9', 2, 'assistant', 'Hello.', 'stopped', 7, '[1, 2]', 1, '2026-01-01'), "
    "('m1', 'c1', 'm9', 3, 'assistant', 'Yes?', 'complete', 8, NULL, 0, '2026-01-02')",
    "UPDATE conversations SET active_leaf_id = 'm1' WHERE id = 'c1'",
)

OPEN_AS_NOBODY = """
import os
from pathlib import Path
from storage.database import Database
os.setuid(os.getuid() or 65534)
Database(Path("parley.db")).migrate()
"""


def refusal(path: Path) -> str:
    with pytest.raises(DatabaseUnusable) as refused:
        Database(path).migrate()
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
    return str(refused.value)


def schema(database: Database) -> dict[str, list[str]]:
    """What each table and index is made of, in any order: a column that is added comes last."""
    # without the search index, which SQLAlchemy cannot map
    query = text(
        "SELECT name, sql FROM sqlite_master "
        "WHERE sql IS NOT NULL AND name != 'alembic_version' AND NOT instr(name, '_fts')"
    )
    with database.read() as session:
        # a table that was renamed has its name in quotes
        return {name: definitions(sql.replace('"', "")) for name, sql in session.execute(query)}


def definitions(sql: str) -> list[str]:
    """The parts of a CREATE statement, which commas outside of inner parentheses separate."""
    head, _, body = " ".join(sql.split()).removesuffix(")").partition("(")
    return [head.strip(), *sorted(part.strip() for part in re.split(r",(?![^()]*\))", body))]


def rows(database: Database, table: str) -> list[dict[str, object]]:
    with database.read() as session:
        return [dict(row) for row in session.execute(text(f"SELECT * FROM {table} ORDER BY id")).mappings()]


@pytest.mark.parametrize(("kind", "query_only"), [("write", 0), pytest.param("read", 1, marks=needs_readers)])
def test_both_engines_run_with_every_pragma(database: Database, kind: str, query_only: int) -> None:
    expected = PRAGMA_VALUES | {"query_only": query_only}
    with getattr(database, kind)() as session:
        found = {name: session.scalar(text(f"PRAGMA {name}")) for name in expected}
    assert found == expected


@needs_readers
def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(DatabaseUnusable, match="read-only"), database.read() as session:
        session.execute(text("DELETE FROM conversations"))


@needs_readers
def test_a_read_sees_one_state_while_others_write(database: Database) -> None:
    count = text("SELECT count(*) FROM conversations")
    with database.read() as reader:
        assert reader.scalar(count) == 0
        with database.write() as writer:
            writer.add(Conversation(owner_id="ada", channel="ui"))
        assert reader.scalar(count) == 0
    with database.read() as reader:
        assert reader.scalar(count) == 1


def test_an_exception_rolls_the_write_back(database: Database) -> None:
    def fail() -> None:
        with database.write() as session:
            session.add(Conversation(owner_id="ada", channel="ui"))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM conversations")) == 0


def test_a_write_takes_the_lock_before_it_reads(database: Database, tmp_path: Path) -> None:
    other = Database(tmp_path / "parley.db")
    with other.write() as second:
        second.execute(text("PRAGMA busy_timeout = 0"))
    with database.write() as first:
        first.execute(text("SELECT * FROM conversations"))
        with (
            pytest.raises(DatabaseUnusable, match="another program keeps it locked"),
            other.write() as second,
        ):
            second.execute(text("SELECT * FROM conversations"))
    other.close()


def test_all_files_are_private(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "parley.db")) as database:
        database.migrate()
        modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("parley.db", "parley.db-wal", "parley.db-shm"), "0o600")


def test_closing_leaves_one_file(database: Database, tmp_path: Path) -> None:
    with database.read() as session:
        session.execute(text("SELECT * FROM messages"))
    database.close()
    assert [file.name for file in tmp_path.iterdir()] == ["parley.db"]


def test_a_path_with_odd_characters_is_taken_literally(tmp_path: Path) -> None:
    path = tmp_path / "100% größe?mode=ro#.db"
    database = Database(path)
    database.migrate()
    database.close()
    assert path.stat().st_size > 0


def test_migrating_twice_changes_nothing(database: Database) -> None:
    before = schema(database)
    database.migrate()
    assert schema(database) == before


def test_a_current_schema_is_found_without_alembic(database: Database, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from storage.database import Database; "
        "Database(Path(sys.argv[1])).migrate(); assert 'alembic' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "parley.db"]).returncode == 0


def test_the_migrations_end_at_the_mapped_tables(database: Database) -> None:
    with database.read() as session:
        mapped = {"include_name": lambda name, kind, _: kind != "table" or "_fts" not in name}
        context = MigrationContext.configure(session.connection(), opts=mapped)
        assert compare_metadata(context, Base.metadata) == []


def test_the_migrations_write_the_same_sql_as_the_mapped_tables(database: Database, tmp_path: Path) -> None:
    other = Database(tmp_path / "other.db")
    with other.write() as session:
        Base.metadata.create_all(session.connection())
    mapped = schema(other)
    other.close()
    assert schema(database) == mapped


def test_a_file_of_the_first_schema_keeps_every_row(tmp_path: Path) -> None:
    database = Database(tmp_path / "parley.db")
    with database.write() as session:
        upgrade(session, "0001")
        for sql in OLD_ROWS:
            session.execute(text(sql))
    old = [rows(database, table) for table in ("conversations", "messages")]
    database.migrate()
    new = [rows(database, table) for table in ("conversations", "messages")]
    for before, after in zip(old, new, strict=True):
        assert [row | old_row for row, old_row in zip(after, before, strict=True)] == after
    assert {row["origin"] for row in new[1]} == {"written"}
    with database.read() as session:
        assert session.execute(text("PRAGMA foreign_key_check")).all() == []
    database.close()


def test_the_files_are_numbered_as_alembic_orders_them() -> None:
    config = Config()
    config.set_main_option("script_location", "storage:migrations")
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert revisions[::-1] == sorted(file.name[:4] for file in VERSIONS.glob("[0-9]*.py"))


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    database = Database(tmp_path / "parley.db")
    with database.write() as session:
        session.execute(text("CREATE TABLE messages (id TEXT)"))
    before = schema(database)
    with pytest.raises(DatabaseUnusable, match="its tables are not those of Parley; move it away"):
        database.migrate()
    assert schema(database) == before
    database.close()


def test_a_newer_schema_is_refused_and_left_alone(database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    before = hashlib.sha256((tmp_path / "parley.db").read_bytes()).digest()
    with pytest.raises(DatabaseTooNew, match=r"parley\.db has schema revision 9999, .* up to \d{4}:"):
        database.migrate()
    database.close()
    assert hashlib.sha256((tmp_path / "parley.db").read_bytes()).digest() == before


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path).endswith("it is a folder; choose a file.")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "cannot be created (No such file or directory)" in refusal(tmp_path / "none" / "parley.db")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "parley.db"
    path.write_bytes(b"Dear diary, " * 500)
    assert "it is not a SQLite database" in refusal(path)
    assert path.read_bytes() == b"Dear diary, " * 500


def test_a_damaged_file_is_named(database: Database, tmp_path: Path) -> None:
    database.close()
    path = tmp_path / "parley.db"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(DatabaseUnusable, match="it is damaged; restore a backup"), database.read() as session:
        session.execute(text("SELECT * FROM conversations")).all()


def test_a_read_only_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "parley.db").touch(0o444)
    tmp_path.chmod(0o755)
    command = [sys.executable, "-c", OPEN_AS_NOBODY]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "DatabaseUnusable: Cannot use the database parley.db: it is read-only;" in run.stderr


def test_a_full_disk_is_named_and_survived(database: Database) -> None:
    row = Conversation(owner_id="ada", channel="ui", system_prompt="x" * 1_000_000)
    with database.write() as session:
        session.execute(text("PRAGMA max_page_count = 50"))
    with pytest.raises(DatabaseUnusable, match="the disk is full"), database.write() as session:
        session.add(row)
    with database.write() as session:
        session.execute(text("PRAGMA max_page_count = 5000"))
        session.add(Conversation(owner_id="ada", channel="ui"))
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM conversations")) == 1


@pytest.mark.parametrize(
    ("version", "has_bug"),
    [
        ("3.40.1", True),
        ("3.44.6", False),
        ("3.45.0", True),
        ("3.50.7", False),
        ("3.51.2", True),
        ("3.51.3", False),
        ("3.53.4", False),
    ],
)
def test_the_wal_reset_bug_is_known_by_version(version: str, has_bug: bool) -> None:
    assert has_wal_reset_bug(version) is has_bug


def test_an_sqlite_with_the_wal_reset_bug_gets_one_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(storage.database, "has_wal_reset_bug", lambda version: True)
    database = Database(tmp_path / "parley.db")
    database.migrate()
    with database.write() as writer, database.read() as reader:
        assert writer.bind is reader.bind
    database.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"SQLite {sqlite_version()} can corrupt a busy file: using one connection only"]


def test_errors_show_no_text_of_a_conversation(database: Database) -> None:
    row = {"id": "one", "owner_id": "ada", "channel": "ui", "title": "My secret"}
    with database.write() as session, pytest.raises(IntegrityError, match="UNIQUE") as failed:
        session.execute(insert(Conversation), [row, row])
    assert "My secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        ("Tree 3 page 7: unable to get the page. error code=266", "check the disk"),
        ("Tree 3 page 7: unable to get the page. error code=11", "restore a backup"),
        ("row 3 missing from index ix_messages_parent_id", "restore a backup"),
    ],
)
def test_a_page_that_cannot_be_read_is_not_called_damaged(found: str, advice: str) -> None:
    assert advice in storage.database.REASONS[storage.database._code_in(found)]
