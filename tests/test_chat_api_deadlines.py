"""Clients that are too slow are cut off, and nobody else is kept waiting by them."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, closing
from http.client import HTTPConnection

import httpx
import pytest
import uvicorn
from event_readers import eventually
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, StreamingResponse

from chat.api.deadlines import DeadlineProtocol
from chat.api.guard import IMPORT, Guard

PATIENCE = 20  # seconds, on a busy machine
SOON = 0.8  # seconds: the deadlines of those who are to miss them
LATER = 3.0  # and of those who are not


class HastyProtocol(DeadlineProtocol):
    seconds = dict.fromkeys(DeadlineProtocol.seconds, SOON)
    send_seconds = SOON


class CalmProtocol(DeadlineProtocol):
    seconds = dict.fromkeys(DeadlineProtocol.seconds, LATER)
    send_seconds = LATER


class SmallProtocol(DeadlineProtocol):
    max_connections = 10


class FairProtocol(DeadlineProtocol):
    max_of_address = 3
    loopback = ()  # where the clients of these tests are


class World:
    """A real server in a thread, whose clients are slow."""

    def __init__(self, protocol: type[DeadlineProtocol], proxies: Sequence[str] = ()) -> None:
        self.n_begun = self.n_streams = 0
        app = FastAPI()
        app.add_middleware(Guard)
        app.add_api_route("/quick", lambda: PlainTextResponse("quick"))
        app.add_api_route("/echo", self.echo, methods=["POST"])
        app.add_api_route(IMPORT, self.echo, methods=["POST"])
        app.add_api_route("/unread", lambda: PlainTextResponse("unread"), methods=["POST"])
        app.add_api_route("/endless", self.endless)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        config = uvicorn.Config(
            app, http=protocol, ws="none", log_config=None, log_level="critical", forwarded_allow_ips=list(proxies)
        )
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, args=([self.listener],))
        self._thread.start()
        eventually(lambda: self.server.started)

    async def echo(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    async def endless(self) -> StreamingResponse:
        async def stream() -> AsyncIterator[bytes]:
            self.n_begun += 1
            self.n_streams += 1
            try:
                while True:
                    yield b"x" * 10_000
                    await asyncio.sleep(0)
            finally:
                self.n_streams -= 1

        return StreamingResponse(stream())

    def connect(self, text: str = "", source: str = "127.0.0.1") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE, (source, 0))
        connection.sendall(text.encode("latin-1"))
        return connection

    def close(self) -> None:
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with closing(World(HastyProtocol)) as world:
        yield world


@pytest.fixture(scope="module")
def calm_world() -> Iterator[World]:
    with closing(World(CalmProtocol)) as world:
        yield world


def rest_of(connection: socket.socket) -> bytes:
    """Return what still comes until the other end closes."""
    received = b""
    try:
        while chunk := connection.recv(10_000):
            received += chunk
    except ConnectionResetError:  # it has not waited for what we had to say
        pass
    return received


def trickle(connection: socket.socket, text: str, pause: float = 0.02) -> bool:
    """Send a text byte by byte, for some time at most; tell whether that was possible to the end."""
    until = time.monotonic() + PATIENCE
    for byte in text.encode():
        if time.monotonic() > until:
            break
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            return False
        time.sleep(pause)
    return True


HEAD = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize("text", ["", "G", "GET /quick HTTP/1.1\r\nHost: local", HEAD, f"{HEAD}half"])
def test_a_request_that_does_not_come_is_given_up(world: World, text: str) -> None:
    with world.connect(text) as connection:
        assert rest_of(connection) == b""


def test_a_head_that_trickles_is_given_up_too(world: World) -> None:
    with world.connect("GET /quick HTTP/1.1\r\n") as connection:
        assert not trickle(connection, "X-Padding: " + "x" * 5000)


def test_a_body_that_trickles_is_given_up_too(world: World) -> None:
    with world.connect(HEAD.replace("1000", "5000")) as connection:
        assert not trickle(connection, "x" * 5000)


def test_a_second_request_that_trickles_is_given_up_too(world: World) -> None:
    with world.connect("GET /quick HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert not trickle(connection, "GET /" + "x" * 5000)


def test_the_rest_of_a_body_that_nobody_wants_is_not_awaited_for_ever(world: World) -> None:
    with world.connect(HEAD.replace("/echo", "/unread").replace("1000", "5000")) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert not trickle(connection, "x" * 5000)


def test_an_import_may_take_as_long_as_it_moves_on(calm_world: World) -> None:
    text, begun = "x" * 50, time.monotonic()
    head = HEAD.replace("/echo", IMPORT).replace("1000", "50\r\nConnection: close")
    with calm_world.connect(head) as connection:
        assert trickle(connection, text, LATER / 30)
        assert time.monotonic() - begun > 1.5 * LATER  # which is more than anything else may take
        assert rest_of(connection).endswith(text.encode())


def test_an_import_that_stops_is_given_up(world: World) -> None:
    with world.connect(HEAD.replace("/echo", IMPORT) + "some") as connection:
        assert rest_of(connection) == b""


def test_a_connection_that_is_not_used_again_is_closed(world: World) -> None:
    with world.connect("GET /quick HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        assert rest_of(connection).endswith(b"quick")


def test_a_connection_that_is_used_again_in_time_stays(calm_world: World) -> None:
    with closing(HTTPConnection("127.0.0.1", calm_world.port, timeout=PATIENCE)) as client:
        client.connect()
        client.auto_open = 0  # so that it can be no other one
        for _ in range(8):
            client.request("POST", "/echo", b"x" * 200_000)
            assert client.getresponse().read() == b"x" * 200_000
            time.sleep(LATER / 6)


def test_requests_that_come_at_once_are_answered_one_after_the_other(world: World) -> None:
    request = "GET /quick HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with world.connect(request * 3 + request[:20]) as connection:
        received = rest_of(connection)
    assert received.count(b"HTTP/1.1 200 OK") == received.count(b"quick") == 3


def test_whoever_does_not_read_a_stream_is_cut_off(world: World) -> None:
    with world.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: world.n_begun > 0 and not world.server.server_state.connections)
        eventually(lambda: world.n_streams == 0)
        assert not world.server.server_state.connections


def test_whoever_reads_gets_as_much_as_they_like(calm_world: World) -> None:
    with httpx.stream("GET", f"http://127.0.0.1:{calm_world.port}/endless", timeout=PATIENCE) as stream:
        until, n_read = time.monotonic() + 1.5 * LATER, 0
        for chunk in stream.iter_bytes():
            n_read += len(chunk)
            if time.monotonic() > until:
                break
    assert n_read > 100_000
    eventually(lambda: calm_world.n_streams == 0)


def test_others_are_served_beside_the_slow_ones_which_then_are_gone(world: World) -> None:
    with ExitStack() as opened:
        slow = [opened.enter_context(world.connect("GET / HT")) for _ in range(100)]
        assert httpx.get(f"http://127.0.0.1:{world.port}/quick", timeout=PATIENCE).text == "quick"
        assert {rest_of(connection) for connection in slow} == {b""}
    eventually(lambda: not world.server.server_state.connections)


def test_who_comes_when_it_is_full_is_told_when_to_come_again() -> None:
    with closing(World(SmallProtocol)) as world:
        with ExitStack() as opened:
            for _ in range(SmallProtocol.max_connections):
                opened.enter_context(world.connect("GET / HT"))
            eventually(lambda: len(world.server.server_state.connections) == SmallProtocol.max_connections)
            answer = httpx.get(f"http://127.0.0.1:{world.port}/quick", timeout=PATIENCE)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
            assert answer.json()["error"]["code"] == "too_many_connections"
        eventually(lambda: not world.server.server_state.connections)
        assert httpx.get(f"http://127.0.0.1:{world.port}/quick", timeout=PATIENCE).text == "quick"


QUICK = "GET /quick HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def crowd(world: World, opened: ExitStack, source: str, n: int) -> None:
    """Open so many connections from an address, and keep them."""
    n_before = len(world.server.server_state.connections)
    for _ in range(n):
        opened.enter_context(world.connect("GET / HT", source))
    eventually(lambda: len(world.server.server_state.connections) == n_before + n)


def test_one_address_cannot_take_the_connections_of_the_others() -> None:
    with closing(World(FairProtocol)) as world:
        with ExitStack() as opened:
            crowd(world, opened, "127.0.0.2", FairProtocol.max_of_address)
            with world.connect(QUICK, "127.0.0.2") as refused, world.connect(QUICK, "127.0.0.3") as other:
                answer = rest_of(refused)
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"too_many_connections" in answer
                assert rest_of(other).endswith(b"quick")
        eventually(lambda: not world.server.server_state.connections)
        with world.connect(QUICK, "127.0.0.2") as again:
            assert rest_of(again).endswith(b"quick")


class LocalProtocol(FairProtocol):
    loopback = DeadlineProtocol.loopback


@pytest.mark.parametrize(
    ("protocol", "proxies"), [(FairProtocol, ["2001:db8::/64", "127.0.0.2/32"]), (LocalProtocol, [])]
)
def test_a_proxy_and_this_machine_stand_for_many(protocol: type[DeadlineProtocol], proxies: list[str]) -> None:
    with closing(World(protocol, proxies)) as world, ExitStack() as opened:
        crowd(world, opened, "127.0.0.2", 2 * protocol.max_of_address)
        with world.connect(QUICK, "127.0.0.2") as connection:
            assert rest_of(connection).endswith(b"quick")


@pytest.mark.parametrize("head", ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked"])
def test_after_a_body_of_unknown_length_no_other_request_is_answered(calm_world: World, head: str) -> None:
    body = "0\r\n\r\n"
    with calm_world.connect(f"POST /echo HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n{body}{QUICK}") as connection:
        answer = rest_of(connection)
    assert answer.startswith(b"HTTP/1.1 411 ")
    assert answer.lower().count(b"connection: close") == answer.count(b"HTTP/1.1") == 1


NO_HTTP = [
    "\x16\x03\x01\x02\0\x01\0\x01",  # TLS
    "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 12abc\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {'9' * 50}\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + "x" * 100_000,
    "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /quick HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("text", NO_HTTP)
def test_what_is_no_http_is_refused_in_the_form_of_all_errors(calm_world: World, text: str) -> None:
    with calm_world.connect(text) as connection:
        received = rest_of(connection)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b'"type":"invalid_request_error"' in received
    assert b"nosniff" in received


@pytest.mark.parametrize("path", ["/echo", "/unread"])
def test_a_body_that_breaks_off_into_nonsense_is_refused(calm_world: World, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with calm_world.connect(f"{head}nonsense\r\n") as connection:
        assert rest_of(connection)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 411")
