"""Search finds each word that is there, in any script, and nothing that is gone or another's."""

import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from big_database import write
from conftest import upgrade
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, text, update

from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.database import Database, sqlite_version
from storage.feedback import FeedbackStore
from storage.search import MAX_QUERY, N_RANKED, Filters, Hit, SearchStore, segmented
from storage.tables import Conversation, Message, new_id

anything = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
Say = Callable[..., tuple[Message, Message]]
SHADOWS = [
    f"{table}_fts_{part}"
    for table in ("messages", "conversations")
    for part in ("data", "idx", "content", "docsize", "config")
]


@pytest.fixture
def search(database: Database) -> SearchStore:
    return SearchStore(database)


@pytest.fixture
def say(store: ConversationStore) -> Say:
    """A function that stores a question, by default in a new conversation, and its answer."""

    def say(content: str, answer: str = "", owner: str = "ada", **values: Any) -> tuple[Message, Message]:
        turn = {"conversation_id": None, "parent_id": None, "model": "tiny", "params": {}, "seed": 1} | values
        turn["conversation_id"] = turn["conversation_id"] or store.create(owner, channel="ui").id
        message, reply = store.begin_turn(owner, content=content, **turn)
        store.finish_reply(owner, reply.id, content=answer, status="complete", finish_reason="stop")
        return message, reply

    return say


@pytest.fixture
def found(search: SearchStore) -> Callable[..., list[str]]:
    """A function that searches as Ada and returns the texts of the snippets."""

    def found(query: str, **filters: Any) -> list[str]:
        hits = search.search("ada", query, filters=Filters(**filters))
        return ["".join(piece for piece, _ in hit.snippet) for hit in hits]

    return found


Found = Callable[..., list[str]]


def has_word(part: str) -> bool:
    return any(unicodedata.category(character)[0] in "LN" for character in part)


@anything
@given(query=st.text() | st.text('"*()^:+-{}, ANDORNOTEAR\0\u200b🎉中\ud800'))
@example('"')
@example('a" OR "b')
@example("NEAR(a b, 5)")
@example("content : a")
@example("a " * 2000)
@example("中" * 2000)
@example("\ufdd0\ufdd1 \ud800 \0")
def test_no_query_fails(say: Say, search: SearchStore, query: str) -> None:
    say("some content")
    assert all(hit.role == "user" for hit in search.search("ada", query))  # the message, if anything
    assert search.search("ada", query, filters=Filters(rating=1, role="user", pinned=True)) == []


@anything
@given(content=st.text(min_size=1, max_size=100))
@example("it's 5\"disks, naïve Größe; मनुष्य ที่นี่ 한국어 中文字 カタカナー 👍🏽 ❤️ C++ a_b «x» ﬁ Ⅷ ½")
@example("q\u0303x e\u0301 ק֫ ਁ\u200b\u200c\u200d\u2060")
def test_every_word_of_a_message_finds_it(say: Say, search: SearchStore, content: str) -> None:
    owner = new_id()
    message, _ = say(content, owner=owner)
    for query in [content, *content.split()]:
        if has_word(query):
            assert [hit.message_id for hit in search.search(owner, query)] == [message.id]


@anything
@given(content=st.text(st.characters(categories=["Lo"], min_codepoint=0x0E00, max_codepoint=0xD7A3), max_size=20))
@example("我们在北京大学学习")
@example("ภาษาไทยไม่เว้นวรรค")
def test_any_two_characters_of_a_script_without_spaces_find_it(say: Say, search: SearchStore, content: str) -> None:
    owner, content = new_id(), unicodedata.normalize("NFC", content)
    say(content, owner=owner)
    for first, second in zip(content, content[1:], strict=False):
        is_mark = unicodedata.category(first).startswith("M")  # which belongs to the character before it
        if not is_mark and segmented(first + second) == f"\u200b{first}\u200b{second}\u200b":
            assert search.search(owner, first + second)


@pytest.mark.parametrize(
    ("query", "content"),
    [
        ("HELLO", "Hello, world"),
        ("world hello", "Hello, world"),
        ("cafe", "Le café"),
        ("cafe\u0301", "Le café"),
        ("viet", "Tiếng Việt"),
        ("北京", "我们在北京大学学习"),
        ("한국", "한국어를 배웁니다"),
        ("ไทย", "ภาษาไทยไม่เว้นวรรค"),
        ("abc", "中文abc中文"),
        ("🎉", "We won🎉🎉!"),
        ("👍", "Good 👍🏽"),
        ("❤️", "With ❤"),
        ("don't", "Please don't"),
        ('"brown fox"', "The quick brown fox"),
        ('"brown fox', "The quick brown fox"),
        ('"quick bro"*', "The quick brown fox"),
        ("qui* fox", "The quick brown fox"),
        ("quick fo", "The quick brown fox"),
        ("q", "The quick brown fox"),
        ("fox --- ()", "The quick brown fox"),
        ("NOT fox", "Not a fox"),
    ],
)
def test_a_query_finds(say: Say, found: Found, query: str, content: str) -> None:
    say("something else")
    say(content)
    assert found(query) == [content]


@pytest.mark.parametrize(
    ("query", "content"),
    [
        ("quick slow", "The quick brown fox"),
        ('"fox brown"', "The quick brown fox"),
        ('"quick bro"', "The quick brown fox"),
        ("qui fox", "The quick brown fox"),
        ("fo ", "The quick brown fox"),
        ("uick", "The quick brown fox"),
        ("京北", "我们在北京大学学习"),
        ("fox OR cat", "The quick brown fox"),
        ("content:fox", "The quick brown fox"),
        ("", "The quick brown fox"),
        (" ", "The quick brown fox"),
        ('"', "The quick brown fox"),
        ('"" *', "The quick brown fox"),
        ("...", "The quick brown fox ..."),
    ],
)
def test_a_query_does_not_find(say: Say, found: Found, query: str, content: str) -> None:
    say(content)
    assert found(query) == []


def test_what_a_query_says_after_its_limit_is_not_looked_for(say: Say, found: Found) -> None:
    say("fox")
    assert found("fox " * (MAX_QUERY // 4) + "cat") == ["fox"]


def test_a_hit_says_where_it_is_and_what_matches(say: Say, search: SearchStore) -> None:
    message, reply = say("Tell me of foxes", "A fox, the red fox.", title="Animals")
    stored = reply.created_at
    assert search.search("ada", "fox ") == [
        Hit(
            conversation_id=message.conversation_id,
            title="Animals",
            message_id=reply.id,
            role="assistant",
            created_at=stored,
            snippet=(("A ", False), ("fox", True), (", the red ", False), ("fox", True), (".", False)),
        )
    ]


def test_a_snippet_is_a_part_of_a_long_text_without_what_the_index_adds(say: Say, search: SearchStore) -> None:
    say("word " * 100 + "我们在北京大学学习" + " word" * 100)
    [hit] = search.search("ada", "北京")
    before, match, after = hit.snippet
    assert match == ("北京", True)
    assert before[0].startswith("…")
    assert before[0].endswith("word 我们在")
    assert after[0].startswith("大学学习 word")
    assert after[0].endswith("…")


def test_titles_come_first_then_the_messages_that_say_most_of_it(say: Say, search: SearchStore) -> None:
    few, _ = say("a fox and many other words that are about something else")
    most, _ = say("fox fox")
    titled, _ = say("nothing", title="The fox")
    hits = search.search("ada", "fox")
    assert [(hit.conversation_id, hit.message_id) for hit in hits] == [
        (titled.conversation_id, None),
        (most.conversation_id, most.id),
        (few.conversation_id, few.id),
    ]


def test_pages_follow_each_other(say: Say, search: SearchStore) -> None:
    for number in range(5):
        say(f"fox number {number}", title="fox")
    hits = search.search("ada", "fox", limit=20)
    assert len(hits) == 10
    assert [hit for offset in range(0, 12, 3) for hit in search.search("ada", "fox", limit=3, offset=offset)] == hits


def test_nobody_finds_what_is_another_s(say: Say, search: SearchStore) -> None:
    say("fox", "fox", title="fox")
    assert search.search("eve", "fox") == []
    assert len(search.search("ada", "fox")) == 3


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"role": "user"}, ["fox of 2025", "fox of 2026"]),
        ({"role": "assistant"}, ["fox, said large", "fox, said small"]),
        ({"model": "large"}, ["fox, said large"]),
        ({"rating": 1}, ["fox, said small"]),
        ({"rating": -1}, []),
        ({"channel": "widget"}, ["fox widget", "fox of 2026", "fox, said large"]),
        ({"channel": "terminal"}, []),
        ({"pinned": True}, ["fox ui", "fox of 2025", "fox, said small"]),
        ({"pinned": False}, ["fox widget", "fox of 2026", "fox, said large"]),
        ({"archived": True}, ["fox widget", "fox of 2026", "fox, said large"]),
        ({"archived": False}, ["fox ui", "fox of 2025", "fox, said small"]),
        ({"since": datetime(2026, 1, 1, tzinfo=UTC)}, ["fox widget", "fox of 2026", "fox, said large"]),
        ({"until": datetime(2026, 1, 1, tzinfo=UTC)}, ["fox ui", "fox of 2025", "fox, said small"]),
        ({"role": "user", "archived": True, "model": None}, ["fox of 2026"]),
        ({"role": "user", "model": "large"}, []),
    ],
)
def test_a_filter_leaves(
    database: Database, store: ConversationStore, say: Say, found: Found, filters: dict[str, Any], expected: list[str]
) -> None:
    old, new = store.create("ada", channel="ui").id, store.create("ada", channel="widget").id
    _, reply = say("fox of 2025", "fox, said small", conversation_id=old, title="fox ui", model="small")
    say("fox of 2026", "fox, said large", conversation_id=new, title="fox widget", model="large")
    FeedbackStore(database).rate("ada", reply.id, rating=1)
    store.update("ada", old, pinned=True)
    store.update("ada", new, archived=True)
    with database.write() as session:
        for conversation_id, year in ((old, 2025), (new, 2026)):
            moment = {"created_at": datetime(year, 1, 1, tzinfo=UTC)}
            session.execute(update(Conversation).where(Conversation.id == conversation_id).values(moment))
            session.execute(update(Message).where(Message.conversation_id == conversation_id).values(moment))
    assert sorted(found("fox", **filters)) == sorted(expected)


def test_another_s_rating_is_no_filter_s(database: Database, say: Say, found: Found) -> None:
    _, reply = say("question", "fox")
    FeedbackStore(database).rate("ada", reply.id, rating=1)
    with database.write() as session:
        session.execute(text("UPDATE feedback SET user_id = 'eve'"))
    assert found("fox", rating=1) == []


@pytest.mark.parametrize("n_few", [1, 1000])
def test_filters_leave_the_same_of_many_conversations_as_of_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_few: int
) -> None:
    monkeypatch.setattr("storage.search.N_FEW", n_few)
    database = write(tmp_path / "big.db", 300)
    search = SearchStore(database)
    for filters in ({}, {"channel": "api"}, {"archived": True}, {"pinned": False, "archived": False}):
        hits = search.search("local", "ba ", filters=Filters(**filters, role="user"), limit=N_RANKED)
        query = select(Message.id).join(Conversation, Conversation.id == Message.conversation_id)
        query = query.where((" " + Message.content + " ").contains(" ba "), Message.role == "user")
        query = query.where(
            Conversation.trashed_at.is_(None),
            *(getattr(Conversation, name) == value for name, value in filters.items()),
        )
        with database.read() as session:
            expected = session.scalars(query.order_by(Message.number.desc()).limit(N_RANKED)).all()
        assert {hit.message_id for hit in hits} == set(expected)
    database.close()


def test_what_is_in_the_trash_is_not_found_until_it_is_restored(
    store: ConversationStore, say: Say, found: Found
) -> None:
    message, _ = say("fox", title="fox")
    store.update("ada", message.conversation_id, trashed=True)
    assert found("fox") == []
    store.update("ada", message.conversation_id, trashed=False)
    assert found("fox") == ["fox", "fox"]


def test_a_new_title_is_found_and_the_old_one_is_not(store: ConversationStore, say: Say, found: Found) -> None:
    message, _ = say("question", title="Old fox")
    store.update("ada", message.conversation_id, title="New cat")
    assert found("fox") == []
    assert found("cat") == ["New cat"]


def test_a_reply_is_found_once_it_has_ended(store: ConversationStore, found: Found) -> None:
    chat = store.create("ada", channel="ui")
    _, reply = store.begin_turn(
        "ada", chat.id, content="q", parent_id=None, model="m", params={}, seed=1, title="question"
    )
    store.flush_reply("ada", reply.id, content="half a fox")
    assert found("fox") == []
    store.interrupt_streaming()
    assert found("fox") == ["half a fox"]


@pytest.mark.parametrize("way", ["message", "branch", "clear", "conversation"])
@pytest.mark.skipif(
    tuple(map(int, sqlite_version().split("."))) < (3, 42), reason="this SQLite's index forgets only when it is rebuilt"
)
def test_what_is_deleted_is_not_found_and_leaves_no_byte_in_the_index(
    database: Database, branches: BranchStore, say: Say, found: Found, way: str
) -> None:
    say("something else")
    message, reply = say("Canary", "kanarienvogel 金絲雀", title="Titmouse")
    words = {"canary", "kanarienvogel", "絲"} | ({"titmouse"} if way == "conversation" else set())
    assert remains(database, words) == words
    if way == "message":
        branches.delete_message("ada", message.id)
        branches.delete_message("ada", reply.id)
    elif way == "branch":
        branches.delete_branch("ada", message.id)
    elif way == "clear":
        branches.clear("ada", message.conversation_id)
    else:
        with database.write() as session:
            session.execute(delete(Conversation).where(Conversation.id == message.conversation_id))
    assert [hit for word in words for hit in found(word)] == []
    assert remains(database, words) == set()


def remains(database: Database, words: set[str]) -> set[str]:
    """Return those words that are in the bytes of the index."""
    with database.read() as session:
        cells = [
            cell if isinstance(cell, bytes) else str(cell).encode()
            for table in SHADOWS
            for row in session.execute(text(f"SELECT * FROM {table}"))
            for cell in row
        ]
    return {word for word in words if any(word.encode() in cell.lower() for cell in cells)}


OLD_CONVERSATION = """
    INSERT INTO conversations (id, owner_id, channel, title, pinned, archived, created_at, updated_at)
    VALUES ('c', 'ada', 'ui', :title, 0, 0, '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000')
"""
OLD_MESSAGE = """
    INSERT INTO messages (id, conversation_id, seq, role, content, origin, status, pinned, created_at)
    VALUES (:status, 'c', :seq, 'user', :content, 'written', :status, 0, '2026-01-01 00:00:00.000000')
"""


def test_the_migration_indexes_what_is_there(tmp_path: Path) -> None:
    database = Database(tmp_path / "parley.db")
    with database.write() as session:
        upgrade(session, "0002")
        session.execute(text(OLD_CONVERSATION), {"title": "北京 fox"})
        for seq, status in enumerate(("complete", "streaming"), start=1):
            session.execute(text(OLD_MESSAGE), {"seq": seq, "content": f"{status} fox", "status": status})
    database.migrate()
    hits = SearchStore(database).search("ada", "fox")
    assert ["".join(piece for piece, _ in hit.snippet) for hit in hits] == ["北京 fox", "complete fox"]
    database.close()


DEEDS = st.tuples(
    st.sampled_from(["ask", "open", "edit", "title", "fork", "delete_branch", "delete_message", "clear", "erase"]),
    st.integers(0, 30),
    st.text(max_size=10),
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds=st.lists(DEEDS, max_size=25))
def test_the_index_is_always_that_of_the_rows(
    database: Database, store: ConversationStore, branches: BranchStore, say: Say, deeds: list[tuple[str, int, str]]
) -> None:
    for kind, number, content in deeds:
        with database.read() as session:
            ids = session.execute(
                select(Message.id, Message.conversation_id, Message.role).order_by(Message.number)
            ).all()
        message_id, conversation_id, role = ids[number % len(ids)] if ids else (None, None, None)
        if kind == "ask" or message_id is None:
            say(content, content, title=content, conversation_id=conversation_id)
        elif kind == "open":
            turn = {"parent_id": None, "model": "m", "params": {}, "seed": 1}
            reply = store.begin_turn("ada", conversation_id, content=content, **turn)[1]
            store.flush_reply("ada", reply.id, content=content)
            store.interrupt_streaming()
        elif kind == "edit":
            store.add_edited_reply("ada", message_id, content=content)
        elif kind == "title":
            store.update("ada", conversation_id, title=content)
        elif kind == "erase":
            with database.write() as session:
                session.execute(delete(Conversation).where(Conversation.id == conversation_id))
        else:
            act = getattr(branches, kind)
            act("ada", conversation_id if kind == "clear" else message_id)
    check_index(database, "messages_fts", select(Message.number, Message.content))
    check_index(
        database,
        "conversations_fts",
        select(Conversation.number, Conversation.title).where(Conversation.title.is_not(None)),
    )


def check_index(database: Database, index: str, rows: Any) -> None:
    with database.write() as session:
        assert session.execute(text(f"SELECT * FROM {index}_content")).all() == [
            (number, segmented(content)) for number, content in session.execute(rows.order_by(text("number")))
        ]
        session.execute(text(f"INSERT INTO {index}({index}) VALUES ('integrity-check')"))
