"""How a server ends: soon, with all that has been written, and by itself once its engine is dead."""

import errno
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from conftest import ROOT, Server, write_tiny_gguf
from event_readers import eventually

from storage.conversations import ConversationStore
from storage.database import Database

SHOP = "https://shop.example"
LONG = {"max_tokens": 8000, "min_tokens": 8000}
PATIENCE = 60  # seconds that an answer may take on a busy machine
AT_MOST = 15  # seconds to the end there: the promise is 5


@pytest.fixture
def slow_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that writes for many seconds."""
    monkeypatch.setenv("PARLEY_NATIVE", "off")
    return write_tiny_gguf(tmp_path / "slow.gguf", n_ctx=8192)


class Reader:
    """Reads a stream in a thread, to its end."""

    def __init__(self, opened: ExitStack, method: str, url: str, **options: object) -> None:
        self.text = ""
        client = opened.enter_context(httpx.Client(timeout=PATIENCE))
        self._response = opened.enter_context(client.stream(method, url, **options))  # type: ignore[arg-type]
        assert self._response.status_code == 200
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for text in self._response.iter_text():
            self.text += text

    def ended(self) -> bool:
        """Wait for the end of the stream; tell whether it came."""
        self._thread.join(20)
        return not self._thread.is_alive()


def begin(url: str, path: str = "/api") -> str:
    """Begin a long reply in a conversation of its own; returns the conversation's id."""
    with httpx.Client(base_url=url + path, timeout=PATIENCE) as client:
        chat: str = client.post("/conversations", json={}).raise_for_status().json()["id"]
        body = {"content": "hello", "params": LONG}
        client.post(f"/conversations/{chat}/messages", json=body).raise_for_status()
    return chat


def visit(opened: ExitStack, url: str) -> Reader:
    """Have a visitor of a site watch a reply being written."""
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        site = client.post("/api/sites", json={"name": "shop", "origins": [SHOP]}).raise_for_status().json()
        session = client.post("/widget/api/session", json={"site": site["key"], "origin": SHOP}).raise_for_status()
        headers = {"Authorization": f"Bearer {session.json()['token']}"}
        body = {"conversation_id": None, "content": "hello", "idempotency_key": "k" * 16}
        sent = client.post("/widget/api/messages", json=body, headers=headers).raise_for_status().json()
    return Reader(opened, "GET", f"{url}/widget/api/conversations/{sent['conversation_id']}/events", headers=headers)


def test_open_streams_end_and_what_was_written_is_kept(
    start_server: Callable[..., Server], slow_model: Path, tmp_path: Path
) -> None:
    server = start_server(slow_model)
    with ExitStack() as opened:
        chats = [begin(server.url) for _ in range(3)]
        readers = [Reader(opened, "GET", f"{server.url}/api/events?conversation_id={chat}") for chat in chats]
        readers.append(Reader(opened, "GET", f"{server.url}/api/temporary/events"))
        readers.append(visit(opened, server.url))
        asked = {"model": "slow", "messages": [{"role": "user", "content": "hello"}], "stream": True, **LONG}
        readers.append(Reader(opened, "POST", f"{server.url}/v1/chat/completions", json=asked))
        for reader in (*readers[:3], readers[-1]):
            eventually(lambda reader=reader: len(reader.text) > 3000)
        begun = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - begun < AT_MOST
        assert all(reader.ended() for reader in readers)
    assert "Traceback" not in server.log
    database = Database(tmp_path / "parley.db")
    store = ConversationStore(database)
    replies = [store.path("local", chat)[-1] for chat in chats]
    database.close()
    assert {(reply.status, reply.finish_reason) for reply in replies} == {("interrupted", "cancelled")}
    for reply, reader in zip(replies, readers, strict=False):
        seen = "".join(
            json.loads(line[6:]).get("text", "") for line in reader.text.splitlines() if line[:6] == "data: "
        )
        assert seen
        assert reply.content.startswith(seen)


def test_whoever_is_in_the_midst_of_a_request_holds_nothing_up(
    start_server: Callable[..., Server], tiny_path: Path
) -> None:
    server = start_server(tiny_path)
    with half_a_request(server):
        begun = time.monotonic()
        assert server.end(signal.SIGINT) == 0
        assert time.monotonic() - begun < AT_MOST  # and the rest of the request has 30 s to come


def half_a_request(server: Server) -> socket.socket:
    """Send the first half of a request, and return the connection."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(b"POST /api/conversations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    assert httpx.get(f"{server.url}/health", timeout=PATIENCE).status_code == 200  # which came after it
    return connection


def patched(code: str) -> list[str]:
    """Return the arguments of a Python that serves after some code has run, in the folder of the data."""
    return ["-c", f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}\nimport app\napp.main()"]


class PatientServer(Server):
    """It waits long for all that is open when it is to end."""

    program = patched("""
from chat.api import web_server
web_server.SHUTDOWN_SECONDS = web_server.LAST_SECONDS = 600
""")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(
    start_server: Callable[..., Server], tiny_path: Path, number: signal.Signals
) -> None:
    server = start_server(tiny_path, kind=PatientServer)
    with half_a_request(server):
        server.process.send_signal(number)
        eventually(lambda: refuses(server))
        assert server.process.poll() is None
        begun = time.monotonic()
        assert server.end(number) == 128 + number
        assert time.monotonic() - begun < AT_MOST


def refuses(server: Server) -> bool:
    """Tell whether a server lets nobody in any more."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", server.port)) == errno.ECONNREFUSED


class StuckServer(Server):
    """Who searches in it keeps a thread busy for longer than anybody would wait, and it tells of that by a file."""

    program = patched("""
import time
from pathlib import Path
from storage.search import SearchStore

def search(*arguments, **options):
    Path("stuck").touch()
    time.sleep(600)

SearchStore.search = search
""")


def test_work_that_cannot_be_broken_off_does_not_keep_it_alive(
    start_server: Callable[..., Server], tmp_path: Path, tiny_path: Path
) -> None:
    server = start_server(tiny_path, kind=StuckServer)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /api/search?q=x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually((tmp_path / "stuck").exists)
        begun = time.monotonic()
        assert server.end() == 0
        assert 3 < time.monotonic() - begun < AT_MOST
    assert "The end took longer than 5 s, so it is cut short." in server.log


class MortalServer(Server):
    """Its engine dies in a step once there is a file that says so; then there is time to hear of that."""

    program = patched("""
from pathlib import Path
from chat.api import web_server
from model.engine.torch_runner import TorchRunner
run, web_server.LAST_WORDS_SECONDS = TorchRunner.run, 5

def mortal(self, chunks):
    if Path("die").exists():
        raise ZeroDivisionError
    return run(self, chunks)

TorchRunner.run = mortal
""")


@pytest.fixture
def mortal(tmp_path: Path, slow_model: Path) -> Iterator[MortalServer]:
    server = MortalServer(tmp_path, slow_model)
    yield server
    server.end(signal.SIGKILL)  # which it need not have lived to see


def test_a_dead_engine_is_told_of_and_ends_the_server(mortal: MortalServer, tmp_path: Path) -> None:
    with ExitStack() as opened:
        chat = begin(mortal.url)
        reader = Reader(opened, "GET", f"{mortal.url}/api/events?conversation_id={chat}")
        eventually(lambda: "event: text" in reader.text)
        (tmp_path / "die").touch()
        eventually(lambda: "event: end" in reader.text)
        assert httpx.get(f"{mortal.url}/health", timeout=PATIENCE).json() == {"status": "error"}
        assert mortal.process.wait(timeout=PATIENCE) == 1
        assert reader.ended()
    end = json.loads(reader.text.partition("event: end\n")[2].partition("data: ")[2].splitlines()[0])
    assert (end["status"], end["error"]) == ("error", "The engine has stopped after an error (ZeroDivisionError).")
    eventually(lambda: "The engine has stopped after an error, so Parley ends: start it anew." in mortal.log)
