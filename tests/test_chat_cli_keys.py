"""`parley key`: API keys are made, listed and revoked."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import run_app

from chat.accounts import Accounts
from chat.identity import Identity
from storage.accounts import AccountStore
from storage.database import Database

Key = Callable[..., str]


@pytest.fixture
def key(tmp_path: Path) -> Key:
    """A function that runs `parley key` with these arguments, and returns what it prints or why it refuses."""

    def run(*arguments: str, refused: bool = False) -> str:
        ended = run_app("key", *arguments, "--data", str(tmp_path))
        if not refused:
            assert (ended.returncode, ended.stderr) == (0, "")
            return ended.stdout
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
        return ended.stderr.removeprefix("parley: ").removesuffix("\n")

    return run


def add_user(data: Path, name: str) -> None:
    ended = run_app("user", "add", name, "--password-stdin", "--data", str(data), text="correct horse")
    assert ended.returncode == 0, ended.stderr


def owner_of(data: Path, key: str) -> Identity | None:
    database = Database(data / "parley.db")
    try:
        return Accounts(AccountStore(database)).of_key(key)
    finally:
        database.close()


def test_a_key_is_printed_once_and_nothing_else(key: Key, tmp_path: Path) -> None:
    made = key("add", "notebook", "--scope", "completions", "--scope", "read")
    assert re.fullmatch(r"parley_[A-Za-z0-9_-]{43}\n", made)
    identity = owner_of(tmp_path, made.strip())
    assert identity == Identity("local", None, is_admin=False, scopes=frozenset({"completions", "read"}))
    assert made.strip() not in key("list") + key("list", "--json")


def test_it_comes_as_json_for_a_program(key: Key, tmp_path: Path) -> None:
    row = json.loads(key("add", "notebook", "--scope", "write", "--json"))
    assert row["key"].startswith(row["prefix"])
    assert (row["name"], row["user"], row["scopes"], row["last_used_at"]) == ("notebook", None, ["write"], None)
    del row["key"]
    assert json.loads(key("list", "--json")) == [row]


def test_it_acts_for_the_account_that_is_named_or_the_first(key: Key, tmp_path: Path) -> None:
    add_user(tmp_path, "ada")
    add_user(tmp_path, "ben")
    adas = key("add", "one", "--scope", "read").strip()
    bens = key("add", "two", "--scope", "read", "--user", "ben").strip()
    names = [identity and identity.name for identity in (owner_of(tmp_path, adas), owner_of(tmp_path, bens))]
    assert names == ["ada", "ben"]
    assert [row["name"] for row in json.loads(key("list", "--user", "ben", "--json"))] == ["two"]
    assert len(json.loads(key("list", "--json"))) == 2


def test_a_line_says_which_it_is_and_when_it_was_used(key: Key, tmp_path: Path) -> None:
    made = key("add", "notebook", "--scope", "metrics").strip()
    line = key("list").rstrip("\n").split("  ")
    assert line[1:] == [f"{made[:12]}…", "local owner", "metrics", "never used", "notebook"]
    owner_of(tmp_path, made)
    assert re.search(r"  last used \d{4}-\d\d-\d\d  notebook\n", key("list"))


def test_a_revoked_one_is_refused_and_listed_no_more(key: Key, tmp_path: Path) -> None:
    row = json.loads(key("add", "notebook", "--scope", "read", "--json"))
    assert key("revoke", row["id"]) == ""
    assert owner_of(tmp_path, row["key"]) is None
    assert key("list") == ""
    assert key("revoke", row["id"], refused=True) == f"There is no API key {row['id']}."


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("add notebook", "Missing option '--scope'"),
        ("add notebook --scope admin", "--scope: expected some of completions, read, write, metrics, got 'admin'"),
        ("add notebook --scope read --user ben", "There is no account 'ben'."),
        (f"add {'x' * 61} --scope read", "name: expected 1 to 60 characters, got 61"),
        ("list --user ben", "There is no account 'ben'."),
        ("revoke none", "There is no API key none."),
    ],
)
def test_what_cannot_be_is_refused(key: Key, arguments: str, reason: str) -> None:
    assert key(*arguments.split(), refused=True).startswith(reason)
    assert key("list") == ""
