"""What is erased is nowhere in the data folder, nothing else is touched, and a rule erases what it said it would."""

import os
import random
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update

from storage.backup import back_up
from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.database import Database
from storage.erasure import ErasureStore, ErasureUnfinished, Rule
from storage.errors import ConversationBusy, ConversationNotFound
from storage.feedback import FeedbackStore
from storage.tables import Conversation, utc_now

CANARY = "canary"

# A search index as SQLite recommends it, beside those that Parley may have.
SEARCH = (
    "CREATE VIRTUAL TABLE test_fts USING fts5(content, content='messages', content_rowid='number')",
    "INSERT INTO test_fts(test_fts, rank) VALUES ('secure-delete', 1)",
    "CREATE TRIGGER test_fts_insert AFTER INSERT ON messages BEGIN"
    " INSERT INTO test_fts(rowid, content) VALUES (new.number, new.content); END",
    "CREATE TRIGGER test_fts_delete AFTER DELETE ON messages BEGIN"
    " INSERT INTO test_fts(test_fts, rowid, content) VALUES ('delete', old.number, old.content); END",
    "CREATE TRIGGER test_fts_update AFTER UPDATE ON messages BEGIN"
    " INSERT INTO test_fts(test_fts, rowid, content) VALUES ('delete', old.number, old.content);"
    " INSERT INTO test_fts(rowid, content) VALUES (new.number, new.content); END",
)

BE_KILLED = """
import os, signal, sys
from pathlib import Path
from storage.database import Database
from storage.erasure import ErasureStore

class Killed(ErasureStore):
    def finish(self):
        os.kill(os.getpid(), signal.SIGKILL)

Killed(Database(Path(sys.argv[1]))).erase("ada", [sys.argv[2]])
"""


@pytest.fixture
def erasure(database: Database) -> ErasureStore:
    return ErasureStore(database)


def add_search(database: Database) -> None:
    with database.write() as session:
        for sql in SEARCH:
            session.connection().exec_driver_sql(sql)


@pytest.fixture(params=[False, True], ids=["without search", "with search"])
def searched(request: pytest.FixtureRequest, database: Database) -> bool:
    """Whether there is a search index."""
    if request.param:
        add_search(database)
    return bool(request.param)


def write(store: ConversationStore, chat: str, *pieces: str, ended: bool = True) -> str:
    """Store a question and an answer that comes piece by piece; returns the answer's id."""
    _, reply = store.begin_turn(
        "ada",
        chat,
        content=pieces[0],
        parent_id=None,
        model="m",
        params={"stop": pieces[0]},
        seed=1,
        title=pieces[0][:40],
    )
    for n in range(1, min(len(pieces), 30)):
        store.flush_reply("ada", reply.id, content=" ".join(pieces[:n]))
    if ended:
        finish(store, reply.id, " ".join(pieces))
    return reply.id


def finish(store: ConversationStore, reply_id: str, content: str) -> None:
    store.finish_reply("ada", reply_id, content=content, status="complete", finish_reason="stop")


def new_chat(store: ConversationStore, *pieces: str) -> str:
    chat = store.create("ada", channel="ui").id
    write(store, chat, *(pieces or ("Hello",)))
    return chat


def hits(folder: Path, needle: str = CANARY) -> dict[str, int]:
    """Count a text in each file that has it, in whatever case."""
    found = {
        file.name: file.read_bytes().lower().count(needle.lower().encode())
        for file in folder.rglob("*")
        if file.is_file()
    }
    return {name: count for name, count in found.items() if count}


def rows(database: Database) -> list[list[tuple[object, ...]]]:
    with database.read() as session:
        return [
            [tuple(row) for row in session.execute(text(f"SELECT * FROM {table} ORDER BY rowid"))]
            for table in ("conversations", "messages", "feedback")
        ]


# erase


def test_no_byte_of_an_erased_conversation_is_left(
    searched: bool,
    database: Database,
    store: ConversationStore,
    branches: BranchStore,
    erasure: ErasureStore,
    tmp_path: Path,
) -> None:
    chat = store.create("ada", channel="ui", system_prompt=f"Think of the {CANARY}.").id
    reply_id = write(store, chat, f"My {CANARY}", *(f"{CANARY}{n}" for n in range(30)))
    edited = store.add_edited_reply("ada", reply_id, content=f"Another {CANARY} " * 2_000)
    FeedbackStore(database).rate("ada", edited.id, rating=1, comment=f"Good {CANARY}")
    branches.delete_message("ada", reply_id)
    if searched:
        with database.read() as session:
            assert session.execute(text(f"SELECT * FROM test_fts WHERE test_fts MATCH '{CANARY}'")).all()
    assert hits(tmp_path), "the test finds what is there"
    erasure.erase("ada", [chat])
    assert hits(tmp_path) == {}
    assert hits(tmp_path, chat) == {}
    database.close()
    assert hits(tmp_path) == {}


@pytest.mark.parametrize("seed", range(4, 8))
def test_no_byte_is_left_where_rows_have_moved(
    seed: int, store: ConversationStore, erasure: ErasureStore, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    chats = [store.create("ada", channel="ui").id for _ in range(8)]
    replies = {chat: write(store, chat, "Hello", ended=False) for chat in chats}
    texts = dict.fromkeys(chats, "")
    for _ in range(300):  # they grow side by side, so that SQLite moves them from page to page
        chat = chance.choice(chats)
        texts[chat] += f"{CANARY if chat == chats[0] else 'plain'}{chance.randrange(10**6)} " * chance.randrange(1, 30)
        if chance.random() < 0.8:
            store.flush_reply("ada", replies[chat], content=texts[chat])
        else:
            finish(store, replies[chat], texts[chat])
            replies[chat], texts[chat] = write(store, chat, "And?", ended=False), ""
    finish(store, replies[chats[0]], texts[chats[0]])
    erasure.erase("ada", [chats[0]])
    assert hits(tmp_path) == {}
    assert hits(tmp_path, chats[0]) == {}


def test_an_erasure_leaves_no_free_page(database: Database, store: ConversationStore, erasure: ErasureStore) -> None:
    chats = [new_chat(store, "x" * 50_000) for _ in range(5)]
    erasure.erase("ada", chats[:4])
    with database.read() as session:
        assert session.scalar(text("PRAGMA freelist_count")) == 0


def test_no_word_is_left_in_a_search_index(
    database: Database, store: ConversationStore, erasure: ErasureStore, tmp_path: Path
) -> None:
    add_search(database)
    chats = [new_chat(store, *(f"{word}{n}" for n in range(2_000))) for word in ("bird", CANARY, "dog")]
    with database.write() as session:
        session.execute(text("INSERT INTO test_fts(test_fts) VALUES ('optimize')"))  # all words in one segment
    erasure.erase("ada", [chats[1]])
    assert hits(tmp_path) == {}
    with database.write() as session:
        session.execute(text("INSERT INTO test_fts(test_fts, rank) VALUES ('integrity-check', 1)"))
        found = session.execute(text("SELECT rowid FROM test_fts WHERE test_fts MATCH 'dog7'")).all()
    assert len(found) == 1


def test_everything_else_stays_as_it_is(
    searched: bool, database: Database, store: ConversationStore, erasure: ErasureStore
) -> None:
    for n in range(20):
        new_chat(store, f"Keep {n}")
    before = rows(database)
    erasure.erase("ada", [new_chat(store, "Away with me") for _ in range(3)])
    assert rows(database) == before


def test_a_fork_of_an_erased_conversation_stays(
    store: ConversationStore, branches: BranchStore, erasure: ErasureStore
) -> None:
    chat = new_chat(store, "Hello")
    fork = branches.fork("ada", store.path("ada", chat)[-1].id)
    erasure.erase("ada", [chat])
    assert [(message.content, message.origin_id) for message in store.path("ada", fork.id)] == [("Hello", None)] * 2


def test_a_receipt_says_what_was_erased_and_what_was_not(
    database: Database, store: ConversationStore, erasure: ErasureStore, tmp_path: Path
) -> None:
    chats = [new_chat(store, "Grüße"), new_chat(store, "Hello")]
    backup = back_up(database.path, lambda done, total: None)
    old = tmp_path / "parley-replaced-20260101-000000.db"
    old.touch()
    os.utime(old, (0, 0))
    receipt = erasure.erase("ada", [*chats, chats[0]])
    assert receipt.conversation_ids == tuple(chats)
    assert (receipt.n_messages, receipt.n_bytes) == (4, 2 * len("Grüße".encode()) + 2 * len("Hello"))
    assert abs(receipt.erased_at - utc_now()) < timedelta(minutes=1)
    assert [copy.path for copy in receipt.copies] == [backup, old]
    assert receipt.copies[1].made_at == datetime(1970, 1, 1, tzinfo=UTC)


def test_an_unknown_id_erases_nothing(database: Database, store: ConversationStore, erasure: ErasureStore) -> None:
    chat, before = new_chat(store), rows(database)
    with pytest.raises(ConversationNotFound):
        erasure.erase("ada", [chat, "0" * 32])
    assert rows(database) == before


def test_nobody_erases_what_is_not_theirs(database: Database, store: ConversationStore, erasure: ErasureStore) -> None:
    chat = new_chat(store)
    store.update("ada", chat, trashed=True)
    before = rows(database)
    with pytest.raises(ConversationNotFound):
        erasure.erase("eve", [chat])
    assert erasure.empty_trash("eve").n_messages == 0
    assert erasure.erase_expired("eve", Rule(utc_now() + timedelta(days=1))).n_messages == 0
    assert rows(database) == before


def test_a_conversation_whose_reply_is_being_written_is_not_erased(
    database: Database, store: ConversationStore, erasure: ErasureStore
) -> None:
    chat = store.create("ada", channel="ui").id
    write(store, chat, "Hello", ended=False)
    before = rows(database)
    with pytest.raises(ConversationBusy):
        erasure.erase("ada", [chat])
    assert erasure.expired("ada", Rule(utc_now() + timedelta(days=1))) == []
    assert rows(database) == before


def test_an_erasure_that_is_killed_is_finished_at_the_start(
    store: ConversationStore, database: Database, tmp_path: Path
) -> None:
    chat = new_chat(store, f"{CANARY} " * 500)
    database.close()
    command = [sys.executable, "-c", BE_KILLED, str(database.path), chat]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    again = Database(database.path)
    assert ConversationStore(again).recent("ada") == []
    ErasureStore(again).finish()
    assert hits(tmp_path) == {}
    again.close()


def test_nothing_is_rewritten_without_need(database: Database, store: ConversationStore, erasure: ErasureStore) -> None:
    new_chat(store)
    wal = database.path.with_name("parley.db-wal")
    size = wal.stat().st_size
    erasure.finish()
    erasure.empty_trash("ada")
    assert wal.stat().st_size == size


def test_a_reader_keeps_an_erasure_from_being_reported(
    database: Database, store: ConversationStore, erasure: ErasureStore, tmp_path: Path
) -> None:
    chat = new_chat(store, CANARY)
    with database.write() as session:
        session.execute(text("PRAGMA busy_timeout = 0"))
    other = Database(database.path)
    with other.read() as reader:
        reader.execute(select(Conversation)).all()
        with pytest.raises(ErasureUnfinished, match=r"parley\.db-wal may still hold their text"):
            erasure.erase("ada", [chat])
    other.close()
    erasure.finish()
    assert hits(tmp_path) == {}
    with database.read() as session:
        assert session.scalar(text("PRAGMA user_version")) == 0, "nothing is left to be finished"


# the trash


def test_the_trash_is_erased_one_by_one_or_all_at_once(
    store: ConversationStore, erasure: ErasureStore, tmp_path: Path
) -> None:
    kept, first, *others = (new_chat(store, word) for word in ("Keep me", *(f"{CANARY}{n}" for n in range(3))))
    for chat in (first, *others):
        store.update("ada", chat, trashed=True)
    assert erasure.erase("ada", [first]).conversation_ids == (first,)
    assert hits(tmp_path, f"{CANARY}0") == {}
    assert hits(tmp_path, f"{CANARY}1")
    assert set(erasure.empty_trash("ada").conversation_ids) == set(others)
    assert hits(tmp_path) == {}
    assert [conversation.id for conversation in store.recent("ada")] == [kept]
    assert store.trashed("ada") == []


# rules

NOW = datetime(2026, 7, 1, tzinfo=UTC)
CHANNELS = st.sampled_from(["ui", "widget", "api"])
CHATS = st.lists(
    st.fixed_dictionaries(
        {
            "owner_id": st.sampled_from(["ada", "bob"]),
            "channel": CHANNELS,
            "archived": st.booleans(),
            "pinned": st.booleans(),
            "updated_at": st.integers(-3, 3).map(lambda days: NOW + timedelta(days=days)),
            "trashed_at": st.none() | st.just(NOW),
        }
    ),
    max_size=12,
)
RULES = st.builds(Rule, st.just(NOW), st.none() | CHANNELS, st.none() | st.booleans())


def is_expired(chat: Conversation, owner_id: str, rule: Rule) -> bool:
    return (
        chat.owner_id == owner_id
        and not chat.pinned
        and chat.updated_at < rule.unchanged_since
        and rule.channel in (None, chat.channel)
        and rule.archived in (None, chat.archived)
    )


@given(chats=CHATS, rule=RULES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_rule_erases_exactly_what_it_said(
    chats: list[dict[str, object]], rule: Rule, database: Database, erasure: ErasureStore
) -> None:
    with database.write() as session:
        session.execute(text("DELETE FROM conversations"))
        session.add_all(Conversation(**chat) for chat in chats)
    with database.read() as session:
        before = {chat.id: chat for chat in session.scalars(select(Conversation))}
    plan = [chat.id for chat in erasure.expired("ada", rule)]
    receipt = erasure.erase_expired("ada", rule)
    with database.read() as session:
        after = set(session.scalars(select(Conversation.id)))
    assert receipt.conversation_ids == tuple(plan)
    assert set(plan) == {chat_id for chat_id, chat in before.items() if is_expired(chat, "ada", rule)}
    assert after == before.keys() - set(plan)


def test_a_rule_leaves_no_byte(
    database: Database, store: ConversationStore, erasure: ErasureStore, tmp_path: Path
) -> None:
    chat = new_chat(store, CANARY)
    with database.write() as session:
        session.execute(update(Conversation).values(updated_at=NOW - timedelta(days=1)))
    assert erasure.erase_expired("ada", Rule(NOW)).conversation_ids == (chat,)
    assert hits(tmp_path) == {}


def test_a_pinned_message_keeps_nothing(store: ConversationStore, branches: BranchStore, erasure: ErasureStore) -> None:
    chat = new_chat(store)
    branches.pin("ada", store.path("ada", chat)[0].id, pinned=True)
    assert [expired.id for expired in erasure.expired("ada", Rule(utc_now() + timedelta(days=1)))] == [chat]
