"""Readers of the stream of events, and what they read it from."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import httpx
import uvicorn
from conftest import ScriptedEngine
from fastapi import FastAPI

from chat.api.errors import register_errors
from chat.api.events import event_routes
from chat.api.guard import Guard
from chat.api.identity import current_identity
from chat.context import ContextBuilder
from chat.data_folder import LOCAL_OWNER
from chat.identity import Identity
from chat.loaded_model import LoadedModel
from chat.workspace import open_workspace
from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.sampling_params import SamplingParams
from storage.database import Database

SECONDS = 60.0  # that a busy machine may take


class Event(NamedTuple):
    name: str
    id: str | None
    data: Any


class FakeModel:
    """A model's status that the test sets."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[], None]] = []
        self.done = 0

    def get(self) -> dict[str, Any]:
        return {"state": "loading", "done": self.done}

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        self.listeners.append(listener)
        try:
            yield
        finally:
            self.listeners.remove(listener)

    def go_on(self) -> None:
        self.done += 1
        for listener in tuple(self.listeners):
            listener()


class Server:
    """The route behind the guard, in a real server in a thread."""

    def __init__(self, app: FastAPI) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(app, log_config=None, log_level="warning", lifespan="off", timeout_graceful_shutdown=3)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self.socket],))
        self._thread.start()
        eventually(lambda: self._server.started)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


class Tab:
    """One page that watches."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.events = parse(response.iter_lines())

    def next(self, name: str) -> Event:
        """Return the next event of this name; those before it are skipped."""
        return next(event for event in self.events if event.name == name)

    def until(self, name: str) -> list[Event]:
        """Return the events up to the next one of this name."""
        events = [next(self.events)]
        while events[-1].name != name:
            events.append(next(self.events))
        return events


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the events that lines make, as the specification says of those fields that are used."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield Event(fields["event"], fields.get("id"), json.loads(fields["data"]))
            fields = {}
        else:
            yield Event("ping", None, None)
            fields = {}


def eventually(is_so: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it does not come to be"
        time.sleep(0.005)


def said(events: Iterable[Event], reply_id: str) -> str:
    """Return the text that events tell of a reply, which must follow on without a gap or a repetition."""
    text = ""
    for event in events:
        if event.name == "text" and event.data["message_id"] == reply_id:
            text += event.data["text"]
            assert event.id == f"{reply_id}:{len(text)}"
    return text


class World:
    """A workspace and its route in a real server. Most tests share one, each with a conversation of its own."""

    def __init__(self, database: Database, checkpoint: Checkpoint) -> None:
        self.engine, self.model = ScriptedEngine(), FakeModel()
        builder = ContextBuilder(checkpoint.chat_template, checkpoint.tokenizer, checkpoint.config.n_ctx)
        loaded = LoadedModel("tiny", "abc", cast(Engine, self.engine), builder, SamplingParams())
        self._opened = ExitStack()
        self.workspace = self._opened.enter_context(open_workspace(database, lambda: loaded))
        self.app = FastAPI()
        self.app.add_middleware(Guard)
        register_errors(self.app)
        self.app.dependency_overrides[current_identity] = lambda: Identity(LOCAL_OWNER, None, is_admin=True)
        self.app.include_router(event_routes(self.workspace, self.model))
        self.server = Server(self.app)

    def close(self) -> None:
        self.workspace.bus.close()
        self.server.close()
        self.engine.close()
        self._opened.close()


class SlowTab:
    """A page that reads only what it asks for; until then the server cannot send on."""

    def __init__(self, app: FastAPI, conversation_id: str) -> None:
        query = f"conversation_id={conversation_id}".encode()
        self._scope = {"type": "http", "method": "GET", "path": "/events", "query_string": query, "headers": []}
        self._app = app
        self._sent: list[bytes] = []
        self._reads = asyncio.Semaphore(0)
        self._gone = asyncio.Event()
        self.n_waiting = 0  # bodies that are waiting to be sent

    async def __aenter__(self) -> "SlowTab":
        self._task = asyncio.create_task(self._app(self._scope, self._receive, self._send))  # type: ignore[arg-type]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        await asyncio.wait_for(self._task, SECONDS)

    async def _receive(self) -> dict[str, str]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self.n_waiting += 1
            await self._reads.acquire()
            self.n_waiting -= 1
            self._sent.append(message["body"])

    async def is_stuck(self) -> None:
        """Wait until the server cannot send on."""
        while not self.n_waiting:
            await asyncio.sleep(0.005)

    async def read_on(self, until: str) -> list[Event]:
        """Read without a pause up to an event whose data say something."""
        events: list[Event] = []
        while not any(until in json.dumps(event.data) for event in events):
            self._reads.release()
            await asyncio.sleep(0.005)
            events = list(parse(b"".join(self._sent).decode().split("\n")[:-1]))
        return events
