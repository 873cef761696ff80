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


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """All paths that the program has routes for."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.list_routes", str(tmp_path_factory.mktemp("routes"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {route.partition(" ")[2] for route in json.loads(done.stdout.splitlines()[-1])}


def is_there(path: str) -> bool:
    return TestClient(Fence(PlainTextResponse("there"))).get(path).text == "there"


def test_of_gradio_s_routes_only_the_page_s_are_there(routes: set[str]) -> None:
    gradio = {path for path in routes if not path.startswith(("/api/", "/v1/", "/widget", "/page"))}
    assert len(gradio) > 50
    ours = {"/health", "/metrics", "/login", "/logout"}
    assert {path for path in gradio if is_there(path)} == PAGE | FILES | ours


def test_all_routes_of_ours_are_there(routes: set[str]) -> None:
    ours = {path for path in routes if path.startswith(("/api/", "/v1/", "/widget", "/page"))}
    assert len(ours) > 80
    assert [path for path in ours if not is_there(path)] == []


@pytest.mark.parametrize("path", ["/gradio_api/info", "/config", "/api", "//", "/login/", "/Assets/x", "/proxy=x"])
def test_what_is_not_there_is_an_error_like_others(path: str) -> None:
    answer = TestClient(Fence(PlainTextResponse("there"))).get(f"http://localhost{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
