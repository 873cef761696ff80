"""The guard, in front of anything; and the fence around Gradio, on the real server."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from conftest import ROOT, Server
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from chat.api.guard import HEADERS, IMPORT, MAX_BODY_BYTES, MAX_IMPORT_BYTES, MAX_STRANGER_BYTES, Guard


def broken() -> Response:
    raise ZeroDivisionError


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.add_middleware(Guard)
    app.add_api_route("/own", lambda: PlainTextResponse("in", headers={"Content-Security-Policy": "default-src *"}))
    app.add_api_route("/elsewhere", lambda: RedirectResponse("/own"))
    app.add_api_route("/broken", broken)
    methods = ["GET", "HEAD", "POST", "DELETE"]
    app.add_api_route("/{path:path}", lambda: PlainTextResponse("in"), methods=methods)
    return TestClient(app, raise_server_exceptions=False, follow_redirects=False)


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/api/import", MAX_IMPORT_BYTES),
        ("/api/%69mport", MAX_IMPORT_BYTES),  # the same path
        ("/api/import/", MAX_BODY_BYTES),
        ("/api/importer", MAX_BODY_BYTES),
        ("/api/export", MAX_BODY_BYTES),
        ("/v1/chat/completions", MAX_BODY_BYTES),
        ("/gradio_api/queue/join", MAX_BODY_BYTES),
        ("/login", MAX_STRANGER_BYTES),
        ("/widget/api/messages", MAX_STRANGER_BYTES),
        ("/widgets", MAX_BODY_BYTES),
    ],
)
def test_how_large_a_body_may_be(client: TestClient, path: str, limit: int) -> None:
    def post(n_bytes: int) -> int:
        return client.post(path, headers={"Content-Length": str(n_bytes)}).status_code

    assert (post(limit), post(limit + 1)) == (200, 413)


def test_a_request_without_a_body_needs_no_length(client: TestClient) -> None:
    assert client.delete("/api/presets/x").status_code == 200


@pytest.mark.parametrize("length", ["many", "12abc", "-1", "+1", "1.0", "0x10", "1,1", "1_000", ""])
def test_a_length_that_is_no_number_is_refused(client: TestClient, length: str) -> None:
    assert client.post("/api/import", headers={"Content-Length": length}).status_code == 411


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_body_of_unknown_length_is_refused(client: TestClient, method: str) -> None:
    assert client.request(method, IMPORT, content=iter([b"{}"])).status_code == 411
    headers = {"Transfer-Encoding": "chunked", "Content-Length": "2"}  # of these the first counts
    assert client.request(method, IMPORT, headers=headers).status_code == 411


@pytest.mark.parametrize(
    ("headers", "status", "kind", "code"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403, "permission_error", "forbidden"),
        ({"Content-Length": "8000001"}, 413, "invalid_request_error", "request_entity_too_large"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415, "invalid_request_error", "unsupported_media_type"),
        ({"Content-Type": "Multipart/Form-Data; boundary=x"}, 415, "invalid_request_error", "unsupported_media_type"),
    ],
)
@pytest.mark.parametrize("path", ["/api/export", "/other"])
def test_it_refuses_in_the_form_of_all_errors(
    client: TestClient, path: str, headers: dict[str, str], status: int, kind: str, code: str
) -> None:
    answer = client.post(path, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (status, kind, None)
    assert error["code"] == code
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


# Other web sites

READ_BY_SCRIPTS = ["/api/conversations", "/v1/models", "/widget/api/conversations", "/metrics"]
CHANGE = ["/api/conversations", "/v1/chat/completions", "/widget/api/session", "/login", "/logout", "/gradio_api/run/x"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Authorization": "Bearer parley_x"}, 403),
        ({"Origin": "http://testserver"}, 200),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://testserver.evil.example"}, 403),
        ({"Origin": "http://testserver:8080"}, 403),
        ({"Origin": "http://evil.example@testserver"}, 403),
    ],
)
def test_only_its_own_page_and_programs_may_ask_for_what_is_private(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    assert {client.get(path, headers=headers).status_code for path in READ_BY_SCRIPTS} == {status}
    assert {client.post(path, headers=headers).status_code for path in CHANGE} == {status}


@pytest.mark.parametrize("path", ["/", "/widget.js", "/widget/pub_x", "/page/page.js", "/health"])
def test_others_may_link_to_the_page_and_embed_the_widget(client: TestClient, path: str) -> None:
    assert client.get(path, headers={"Sec-Fetch-Site": "cross-site", "Origin": "https://shop.example"}).text == "in"


# Headers


@pytest.mark.parametrize(("path", "status"), [("/x", 200), ("/elsewhere", 307), ("/broken", 500)])
def test_every_answer_has_the_security_headers(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_what_nobody_expects_is_an_error_of_the_same_form(client: TestClient) -> None:
    answer = client.get("/broken")
    assert answer.json()["error"]["type"] == "server_error"
    assert "ZeroDivisionError" not in answer.text


def test_a_routes_own_policy_stands(client: TestClient) -> None:
    headers = client.get("/own").headers
    assert headers["Content-Security-Policy"] == "default-src *"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_browsers_are_told_to_stay_with_https_once_they_have_it(client: TestClient) -> None:
    assert "Strict-Transport-Security" not in client.get("/x").headers
    client.base_url = "https://testserver"  # type: ignore[assignment]
    assert client.get("/x").headers["Strict-Transport-Security"] == "max-age=31536000"


# The real server

CANARY = "canary-8211"


@pytest.fixture(scope="module")
def server(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("fenced")  # the folder that the server runs in, too
    (data / "canary.txt").write_text(CANARY)
    (data / "canary.html").write_text(CANARY)
    server = Server(data, tiny_path)
    gradio = data / "gradio"
    gradio.mkdir(exist_ok=True)
    os.symlink(data / "canary.txt", gradio / "link.txt")
    yield server
    assert server.end() == 0
    assert "Traceback" not in server.log


@pytest.fixture
def real(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


PATHS = ["/", "/health", "/config", "/theme.css", "/no-such-page", "/page/page.js", "/page/none.js", "/api/none"]
PATHS += ["/v1/none", "/widget.js", "/widget/pub_none", "/login", "/metrics", "/gradio_api/info", "/gradio_api/none"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PUT", "BREW"])
def test_every_answer_of_the_real_server_has_the_headers(real: httpx.Client, method: str) -> None:
    for path in PATHS:
        headers = real.request(method, path).headers
        assert headers.keys() >= {name.lower() for name in HEADERS} | {"x-request-id"}, path
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in headers
        if not path.startswith("/widget"):
            assert headers["Content-Security-Policy"].endswith("frame-ancestors 'none'")


ORIGINS = ["null", "https://evil.example", "http://127.0.0.1.evil.example", "https://127.0.0.1", "http://127.0.0.1:1"]


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("origin", [None, *ORIGINS, "HTTP://LOCALHOST"])
@pytest.mark.parametrize("host", ["localhost", "192.0.2.7"])
def test_no_other_origin_may_read_what_gradio_says(
    real: httpx.Client, host: str, origin: str | None, method: str
) -> None:
    headers = {"Host": host, "Access-Control-Request-Method": "POST", "Cookie": "session=x"}
    headers |= {"Origin": origin} if origin else {}
    for path in ("/config", "/gradio_api/info", "/gradio_api/queue/join", "/api/conversations", "/v1/models", "/"):
        answer = real.request(method, path, headers=headers)
        assert not [name for name in answer.headers if name.startswith("access-control-allow-origin")], path
        assert "access-control-allow-credentials" not in answer.headers or method == "OPTIONS"


def test_gradio_gives_no_file_of_the_folders_that_it_can_see(
    real: httpx.Client, server: Server, tmp_path: Path
) -> None:
    data = Path(os.readlink(f"/proc/{server.process.pid}/cwd"))
    outside = tmp_path / "canary.txt"
    outside.write_text(CANARY)
    names = [f"{data}/canary.txt", f"{data}/canary.html", f"{data}/parley.db", f"{data}/secret.key", str(outside)]
    names += ["canary.txt", "./canary.txt", f"{data}/gradio/link.txt", f"{data}/gradio/../canary.txt", "/etc/passwd"]
    names += [str(ROOT / "app.py"), "/proc/self/environ", "/proc/self/cwd/canary.txt", "file:///etc/passwd"]
    ways = [
        "/gradio_api/file={}",
        "/gradio_api/file/{}",
        "/file={}",
        "/static/{}",
        "/assets/{}",
        "/svelte/{}",
        "/page/{}",
    ]
    ways += ["/gradio_api/proxy={}", "/gradio_api/custom_component/x/client/component/{}"]
    for name in [*names, *(f"../../../../../../{name}" for name in names)]:
        for form in (name, quote(name, safe=""), quote(name).replace("../", "..%2f"), name.replace("/", "%2F")):
            for way in ways:
                answer = raw_get(server.port, way.format(form))
                assert CANARY.encode() not in answer, way.format(form)
                assert b"SQLite format 3" not in answer, way.format(form)
                assert b"root:" not in answer, way.format(form)
                assert not answer.startswith(b"HTTP/1.1 200"), way.format(form)


def raw_get(port: int, target: str) -> bytes:
    """Return an answer, whatever the path is: httpx would straighten it."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("latin-1"))
        return connection.makefile("rb").read()


def test_gradio_fetches_nothing_for_others(real: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        for form in (url, quote(url, safe=""), url.removeprefix("http://")):
            assert real.get(f"/gradio_api/proxy={form}").status_code >= 400
            assert not real.get(f"/gradio_api/file={form}").is_success  # it may send the browser there
        with pytest.raises(TimeoutError):
            listener.accept()


def test_nothing_can_be_uploaded_to_gradio(real: httpx.Client) -> None:
    files = {"files": ("a.html", b"<script>")}
    assert real.post("/gradio_api/upload", files=files).status_code == 415
    assert real.post("/gradio_api/upload?upload_id=x", content=b"x").status_code == 404
    assert real.post("/gradio_api/component_server", files=files).status_code == 415


def test_nobody_is_sent_to_another_site(real: httpx.Client) -> None:
    for path in (
        "//evil.example",
        "/%2Fevil.example",
        "/\\evil.example",
        "//evil.example/..",
        "/login?next=//evil.example",
    ):
        assert not real.get(path).headers.get("Location", "/").startswith(("//", "/\\", "http://evil"))


def test_no_middleware_keeps_from_routes_that_somebody_has_left(tmp_path: Path) -> None:
    found = subprocess.check_output([sys.executable, "-c", MIDDLEWARE, str(tmp_path)], cwd=ROOT, text=True).split()
    assert {"Guard", "Gate", "CORSMiddleware", "CustomCORSMiddleware"} <= set(found)  # the last is Gradio's own
    assert not [name for name in found if name.startswith("!")]


MIDDLEWARE = """
import sys
from contextlib import closing
from pathlib import Path
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount
from app import open_memory
from chat.api.server import create_app
from chat.model_host import ModelHost
from chat.settings import load_settings
from chat.workspace import open_workspace

def walk(app):
    for middleware in getattr(app, "user_middleware", ()):
        mark = "!" if isinstance(middleware.cls, type) and issubclass(middleware.cls, BaseHTTPMiddleware) else ""
        print(mark + middleware.cls.__name__)
    for route in getattr(app, "routes", ()):
        if isinstance(route, Mount):
            walk(route.app)

with open_memory() as database, open_workspace(database, lambda: None) as workspace:
    walk(create_app(load_settings(data=Path(sys.argv[1])), workspace, workspace, ModelHost(lambda name, bar: None)))
"""
