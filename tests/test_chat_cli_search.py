"""`parley search` finds what was said, also what was imported."""

import json
from pathlib import Path

import pytest
from command_line import run_app

from chat.formats.archive import from_tree
from chat.imports import Importer
from storage.archive import ArchiveStore, Selection
from storage.conversations import ConversationStore
from storage.database import Database
from storage.search import SearchStore


@pytest.fixture
def chat(store: ConversationStore) -> str:
    chat = store.create("local", channel="ui").id
    _, reply = store.begin_turn(
        "local", chat, content="What is a fjord?", parent_id=None, model="m", params={}, seed=1, title="Fjords"
    )
    store.finish_reply("local", reply.id, content="A drowned valley.", status="complete", finish_reason="stop")
    return chat


def search(data: Path, *arguments: str) -> str:
    ended = run_app("search", *arguments, "--data", str(data))
    ended.check_returncode()
    return ended.stdout


def test_hits_are_lines_with_their_matches_marked(tmp_path: Path, chat: str) -> None:
    [line] = search(tmp_path, "valley ").splitlines()
    assert line.startswith(f"{chat}  20")
    assert line.endswith("  assistant: A drowned [valley].")
    assert len(search(tmp_path, "fjord").splitlines()) == 2
    assert len(search(tmp_path, "fjord", "--limit", "1").splitlines()) == 1
    assert search(tmp_path, "nothing-like-it") == ""


def test_hits_come_as_json_for_a_program(tmp_path: Path, chat: str) -> None:
    [hit] = json.loads(search(tmp_path, "drowned", "--json"))
    assert (hit["conversation_id"], hit["title"], hit["role"]) == (chat, "Fjords", "assistant")
    assert ["drowned", True] in hit["snippet"]


def test_what_is_imported_is_found(database: Database, chat: str) -> None:
    archive = ArchiveStore(database)
    Importer(archive).run("bob", [from_tree(tree) for tree in archive.trees("local", Selection())])
    found = SearchStore(database).search("bob", "fjord")
    assert [hit.role for hit in found] == [None, "user"]
    assert {hit.conversation_id for hit in found} != {chat}


@pytest.mark.parametrize(
    "flags",
    [
        ("--role", "user"),
        ("--model", "another"),
        ("--channel", "api"),
        ("--since", "2999-01-01"),
        ("--until", "2000-01-01"),
        ("--rating", "1"),
        ("--pinned",),
        ("--archived",),
    ],
)
def test_a_flag_leaves_out_what_is_not_so(tmp_path: Path, chat: str, flags: tuple[str, ...]) -> None:
    assert search(tmp_path, "valley", *flags) == ""


def test_flags_together_leave_what_is_all_of_it(tmp_path: Path, chat: str) -> None:
    flags = ("--role", "assistant", "--model", "m", "--channel", "ui", "--since", "2000-01-01", "--not-pinned")
    assert "[valley]" in search(tmp_path, "valley", *flags, "--not-archived")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--role", "tool"),
        ("--channel", "fax"),
        ("--rating", "5"),
        ("--since", "yesterday"),
        ("--since", "0001-01-01T00:00:00+14:00"),
        ("--until", "9999-12-31T23:59:59-14:00"),
    ],
)
def test_a_value_that_makes_no_sense_is_one_line(tmp_path: Path, flag: str, value: str) -> None:
    run = run_app("search", "x", flag, value, "--data", str(tmp_path))
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert flag in run.stderr
    assert value in run.stderr
