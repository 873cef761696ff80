"""/backups, /expiry and /trash: what is kept is listed, and what is erased has a receipt."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from route_client import client_of, no_model
from sqlalchemy import update

from chat.api.care import care_routes
from chat.workspace import Workspace, open_workspace
from storage.backup import restore
from storage.conversations import ConversationStore
from storage.database import Database
from storage.tables import Conversation, utc_now

CANARY = "canary-7f3a"


@pytest.fixture
def workspace(database: Database) -> Iterator[Workspace]:
    with open_workspace(database, no_model) as workspace:
        yield workspace


@pytest.fixture
def client(workspace: Workspace) -> TestClient:
    return client_of(care_routes(workspace))


def ask(store: ConversationStore, text: str, owner: str = "local", *, ends: bool = True) -> str:
    chat = store.create(owner, channel="ui").id
    _, reply = store.begin_turn(owner, chat, content=text, parent_id=None, model="m", params={}, seed=1, title=text)
    if ends:
        store.finish_reply(owner, reply.id, content="Yes.", status="complete", finish_reason="stop")
    return chat


@pytest.fixture
def old(database: Database, store: ConversationStore) -> str:
    """A conversation that has not changed for a hundred days, beside a new one."""
    ask(store, "new")
    chat = ask(store, f"old {CANARY}")
    with database.write() as session:
        long_ago = utc_now() - timedelta(days=100)
        session.execute(update(Conversation).where(Conversation.id == chat).values(updated_at=long_ago))
    return chat


def test_backups_are_made_and_listed(client: TestClient, old: str, tmp_path: Path) -> None:
    assert client.get("/api/backups").json() == {"backups": []}
    before = utc_now() - timedelta(seconds=1)
    made = client.post("/api/backups")
    assert made.status_code == 201
    backup = tmp_path / "backups" / made.json()["name"]
    assert made.json()["bytes"] == backup.stat().st_size
    assert before <= datetime.fromisoformat(made.json()["made_at"]) <= utc_now()
    assert client.get("/api/backups").json() == {"backups": [made.json()]}
    restore(backup, tmp_path / "other.db", lambda done, total: None)


def test_the_newest_backup_is_the_first(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    for name in ("parley-20260101-000000.db", "parley-20260202-000000.db", "notes.txt"):
        (tmp_path / "backups" / name).write_text("x")
    names = [backup["name"] for backup in client.get("/api/backups").json()["backups"]]
    assert names == ["parley-20260202-000000.db", "parley-20260101-000000.db"]


def test_a_backup_beside_another_that_is_being_made_is_refused(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.backup.utc_now", lambda: datetime(2026, 1, 31))
    assert client.post("/api/backups").status_code == 201
    answer = client.post("/api/backups")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "backup_exists")


def test_a_dry_run_tells_what_a_run_erases(client: TestClient, workspace: Workspace, old: str, tmp_path: Path) -> None:
    planned = client.post("/api/expiry", json={"older_than_days": 30, "dry_run": True}).json()
    [conversation] = planned["conversations"]
    assert (conversation["id"], conversation["title"], planned["receipt"]) == (old, f"old {CANARY}", None)
    heard: list[str] = []
    with workspace.bus.listening("local", heard.append):
        erased = client.post("/api/expiry", json={"older_than_days": 30}).json()
    assert (erased["conversations"], heard) == ([], [old])
    receipt = erased["receipt"]
    assert (receipt["conversation_ids"], receipt["n_messages"], receipt["copies"]) == ([old], 2, [])
    assert not any(CANARY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("rule", "is_expired"),
    [({"channel": "ui"}, True), ({"channel": "api"}, False), ({"archived": False}, True), ({"archived": True}, False)],
)
def test_a_rule_leaves_out_what_is_not_so(
    client: TestClient, old: str, rule: dict[str, object], is_expired: bool
) -> None:
    planned = client.post("/api/expiry", json={"older_than_days": 30, "dry_run": True, **rule}).json()
    assert [conversation["id"] for conversation in planned["conversations"]] == [old] * is_expired


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "older_than_days"),
        ({"older_than_days": 0}, "older_than_days"),
        ({"older_than_days": 36_501}, "older_than_days"),
        ({"older_than_days": "30"}, "older_than_days"),
        ({"older_than_days": 30, "channel": "fax"}, "channel"),
        ({"older_than_days": 30, "dry-run": True}, "dry-run"),
    ],
)
def test_a_rule_that_makes_no_sense_erases_nothing(
    client: TestClient, store: ConversationStore, old: str, body: dict[str, object], param: str
) -> None:
    answer = client.post("/api/expiry", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert store.path("local", old)


def test_the_trash_is_emptied_and_the_receipt_names_the_copies(
    client: TestClient, workspace: Workspace, store: ConversationStore, old: str, tmp_path: Path
) -> None:
    backup = client.post("/api/backups").json()
    store.update("local", old, trashed=True)
    heard: list[str] = []
    with workspace.bus.listening("local", heard.append):
        receipt = client.post("/api/trash/empty").json()
    assert (receipt["conversation_ids"], receipt["n_bytes"], heard) == ([old], len(f"old {CANARY}Yes."), [old])
    assert receipt["copies"] == [{"name": f"backups/{backup['name']}", "made_at": backup["made_at"]}]
    assert client.post("/api/trash/empty").json()["conversation_ids"] == []


def test_a_conversation_in_which_a_reply_is_being_written_is_not_erased(
    client: TestClient, store: ConversationStore, old: str
) -> None:
    busy = ask(store, "busy", ends=False)
    for chat in (old, busy):
        store.update("local", chat, trashed=True)
    answer = client.post("/api/trash/empty")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conversation_busy")
    assert store.path("local", old)


def test_an_owner_erases_only_their_own(client: TestClient, store: ConversationStore) -> None:
    hers = ask(store, "hers", "eve")
    store.update("eve", hers, trashed=True)
    assert client.post("/api/trash/empty").json()["conversation_ids"] == []
    assert store.path("eve", hers)
