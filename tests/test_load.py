"""A real server under load, in small: what `python -m tests.load_server` measures in large."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import httpx
import pytest
from big_database import write
from conftest import Server
from load_server import PASSWORD, Load, make_accounts, serve

from chat.api.v1.prompts import MAX_CHARS

N_CLIENTS, SECONDS = 20, 20.0


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory, default_path: Path) -> Iterator[Load]:
    folder = tmp_path_factory.mktemp("load")
    keys = make_accounts(folder, N_CLIENTS)
    with serve(folder, default_path) as (url, pid):
        asyncio.run(Load(url, pid, keys).run(3))  # warms up
        yield Load(url, pid, keys)
    assert "Traceback" not in (folder / "log").read_text()


@pytest.mark.slow
def test_many_clients_get_their_replies_and_even_shares(load: Load) -> None:
    asyncio.run(load.run(SECONDS))
    assert load.tally.errors == []
    assert load.tally.jain > 0.8
    assert load.resident[-1] < load.resident[len(load.resident) // 2] + 50  # MiB


@pytest.mark.slow
def test_who_is_too_much_is_refused_with_the_time_to_come_again(load: Load) -> None:
    statuses, _ = asyncio.run(load.burst(100))
    assert set(statuses) == {200, 503}
    assert statuses[200] >= 32


@pytest.mark.slow
def test_nothing_is_computed_for_clients_that_have_vanished(load: Load) -> None:
    idle_after, computed = asyncio.run(load.vanish(20))
    assert idle_after < 2
    assert computed < 0.5


@pytest.mark.slow
def test_many_slow_connections_keep_nobody_out_and_are_gone_soon(
    start_server: Callable[..., Server], tiny_path: Path
) -> None:
    server = start_server(tiny_path)
    with ExitStack() as opened:
        slow = [opened.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(500)]
        for connection in slow[:400]:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        for connection in slow[400:]:
            connection.sendall(b"POST /api/conversations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
        assert httpx.post(f"{server.url}/api/conversations", json={}, timeout=30).status_code == 201
        for connection in slow[:400]:
            connection.settimeout(30)
            assert connection.recv(100) == b""
        until = time.monotonic() + 45  # a body has 30 s
        for connection in slow[400:]:
            connection.settimeout(max(1, until - time.monotonic()))
            assert connection.recv(100) == b""


@pytest.fixture
def busy_server(tmp_path: Path, tiny_path: Path, start_server: Callable[..., Server]) -> tuple[Server, str]:
    """A server with an account and many conversations, and a key of it."""
    write(tmp_path / "parley.db", 100).close()
    (key,) = make_accounts(tmp_path, 1)
    return start_server(tiny_path), key


def test_nothing_holds_the_event_loop_up(busy_server: tuple[Server, str]) -> None:
    server, key = busy_server
    headers = {"Authorization": f"Bearer {key}"}
    is_over = threading.Event()
    long = {"content": "word " * (MAX_CHARS // 5)}

    def repeat(method: str, path: str, statuses: set[int], **sent: object) -> list[float]:
        seconds = []
        with httpx.Client(base_url=server.url, timeout=120) as client:
            while not is_over.is_set():
                begun = time.monotonic()
                assert client.request(method, path, **sent).status_code in statuses  # type: ignore[arg-type]
                seconds.append(time.monotonic() - begun)
        return seconds

    with ThreadPoolExecutor() as pool:
        guess = {"name": "user0", "password": f"not {PASSWORD}"}
        exported = {"format": "parley", "all": True}
        works = [
            pool.submit(repeat, "POST", "/v1/tokenize", {200}, json=long, headers=headers),
            pool.submit(repeat, "POST", "/v1/tokenize", {200}, json=long, headers=headers),
            pool.submit(repeat, "POST", "/login", {401, 429}, data=guess),
            pool.submit(repeat, "POST", "/api/export", {200}, json=exported, headers=headers),
        ]
        waits = probe(server.url)
        is_over.set()
        tokenizing, *_ = [work.result() for work in works]
    assert median(waits) < median(tokenizing) / 6  # in the event loop it would hold a look up for nearly half as long


def probe(url: str) -> list[float]:
    """Return how long each of some looks at the health took."""
    waits = []
    with httpx.Client(base_url=url, timeout=120) as client:
        for _ in range(40):
            begun = time.monotonic()
            assert client.get("/health").status_code == 200
            waits.append(time.monotonic() - begun)
            time.sleep(0.05)
    return waits
