"""`parley user`: accounts are added, listed, given other passwords and erased."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import run_app
from conftest import ROOT, ask

from chat.accounts import Accounts, WrongPassword
from storage.accounts import AccountStore
from storage.conversations import ConversationStore
from storage.database import Database

PASSWORD = "correct horse"
User = Callable[..., str]


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A function that runs `parley user` with these arguments, and returns what it prints or why it refuses."""

    def run(*arguments: str, text: str = "", refused: bool = False) -> str:
        ended = run_app("user", *arguments, "--data", str(tmp_path), text=text)
        assert PASSWORD not in ended.stdout + ended.stderr
        if not refused:
            assert (ended.returncode, ended.stderr) == (0, "")
            return ended.stdout
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
        return ended.stderr.removeprefix("parley: ").removesuffix("\n")

    return run


def add(user: User, name: str, *flags: str) -> str:
    return user("add", name, "--password-stdin", *flags, text=f"{PASSWORD}\r\nanother line\n")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "parley.db")


def can_log_in(database: Database, name: str, password: str) -> bool:
    try:
        return Accounts(AccountStore(database)).log_in(name, password, "192.0.2.1").name == name
    except WrongPassword:
        return False
    finally:
        database.close()


def test_the_first_is_an_administrator_and_others_are_if_asked_for(user: User) -> None:
    assert add(user, "ada") == "Added ada, an administrator.\n"
    assert add(user, "ben") == "Added ben.\n"
    assert add(user, "eve", "--admin") == "Added eve, an administrator.\n"


def test_the_password_is_the_first_line_of_stdin(user: User, database: Database) -> None:
    add(user, "ada")
    assert can_log_in(database, "ada", PASSWORD)


def test_they_are_listed_with_counts(user: User, database: Database) -> None:
    assert user("list") == ""
    chat = ask(ConversationStore(database), "What is a canary?")
    database.close()
    add(user, "ada")
    add(user, "ben")
    lines = user("list").splitlines()
    assert lines[0].startswith("ada  administrator  1 conversations, 2 messages, 0 tokens, last active 20")
    assert lines[1] == "ben  user  0 conversations, 0 messages, 0 tokens"
    rows = json.loads(user("list", "--json"))
    assert [(row["name"], row["is_admin"], row["n_conversations"]) for row in rows] == [
        ("ada", True, 1),
        ("ben", False, 0),
    ]
    assert "canary" not in user("list", "--json")
    assert chat not in user("list", "--json")


def test_another_password_revokes_the_keys(user: User, database: Database) -> None:
    add(user, "ada")
    _, key = Accounts(AccountStore(database)).add_key("local", "notebook", ["read"])
    assert Accounts(AccountStore(database)).of_key(key)
    database.close()
    user("passwd", "ada", "--password-stdin", text="another password")
    assert Accounts(AccountStore(database)).of_key(key) is None
    database.close()


def test_another_password_takes_the_place_of_the_old(user: User, database: Database) -> None:
    add(user, "ada")
    assert user("passwd", "ada", "--password-stdin", text="another password") == ""
    assert not can_log_in(database, "ada", PASSWORD)
    assert can_log_in(database, "ada", "another password")


def test_one_is_erased_with_a_receipt(user: User, database: Database) -> None:
    add(user, "ada")
    add(user, "ben")
    [_, ben] = json.loads(user("list", "--json"))
    store = ConversationStore(database)
    chat = store.create(ben["id"], channel="ui").id
    database.close()
    receipt = user("remove", "ben", "--yes")
    assert receipt.startswith("Erased at ")
    assert "1 conversations, 0 messages" in receipt
    assert chat in receipt
    assert "ben" not in user("list")


def test_the_question_is_asked_on_the_terminal_and_no_means_no(user: User, tmp_path: Path) -> None:
    add(user, "ada")
    add(user, "ben")
    asked = on_terminal(tmp_path, ["user", "remove", "ben"], "n\n")
    assert "Erase ben, and all conversations, presets, sites and keys of theirs? [y/N]" in asked
    assert "parley: Nothing is erased." in asked
    assert "ben" in user("list")
    assert "Erased at" in on_terminal(tmp_path, ["user", "remove", "ben"], "y\n")


def test_the_password_is_asked_for_twice_and_not_shown(tmp_path: Path, database: Database) -> None:
    asked = on_terminal(tmp_path, ["user", "add", "ada"], f"{PASSWORD}\n{PASSWORD}\n")
    assert "Password:" in asked
    assert "Added ada, an administrator." in asked
    assert PASSWORD not in asked
    assert can_log_in(database, "ada", PASSWORD)


def on_terminal(data: Path, arguments: list[str], typed: str) -> str:
    """Run the command line on a terminal, type, and return all that it shows."""
    ours, its = pty.openpty()
    command = [sys.executable, str(ROOT / "app.py"), *arguments, "--data", str(data)]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True):
        os.close(its)
        shown = b""
        for line in typed.splitlines(keepends=True):
            n_shown = len(shown)
            while not shown[n_shown:].endswith(b": "):  # the question: before its space, what is typed is dropped
                shown += os.read(ours, 1000)
            os.write(ours, line.encode())
        while piece := read_end(ours):
            shown += piece
    os.close(ours)
    return shown.decode()


def read_end(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1000)
    except OSError:  # as Linux tells that nobody writes any more
        return b""


@pytest.mark.parametrize(
    ("arguments", "text", "reason"),
    [
        (["add", "two words", "--password-stdin"], PASSWORD, "name: expected 1 to 60 of the letters a to z, digits"),
        (["add", "ben", "--password-stdin"], "short", "password: expected 10 to 200 characters, got 5"),
        (["add", "ben", "--password-stdin"], "", "password: expected 10 to 200 characters, got 0"),
        (["add", "ADA", "--password-stdin"], PASSWORD, "name: there is an account 'ADA' already."),
        (["add", "ben"], PASSWORD, "password: there is no terminal to ask on: give it to --password-stdin"),
        (["add"], "", "Missing argument 'name'."),
        (["passwd", "ben", "--password-stdin"], PASSWORD, "There is no account 'ben'."),
        (["passwd", "ada", "--password-stdin"], "short", "password: expected 10 to 200 characters, got 5"),
        (["remove", "ben", "--yes"], "", "There is no account 'ben'."),
        (["remove", "ada", "--yes"], "", "'ada' is the first account, for which the command line acts: it cannot be"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    user: User, arguments: list[str], text: str, reason: str
) -> None:
    add(user, "ada")
    before = user("list", "--json")
    assert user(*arguments, text=text, refused=True).startswith(reason)
    assert user("list", "--json") == before


def test_without_a_terminal_an_erasure_needs_a_yes(user: User) -> None:
    add(user, "ada")
    add(user, "ben")
    assert user("remove", "ben", refused=True) == "There is no terminal to ask on: say --yes if it is to be erased."
    assert "ben" in user("list")
