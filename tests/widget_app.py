"""The widget and its owner's routes over a real database, with an engine whose replies the test writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx2
from conftest import ScriptedEngine
from fastapi import FastAPI
from fastapi.testclient import TestClient

from chat.api.archive import archive_routes
from chat.api.conversations import conversation_routes
from chat.api.errors import register_errors
from chat.api.guard import Guard
from chat.api.identity import current_identity
from chat.api.messages import message_routes
from chat.api.sites import site_routes
from chat.api.widget import create_widget, loader_route
from chat.context import ContextBuilder
from chat.identity import Identity
from chat.limits import DailyTokens
from chat.loaded_model import LoadedModel
from chat.workspace import Workspace, open_workspace
from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.sampling_params import SamplingParams
from storage.database import Database

SECRET = bytes(range(32))
SHOP = "https://shop.example"
HOME = "http://testserver"  # where the client of the tests finds Parley


@dataclass
class VisitorClient:
    """A visitor's frame: what it asks, it asks with their token."""

    client: TestClient
    token: str

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        """Ask as the visitor."""
        sent = {} if body is None else {"json": body}
        headers = {"Authorization": f"Bearer {self.token}", **headers}
        return self.client.request(method, f"/widget/api{path}", headers=headers, **sent)

    def send(self, content: str = "Hello", chat: str | None = None, key: str | None = None) -> httpx2.Response:
        """Send a message, under a key of its own if none is named."""
        body = {"conversation_id": chat, "content": content, "idempotency_key": key or f"{chat} {content}"}
        return self.ask("POST", "/messages", body)

    def begin(self, content: str = "Hello") -> str:
        """Begin a conversation, and return its id."""
        answer = self.send(content)
        assert answer.status_code == 201, answer.text
        chat: str = answer.json()["conversation_id"]
        return chat

    def messages(self, chat: str) -> list[dict[str, Any]]:
        """Return what is said in a conversation."""
        messages: list[dict[str, Any]] = self.ask("GET", f"/conversations/{chat}").json()["messages"]
        return messages


@dataclass
class WidgetApp:
    """An application with the widget, and its owners."""

    app: FastAPI
    client: TestClient
    workspace: Workspace
    engine: ScriptedEngine
    owners_tokens: DailyTokens

    def own(self, method: str, path: str, body: Any = None, *, owner: str = "ada") -> httpx2.Response:
        """Ask as an owner."""
        self.app.dependency_overrides[current_identity] = lambda: Identity(owner, None, is_admin=True)
        return self.client.request(method, f"/api{path}", **({} if body is None else {"json": body}))

    def add_site(self, name: str = "The shop", *, owner: str = "ada", **values: Any) -> dict[str, Any]:
        """Add a site, whose origin is the shop's if none is named."""
        answer = self.own("POST", "/sites", {"name": name, "origins": [SHOP], **values}, owner=owner)
        assert answer.status_code == 201, answer.text
        site: dict[str, Any] = answer.json()
        return site

    def knock(self, site: dict[str, Any], origin: str = SHOP, **new: Any) -> httpx2.Response:
        """Ask for a session."""
        return self.client.post("/widget/api/session", json={"site": site["key"], "origin": origin, **new})

    def enter(self, site: dict[str, Any], origin: str = SHOP, **new: Any) -> VisitorClient:
        """Begin a session."""
        answer = self.knock(site, origin, **new)
        assert answer.status_code == 200, answer.text
        return VisitorClient(self.client, answer.json()["token"])

    def reply(self, text: str = "Hi!", reason: Any = "stop") -> None:
        """Write the newest reply, and wait until its end is stored."""
        turns = list(self.workspace.manager._turns.values())
        self.engine.say(text)
        self.engine.end(reason)
        for turn in turns:
            turn.join()


@contextmanager
def open_widget(database: Database, checkpoint: Checkpoint) -> Iterator[WidgetApp]:
    """Serve the widget, and the routes on sites, conversations, messages and exports behind the guard."""
    engine, tokens = ScriptedEngine(), DailyTokens(1_000)
    builder = ContextBuilder(checkpoint.chat_template, checkpoint.tokenizer, checkpoint.config.n_ctx)
    model = LoadedModel("tiny", "abc", cast(Engine, engine), builder, SamplingParams())
    app = FastAPI()
    app.add_middleware(Guard)
    register_errors(app)
    with open_workspace(database, lambda: model) as workspace:
        for routes in (
            site_routes(workspace, SECRET),
            conversation_routes(workspace),
            message_routes(workspace),
            archive_routes(workspace, database.path.parent),
        ):
            app.include_router(routes, prefix="/api")
        app.router.routes.append(loader_route())
        app.mount("/widget", create_widget(workspace, SECRET, tokens))
        with TestClient(app, raise_server_exceptions=False) as client:
            yield WidgetApp(app, client, workspace, engine, tokens)
        engine.close()


def error_of(answer: httpx2.Response) -> tuple[int, str, str]:
    """Return the status, the code and the text of an error."""
    assert answer.json().keys() == {"error"}, answer.text
    error = answer.json()["error"]
    assert "\n" not in error["message"]
    return answer.status_code, error["code"], error["message"]
