"""What the store promises: nothing lost, nothing half, and nobody sees another's conversations."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import inspect, text, update
from sqlalchemy.exc import IntegrityError

from storage.conversations import ConversationStore
from storage.database import Database
from storage.errors import ConversationBusy, ConversationNotFound, MessageNotFound, StorageError
from storage.tables import Conversation, Message

NOBODY = "0" * 32

WRITE_TURNS = """
import sys
from pathlib import Path
from storage.conversations import ConversationStore
from storage.database import Database

store = ConversationStore(Database(Path(sys.argv[1])))
conversation = store.create("ada", channel="api")
while True:
    message, reply = store.begin_turn(
        "ada", conversation.id, content="x" * 50_000, parent_id=None, model="m", params={}, seed=0
    )
    print(message.id, reply.id, flush=True)
"""

# Every method that is given the id of a conversation or of a message.
CALLS: dict[str, Callable[[ConversationStore, str, str, str], object]] = {
    "get": lambda store, owner, chat, reply: store.get(owner, chat),
    "path": lambda store, owner, chat, reply: store.path(owner, chat),
    "message": lambda store, owner, chat, reply: store.message(owner, reply),
    "find_sent": lambda store, owner, chat, reply: store.find_sent(owner, chat, "key"),
    "begin_turn": lambda store, owner, chat, reply: say(store, owner, chat, "mine now"),
    "begin_reply": lambda store, owner, chat, reply: store.begin_reply(
        owner, chat, parent_id=reply, model="m", params={}, seed=1
    ),
    "add_edited_reply": lambda store, owner, chat, reply: store.add_edited_reply(owner, reply, content="mine now"),
    "update_all": lambda store, owner, chat, reply: store.update_all(owner, [chat], title="mine now"),
    "update": lambda store, owner, chat, reply: store.update(owner, chat, title="mine now"),
    "flush_reply": lambda store, owner, chat, reply: store.flush_reply(owner, reply, content="mine now"),
    "finish_reply": lambda store, owner, chat, reply: finish(store, owner, reply),
}


@pytest.fixture
def chat(store: ConversationStore) -> str:
    """The id of a conversation of ada's."""
    return store.create("ada", channel="ui").id


def say(
    store: ConversationStore, owner: str, chat: str, content: str, *, parent_id: str | None = None
) -> tuple[Message, Message]:
    return store.begin_turn(
        owner, chat, content=content, parent_id=parent_id, model="m", params={"temperature": 0}, seed=7
    )


def finish(store: ConversationStore, owner: str, reply_id: str, content: str = "Fine.") -> None:
    store.finish_reply(owner, reply_id, content=content, status="complete", finish_reason="stop")


def turn(store: ConversationStore, chat: str, content: str, parent_id: str | None = None) -> str:
    """A finished turn of ada's; returns the reply's id."""
    _, reply = say(store, "ada", chat, content, parent_id=parent_id)
    finish(store, "ada", reply.id, f"{content}!")
    return reply.id


def contents(messages: list[Message]) -> list[str]:
    return [message.content for message in messages]


def test_a_new_conversation_keeps_what_it_was_made_with(store: ConversationStore) -> None:
    made = store.create("ada", channel="api", system_prompt="Be kind.", model="m")
    kept = store.get("ada", made.id)
    assert (kept.channel, kept.system_prompt, kept.model) == ("api", "Be kind.", "m")
    assert (kept.title, kept.title_source, kept.params, kept.active_leaf_id) == (None, None, None, None)
    assert (kept.pinned, kept.archived, kept.created_at) == (False, False, made.created_at)


def test_times_come_back_in_utc(store: ConversationStore, chat: str) -> None:
    created_at = store.get("ada", chat).created_at
    assert created_at.tzinfo is UTC
    assert abs((datetime.now(UTC) - created_at).total_seconds()) < 60


def test_an_unknown_channel_is_refused(store: ConversationStore) -> None:
    with pytest.raises(IntegrityError, match="ck_conversations_channel"):
        store.create("ada", channel="fax")  # type: ignore[arg-type]


def test_a_conversation_without_messages_has_an_empty_path(store: ConversationStore, chat: str) -> None:
    assert store.path("ada", chat) == []


def test_the_last_used_conversation_comes_first(store: ConversationStore, chat: str) -> None:
    second, third = (store.create("ada", channel="ui").id for _ in range(2))
    say(store, "ada", chat, "Hello")
    assert [conversation.id for conversation in store.recent("ada")] == [chat, third, second]
    assert [conversation.id for conversation in store.recent("ada", limit=1)] == [chat]


def test_a_user_changes_what_a_conversation_is_called_and_how_it_is_kept(store: ConversationStore, chat: str) -> None:
    store.update("ada", chat, title="Mine", pinned=True, system_prompt="Be brief.")
    found = store.get("ada", chat)
    assert (found.title, found.title_source, found.pinned, found.system_prompt) == ("Mine", "user", True, "Be brief.")
    store.update("ada", chat, pinned=False)
    assert (store.get("ada", chat).title, store.get("ada", chat).pinned) == ("Mine", False)


def test_pinned_conversations_come_first(store: ConversationStore, chat: str) -> None:
    newer = store.create("ada", channel="ui").id
    store.update("ada", chat, pinned=True)
    assert [conversation.id for conversation in store.recent("ada")] == [chat, newer]


@pytest.mark.parametrize("limit", [1, 2, 3, 20])
@pytest.mark.parametrize("name", ["recent", "archived"])
def test_pages_of_a_list_follow_each_other(store: ConversationStore, database: Database, name: str, limit: int) -> None:
    ids = [store.create("ada", channel="ui").id for _ in range(9)]
    store.update_all("ada", ids, archived=name == "archived")
    store.update_all("ada", ids[2:5], pinned=True)
    store.update("ada", store.create("ada", channel="ui").id, archived=name != "archived")
    with database.write() as session:  # many of the same time
        session.execute(
            text("UPDATE conversations SET updated_at = printf('2026-01-0%d 00:00:00.000000', number / 4 + 1)")
        )
    listed = {"recent": store.recent, "archived": store.archived}[name]
    seen: list[str] = []
    page = listed("ada", limit=limit)
    while page:
        seen += [conversation.id for conversation in page]
        say(store, "ada", seen[0], "Hello")  # which is then above all pages
        page = listed("ada", limit=limit, after=page[-1])
    assert seen == [*reversed(ids[2:5]), *reversed(ids[5:]), *reversed(ids[:2])]
    assert listed("eve", after=store.get("ada", seen[0])) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 20])
def test_pages_of_the_trash_begin_with_what_was_thrown_away_last(
    store: ConversationStore, database: Database, limit: int
) -> None:
    ids = [store.create("ada", channel="ui").id for _ in range(9)]
    store.update_all("ada", ids[2:5], pinned=True, archived=True)  # which the trash does not ask
    store.update_all("ada", ids, trashed=True)
    store.create("ada", channel="ui")
    with database.write() as session:  # many at the same time
        session.execute(
            text(
                "UPDATE conversations SET trashed_at = printf('2026-01-0%d 00:00:00.000000', 4 - number / 4) "
                "WHERE trashed_at IS NOT NULL"
            )
        )
    seen: list[str] = []
    page = store.trashed("ada", limit=limit)
    while page:
        seen += [conversation.id for conversation in page]
        store.update("ada", seen[0], trashed=False)  # which is then on no page
        page = store.trashed("ada", limit=limit, after=page[-1])
    assert seen == [*reversed(ids[:3]), *reversed(ids[3:7]), *reversed(ids[7:])]
    assert store.trashed("eve") == []


def test_many_conversations_change_or_none_do(store: ConversationStore, chat: str) -> None:
    other, theirs = store.create("ada", channel="ui").id, store.create("bob", channel="ui").id
    for missing in (theirs, NOBODY):
        with pytest.raises(ConversationNotFound, match=missing):
            store.update_all("ada", [chat, other, missing], title="Ours", trashed=True)
    assert [(kept.title, kept.trashed_at) for kept in store.recent("ada")] == [(None, None)] * 2
    assert store.get("bob", theirs).title is None
    changed = store.update_all("ada", [other, chat, other], title="Ours", pinned=True)
    assert [conversation.id for conversation in changed] == [other, chat]
    assert {(kept.title, kept.title_source, kept.pinned) for kept in store.recent("ada")} == {("Ours", "user", True)}


def test_a_conversation_waits_in_the_trash_until_it_is_restored(store: ConversationStore, chat: str) -> None:
    say(store, "ada", chat, "Hello")
    store.update("ada", chat, trashed=True)
    assert store.recent("ada") == []
    assert [conversation.id for conversation in store.trashed("ada")] == [chat]
    assert store.trashed("bob") == []
    store.update("ada", chat, trashed=False)
    assert [conversation.id for conversation in store.recent("ada")] == [chat]
    assert store.trashed("ada") == []
    assert contents(store.path("ada", chat)) == ["Hello", ""]


def test_what_is_in_the_trash_already_keeps_its_time(store: ConversationStore, chat: str) -> None:
    store.update("ada", chat, trashed=True)
    [before] = store.trashed("ada")
    store.update("ada", chat, trashed=True)
    [after] = store.trashed("ada")
    assert before.trashed_at == after.trashed_at is not None


def test_archived_conversations_are_not_recent(store: ConversationStore, database: Database, chat: str) -> None:
    archived = store.create("bob", channel="ui")
    with database.write() as session:
        session.execute(update(Conversation).where(Conversation.id == archived.id).values(archived=True))
    assert store.recent("bob") == []


def test_a_turn_stores_the_message_and_an_empty_reply(store: ConversationStore, chat: str) -> None:
    message, reply = say(store, "ada", chat, "Hello")
    assert [kept.id for kept in store.path("ada", chat)] == [message.id, reply.id]
    message, reply = store.path("ada", chat)
    assert (message.seq, message.role, message.content, message.status) == (1, "user", "Hello", "complete")
    assert (reply.seq, reply.role, reply.content, reply.status) == (2, "assistant", "", "streaming")
    assert (reply.model, reply.params, reply.seed) == ("m", {"temperature": 0}, 7)


def test_a_turn_moves_the_conversation(store: ConversationStore, chat: str) -> None:
    before = store.get("ada", chat)
    _, reply = say(store, "ada", chat, "Hello")
    after = store.get("ada", chat)
    assert after.active_leaf_id == reply.id
    assert after.params == {"temperature": 0}
    assert after.updated_at > before.updated_at


def test_a_turn_gives_a_title_only_where_there_is_none(store: ConversationStore, chat: str) -> None:
    for title in ("First", "Second"):
        store.begin_turn("ada", chat, content="", parent_id=None, model="m", params={}, seed=None, title=title)
    kept = store.get("ada", chat)
    assert (kept.title, kept.title_source) == ("First", "first_message")


def test_a_turn_is_stored_whole_or_not_at_all(store: ConversationStore, database: Database, chat: str) -> None:
    refuse = "BEFORE INSERT ON messages WHEN new.role = 'assistant' BEGIN SELECT raise(ABORT, 'no'); END"
    with database.write() as session:
        session.execute(text(f"CREATE TRIGGER no_replies {refuse}"))
    with pytest.raises(IntegrityError):
        say(store, "ada", chat, "Hello")
    with database.write() as session:
        session.execute(text("DROP TRIGGER no_replies"))
        assert session.scalar(text("SELECT count(*) FROM messages")) == 0
    assert store.get("ada", chat).active_leaf_id is None


def test_a_turn_cannot_follow_a_reply_that_is_streaming(store: ConversationStore, chat: str) -> None:
    _, reply = say(store, "ada", chat, "Hello")
    with pytest.raises(ConversationBusy):
        say(store, "ada", chat, "Are you there?", parent_id=reply.id)
    finish(store, "ada", reply.id)
    say(store, "ada", chat, "Are you there?", parent_id=reply.id)


def test_a_turn_cannot_follow_a_message_of_another_conversation(store: ConversationStore, chat: str) -> None:
    elsewhere = turn(store, store.create("ada", channel="ui").id, "Elsewhere")
    with pytest.raises(MessageNotFound):
        say(store, "ada", chat, "Hello", parent_id=elsewhere)
    with pytest.raises(MessageNotFound):
        store.path("ada", chat, elsewhere)
    assert store.path("ada", chat) == []


def test_siblings_share_their_ancestors(store: ConversationStore, chat: str) -> None:
    root = turn(store, chat, "Hello")
    first = turn(store, chat, "Tea?", root)
    second = turn(store, chat, "Coffee?", root)
    other_root = turn(store, chat, "Start again")
    assert contents(store.path("ada", chat, first)) == ["Hello", "Hello!", "Tea?", "Tea?!"]
    assert contents(store.path("ada", chat, second)) == ["Hello", "Hello!", "Coffee?", "Coffee?!"]
    assert contents(store.path("ada", chat, other_root)) == ["Start again", "Start again!"]
    assert contents(store.path("ada", chat)) == ["Start again", "Start again!"]


def test_order_does_not_depend_on_the_clock(store: ConversationStore, database: Database, chat: str) -> None:
    leaf = turn(store, chat, "Two", turn(store, chat, "One"))
    with database.write() as session:
        later_is_older = text("UPDATE messages SET created_at = printf('20%02d-01-01 00:00:00', 30 - seq)")
        session.execute(later_is_older)
    assert contents(store.path("ada", chat, leaf)) == ["One", "One!", "Two", "Two!"]


def test_a_finished_reply_keeps_its_figures(store: ConversationStore, chat: str) -> None:
    figures: dict[str, int] = {"prompt_tokens": 9, "cached_tokens": 4, "completion_tokens": 2}
    figures |= {"ttft_ms": 80, "duration_ms": 120}
    _, reply = say(store, "ada", chat, "Hello")
    store.flush_reply("ada", reply.id, content="Hi")
    assert store.message("ada", reply.id).content == "Hi"
    store.finish_reply(
        "ada",
        reply.id,
        content="Hi!",
        status="stopped",
        finish_reason="cancelled",
        token_ids=[5, 0],
        ledger={"kept": [1]},
        **figures,
    )
    kept = store.message("ada", reply.id)
    assert (kept.content, kept.status, kept.finish_reason) == ("Hi!", "stopped", "cancelled")
    assert (kept.token_ids, kept.ledger) == ([5, 0], {"kept": [1]})
    assert {name: getattr(kept, name) for name in figures} == figures


def test_a_path_has_ledgers_only_if_they_are_asked_for(store: ConversationStore, chat: str) -> None:
    _, reply = say(store, "ada", chat, "Hello")
    store.finish_reply(
        "ada", reply.id, content="Hi!", status="complete", finish_reason="stop", ledger={"budget": 9, "messages": []}
    )
    assert [message.ledger for message in store.path("ada", chat, ledgers=True)] == [
        None,
        {"budget": 9, "messages": []},
    ]
    assert "ledger" in inspect(store.path("ada", chat)[-1]).unloaded


def test_a_finished_reply_never_changes(store: ConversationStore, chat: str) -> None:
    reply_id = turn(store, chat, "Hello")
    with pytest.raises(MessageNotFound):
        store.flush_reply("ada", reply_id, content="late")
    with pytest.raises(MessageNotFound):
        finish(store, "ada", reply_id, "later")
    assert store.message("ada", reply_id).content == "Hello!"


def test_the_sweep_interrupts_what_was_streaming(store: ConversationStore, chat: str) -> None:
    done = turn(store, chat, "Hello")
    _, reply = say(store, "ada", chat, "And?", parent_id=done)
    store.flush_reply("ada", reply.id, content="Half a sen")
    assert store.interrupt_streaming() == 1
    assert store.interrupt_streaming() == 0
    assert store.message("ada", done).status == "complete"
    kept = store.message("ada", reply.id)
    assert (kept.status, kept.content) == ("interrupted", "Half a sen")


def test_messages_go_with_their_conversation(store: ConversationStore, database: Database, chat: str) -> None:
    turn(store, chat, "Two", turn(store, chat, "One"))
    with database.write() as session:
        session.execute(text("DELETE FROM conversations"))
        assert session.scalar(text("SELECT count(*) FROM messages")) == 0


@pytest.mark.parametrize("name", CALLS)
def test_a_stranger_gets_the_answer_for_what_does_not_exist(store: ConversationStore, chat: str, name: str) -> None:
    _, reply = say(store, "ada", chat, "My secret")
    with pytest.raises(StorageError) as foreign:
        CALLS[name](store, "eve", chat, reply.id)
    with pytest.raises(StorageError) as missing:
        CALLS[name](store, "eve", NOBODY, NOBODY)
    assert type(foreign.value) is type(missing.value)
    assert str(foreign.value).replace(chat, NOBODY).replace(reply.id, NOBODY) == str(missing.value)
    assert contents(store.path("ada", chat)) == ["My secret", ""]
    assert store.recent("eve") == []


def test_no_method_is_missing_among_the_stranger_s_calls() -> None:
    public = {name for name in vars(ConversationStore) if not name.startswith("_")}
    assert public == CALLS.keys() | {"create", "recent", "archived", "trashed", "interrupt_streaming"}


def test_sixteen_threads_write_without_a_locked_database(store: ConversationStore, chat: str) -> None:
    def write(thread: int) -> list[int]:
        turns = [say(store, "ada", chat, f"{thread}.{number}") for number in range(10)]
        return [message.seq for pair in turns for message in pair]

    with ThreadPoolExecutor(16) as pool:
        seqs = [seq for written in pool.map(write, range(16)) for seq in written]
    assert sorted(seqs) == list(range(1, 321))


# Lone surrogates are left out, since UTF-8 cannot hold them. One store may serve all examples.
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_as_it_was(store: ConversationStore, content: str) -> None:
    chat = store.create("hypothesis", channel="import").id
    message, reply = say(store, "hypothesis", chat, content + "\x00" + content)
    finish(store, "hypothesis", reply.id, content)
    assert contents(store.path("hypothesis", chat)) == [content + "\x00" + content, content]


def kill_writers(path: Path, *, count: int) -> set[str]:
    """Let processes write turns, kill them all at once, and return the ids they were promised."""
    command = [sys.executable, "-c", WRITE_TURNS, str(path)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    promised = [writer.stdout.readline() for writer in writers if writer.stdout]
    time.sleep(random.uniform(0, 0.05))
    for writer in writers:
        writer.kill()
    promised += [writer.communicate()[0] for writer in writers]
    # a line that the kill has cut off promises nothing
    return {
        word for output in promised for line in output.splitlines(True) if line[-1] == "\n" for word in line.split()
    }


def test_kill_9_loses_no_promised_turn_and_leaves_no_half_one(tmp_path: Path) -> None:
    database = Database(tmp_path / "parley.db")
    database.migrate()
    promised = set[str]().union(*(kill_writers(database.path, count=4) for _ in range(5)))
    with database.read() as session:
        kept = set(session.scalars(text("SELECT id FROM messages")))
        replies = text("SELECT count(*) FROM messages reply JOIN messages m ON m.id = reply.parent_id")
        assert session.scalar(text("PRAGMA integrity_check")) == "ok"
        assert session.scalar(replies) * 2 == len(kept)
    assert len(promised) >= 40
    assert promised <= kept
    assert ConversationStore(database).interrupt_streaming() * 2 == len(kept)
    database.close()
