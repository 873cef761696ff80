"""The API over a real database, with an engine whose replies the test writes."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx2
from conftest import ScriptedEngine
from fastapi import FastAPI
from fastapi.testclient import TestClient
from new_database import new_database

from chat.api.conversations import conversation_routes
from chat.api.errors import register_errors
from chat.api.identity import current_identity
from chat.api.messages import message_routes
from chat.context import ContextBuilder
from chat.errors import ModelNotReady
from chat.identity import Identity
from chat.loaded_model import LoadedModel
from chat.workspace import Workspace, open_workspace
from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.sampling_params import SamplingParams
from storage.tables import Conversation, new_id

NOBODY = "0" * 32


@dataclass
class Served:
    """The routes over one database, for all tests of a file: each has owners of its own, and an engine."""

    app: FastAPI
    workspace: Workspace
    client: TestClient
    checkpoint: Checkpoint
    model: LoadedModel | None = None
    n_tests: int = 0

    @contextmanager
    def test(self) -> Iterator["Api"]:
        """Serve one test."""
        engine = ScriptedEngine()
        chat_template, tokenizer = self.checkpoint.chat_template, self.checkpoint.tokenizer
        builder = ContextBuilder(chat_template, tokenizer, self.checkpoint.config.n_ctx)
        self.model = LoadedModel("tiny", "abc", cast(Engine, engine), builder, SamplingParams())
        self.n_tests += 1
        api = Api(self, engine, [])
        with self.workspace.bus.listening(api.owner("ada"), api.changed.append):
            yield api
        engine.close()


@dataclass
class Api:
    """What a test asks, on whose behalf, and what it hears."""

    served: Served
    engine: ScriptedEngine
    changed: list[str]  # the conversations of ada's that the bus told of

    @property
    def workspace(self) -> Workspace:
        return self.served.workspace

    def owner(self, name: str) -> str:
        """Return how the database calls an owner of this test."""
        return f"{name} {self.served.n_tests}"

    def ask(self, method: str, path: str, body: Any = None, *, owner: str = "ada") -> httpx2.Response:
        """Ask as an owner; a body of bytes is sent as it is."""
        self.served.app.dependency_overrides[current_identity] = lambda: Identity(
            self.owner(owner), None, is_admin=True
        )
        sent = {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        headers = {"content-type": "application/json"} if isinstance(body, bytes) else {}
        return self.served.client.request(method, f"/api{path}", headers=headers, **sent)

    def get(self, path: str, **options: Any) -> Any:
        """Return what is there."""
        return self._told("GET", path, None, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        """Return the answer to what must succeed."""
        return self._told("POST", path, body, **options)

    def error(self, method: str, path: str, body: Any = None, *, owner: str = "ada") -> tuple[int, Any, str, str]:
        """Return the status, the field, the code and the text of the error that must come."""
        answer = self.ask(method, path, body, owner=owner)
        assert answer.status_code >= 400, answer.text
        assert answer.json().keys() == {"error"}
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert "\n" not in error["message"]
        assert "Traceback" not in answer.text
        return answer.status_code, error["param"], error["code"], error["message"]

    def start(self, **new: Any) -> str:
        """Begin a conversation of ada's; returns its id."""
        return self.post("/conversations", new)["id"]

    def start_many(self, count: int) -> list[str]:
        """Begin many conversations of ada's at once; returns their ids, the oldest first."""
        chats = [Conversation(id=new_id(), owner_id=self.owner("ada"), channel="ui") for _ in range(count)]
        with self.workspace.database.write() as session:
            session.add_all(chats)
        return [chat.id for chat in chats]

    def say(self, chat: str, content: str = "Hello", reply: str = "Hi!", **new: Any) -> dict[str, Any]:
        """Send a message and let the reply to it end; returns the ids."""
        sent = self.post(f"/conversations/{chat}/messages", {"content": content, **new})
        self.reply(reply)
        return sent

    def reply(self, text: str = "Hi!", reason: Any = "stop") -> None:
        """Write the newest reply, and wait until its end is stored."""
        turns = list(self.workspace.manager._turns.values())
        self.engine.say(text)
        self.engine.end(reason)
        for turn in turns:
            turn.join()

    def contents(self, chat: str) -> list[str]:
        """Return what is said on the branch that is shown."""
        return [message["content"] for message in self.get(f"/conversations/{chat}/messages")["messages"]]

    def _told(self, method: str, path: str, body: Any, **options: Any) -> Any:
        answer = self.ask(method, path, body, **options)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None


@contextmanager
def serve_api(path: Path, checkpoint: Checkpoint) -> Iterator[Served]:
    """Serve the routes on conversations and messages over a new database."""

    def model() -> LoadedModel:
        if served.model is None:
            raise ModelNotReady
        return served.model

    app = FastAPI()
    register_errors(app)
    with (
        closing(new_database(path)) as database,
        open_workspace(database, model) as workspace,
        TestClient(app, raise_server_exceptions=False) as client,
    ):
        app.include_router(conversation_routes(workspace), prefix="/api")
        app.include_router(message_routes(workspace), prefix="/api")
        served = Served(app, workspace, client, checkpoint)
        yield served
