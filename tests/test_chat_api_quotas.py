"""One owner gets so many replies in a minute and so many tokens on a day, and others theirs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from conftest import Server
from event_readers import eventually
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from chat.api.quotas import REPLIES, Quotas, count_into
from chat.identity import Identity, engine_owner
from chat.limits import DailyTokens
from model.engine.generation import Generation, Usage


class Somebody:
    """What stands for the gate: who asks is named by a header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        owner = Request(scope).headers.get("owner", "ada")
        await self._app({**scope, "identity": Identity(owner, owner, is_admin=False)}, receive, send)


@pytest.fixture
def make_client() -> Callable[[int | None, DailyTokens], TestClient]:
    def make_client(requests_per_minute: int | None, tokens: DailyTokens) -> TestClient:
        app = FastAPI()
        app.add_middleware(Quotas, tokens=tokens, requests_per_minute=requests_per_minute)
        app.add_middleware(Somebody)
        app.add_api_route("/{path:path}", lambda: "in", methods=["GET", "POST"])
        return TestClient(app)

    return make_client


PATHS = ["/v1/chat/completions", "/v1/completions", "/api/conversations/x/messages", "/api/messages/x/edit"]
PATHS += ["/api/temporary/conversations/x/messages", "/api/temporary/messages/x/branch"]
OTHER_PATHS = ["/v1/tokenize", "/v1/models", "/api/conversations", "/api/conversations/x/stop", "/api/messages/x/fork"]


@pytest.mark.parametrize("path", PATHS)
def test_so_many_replies_in_a_minute(make_client: Callable[..., TestClient], path: str) -> None:
    client = make_client(2, DailyTokens(None))
    assert [client.post(path).status_code for _ in range(4)] == [200, 200, 429, 429]
    answer = client.post(path)
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "limit_exceeded", None)
    assert error["message"].startswith("replies: at most 2 in 60 s. Try again in ")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert client.post(path, headers={"owner": "bob"}).status_code == 200


def test_all_ways_to_a_reply_count_together(make_client: Callable[..., TestClient]) -> None:
    client = make_client(len(PATHS), DailyTokens(None))
    assert [client.post(path).status_code for path in [*PATHS, PATHS[0]]] == [200] * len(PATHS) + [429]


def test_what_asks_for_no_reply_is_free(make_client: Callable[..., TestClient]) -> None:
    client = make_client(1, DailyTokens(None))
    for _ in range(3):
        assert {client.post(path).status_code for path in OTHER_PATHS} == {200}
        assert {client.get(path).status_code for path in PATHS} == {200}


def reply(n_prompt: int, n_completion: int) -> Generation:
    generation = Generation(n_prompt, 0)
    generation.finish("stop", Usage(n_prompt, 5, n_completion, 1.0, 2.0))
    return generation


def test_so_many_tokens_on_a_day(make_client: Callable[..., TestClient]) -> None:
    tokens = DailyTokens(100)
    client, count = make_client(None, tokens), count_into(tokens)
    count("ada", reply(50, 0))
    count(engine_owner("ada", "a visitor"), reply(0, 49))  # whose visitor may be anybody, herself too
    assert client.post(PATHS[0]).status_code == 200
    count("ada", reply(1, 0))
    answer = client.post(PATHS[0])
    assert answer.status_code == 429
    assert answer.json()["error"]["message"].startswith("tokens: at most 100 on a day (UTC). Try again in ")
    assert 1 <= int(answer.headers["Retry-After"]) <= 24 * 3600
    assert client.post(PATHS[0], headers={"owner": "bob"}).status_code == 200


def test_without_settings_there_is_no_limit(make_client: Callable[..., TestClient]) -> None:
    tokens = DailyTokens(None)
    client = make_client(None, tokens)
    count_into(tokens)("ada", reply(10**9, 0))
    assert {client.post(PATHS[0]).status_code for _ in range(200)} == {200}


# The real server


@pytest.fixture(scope="module")
def server(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--tokens-per-day", "120", "--requests-per-minute", "5")
    server = Server(tmp_path_factory.mktemp("quotas"), tiny_path, 0, *flags)
    yield server
    assert server.end() == 0


def test_a_day_of_the_real_server(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        chat = client.post("/api/conversations", json={}).json()["id"]
        path = f"/api/conversations/{chat}/messages"

        def send() -> httpx.Response:
            return client.post(path, json={"content": "hello", "params": {"max_tokens": 60, "min_tokens": 60}})

        def is_idle() -> bool:
            return client.get(path).json()["messages"][-1]["status"] != "streaming"

        n_sent = 0
        while (answer := send()).status_code == 202:
            n_sent += 1
            eventually(is_idle)
        assert 1 <= n_sent <= 2
        assert answer.status_code == 429
        assert answer.json()["error"]["message"].startswith("tokens: at most 120 on a day (UTC).")
        assert int(answer.headers["Retry-After"]) > 0
        assert len(client.get(path).json()["messages"]) == 2 * n_sent  # what was refused has changed nothing
        body = {"messages": [{"role": "user", "content": "hello"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 429
        assert client.get("/api/conversations").status_code == 200


def test_every_route_that_may_ask_for_a_reply_is_counted(server: Server) -> None:
    paths = httpx.get(f"{server.url}/api/openapi.json").json()["paths"]
    found = {
        f"/api{path}" for path, methods in paths.items() if "post" in methods and "202" in methods["post"]["responses"]
    }
    assert found - {"/api/model"} == {f"/api{path}" for path in paths if REPLIES.fullmatch(f"/api{path}")}
    assert len(found) == 11  # five ways, kept and temporary, and the loading of a model
