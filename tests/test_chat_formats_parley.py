"""Parley's own format loses nothing, comes back once, and refuses what it is not."""

import copy
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from archives import conversations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat.errors import Unreadable
from chat.formats import html, parley
from chat.formats.archive import ArchivedConversation, digest, from_tree
from chat.formats.json_text import NotJson, dump_json, load_json
from chat.imports import Importer
from storage.archive import ArchiveStore, Selection
from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.database import Database
from storage.feedback import FeedbackStore
from storage.tables import Conversation

EVERYTHING = Selection()


@pytest.fixture
def archive(database: Database) -> ArchiveStore:
    return ArchiveStore(database)


def lines(archive: ArchiveStore, owner_id: str) -> list[str]:
    return list(parley.write(map(from_tree, archive.trees(owner_id, EVERYTHING))))


def empty(database: Database) -> None:
    """Forget all conversations, so that one database serves all examples."""
    with database.write() as session:
        for conversation in session.query(Conversation):
            conversation.active_leaf_id = None
            session.flush()
            session.delete(conversation)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversation=conversations())
def test_what_comes_in_goes_out_byte_for_byte_and_comes_in_once(
    database: Database, archive: ArchiveStore, conversation: ArchivedConversation
) -> None:
    empty(database)
    [line] = parley.write([conversation])
    report = Importer(archive).run("ada", parley.read([line]))
    assert (report.conversations, report.messages, report.skipped) == (1, len(conversation["messages"]), [])
    assert lines(archive, "ada") == [line]
    again = Importer(archive).run("ada", parley.read([line]))
    assert (again.conversations, len(again.skipped)) == (0, 1)
    assert lines(archive, "ada") == [line]


@pytest.mark.parametrize("year", ["0001", "0999", "9999"])
def test_times_of_any_year_come_back(archive: ArchiveStore, chat: str, year: str) -> None:
    [line] = lines(archive, "ada")
    conversation = json.loads(line)["conversation"]
    conversation.update(created_at=f"{year}-01-02T03:04:05.000006Z", id="old")
    [changed] = parley.write([conversation])
    Importer(archive).run("bob", parley.read([changed]))
    [found] = (from_tree(tree) for tree in archive.trees("bob", EVERYTHING))
    assert found["created_at"] == conversation["created_at"]


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversation=conversations())
def test_another_owner_gets_a_copy_with_ids_of_its_own_that_says_the_same(
    database: Database, archive: ArchiveStore, conversation: ArchivedConversation
) -> None:
    empty(database)
    for owner_id in ("ada", "bob", "bob"):
        Importer(archive).run(owner_id, [conversation])
    [ours], [theirs] = ([from_tree(tree) for tree in archive.trees(owner, EVERYTHING)] for owner in ("ada", "bob"))
    assert ours == conversation
    assert digest(theirs) == digest(ours)
    assert theirs["id"] != ours["id"]
    assert not {message["id"] for message in ours["messages"]} & {message["id"] for message in theirs["messages"]}


# What Parley wrote, and by which digest it knew it, before there was a version 2
VERSION_1 = (
    '{"format":"parley","version":1,"conversation":{"id":"c","channel":"ui","site_id":null,"title":"A","title_source":'
    'null,"preset":null,"system_prompt":null,"params":null,"model":"m","active_leaf_id":"a","pinned":false,"archived":'
    'false,"created_at":"2026-01-01T00:00:00.000000Z","updated_at":"2026-01-01T00:00:00.000000Z","messages":[{"id":"a",'
    '"parent_id":null,"seq":1,"role":"user","content":"Hi","origin":"written","origin_id":null,"status":"complete",'
    '"finish_reason":null,"error":null,"model":null,"params":null,"seed":null,"token_ids":null,"ledger":null,'
    '"prompt_tokens":null,"cached_tokens":null,"completion_tokens":null,"ttft_ms":null,"duration_ms":null,'
    '"pinned":false,"created_at":"2026-01-01T00:00:00.000000Z","feedback":null}]}}\n'
)
DIGEST_1 = "e9b138d43afe34e3835aedeba6dda22b59630fc97c3360b0dc46c28ab069d3e8"


def test_a_line_of_version_1_is_read_and_known_by_the_digest_that_it_had() -> None:
    [conversation] = parley.read([VERSION_1])
    assert (conversation["recap"], conversation["messages"][0]["prompt_ids"]) == (False, None)
    assert digest(conversation) == DIGEST_1


def test_a_page_in_which_it_stands_is_read_too() -> None:
    page = f"<!doctype html>\n{html.MARK}\n{html.BLOCK}{VERSION_1.strip()}</script>\n</html>\n"
    assert list(html.read(page.splitlines(keepends=True))) == list(parley.read([VERSION_1]))


@given(conversation=conversations(), recap=st.booleans())
def test_a_field_that_came_later_counts_where_it_says_something(
    conversation: ArchivedConversation, recap: bool
) -> None:
    conversation["recap"] = False
    changed = {**conversation, "recap": recap}
    assert (digest(changed) == digest(conversation)) == (not recap)  # type: ignore[arg-type]


def test_a_copy_with_ids_of_its_own_has_them_in_its_ledgers_too(archive: ArchiveStore, chat: str) -> None:
    [tree] = archive.trees("ada", EVERYTHING)
    conversation = from_tree(tree)
    first, second, _ = (message["id"] for message in conversation["messages"])
    entries = [{"message_id": name, "tokens": 1} for name in (first, "elsewhere", second)]
    conversation["messages"][1]["ledger"] = {"budget": 9, "messages": [*entries, "no entry", {"message_id": [1]}]}
    Importer(archive).run("bob", [conversation])
    [copy] = (from_tree(tree) for tree in archive.trees("bob", EVERYTHING))
    [one, other, _] = (message["id"] for message in copy["messages"])
    ledger = copy["messages"][1]["ledger"]
    assert ledger is not None
    assert ledger["budget"] == 9
    named = [{"message_id": name, "tokens": 1} for name in (one, None, other)]
    assert ledger["messages"] == [*named, "no entry", {"message_id": [1]}]
    assert one != first
    assert digest(copy) == digest(conversation)


@given(conversation=conversations())
def test_every_line_follows_the_schema(conversation: ArchivedConversation) -> None:
    [line] = parley.write([conversation])
    assert line.count("\n") == 1
    jsonschema.validate(json.loads(line), parley.schema())


@pytest.fixture
def chat(store: ConversationStore) -> str:
    """A conversation with a question, two answers and an opinion."""
    chat = store.create("ada", channel="ui", system_prompt="Be brief.", model="tiny").id
    message, reply = store.begin_turn(
        "ada", chat, content="a", parent_id=None, model="tiny", params={"seed": 1}, seed=1, title="A"
    )
    store.finish_reply("ada", reply.id, content="b", status="complete", finish_reason="stop", token_ids=[1])
    anew = store.begin_reply("ada", chat, parent_id=message.id, model="tiny", params={}, seed=2)
    store.finish_reply("ada", anew.id, content="c", status="stopped", finish_reason="cancelled")
    return chat


def test_a_real_conversation_comes_back_after_it_is_gone(
    database: Database, archive: ArchiveStore, store: ConversationStore, branches: BranchStore, chat: str
) -> None:
    reply = store.path("ada", chat)[-1]
    FeedbackStore(database).rate("ada", reply.id, rating=-1, comment="No.")
    branches.pin("ada", reply.id, pinned=True)
    before = lines(archive, "ada")
    empty(database)
    report = Importer(archive).run("ada", parley.read(before))
    assert (report.conversations, report.messages, report.branches) == (1, 3, 1)
    assert lines(archive, "ada") == before
    assert [message.content for message in store.path("ada", chat)] == ["a", "c"]


def test_a_conversation_that_never_left_is_here_already(
    archive: ArchiveStore, store: ConversationStore, chat: str
) -> None:
    report = Importer(archive).run("ada", parley.read(lines(archive, "ada")))
    assert (report.conversations, report.skipped) == (0, ["A: it is here already"])


def test_a_conversation_that_went_on_since_comes_in_beside_itself(
    archive: ArchiveStore, store: ConversationStore, branches: BranchStore, chat: str
) -> None:
    before = lines(archive, "ada")
    branches.clear("ada", chat)
    Importer(archive).run("ada", parley.read(before))
    assert len(store.recent("ada")) == 2
    assert store.path("ada", chat) == []


def test_a_reply_that_is_being_written_is_archived_as_interrupted(
    archive: ArchiveStore, store: ConversationStore
) -> None:
    chat = store.create("ada", channel="ui").id
    store.begin_turn("ada", chat, content="a", parent_id=None, model="m", params={}, seed=1)
    [tree] = archive.trees("ada", EVERYTHING)
    assert from_tree(tree)["messages"][1]["status"] == "interrupted"


def test_a_file_with_one_bad_line_adds_nothing(archive: ArchiveStore, store: ConversationStore, chat: str) -> None:
    good = lines(archive, "ada")
    with pytest.raises(Unreadable, match=r"^line 2: expected JSON"):
        Importer(archive).run("bob", parley.read([*good, "{", *good]))
    assert store.recent("bob") == []


def changed(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """A function that sets a field of a line, named like messages.0.role."""

    def change(line: dict[str, Any]) -> None:
        *where, last = path.split(".")
        target: Any = line
        for part in where:
            target = target[int(part)] if part.isdigit() else target[part]
        target[int(last) if last.isdigit() else last] = value

    return change


BAD = {
    "another version": (changed("version", 4), "version: expected 1 to 3, got 4"),
    "another format": (changed("format", "other"), 'expected an object with "format": "parley"'),
    "an unknown role": (changed("conversation.messages.0.role", "tool"), "messages.0.role: input should be 'system'"),
    "an impossible day": (
        changed("conversation.created_at", "2026-13-01T00:00:00.000000Z"),
        "created_at: value error, month must be in 1..12",
    ),
    "an orphan": (
        changed("conversation.messages.0.parent_id", "x"),
        "messages.0.parent_id: expected a message before this one, got 'x'",
    ),
    "a cycle": (
        lambda line: line["conversation"]["messages"][0].update(parent_id=line["conversation"]["messages"][1]["id"]),
        "messages.0.parent_id: expected a message before this one",
    ),
    "an id twice": (
        lambda line: line["conversation"]["messages"][1].update(id=line["conversation"]["messages"][0]["id"]),
        "messages.1.id: expected one of its own",
    ),
    "messages out of order": (changed("conversation.messages.1.seq", 1), "messages.1.seq: expected more than"),
    "a leaf that is not there": (changed("conversation.active_leaf_id", "x"), "active_leaf_id: expected one of its"),
    "no leaf": (changed("conversation.active_leaf_id", None), "active_leaf_id: expected one of its"),
    "a field too many": (changed("conversation.x", 1), "x: extra inputs are not permitted"),
    "text that is a number": (changed("conversation.messages.0.content", 5), "messages.0.content: input should be a"),
    "a lone surrogate": (changed("conversation.title", "\ud800"), "expected whole characters, found half of one"),
    "a seed beyond 64 bits": (changed("conversation.messages.1.seed", 2**63), "messages.1.seed: input should be less"),
    "a negative count": (changed("conversation.messages.1.prompt_tokens", -1), "messages.1.prompt_tokens: input"),
    "a count beyond 53 bits": (changed("conversation.messages.1.prompt_tokens", 2**53), "messages.1.prompt_tokens: i"),
    "a number of a message beyond 31 bits": (changed("conversation.messages.1.seq", 2**31), "messages.1.seq: input"),
    "a time of another form": (
        changed("conversation.created_at", "today"),
        r"created_at: string should match pattern '^\d{4}-\d\d-\d\dT",
    ),
    "an empty id": (changed("conversation.id", ""), "id: string should have at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_conversation_is_refused_with_place_and_field(archive: ArchiveStore, chat: str, name: str) -> None:
    change, reason = BAD[name]
    line = json.loads(lines(archive, "ada")[0])
    change(line)
    with pytest.raises(Unreadable) as refused:
        list(parley.read([json.dumps(line)]))
    assert str(refused.value).startswith(f"line 1: {reason}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["[" * 1_000_000, '{"a":' * 100_000, "1" * 5_000, "NaN", "nothing", "[]", '"text"', "null", '{"format": "parley"}'],
    ids=lambda text: text[:12],
)
def test_rubbish_is_refused(text: str) -> None:
    with pytest.raises(Unreadable, match=r"^line 1: "):
        list(parley.read([text]))


@given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists))
@pytest.mark.parametrize("version", [1, 2, 3])
def test_no_value_of_json_makes_it_stumble(version: int, value: object) -> None:
    line = {"format": "parley", "version": version, "conversation": value}
    with pytest.raises(Unreadable):
        list(parley.read([json.dumps(line)]))


def test_an_archived_conversation_is_not_changed_by_its_import(archive: ArchiveStore, chat: str) -> None:
    [tree] = archive.trees("ada", EVERYTHING)
    conversation = from_tree(tree)
    before = copy.deepcopy(conversation)
    Importer(archive).run("bob", [conversation])
    assert conversation == before


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("1e999", "expected numbers below 1.8e308, found 1e999"),
        ("-1e999", "expected numbers below 1.8e308, found -1e999"),
        ("[" * 101 + "]" * 101, "expected JSON of at most 100 levels"),
        ('{"a":' * 970 + "1" + "}" * 970, "expected JSON of at most 100 levels"),
    ],
)
def test_json_that_could_not_be_written_or_read_again_is_refused(value: str, reason: str) -> None:
    with pytest.raises(Unreadable) as refused:
        load_json(value, "line 1")
    assert str(refused.value).startswith(f"line 1: {reason}")


def test_a_hundred_levels_are_read() -> None:
    assert load_json("[" * 100 + "1" + "]" * 100, "x")


def test_a_number_that_is_not_finite_is_not_written() -> None:
    with pytest.raises(NotJson):
        dump_json({"a": float("inf")})


def test_what_is_in_the_trash_is_said_to_be_there(archive: ArchiveStore, store: ConversationStore, chat: str) -> None:
    written = lines(archive, "ada")
    Importer(archive).run("bob", parley.read(written))
    for owner_id in ("ada", "bob"):
        [tree] = archive.trees(owner_id, EVERYTHING)
        store.update(owner_id, tree.conversation["id"], trashed=True)
        assert Importer(archive).run(owner_id, parley.read(written)).skipped == ["A: it is in the trash"]
