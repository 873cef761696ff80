"""/export and /import: files go out whole, and come in whole or not at all."""

import json
import zipfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from conftest import ROOT
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from route_client import client_of, no_model
from starlette.requests import ClientDisconnect, Request

from chat.api import archive as module
from chat.api.archive import archive_routes
from chat.api.guard import MAX_IMPORT_BYTES
from chat.formats.archive import ArchivedConversation
from chat.formats.table import FORMATS, find_format
from chat.workspace import Workspace, open_workspace
from storage.archive import ArchiveStore, Selection
from storage.conversations import ConversationStore
from storage.database import Database
from storage.feedback import FeedbackStore


@pytest.fixture
def workspace(database: Database) -> Iterator[Workspace]:
    with open_workspace(database, no_model) as workspace:
        yield workspace


@pytest.fixture
def client(workspace: Workspace, tmp_path: Path) -> TestClient:
    return client_of(archive_routes(workspace, tmp_path))


def ask(store: ConversationStore, text: str, owner: str = "local") -> str:
    """Store a question with its answer, and return the conversation's id."""
    chat = store.create(owner, channel="ui").id
    _, reply = store.begin_turn(owner, chat, content=text, parent_id=None, model="m", params={}, seed=1, title=text)
    store.finish_reply(owner, reply.id, content="Yes.", status="complete", finish_reason="stop")
    return chat


@pytest.fixture
def chats(store: ConversationStore) -> list[str]:
    return [ask(store, "One?"), ask(store, "Two?")]


def titles(exported: str) -> list[str]:
    return [json.loads(line)["conversation"]["title"] for line in exported.splitlines()]


def uploads(folder: Path) -> list[Path]:
    return list(folder.glob(".parley-*"))


def test_an_export_is_a_file_with_a_name_and_a_count(client: TestClient, chats: list[str]) -> None:
    answer = client.get("/api/export", params={"all": "true"})
    assert (answer.status_code, titles(answer.text)) == (200, ["One?", "Two?"])
    assert answer.headers["x-parley-conversations"] == "2"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith('attachment; filename="parley-20')


def test_a_link_and_a_body_say_the_same(client: TestClient, chats: list[str]) -> None:
    by_link = client.get("/api/export", params={"id": chats, "format": "text", "redact": "1", "channel": "ui"})
    body = {"ids": chats, "format": "text", "redact": True, "channel": "ui"}
    assert client.post("/api/export", json=body).content == by_link.content
    assert b"One?" in by_link.content


def test_more_ids_than_a_link_can_have_go_into_a_body(client: TestClient, chats: list[str]) -> None:
    answer = client.post("/api/export", json={"ids": chats * 5_000})
    assert (answer.status_code, titles(answer.text)) == (200, ["One?", "Two?"])


def test_one_conversation_is_called_by_its_title_in_any_script(client: TestClient, store: ConversationStore) -> None:
    chat = ask(store, 'Größe "中文"\r\nX: y')
    disposition = client.get("/api/export", params={"id": chat, "format": "markdown"}).headers["content-disposition"]
    name = "Gr%C3%B6%C3%9Fe-%E4%B8%AD%E6%96%87-X-y.md"
    assert disposition == f"attachment; filename=\"Groe--X-y.md\"; filename*=UTF-8''{name}"


def test_the_name_of_a_redacted_export_tells_nothing(client: TestClient, store: ConversationStore) -> None:
    chat = ask(store, "ada@example.com")
    answer = client.get("/api/export", params={"id": chat, "redact": "true"})
    assert "example" not in answer.text + answer.headers["content-disposition"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_sent_and_zipped(client: TestClient, chats: list[str], name: str) -> None:
    if name.startswith("preferences"):
        pytest.skip("there are no pairs of replies")
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install -e '.[parquet]'")
    answer = client.get("/api/export", params={"all": "1", "format": name})
    assert answer.status_code == 200
    assert b"One?" in answer.content
    assert f'{find_format(name).suffix}"' in answer.headers["content-disposition"]
    zipped = client.get("/api/export", params={"all": "1", "format": name, "zip": "1"})
    assert '.zip"' in zipped.headers["content-disposition"]
    with zipfile.ZipFile(BytesIO(zipped.content)) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 2


def test_filters_choose_what_is_sent(client: TestClient, chats: list[str], store: ConversationStore) -> None:
    def sent(**query: str) -> list[str]:
        answer = client.get("/api/export", params=query)
        return titles(answer.text) if answer.status_code == 200 else [answer.json()["error"]["code"]]

    FeedbackStore(store._database).rate("local", store.path("local", chats[1])[-1].id, rating=1)
    assert sent(rating="1") == ["Two?"]
    assert sent(rating="-1") == ["nothing_selected"]
    assert sent(since="2000-01-01") == ["One?", "Two?"]
    assert sent(until="2000-01-01") == ["nothing_selected"]
    assert sent(channel="ui") == ["One?", "Two?"]
    assert sent(query="one") == ["One?"]
    assert sent(query="one", id=chats[1]) == ["conversation_not_found"]
    store.update("local", chats[0], trashed=True)
    assert sent(all="true") == ["Two?"]


def test_a_chain_is_sent(client: TestClient, chats: list[str]) -> None:
    lines = client.get("/api/export", params={"all": "1", "chain": "1"}).text.splitlines()
    assert json.loads(lines[-1])["conversations"] == 2


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({}, "id"),
        ({"all": "1", "format": "docx"}, "format"),
        ({"all": "1", "format": "preferences_trl"}, "format"),
        ({"all": "1", "format": "html", "chain": "1"}, "chain"),
        ({"all": "1", "zip": "1", "chain": "1"}, "chain"),
        ({"all": "perhaps"}, "all"),
        ({"rating": "2"}, "rating"),
        ({"since": "yesterday"}, "since"),
        ({"channel": "fax"}, "channel"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_exported_is_named(
    client: TestClient, chats: list[str], query: dict[str, str], param: str
) -> None:
    answer = client.get("/api/export", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert answer.json()["error"]["message"].startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("body", "param"),
    [({"all": "true"}, "all"), ({"ids": "x"}, "ids"), ({"ids": ["x"] * 10_001}, "ids"), ({"since": 5}, "since")],
)
def test_a_body_is_strict(client: TestClient, body: dict[str, object], param: str) -> None:
    answer = client.post("/api/export", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_an_id_that_no_text_can_have_is_not_there(client: TestClient, chats: list[str]) -> None:
    headers = {"content-type": "application/json"}
    assert client.post("/api/export", content=rb'{"ids": ["\ud800"]}', headers=headers).status_code == 404


def test_a_search_that_finds_too_many_is_refused(
    client: TestClient, chats: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat.exports.N_RANKED", 1)
    answer = client.get("/api/export", params={"query": "yes"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "query")


def test_another_owners_conversation_is_not_there(client: TestClient, store: ConversationStore) -> None:
    answer = client.get("/api/export", params={"id": ask(store, "Hers", "eve")})
    assert answer.status_code == 404
    assert client.get("/api/export", params={"all": "1"}).status_code == 400


def test_a_library_that_is_missing_is_an_error_and_no_file(
    client: TestClient, chats: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    answer = client.get("/api/export", params={"all": "1", "format": "parquet"})
    assert answer.status_code == 400
    assert "needs the package pyarrow" in answer.json()["error"]["message"]


def test_an_export_that_fails_halfway_is_an_error_and_no_half_file(
    client: TestClient, chats: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
        yield "x" * 2_000_000
        raise AssertionError("a fault")

    monkeypatch.setattr("chat.formats.text.write", write)
    before = sorted(tmp_path.iterdir())
    answer = client.get("/api/export", params={"all": "1", "format": "text"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert sorted(tmp_path.iterdir()) == before


def test_a_large_export_passes_through_the_disk_and_leaves_nothing(
    client: TestClient, store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_IN_MEMORY", 10)
    monkeypatch.setattr(module, "PIECE", 1000)
    chat = ask(store, "0123456789" * 1000)
    before = sorted(tmp_path.iterdir())
    exported = client.get("/api/export", params={"id": chat, "format": "text"}).text
    assert "0123456789" * 1000 in exported
    assert sorted(tmp_path.iterdir()) == before


def test_a_slow_reader_holds_back_no_erasure(
    client: TestClient, workspace: Workspace, chats: list[str], store: ConversationStore
) -> None:
    store.update("local", chats[0], trashed=True)
    with client.stream("GET", "/api/export", params={"all": "1"}) as answer:
        workspace.erasure.empty_trash("local")
        assert titles(answer.read().decode()) == ["Two?"]


def test_a_disk_without_room_is_an_error(client: TestClient, chats: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", fail)
    answer = client.post("/api/import", content=b"{}")
    assert answer.status_code == 503
    assert "cannot take the file (No space left on device)" in answer.json()["error"]["message"]


def test_what_is_exported_comes_back_once(client: TestClient, workspace: Workspace, chats: list[str]) -> None:
    exported = client.get("/api/export", params={"all": "1"}).content
    workspace.erasure.erase("local", chats)
    heard: list[str] = []
    with workspace.bus.listening("local", heard.append):
        answer = client.post("/api/import?name=all.jsonl", content=exported)
        assert (answer.status_code, len(heard)) == (200, 1)
        assert answer.json() == {"conversations": 2, "messages": 4, "branches": 0, "skipped": []}
        again = client.post("/api/import", content=exported, headers={"Content-Type": "text/html"})
        assert again.json()["skipped"] == ["One?: it is here already", "Two?: it is here already"]
        assert len(heard) == 1
    assert client.get("/api/export", params={"all": "1"}).content == exported


@pytest.mark.parametrize("name", ["html", "markdown", "chatgpt", "open_webui", "sharegpt", "openai"])
@pytest.mark.parametrize("zipped", ["0", "1"])
def test_any_kind_of_file_is_known_by_what_is_in_it(
    client: TestClient, workspace: Workspace, chats: list[str], name: str, zipped: str
) -> None:
    exported = client.get("/api/export", params={"all": "1", "format": name, "zip": zipped}).content
    workspace.erasure.erase("local", chats)
    assert client.post("/api/import", content=exported).json()["messages"] == 4


def test_files_of_other_programs_come_in(client: TestClient) -> None:
    for name in ("chatgpt_export.json", "open_webui_export.json"):
        answer = client.post("/api/import", content=(ROOT / "tests" / "data" / name).read_bytes())
        assert answer.json()["conversations"] >= 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "my file: line 1: expected conversations, found nothing"),
        (b"\xff\xfe", "my file: expected UTF-8, found byte 0xff"),
        (b"{}", "my file: document: expected conversations of Parley, ChatGPT"),
        (b"PK\x05\x06" + b"\0" * 18, "my file: zip: expected a file of conversations in the zip file, found none"),
        (b'{"format": "parley", "version": 9}', "my file: line 1: version: expected 1 to"),
    ],
)
def test_rubbish_is_refused_with_its_name_and_place(
    client: TestClient, tmp_path: Path, content: bytes, reason: str
) -> None:
    answer = client.post("/api/import", params={"name": "my file"}, content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(reason)
    assert str(tmp_path) not in answer.text
    assert uploads(tmp_path) == []


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=40)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["format", "version", "conversation", "mapping", "messages", "conversations", "chat", "id"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=10,
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_file_is_a_fault(client: TestClient, content: bytes) -> None:
    assert client.post("/api/import", content=content).status_code in (200, 400)


def test_a_file_that_is_wrong_at_its_end_adds_nothing(
    client: TestClient, workspace: Workspace, chats: list[str]
) -> None:
    exported = client.get("/api/export", params={"all": "1"}).content
    workspace.erasure.erase("local", chats)
    answer = client.post("/api/import?name=all.jsonl", content=exported + b'{"format": "other"}\n')
    assert answer.json()["error"]["message"].startswith("all.jsonl: line 3: ")
    assert workspace.archive.ids("local", Selection()) == []


def test_an_upload_that_is_cut_off_adds_nothing(
    client: TestClient, tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stream(self: Request) -> object:
        yield b'{"format": "parley",'
        raise ClientDisconnect

    monkeypatch.setattr(Request, "stream", stream)
    answer = client.post("/api/import?name=all.jsonl", content=b"")
    assert (answer.status_code, uploads(tmp_path)) == (400, [])
    assert "the connection has ended before" in answer.json()["error"]["message"]
    assert ArchiveStore(database).ids("local", Selection()) == []


def test_a_file_that_is_too_large_is_refused_unread(client: TestClient) -> None:
    answer = client.post("/api/import", headers={"Content-Length": str(MAX_IMPORT_BYTES + 1)}, content=b"")
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == "A request may have 512,000,000 bytes, this one has 512,000,001."


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_a_name_that_is_none_is_refused(client: TestClient, name: str) -> None:
    answer = client.post("/api/import", params={"name": name}, content=b"{}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name")


def test_uploads_that_a_crash_has_left_are_deleted(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / ".parley-import-x").write_text("left")
    archive_routes(workspace, tmp_path)
    assert uploads(tmp_path) == []
