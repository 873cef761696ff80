"""Who somebody is that shows a password, a session or a key."""

import hashlib
import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from accounts_app import PASSWORD, quick_passwords
from argon2 import PasswordHasher
from sqlalchemy import update

from chat.accounts import (
    KEY_PREFIX,
    LOGINS_PER_MINUTE,
    MAX_KEYS,
    MAX_NAME,
    Accounts,
    BadName,
    BadScopes,
    NotRemovable,
    WrongPassword,
)
from chat.identity import Identity
from chat.limits import LimitExceeded
from chat.lockout import FREE_TRIES
from chat.passwords import BadPassword, Passwords
from chat.sessions import Session
from storage.accounts import AccountStore, TooManyKeys
from storage.database import Database
from storage.erasure import ErasureStore
from storage.errors import DatabaseUnusable
from storage.tables import ApiKey, User, utc_now

HOME = "192.0.2.1"


@pytest.fixture
def store(database: Database) -> AccountStore:
    return AccountStore(database)


@pytest.fixture
def accounts(store: AccountStore) -> Accounts:
    return Accounts(store, quick_passwords())


@pytest.fixture
def ada(accounts: Accounts) -> User:
    return accounts.add("ada", PASSWORD, is_admin=False)


def test_without_accounts_whoever_comes_is_the_local_owner(accounts: Accounts) -> None:
    assert not accounts.exist
    local = Identity("local", None, is_admin=True)
    assert accounts.of_session(None) == local
    assert accounts.of_session(Session("ada", 0, "s", is_old=False)) == local  # a cookie of another data folder


def test_with_accounts_only_a_session_says_who_comes(accounts: Accounts, ada: User) -> None:
    assert accounts.exist
    assert accounts.of_session(None) is None
    assert accounts.of_session(Session(ada.id, 0, "s", is_old=False)) == Identity("local", "ada", is_admin=True)
    assert accounts.of_session(Session(ada.id, 1, "s", is_old=False)) is None
    assert accounts.of_session(Session("nobody", 0, "s", is_old=False)) is None


def test_a_session_ends_with_the_password_and_with_the_account(
    accounts: Accounts, ada: User, database: Database
) -> None:
    ben = accounts.add("ben", PASSWORD, is_admin=False)
    session = Session(ben.id, 0, "s", is_old=False)
    assert accounts.of_session(session) == Identity(ben.id, "ben", is_admin=False)
    accounts.change(ben.id, password="another password")
    assert accounts.of_session(session) is None
    ErasureStore(database).erase_owner(ben.id)
    assert accounts.of_session(Session(ben.id, 1, "s", is_old=False)) is None


def test_the_right_password_logs_in_in_whatever_letter_cases_of_the_name(accounts: Accounts, ada: User) -> None:
    assert accounts.log_in("Ada", PASSWORD, HOME).id == ada.id


@pytest.mark.parametrize(("name", "password"), [("ada", "wrong"), ("nobody", PASSWORD), ("", ""), ("ada", "\0")])
def test_a_wrong_name_and_a_wrong_password_are_the_same(
    accounts: Accounts, ada: User, name: str, password: str
) -> None:
    with pytest.raises(WrongPassword, match="The name or the password is wrong"):
        accounts.log_in(name, password, HOME)


@pytest.mark.parametrize("name", ["ada", "nobody"])
def test_an_account_is_locked_for_an_address_whether_there_is_one_or_not(
    accounts: Accounts, ada: User, name: str
) -> None:
    for _ in range(FREE_TRIES):
        with pytest.raises(WrongPassword):
            accounts.log_in(name, "wrong", HOME)
    with pytest.raises(LimitExceeded):
        accounts.log_in(name, PASSWORD, HOME)
    assert accounts.log_in("ada", PASSWORD, "192.0.2.2").id == ada.id


def test_an_address_cannot_try_one_account_after_the_other(accounts: Accounts, ada: User) -> None:
    for number in range(LOGINS_PER_MINUTE):
        with pytest.raises(WrongPassword):
            accounts.log_in(f"name{number}", "wrong", HOME)
    with pytest.raises(LimitExceeded, match="logins: at most 20 in 60 s"):
        accounts.log_in("ada", PASSWORD, HOME)


def test_a_login_strengthens_an_old_hash_and_keeps_sessions(store: AccountStore, ada: User) -> None:
    stronger = Accounts(store, Passwords(PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)))
    assert stronger.log_in("ada", PASSWORD, HOME).session_epoch == 0
    kept = store.get(ada.id)
    assert "m=16,t=2,p=1" in kept.password_hash
    assert kept.session_epoch == 0
    assert stronger.log_in("ada", PASSWORD, HOME)


class Watched(Passwords):
    """Finds every hash outdated, and lets something happen once one is found so."""

    def __init__(self, happen: Callable[[], object]) -> None:
        super().__init__(PasswordHasher(time_cost=1, memory_cost=16, parallelism=1))
        self._happen = happen

    def is_outdated(self, kept: str) -> bool:
        self._happen()
        return True


def test_a_password_that_is_changed_during_a_login_stays_changed(
    accounts: Accounts, store: AccountStore, ada: User
) -> None:
    watched = Watched(lambda: accounts.change(ada.id, password="another password"))
    Accounts(store, watched).log_in("ada", PASSWORD, HOME)
    assert accounts.log_in("ada", "another password", HOME)
    with pytest.raises(WrongPassword):
        accounts.log_in("ada", PASSWORD, HOME)


def test_the_right_password_logs_in_while_nothing_can_be_written(
    store: AccountStore, ada: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: str) -> None:
        raise DatabaseUnusable(store._database.path, "the disk is full")

    monkeypatch.setattr(store, "rehash", fail)
    assert Accounts(store, Watched(lambda: None)).log_in("ada", PASSWORD, HOME).id == ada.id
    assert f"The password of account {ada.id} could not be hashed anew: Cannot use the database" in caplog.text
    assert PASSWORD not in caplog.text


def test_the_right_password_logs_in_while_too_many_hash(
    store: AccountStore, ada: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(password: str) -> str:
        raise LimitExceeded("passwords: at most 10 are checked at a time.", 1)

    passwords = Watched(lambda: None)
    monkeypatch.setattr(passwords, "hash", fail)
    assert Accounts(store, passwords).log_in("ada", PASSWORD, HOME).id == ada.id
    assert "could not be hashed anew: passwords: at most 10" in caplog.text


@pytest.mark.parametrize("name", ["", "x" * 61, "two words", "a/b", "ädä", "a\n", "a\0", "<b>", "\ud800"])
def test_a_name_that_cannot_be_one_is_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(BadName, match="name: expected 1 to 60 of the letters a to z, digits and . _ - @"):
        accounts.add(name, PASSWORD, is_admin=True)
    assert not accounts.exist


def test_with_a_bad_password_nothing_changes(accounts: Accounts, store: AccountStore, ada: User) -> None:
    with pytest.raises(BadPassword):
        accounts.add("ben", "short", is_admin=False)
    ben = accounts.add("ben", PASSWORD, is_admin=False)
    with pytest.raises(BadPassword):
        accounts.change(ben.id, password="short", is_admin=True)
    assert not store.get(ben.id).is_admin


def test_the_first_account_cannot_be_removed(accounts: Accounts, ada: User) -> None:
    with pytest.raises(NotRemovable, match="'ada' is the first account, for which the command line acts"):
        accounts.check_removable(ada)
    accounts.check_removable(accounts.add("ben", PASSWORD, is_admin=False))


# Keys


def test_a_key_has_256_random_bits_of_which_only_a_digest_is_kept(accounts: Accounts, database: Database) -> None:
    kept, key = accounts.add_key("local", "notebook", ["write", "completions"])
    assert re.fullmatch(r"parley_[A-Za-z0-9_-]{43}", key)
    assert kept.digest == hashlib.sha256(key.encode()).hexdigest()
    assert (kept.prefix, kept.scopes) == (key[:12], ["completions", "write"])
    database.close()
    assert key[12:].encode() not in database.path.read_bytes()


def test_a_key_acts_for_its_owner_within_its_scopes(accounts: Accounts) -> None:
    _, key = accounts.add_key("local", "notebook", ["read"])
    assert accounts.of_key(key) == Identity("local", None, is_admin=False, scopes=frozenset({"read"}))
    accounts.add("ada", PASSWORD, is_admin=True)
    assert accounts.of_key(key) == Identity("local", "ada", is_admin=False, scopes=frozenset({"read"}))


def test_what_is_no_key_is_nobodys(accounts: Accounts, store: AccountStore) -> None:
    kept, key = accounts.add_key("local", "notebook", ["read"])
    wrong = ["", KEY_PREFIX, key[:-1], key + "x", key.lower(), key.swapcase(), kept.digest, kept.prefix, kept.id]
    assert [accounts.of_key(one) for one in wrong] == [None] * len(wrong)
    store.revoke_key(kept.id)
    assert accounts.of_key(key) is None


def test_a_key_of_nobodys_is_none(accounts: Accounts) -> None:
    _, key = accounts.add_key("gone", "notebook", ["read"])  # while there are no accounts
    assert accounts.of_key(key) is None


def test_the_use_of_a_key_is_noted_once_an_hour(accounts: Accounts, store: AccountStore, database: Database) -> None:
    _, key = accounts.add_key("local", "notebook", ["read"])
    accounts.of_key(key)
    first = store.keys()[0].last_used_at
    assert first
    accounts.of_key(key)
    assert store.keys()[0].last_used_at == first
    with database.write() as session:
        session.execute(update(ApiKey).values(last_used_at=utc_now() - timedelta(hours=2)))
    accounts.of_key(key)
    again = store.keys()[0].last_used_at
    assert again
    assert again >= first


def test_a_key_works_while_nothing_can_be_written(
    accounts: Accounts, store: AccountStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept, key = accounts.add_key("local", "notebook", ["read"])

    def fail(key_id: str) -> None:
        raise DatabaseUnusable(store._database.path, "the disk is full")

    monkeypatch.setattr(store, "note_use", fail)
    assert accounts.of_key(key)
    assert f"The use of API key {kept.id} could not be noted" in caplog.text
    assert key not in caplog.text


@pytest.mark.parametrize("scopes", [[], ["admin"], ["read", "Write"], [""]])
def test_scopes_that_there_are_not_are_refused(accounts: Accounts, scopes: list[str]) -> None:
    with pytest.raises(BadScopes, match="scopes: expected some of completions, read, write, metrics, got"):
        accounts.add_key("local", "notebook", scopes)


def test_an_owner_has_a_hundred_keys_at_most(accounts: Accounts) -> None:
    for _ in range(MAX_KEYS):
        accounts.add_key("local", "notebook", ["read"])
    with pytest.raises(TooManyKeys, match="There are 100 API keys already"):
        accounts.add_key("local", "notebook", ["read"])


@pytest.mark.parametrize("name", ["", "  ", "x" * 61])
def test_a_key_needs_a_name(accounts: Accounts, name: str) -> None:
    with pytest.raises(BadName, match="name: expected 1 to 60 characters"):
        accounts.add_key("local", name, ["read"])


def test_what_is_remembered_of_a_login_is_short_whatever_is_typed(accounts: Accounts) -> None:
    for end in "abc":
        with pytest.raises(WrongPassword):
            accounts.log_in("x" * 50_000 + end, PASSWORD, "::1")
    [(name, _)] = accounts._lockout._tries
    assert len(name) == MAX_NAME + 1
