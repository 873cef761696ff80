"""`kill -9` at any moment: nothing that was acknowledged or shown is lost, and what was begun is whole or not there."""

import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from big_database import write as write_big_database
from child_process import ChildProcess
from child_work import Shown, dialogue_settings, hold_chats, ignore, migrate, take_in
from conftest import upgrade, write_tiny_gguf
from sound_database import check_kept, check_sound, replies
from sqlalchemy import text

from app import open_dialogue
from chat.cli.archive import import_file
from chat.data_folder import LOCAL_OWNER, open_database
from chat.formats.archive import from_tree
from chat.formats.parley import write as write_parley
from storage.archive import ArchiveStore, Selection
from storage.conversations import ConversationStore
from storage.database import Database

CHAT_SECONDS = 1.0  # that a chat lives at most, its start included
N_IMPORTED = 15  # conversations, with 20 messages each
N_MIGRATED = 1_000  # conversations, with two messages each
OLD_ROWS = (
    "INSERT INTO conversations (id, owner_id, channel, title, title_source, pinned, archived, created_at, updated_at) "
    "VALUES ('c' || :number, 'ada', 'ui', 'Title ' || :number, 'user', 0, 0, '2026-01-01', '2026-01-01')",
    "INSERT INTO messages (id, conversation_id, seq, role, content, status, pinned, created_at) "
    "VALUES ('q' || :number, 'c' || :number, 1, 'user', 'Question ' || :number, 'complete', 0, '2026-01-01')",
    "INSERT INTO messages (id, conversation_id, parent_id, seq, role, content, status, pinned, created_at) "
    "VALUES ('a' || :number, 'c' || :number, 'q' || :number, 2, 'assistant', 'Answer ' || :number, 'complete', 0, "
    "'2026-01-01')",
    "UPDATE conversations SET active_leaf_id = 'a' || :number WHERE id = 'c' || :number",
)

rounds = pytest.mark.parametrize(
    "n_rounds", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1_200)])]
)


def tell(line: str) -> None:
    """Say what has been measured: `pytest -rP` shows it."""
    sys.stdout.write(f"{line}\n")


def count(database: Database, table: str) -> int:
    with database.read() as session:
        return session.scalar(text(f"SELECT count(*) FROM {table}")) or 0


# While replies are being written


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that goes on and on."""
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "long.gguf", n_ctx=65_536)


@rounds
def test_kill_9_in_mid_chat_loses_nothing_acknowledged_or_shown(n_rounds: int, model: Path, tmp_path: Path) -> None:
    known: dict[str, Shown] = {}
    ages: list[float] = []  # seconds from what was shown last of a reply that was cut off to the kill
    for _ in range(n_rounds):
        shown, killed_at = ChildProcess(hold_chats, tmp_path, model).kill_after(random.uniform(0, CHAT_SECONDS))
        newest = {seen.message: seen for seen in shown}
        known |= newest
        with open_dialogue(dialogue_settings(tmp_path, model), show=ignore):
            pass
        with closing(Database(tmp_path / "parley.db")) as database:
            check_sound(database)
            kept = replies(database)
            assert count(database, "messages") == 2 * len(kept), "a turn is there with both its rows"
        check_kept(known.values(), kept)
        ages += [killed_at - seen.at for seen in newest.values() if seen.text and seen.status == "streaming"]
    tell(
        f"chat: {n_rounds} kills, {len(known)} messages acknowledged, {len(ages)} replies cut off; seconds from "
        f"what was shown last of them to the kill: median {statistics.median(ages):.3f}, max {max(ages):.3f}"
    )
    assert len(known) >= n_rounds
    assert statistics.median(ages) <= 1


# While a file comes in, or the schema is brought up to date


def killed(n_rounds: int, before: Path, work: Callable[..., None], *arguments: object) -> Iterator[tuple[Path, bool]]:
    """Let processes work on copies of a folder until they are killed; yield each copy, and whether the work was done.

    They are killed within the time that the work takes, and half of it more.
    """
    copy = before.with_name("copy")

    def begin() -> ChildProcess:
        shutil.copytree(before, copy)
        return ChildProcess(work, copy, *arguments)

    seconds = float("inf")
    for _ in range(2):  # the first may have to wait for the server that forks
        child = begin()
        assert child.join() == ["done"]
        seconds = min(seconds, time.monotonic() - child.started_at)
        shutil.rmtree(copy)
    for _ in range(n_rounds):
        sent, _ = begin().kill_after(random.uniform(0, 1.5 * seconds))
        yield copy, bool(sent)
        shutil.rmtree(copy)


@rounds
def test_kill_9_in_mid_import_adds_a_file_as_a_whole_or_not_at_all(n_rounds: int, tmp_path: Path) -> None:
    before, file = tmp_path / "before", tmp_path / "conversations.jsonl"
    with open_database(before) as database:
        ConversationStore(database).create(LOCAL_OWNER, channel="ui")
    with closing(write_big_database(tmp_path / "big.db", N_IMPORTED)) as database, file.open("w") as lines:
        trees = [*ArchiveStore(database).trees(LOCAL_OWNER, Selection())][1:]  # all but the very long one
        lines.writelines(write_parley(map(from_tree, trees)))
    n_whole = 0
    for number, (data, done) in enumerate(killed(n_rounds, before, take_in, file)):
        with open_database(data) as database:
            check_sound(database)
            found = count(database, "conversations") - 1
            assert found in ((len(trees),) if done else (0, len(trees)))
            n_whole += found > 0
            if number % 5 == 0:
                import_file(ArchiveStore(database), LOCAL_OWNER, file)
                assert count(database, "conversations") == 1 + len(trees), "what was cut off can come again"
    tell(f"import: {n_rounds} kills, {n_whole} files whole and {n_rounds - n_whole} not there")
    assert n_whole < n_rounds


def schema(database: Database) -> tuple[str | None, list[str]]:
    """Return the revision, and the names of all tables and indexes."""
    with database.read() as session:
        names = session.scalars(text("SELECT name FROM sqlite_master ORDER BY name")).all()
        return session.scalar(text("SELECT version_num FROM alembic_version")), list(names)


@rounds
def test_kill_9_in_mid_migration_leaves_the_old_schema_or_the_new_one(n_rounds: int, tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    with closing(Database(before / "parley.db")) as database:
        write_first_schema(database)
        old = schema(database)
    n_new = 0
    for data, done in killed(n_rounds, before, migrate):
        with closing(Database(data / "parley.db")) as database:
            found = schema(database)
            database.migrate()
            new = schema(database)
            check_sound(database)
            assert count(database, "messages") == 2 * count(database, "conversations") == 2 * N_MIGRATED
        assert found in ((new,) if done else (old, new))
        n_new += found == new
    tell(f"migration: {n_rounds} kills, {n_new} new schemas and {n_rounds - n_new} old ones")
    assert n_new < n_rounds


def write_first_schema(database: Database) -> None:
    """Fill a database as the first Parley did: conversations of a question and an answer."""
    values = [{"number": number} for number in range(N_MIGRATED)]
    with database.write() as session:
        upgrade(session, "0001")
        for sql in OLD_ROWS:
            session.execute(text(sql), values)
