"""`parley backup`, `restore`, `erase` and `expire`, as a user runs them."""

import json
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from command_line import run_app
from sqlalchemy import update

from storage.conversations import ConversationStore
from storage.database import Database
from storage.tables import Conversation, utc_now

CANARY = "canary-7f3a"


@pytest.fixture
def chats(database: Database, store: ConversationStore) -> list[str]:
    """Two conversations in a data folder that nobody has open: an old one, and a new one."""
    ids = []
    for text in (f"old {CANARY}", "new"):
        chat = store.create("local", channel="ui").id
        _, reply = store.begin_turn(
            "local", chat, content=text, parent_id=None, model="m", params={}, seed=1, title=text
        )
        store.finish_reply("local", reply.id, content="Yes.", status="complete", finish_reason="stop")
        ids.append(chat)
    with database.write() as session:
        long_ago = utc_now() - timedelta(days=100)
        session.execute(update(Conversation).where(Conversation.id == ids[0]).values(updated_at=long_ago))
    database.close()
    return ids


def parley(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_app(*arguments, "--data", str(data))


def test_a_backup_brings_back_what_has_been_erased(tmp_path: Path, chats: list[str], store: ConversationStore) -> None:
    backup = parley(tmp_path, "backup").stdout.strip()
    assert Path(backup).parent == tmp_path / "backups"
    assert parley(tmp_path, "erase", *chats).returncode == 0
    restored = parley(tmp_path, "restore", backup)
    assert restored.stdout.startswith(f"Restored {backup}. The old database is now {tmp_path}/parley-replaced-")
    exported = parley(tmp_path, "export", "--all", "--format", "text")
    assert CANARY in exported.stdout


def test_what_is_erased_is_in_no_file_and_the_receipt_says_so(tmp_path: Path, chats: list[str]) -> None:
    receipt = json.loads(parley(tmp_path, "erase", chats[0], "--json").stdout)
    assert (receipt["conversation_ids"], receipt["n_messages"], receipt["copies"]) == ([chats[0]], 2, [])
    assert not any(CANARY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert parley(tmp_path, "export", chats[1], "--format", "text").returncode == 0


def test_the_trash_is_emptied(tmp_path: Path, chats: list[str], store: ConversationStore, database: Database) -> None:
    store.update("local", chats[0], trashed=True)
    database.close()
    erased = parley(tmp_path, "erase", "--trash")
    assert "1 conversations, 2 messages" in erased.stdout
    assert parley(tmp_path, "erase", chats[0]).stderr == f"parley: There is no conversation {chats[0]}.\n"


def test_a_dry_run_lists_what_a_run_erases(tmp_path: Path, chats: list[str]) -> None:
    planned = json.loads(parley(tmp_path, "expire", "--older-than", "30", "--dry-run", "--json").stdout)
    assert [row["id"] for row in planned] == [chats[0]]
    assert "1 conversations would be erased." in parley(tmp_path, "expire", "--older-than", "30", "--dry-run").stdout
    erased = json.loads(parley(tmp_path, "expire", "--older-than", "30", "--json").stdout)
    assert erased["conversation_ids"] == [chats[0]]
    assert json.loads(parley(tmp_path, "expire", "--older-than", "30", "--json").stdout)["conversation_ids"] == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("erase",), "erase: expected the ids of conversations, or --trash"),
        (("erase", "x", "--trash"), "erase: expected the ids of conversations, or --trash"),
        (("erase", "x"), "There is no conversation x."),
        (("expire", "--older-than", "1", "--channel", "fax"), "--channel: expected one of ui, widget"),
        (("restore", "nothing.db"), ""),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(
    tmp_path: Path, chats: list[str], arguments: tuple[str, ...], reason: str
) -> None:
    refused = parley(tmp_path, *arguments)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"parley: {reason}")
    assert refused.stderr.count("\n") == 1
