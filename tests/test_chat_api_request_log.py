"""What is told of each request, and what is not."""

import logging
import re
import shlex
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from conftest import Server
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from chat.api.guard import Guard
from chat.api.metrics import Metrics
from chat.api.request_log import RequestLog
from chat.identity import Identity
from chat.model_host import ModelHost

CANARY = "canary-5527"
Lines = Callable[[], list[dict[str, str]]]


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    with closing(ModelHost(cast(Any, None))) as host:
        yield Metrics(host, tmp_path / "parley.db")


@pytest.fixture
def client(metrics: Metrics) -> TestClient:
    app = FastAPI()
    app.add_middleware(Guard)
    app.add_middleware(RequestLog, metrics=metrics)

    def known(request: Request) -> Response:
        request.scope["identity"] = Identity("ada", "Ada", is_admin=False)
        return PlainTextResponse("known")

    def broken() -> Response:
        raise ZeroDivisionError

    app.add_api_route("/known", known)
    app.add_api_route("/broken", broken)
    app.add_api_route("/stream", lambda: StreamingResponse(iter([b"abc", b"de"])))
    app.add_api_route("/{path:path}", lambda: PlainTextResponse("in"), methods=["GET", "POST"])
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """A function that returns the fields of all lines."""
    caplog.set_level(logging.INFO, "parley.requests")

    def lines() -> list[dict[str, str]]:
        texts = [record.getMessage() for record in caplog.records if record.name == "parley.requests"]
        assert not any("\n" in text for text in texts)
        return [dict(field.split("=", 1) for field in shlex.split(text)) for text in texts]

    return lines


def test_each_request_has_one_line(client: TestClient, lines: Lines) -> None:
    assert client.get("/known").text == "known"
    (line,) = lines()
    assert re.fullmatch(r"[0-9a-f]{32}", line.pop("id"))
    assert line.pop("ms").isdecimal()
    assert line == {"method": "GET", "path": "/known", "status": "200", "bytes": "5", "owner": "ada"}


def test_a_stream_has_its_line_at_its_end(client: TestClient, lines: Lines) -> None:
    client.get("/stream")
    assert [(line["bytes"], line["owner"]) for line in lines()] == [("5", "-")]


@pytest.mark.parametrize("given", ["a", "req_1.2-3", "x" * 64])
def test_an_id_that_is_given_is_kept(client: TestClient, lines: Lines, given: str) -> None:
    assert client.get("/", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given
    assert lines()[0]["id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", 'a"b', "a=b", "\xe4", "a;b"])
def test_an_id_that_is_none_is_replaced(client: TestClient, lines: Lines, given: str) -> None:
    answer = client.get("/", headers={"X-Request-Id": given.encode("latin-1")})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-Id"])
    assert lines()[0]["id"] == answer.headers["X-Request-Id"]


def test_no_secret_and_no_text_is_in_the_log(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": f"Bearer {CANARY}", "Cookie": f"parley_session={CANARY}", "User-Agent": CANARY}
    client.post(f"/x?q={CANARY}", headers={**headers, "Referer": CANARY, "X-Forwarded-For": CANARY}, json=CANARY)
    ours = [record.getMessage() for record in caplog.records if record.name == "parley.requests"]
    assert len(ours) == 1
    assert CANARY not in ours[0]
    assert "testclient" not in ours[0]  # the address


@pytest.mark.parametrize(
    ("path", "quoted"),
    [
        ("/a%0Ab%20status=200", r'"/a\nb status=200"'),
        ("/%1B%5B31mred", r'"/\u001b[31mred"'),
        ("/%22x%22", r'"/\"x\""'),
        ("/%7F%C3%A4%E2%80%AE", r'"/\u007f\u00e4\u202e"'),
        ("/" + "x" * 300, '"/' + "x" * 199 + r'\u2026"'),
    ],
)
def test_a_path_cannot_write_lines_of_its_own(
    client: TestClient, caplog: pytest.LogCaptureFixture, path: str, quoted: str
) -> None:
    caplog.set_level(logging.INFO, "parley.requests")
    client.get(path)
    assert f" path={quoted} " in caplog.records[-1].getMessage()


def test_a_fault_is_a_warning(client: TestClient, caplog: pytest.LogCaptureFixture, lines: Lines) -> None:
    client.get("/broken")
    client.get("/known")
    ours = [record.levelname for record in caplog.records if record.name == "parley.requests"]
    assert ours == ["WARNING", "INFO"]
    assert lines()[0]["status"] == "500"


def test_answers_are_counted_by_route_and_status(client: TestClient, metrics: Metrics) -> None:
    for path in ("/api/x", "/api/x?y", "/broken", "/no/such", "/v1/models", "/apix"):
        client.get(path)
    text = metrics.text().decode()
    assert 'parley_http_requests_total{route="/api",status="200"} 2.0' in text
    assert 'parley_http_requests_total{route="other",status="500"} 1.0' in text
    assert 'parley_http_requests_total{route="other",status="200"} 2.0' in text
    assert 'parley_http_requests_total{route="/v1",status="200"} 1.0' in text


def test_strangers_cannot_make_the_metrics_grow(client: TestClient, metrics: Metrics) -> None:
    client.get("/a")
    length = len(metrics.text().splitlines())
    for number in range(50):
        client.get(f"/{number}")
    assert len(metrics.text().splitlines()) == length


def test_what_is_no_http_has_an_id_and_a_line_too(start_server: Callable[..., Server], tiny_path: Path) -> None:
    server = start_server(tiny_path)
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        connection.sendall(f"{CANARY}\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).decode().partition("\r\n\r\n")
    assert server.end() == 0
    request_id = re.search(r"(?im)^x-request-id: ([0-9a-f]{32})\r?$", head)
    assert request_id, head
    assert f"method=- path=- id={request_id[1]} status=400 ms=0 bytes={len(body)} owner=-" in server.log
    assert CANARY not in server.log


def test_what_is_said_to_the_real_server_is_not_in_its_log(
    start_server: Callable[..., Server], tiny_path: Path
) -> None:
    server = start_server(tiny_path)
    with httpx.Client(base_url=server.url, timeout=30, headers={"X-Request-Id": "mine"}) as client:
        chat = client.post("/api/conversations", json={"system_prompt": CANARY}).json()["id"]
        sent = client.post(f"/api/conversations/{chat}/messages", json={"content": CANARY, "params": {"max_tokens": 4}})
        assert (sent.status_code, sent.headers["X-Request-Id"]) == (202, "mine")
        client.get("/api/search", params={"q": CANARY})
        client.get(f"/api/conversations/{chat}", headers={"Authorization": f"Bearer parley_{CANARY}"})
        client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": CANARY}], "max_tokens": 2})
        client.post("/api/export", json={"format": CANARY})
        client.post("/login", data={"name": CANARY, "password": CANARY})
    assert server.end() == 0
    assert CANARY not in server.log
    assert f"path=/api/conversations/{chat}/messages id=mine status=202" in server.log
    assert "127.0.0.1" not in server.log.replace(server.url, "")
