"""Accounts and keys in a file, and what is left when an account goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ask
from sqlalchemy import func, select

from storage.accounts import (
    AccountStore,
    Holdings,
    KeyNotFound,
    LastAdmin,
    NameTaken,
    TooManyKeys,
    UserNotFound,
)
from storage.archive import ArchiveStore
from storage.conversations import ConversationStore
from storage.database import Database
from storage.erasure import ErasureStore
from storage.errors import ConversationBusy, OwnerGone
from storage.feedback import FeedbackStore
from storage.presets import PresetStore
from storage.sites import SiteStore
from storage.tables import ApiKey, Conversation, Feedback, Message, Site, StoredPreset, User, utc_now

CANARY = "canary-51c2"


@pytest.fixture
def accounts(database: Database) -> AccountStore:
    return AccountStore(database)


def add(accounts: AccountStore, *names: str) -> list[User]:
    return [accounts.add(name, f"hash of {name}", is_admin=False, first_id="local") for name in names]


def converse(database: Database, owner: str, text: str, *, ends: bool = True) -> str:
    """Store a question with its answer, and return the answer's id."""
    store = ConversationStore(database)
    chat = store.create(owner, channel="ui").id
    _, reply = store.begin_turn(owner, chat, content=text, parent_id=None, model="m", params={}, seed=1, title=text)
    if ends:
        counts = {"prompt_tokens": 7, "completion_tokens": 3}
        store.finish_reply(owner, reply.id, content="Yes.", status="complete", finish_reason="stop", **counts)
    return reply.id


def add_site(database: Database, owner: str) -> None:
    limits = {"messages_per_visitor": 20, "messages_per_address": 60}
    SiteStore(database).create(
        owner, f"pub_{owner}", limit=9, name="Shop", origins=[], enabled=True, appearance={}, **limits
    )


def test_the_first_account_takes_over_what_was_the_local_owners(accounts: AccountStore, database: Database) -> None:
    chat = ask(ConversationStore(database), "Hello?")
    ada, ben = add(accounts, "ada", "ben")
    assert [found.id for found in ConversationStore(database).recent(ada.id)] == [chat]
    assert ConversationStore(database).recent(ben.id) == []


def test_only_the_first_account_is_an_administrator_unasked(accounts: AccountStore) -> None:
    assert [user.is_admin for user in add(accounts, "ada", "ben")] == [True, False]


def test_accounts_and_keys_are_there_after_a_restart(accounts: AccountStore, database: Database) -> None:
    add(accounts, "ada", "ben")
    accounts.add_key("local", "notebook", ["read"], prefix="parley_abcde", digest="d", limit=9)
    database.close()
    again = AccountStore(Database(database.path))
    assert [user.name for user in again.all()] == ["ada", "ben"]
    assert [key.name for key in again.keys("local")] == ["notebook"]
    again._database.close()


def test_a_name_is_taken_in_whatever_letter_cases(accounts: AccountStore) -> None:
    add(accounts, "ada")
    with pytest.raises(NameTaken, match="there is an account 'ADA' already"):
        add(accounts, "ADA")
    found = accounts.named("Ada")
    assert found
    assert found.name == "ada"


def test_the_last_administrator_stays_one_and_nothing_else_changes(accounts: AccountStore) -> None:
    ada, ben = add(accounts, "ada", "ben")
    with pytest.raises(LastAdmin, match="'ada' is the only administrator"):
        accounts.change(ada.id, password_hash="other", is_admin=False)
    assert accounts.get(ada.id).password_hash == "hash of ada"
    accounts.change(ben.id, is_admin=True)
    assert accounts.change(ada.id, is_admin=False).is_admin is False


def test_another_password_ends_sessions_and_another_hash_of_it_does_not(accounts: AccountStore) -> None:
    [ada] = add(accounts, "ada")
    accounts.rehash(ada.id, "hash of ada", "stronger")
    assert (accounts.get(ada.id).password_hash, accounts.get(ada.id).session_epoch) == ("stronger", 0)
    accounts.change(ada.id, password_hash="other")
    accounts.end_sessions(ada.id)
    assert accounts.get(ada.id).session_epoch == 2


def test_another_hash_of_a_password_does_not_bring_it_back(accounts: AccountStore) -> None:
    _, ben = add(accounts, "ada", "ben")
    accounts.change(ben.id, password_hash="other")
    accounts.rehash(ben.id, "hash of ben", "stronger")
    assert accounts.get(ben.id).password_hash == "other"
    accounts.lock_out(ben.id)
    accounts.rehash(ben.id, "other", "stronger")
    assert accounts.get(ben.id).password_hash == ""


def test_an_ended_session_is_remembered_until_its_token_is_worth_nothing(accounts: AccountStore) -> None:
    start = utc_now()
    for _ in range(2):  # who logs out in two tabs
        accounts.end_session("first", forget_before=start)
    assert (accounts.has_ended("first"), accounts.has_ended("second")) == (True, False)
    accounts.end_session("second", forget_before=utc_now())
    assert (accounts.has_ended("first"), accounts.has_ended("second")) == (False, True)


def test_another_password_revokes_keys_unless_they_are_to_be_kept(accounts: AccountStore) -> None:
    ada, ben = add(accounts, "ada", "ben")
    for user in (ada, ben):
        accounts.add_key(user.id, "notebook", ["read"], prefix="parley_", digest=user.name, limit=9)
    accounts.change(ben.id, is_admin=True)
    accounts.change(ben.id, password_hash="other", keep_keys=True)
    assert accounts.find_key("ben")
    accounts.change(ben.id, password_hash="another")
    assert accounts.find_key("ben") is None
    assert accounts.find_key("ada")


def test_who_is_locked_out_has_no_session_password_key_or_open_site(accounts: AccountStore, database: Database) -> None:
    ada, ben = add(accounts, "ada", "ben")
    sites = SiteStore(database)
    for user in (ada, ben):
        accounts.add_key(user.id, "notebook", ["read"], prefix="parley_", digest=user.name, limit=9)
        add_site(database, user.id)
    accounts.lock_out(ben.id)
    user = accounts.get(ben.id)
    assert (user.session_epoch, user.password_hash, accounts.find_key("ben")) == (1, "", None)
    assert [site.enabled for site in (*sites.of(ada.id), *sites.of(ben.id))] == [True, False]
    assert (accounts.get(ada.id).session_epoch, accounts.find_key("ada") is None) == (0, False)
    with pytest.raises(LastAdmin):
        accounts.lock_out(ada.id)
    assert accounts.find_key("ada")


def test_who_is_locked_out_administers_nothing_and_is_no_other_administrator(accounts: AccountStore) -> None:
    ada, ben = add(accounts, "ada", "ben")
    accounts.change(ben.id, is_admin=True)
    accounts.lock_out(ben.id)
    assert not accounts.get(ben.id).is_admin
    with pytest.raises(LastAdmin):
        accounts.change(ada.id, is_admin=False)


def test_an_unknown_account_is_not_found(accounts: AccountStore) -> None:
    with pytest.raises(UserNotFound, match="There is no account 'nobody'"):
        accounts.get("nobody")
    assert accounts.named("nobody") is None
    assert accounts.some(["nobody"]) == {}


def test_a_revoked_key_is_neither_listed_nor_found(accounts: AccountStore) -> None:
    key = accounts.add_key("local", "notebook", ["read"], prefix="parley_abcde", digest="d", limit=9)
    found = accounts.find_key("d")
    assert found
    assert (found[0].id, found[1]) == (key.id, None)  # there is no account yet
    accounts.revoke_key(key.id, "local")
    assert (accounts.keys("local"), accounts.find_key("d")) == ([], None)
    with pytest.raises(KeyNotFound):
        accounts.revoke_key(key.id, "local")


def test_an_owner_has_no_more_keys_than_one_may_have(accounts: AccountStore) -> None:
    keys = [
        accounts.add_key("ada", "notebook", ["read"], prefix="parley_", digest=digest, limit=2).id for digest in "ab"
    ]
    with pytest.raises(TooManyKeys, match="There are 2 API keys already, and no more are possible: revoke one first"):
        accounts.add_key("ada", "notebook", ["read"], prefix="parley_", digest="c", limit=2)
    assert [key.id for key in accounts.keys("ada")] == keys
    assert accounts.add_key("ben", "notebook", ["read"], prefix="parley_", digest="d", limit=2)
    accounts.revoke_key(keys[0])
    assert accounts.add_key("ada", "notebook", ["read"], prefix="parley_", digest="e", limit=2)


def test_anothers_key_cannot_be_revoked(accounts: AccountStore) -> None:
    key = accounts.add_key("ada", "notebook", ["read"], prefix="parley_abcde", digest="d", limit=9)
    with pytest.raises(KeyNotFound):
        accounts.revoke_key(key.id, "ben")
    assert accounts.find_key("d")


def test_holdings_are_counts(accounts: AccountStore, database: Database) -> None:
    assert accounts.holdings() == {}
    converse(database, "ada", "one")
    converse(database, "ada", "two")
    ConversationStore(database).create("ben", channel="ui")
    held = accounts.holdings()
    newest = max(chat.updated_at for chat in ConversationStore(database).recent("ada"))
    assert held["ada"] == Holdings(2, 4, 20, newest)
    assert (held["ben"].n_conversations, held["ben"].n_messages, held["ben"].n_tokens) == (1, 0, 0)


def count(database: Database, table: type, owner_id: str) -> int:
    column = table.id if table is User else table.user_id if table is Feedback else table.owner_id
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table).where(column == owner_id)) or 0


def test_an_account_goes_with_all_that_is_its_owners(
    accounts: AccountStore, database: Database, tmp_path: Path
) -> None:
    ada, ben = add(accounts, "ada", "ben")
    for user in (ada, ben):
        reply = converse(database, user.id, f"{CANARY} {user.name}")
        FeedbackStore(database).rate(user.id, reply, rating=1, comment=f"{CANARY} {user.name}")
        PresetStore(database).save(user.id, "poet", system_prompt=f"{CANARY} {user.name}", params={})
        accounts.add_key(user.id, f"{CANARY} {user.name}", ["read"], prefix="parley_", digest=user.name, limit=9)
    receipt = ErasureStore(database).erase_owner(ben.id)
    assert (len(receipt.conversation_ids), receipt.n_messages) == (1, 2)
    for table in (User, Conversation, Feedback, StoredPreset, ApiKey):
        assert (count(database, table, ada.id), count(database, table, ben.id)) == (1, 0)
    database.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("parley.db*"))
    assert f"{CANARY} ada".encode() in kept
    assert f"{CANARY} ben".encode() not in kept
    assert b"hash of ben" not in kept


def import_into(database: Database, owner_id: str) -> None:
    with ArchiveStore(database).importing(owner_id):
        pass


WRITES: dict[str, Callable[[Database, str], Any]] = {
    "conversation": lambda database, owner: ConversationStore(database).create(owner, channel="ui"),
    "import": import_into,
    "site": add_site,
    "key": lambda database, owner: AccountStore(database).add_key(
        owner, "x", ["read"], prefix="p", digest="d", limit=9
    ),
    "preset": lambda database, owner: PresetStore(database).save(owner, "poet", system_prompt=None, params={}),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_nothing_can_be_stored_for_an_account_that_is_gone(
    accounts: AccountStore, database: Database, write: Callable[[Database, str], Any]
) -> None:
    write(database, "anybody")  # while there are no accounts
    _, ben = add(accounts, "ada", "ben")
    ErasureStore(database).erase_owner(ben.id)
    with pytest.raises(OwnerGone, match="This account has been removed"):
        write(database, ben.id)
    for table in (Conversation, Site, ApiKey, StoredPreset):
        assert count(database, table, ben.id) == 0


def test_nothing_is_sent_or_answered_for_an_account_that_is_gone(accounts: AccountStore, database: Database) -> None:
    store = ConversationStore(database)
    chat = store.create("gone", channel="ui").id
    values: dict[str, Any] = {"model": "m", "params": {}, "seed": 1}
    message, reply = store.begin_turn("gone", chat, content="Hello?", parent_id=None, **values)
    store.finish_reply("gone", reply.id, content="Yes.", status="complete", finish_reason="stop")
    add(accounts, "ada")
    with pytest.raises(OwnerGone):
        store.begin_turn("gone", chat, content="Hello?", parent_id=reply.id, **values)
    with pytest.raises(OwnerGone):
        store.begin_reply("gone", chat, parent_id=message.id, **values)
    assert count(database, Conversation, "gone") == 1


def test_the_last_administrator_cannot_go(accounts: AccountStore, database: Database) -> None:
    ada, _ = add(accounts, "ada", "ben")
    with pytest.raises(LastAdmin):
        ErasureStore(database).erase_owner(ada.id)
    assert accounts.get(ada.id)


def test_an_account_stays_whole_while_a_reply_is_written_to_it(accounts: AccountStore, database: Database) -> None:
    _, ben = add(accounts, "ada", "ben")
    converse(database, ben.id, "done")
    converse(database, ben.id, "running", ends=False)
    with pytest.raises(ConversationBusy):
        ErasureStore(database).erase_owner(ben.id)
    assert accounts.get(ben.id)
    assert count(database, Conversation, ben.id) == 2
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Message)) == 4
