"""Of Gradio's routes only those of its page are there; of ours, all."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse

from chat.api.fence import Fence

PAGE = {"/", "/theme.css", "/favicon.ico", "/manifest.json", "/pwa_icon", "/pwa_icon/{size}", "/robots.txt"}
FILES = {"/assets/{path}", "/static/{path}"}


OURS = {"GET /health", "GET /metrics", "GET /login", "POST /login", "POST /logout"}


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """All routes of the program, as METHOD path."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.list_routes", str(tmp_path_factory.mktemp("routes"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def is_there(route: str) -> bool:
    method, _, path = route.partition(" ")
    return TestClient(Fence(PlainTextResponse("there"))).request(method, path).text == "there"


def is_in_a_folder_of_ours(route: str) -> bool:
    return route.partition(" ")[2].startswith(("/api/", "/v1/", "/widget", "/page"))


def test_of_gradio_s_routes_only_the_page_s_are_there(routes: set[str]) -> None:
    gradio = {route for route in routes if not is_in_a_folder_of_ours(route)}
    assert len(gradio) > 50
    assert {route for route in gradio if is_there(route)} == {f"GET {path}" for path in PAGE | FILES} | OURS


def test_all_routes_of_ours_are_there(routes: set[str]) -> None:
    ours = set(filter(is_in_a_folder_of_ours, routes))
    assert len(ours) > 80
    assert [route for route in ours if not is_there(route)] == []


@pytest.mark.parametrize("path", ["/gradio_api/info", "/config", "/api", "//", "/login/", "/Assets/x", "/proxy=x"])
def test_what_is_not_there_is_an_error_like_others(path: str) -> None:
    answer = TestClient(Fence(PlainTextResponse("there"))).get(f"http://localhost{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/", "GET, HEAD"),
        ("OPTIONS", "/", "GET, HEAD"),
        ("PUT", "/assets/x", "GET, HEAD"),
        ("DELETE", "/health", "GET"),
        ("POST", "/metrics", "GET"),
        ("PATCH", "/login", "GET, POST"),
        ("GET", "/logout", "POST"),
        ("POST", "/widget.js", "GET, HEAD"),
    ],
)
def test_another_method_is_refused_with_those_that_there_are(method: str, path: str, allowed: str) -> None:
    answer = TestClient(Fence(PlainTextResponse("there"))).request(method, path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
    assert answer.json()["error"] == {
        "message": f"{method} {path}: Method Not Allowed",
        "type": "invalid_request_error",
        "param": None,
        "code": "method_not_allowed",
    }


@pytest.mark.parametrize(("status", "code"), [(403, "forbidden"), (404, "not_found"), (500, "internal_server_error")])
def test_what_gradio_refuses_is_an_error_like_others(status: int, code: str) -> None:
    refusing = PlainTextResponse("a path on this machine", status, {"X-Own": "1"})
    answer = TestClient(Fence(refusing)).get("/static/x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "machine" not in answer.text
    assert "X-Own" not in answer.headers
