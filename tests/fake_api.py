"""A stand-in for the API behind the page: conversations in memory, replies that a test speaks word by word."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

from chat.api.highlight import highlight_routes
from chat.api.identity import current_identity
from chat.data_folder import LOCAL_OWNER
from chat.identity import Identity

Found = TypeVar("Found")
STATIC = Path(__file__).parent.parent / "chat" / "ui" / "static"
NOW = "2026-01-02T03:04:05Z"
READY = {"name": "tiny", "state": "ready", "label": "", "done": 0, "total": 0, "error": None, "n_ctx": 4096}
USAGE = {"prompt_tokens": 120, "cached_tokens": 90, "completion_tokens": 40, "ttft_ms": 210, "duration_ms": 2210}
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Parley</title><link rel="icon" href="data:,"><link rel="stylesheet" href="/static/chat.css"><style>
body { margin: 0; height: 100dvh; --body-text-color: #1f2937; --body-text-color-subdued: #5b6472;
  --background-fill-primary: #fff; --background-fill-secondary: #f5f6f8; --border-color-primary: #e3e6eb;
  --color-accent: #4f46e5; --color-accent-soft: #eef0ff; --input-background-fill: #fff; --error-text-color: #b91c1c;
  --font: system-ui, sans-serif; --font-mono: ui-monospace, monospace; background: var(--background-fill-primary); }
body.dark { --body-text-color: #e8eaee; --body-text-color-subdued: #a3acba; --background-fill-primary: #15171c;
  --background-fill-secondary: #1f232b; --border-color-primary: #343a46; --color-accent: #a5b4fc;
  --color-accent-soft: #272c47; --input-background-fill: #1b1e25; }
</style></head><body><parley-chat></parley-chat>
<script type="module" src="/static/notices.js"></script><script type="module" src="/static/chat.js"></script>
</body></html>"""


def error(status: int, code: str, message: str) -> JSONResponse:
    body = {"message": message, "type": "error", "param": None, "code": code}
    return JSONResponse({"error": body}, status, {"Retry-After": "1"} if status == 503 else {})


def not_found(id: str) -> JSONResponse:
    return error(404, "conversation_not_found", f"There is no conversation {id}.")


@dataclass(eq=False)
class Watcher:
    """One open stream of events."""

    conversation_id: str | None
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    def tell(self, name: str, data: dict[str, Any], place: str = "") -> None:
        text = f"event: {name}\n" + (f"id: {place}\n" if place else "") + f"data: {json.dumps(data)}\n\n"
        self.loop.call_soon_threadsafe(self.queue.put_nowait, text)


def eventually(find: Callable[[], list[Found]]) -> Found:
    """Return the first of what is found, as soon as there is something."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for found in find():
            return found
        time.sleep(0.01)
    raise AssertionError("nothing is found")


class Chats:
    """Conversations, their trees of messages, and who watches them."""

    def __init__(self, model: dict[str, Any]) -> None:
        self.model = model
        self.conversations: dict[str, dict[str, Any]] = {}
        self.messages: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, dict[str, Any]] = {}
        self.sent: list[str] = []  # each request's text
        self.refusals: list[JSONResponse] = []  # for the next messages
        self.watchers: list[Watcher] = []
        self.progress: dict[str, int | None] | None = None
        self._numbers = count(1)
        self._lock = threading.RLock()  # what is told, or a new watcher greeted with, is all that there is at the time

    # What a test does.

    def begin(self, *texts: str, title: str = "A chat") -> str:
        """Store a conversation of which user and assistant said these texts in turn; returns its id."""
        chat = self.create({"title": title})
        for i, text in enumerate(texts):
            self.add(chat["id"], "user" if i % 2 == 0 else "assistant", text)
        return str(chat["id"])

    def say(self, text: str) -> None:
        """Let the reply that is being written grow."""
        reply = self.running()
        with self._lock:
            reply["content"] += text
            self._tell(reply, "text", {"message_id": reply["id"], "text": text})

    def report(self, **progress: int | None) -> None:
        """Tell what goes on before the first words."""
        reply, unknown = self.running(), {"queue_position": 0, "wait_seconds": None}
        with self._lock:
            self.progress = {**unknown, "prefilled_tokens": 0, "prompt_tokens": 9, **progress}
            self._tell(reply, "progress", {"message_id": reply["id"], "progress": self.progress})

    def end(self, status: str = "complete", reason: str = "stop", error: str | None = None) -> None:
        """End the reply that is being written."""
        reply = self.running()
        with self._lock:
            reply.update(USAGE, status=status, finish_reason=reason, error=error)
            self._tell(reply, "end", self.shown(reply))
            self.changed(reply["conversation_id"])

    def running(self) -> dict[str, Any]:
        """Return the reply that is being written, as soon as there is one."""
        return eventually(lambda: [one for one in [*self.messages.values()] if one["status"] == "streaming"])

    def watched(self, chat_id: str) -> Watcher:
        """Return who watches a conversation, as soon as somebody does."""
        return eventually(lambda: [one for one in [*self.watchers] if one.conversation_id == chat_id])

    def show_model(self, **status: Any) -> None:
        """Change what the model does."""
        with self._lock:
            self.model.update(status)
            for watcher in self.watchers:
                watcher.tell("model", self.model)

    # The store.

    def create(self, values: dict[str, Any]) -> dict[str, Any]:
        flags = {"recap": False, "pinned": False, "archived": False, "trashed_at": None, "active_leaf_id": None}
        chat = {"id": f"c{next(self._numbers)}", "title": None, "preset": None, "system_prompt": None, **flags}
        self.conversations[chat["id"]] = {**chat, "channel": "ui", "params": None, "updated_at": NOW, **values}
        return self.conversations[chat["id"]]

    def add(self, chat_id: str, role: str, text: str, **values: Any) -> dict[str, Any]:
        chat = self.conversations[chat_id]
        message = {
            **dict.fromkeys([*USAGE, "error", "model", "params", "seed", "finish_reason"]),
            **(USAGE if role == "assistant" and "status" not in values else {}),
            "id": f"m{next(self._numbers)}",
            "conversation_id": chat_id,
            "parent_id": chat["active_leaf_id"],
            "role": role,
            "content": text,
            "origin": "written",
            "status": "complete",
            "pinned": False,
            "created_at": NOW,
            "feedback": None,
            **values,
        }
        self.messages[message["id"]] = message
        chat["active_leaf_id"] = message["id"]
        chat["title"] = chat["title"] or text[:40]
        return message

    def reply(self, chat_id: str, **values: Any) -> dict[str, Any]:
        return self.add(chat_id, "assistant", values.pop("content", ""), status="streaming", **values)

    def path(self, chat_id: str) -> dict[str, Any]:
        messages, at = [], self.conversations[chat_id]["active_leaf_id"]
        while at is not None:
            messages.insert(0, self.shown(self.messages[at]))
            at = self.messages[at]["parent_id"]
        return {"conversation": self.conversations[chat_id], "messages": messages}

    def shown(self, message: dict[str, Any]) -> dict[str, Any]:
        place = message["conversation_id"], message["parent_id"]
        siblings = [one["id"] for one in self.messages.values() if (one["conversation_id"], one["parent_id"]) == place]
        return {**message, "siblings": siblings}

    def tip(self, message_id: str) -> str:
        """Return the newest message below one."""
        below = [one["id"] for one in self.messages.values() if one["parent_id"] == message_id]
        return self.tip(below[-1]) if below else message_id

    def delete(self, message: dict[str, Any]) -> None:
        for one in [*self.messages.values()]:
            if one["parent_id"] == message["id"]:
                self.delete(one)
        del self.messages[message["id"]]

    def changed(self, chat_id: str) -> None:
        with self._lock:
            for watcher in self.watchers:
                watcher.tell("list", {"version": "1"})
                if watcher.conversation_id == chat_id:
                    chat = self.conversations.get(chat_id)
                    watcher.tell("conversation", chat) if chat else watcher.tell("gone", {"id": chat_id})

    def watch(self, watcher: Watcher, message_id: str | None, offset: int) -> None:
        with self._lock:
            self.greet(watcher, message_id, offset)
            self.watchers.append(watcher)

    def leave(self, watcher: Watcher) -> None:
        with self._lock:
            self.watchers.remove(watcher)

    def greet(self, watcher: Watcher, message_id: str | None, offset: int) -> None:
        """Tell a new watcher how things are, and the rest of a message that it knows in part."""
        watcher.tell("model", self.model)
        watcher.tell("list", {"version": "0"})
        chat_id = watcher.conversation_id
        if chat_id is None:
            return
        if chat_id not in self.conversations:
            watcher.tell("gone", {"id": chat_id})
            return
        watcher.tell("conversation", self.conversations[chat_id])
        leaf = self.messages.get(message_id or self.conversations[chat_id]["active_leaf_id"] or "")
        if leaf is None or (leaf["status"] != "streaming" and message_id is None):
            return
        place = f"{leaf['id']}:{len(leaf['content'])}"
        if leaf["status"] == "streaming" and not leaf["content"]:
            watcher.tell("progress", {"message_id": leaf["id"], "progress": self.progress})
        if rest := leaf["content"][offset if message_id else 0 :]:
            watcher.tell("text", {"message_id": leaf["id"], "text": rest}, place)
        if leaf["status"] != "streaming":
            watcher.tell("end", self.shown(leaf), place)

    def _tell(self, reply: dict[str, Any], name: str, data: dict[str, Any]) -> None:
        for watcher in self.watchers:
            if watcher.conversation_id == reply["conversation_id"]:
                place = "" if name == "progress" else f"{reply['id']}:{len(reply['content'])}"
                watcher.tell(name, data, place)


async def body_of(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(await request.body() or b"{}")
    return body


class Handlers:
    """The routes of the API over conversations in memory."""

    def __init__(self, chats: Chats) -> None:
        self.chats = chats

    def routes(self) -> APIRouter:
        routes = APIRouter()
        one, message = "/conversations/{id}", "/messages/{id}"
        for method, path, handler, status in (
            ("GET", "/events", self.events, 200),
            ("POST", "/conversations", self.create, 201),
            ("POST", "/conversations/change", self.change_all, 200),
            ("PATCH", one, self.change, 200),
            ("DELETE", one, self.erase, 204),
            ("GET", f"{one}/messages", self.path, 200),
            ("POST", f"{one}/messages", self.send, 202),
            ("POST", f"{one}/stop", self.stop, 204),
            ("POST", message + "/{verb}", self.act, 200),
            ("PUT", f"{message}/feedback", self.rate, 200),
            ("PATCH", message, self.pin, 200),
            ("DELETE", message, self.delete, 200),
        ):
            routes.add_api_route(path, handler, methods=[method], status_code=status, response_model=None)
        return routes

    async def create(self, request: Request) -> Any:
        return self.chats.create(await body_of(request))

    async def change_all(self, request: Request) -> Any:
        body = await body_of(request)
        changed = [self.chats.conversations[id] for id in body["ids"]]
        for chat in changed:
            chat.update(body["change"])
        return {"conversations": changed}

    async def change(self, id: str, request: Request) -> Any:
        self.chats.conversations[id].update(await body_of(request))
        self.chats.changed(id)
        return self.chats.conversations[id]

    async def erase(self, id: str) -> None:
        self.chats.conversations.pop(id)
        self.chats.changed(id)

    async def path(self, id: str) -> Any:
        return self.chats.path(id) if id in self.chats.conversations else not_found(id)

    async def send(self, id: str, request: Request) -> Any:
        body, chats = await body_of(request), self.chats
        chats.sent.append(body["content"])
        if id not in chats.conversations:
            return not_found(id)
        if chats.refusals:
            return chats.refusals.pop(0)
        if sent := chats.keys.get(body["idempotency_key"]):
            return JSONResponse(sent)
        if body["seen_leaf_id"] != chats.conversations[id]["active_leaf_id"]:
            return error(409, "conversation_moved", "The conversation has gone on elsewhere.")
        message = chats.add(id, "user", body["content"])
        reply = chats.reply(id)
        sent = {"messages": [chats.shown(message), chats.shown(reply)]}
        chats.keys[body["idempotency_key"]] = sent
        chats.changed(id)
        return sent

    async def stop(self, id: str) -> None:
        self.chats.end("stopped", "cancelled")

    async def act(self, id: str, verb: str, request: Request) -> Any:
        body, chats, message = await body_of(request), self.chats, self.chats.messages[id]
        chat_id, role, beside = message["conversation_id"], message["role"], {"parent_id": message["parent_id"]}
        if verb == "fork":
            texts = [one["content"] for one in chats.path(chat_id)["messages"]]
            return chats.conversations[chats.begin(*texts, title="A fork")]
        if verb == "switch":
            chats.conversations[chat_id]["active_leaf_id"] = chats.tip(id)
        elif verb == "edit":
            chats.add(chat_id, role, body["content"], origin="edited", **beside)
            if role == "user":
                chats.reply(chat_id)
        else:
            chats.reply(chat_id, content=message["content"] if verb == "continue" else "", **beside)
        chats.changed(chat_id)
        return chats.path(chat_id)

    async def pin(self, id: str, request: Request) -> Any:
        self.chats.messages[id].update(await body_of(request))
        return self.chats.messages[id]

    async def rate(self, id: str, request: Request) -> Any:
        self.chats.messages[id]["feedback"] = await body_of(request)
        return self.chats.messages[id]["feedback"]

    async def delete(self, id: str) -> Any:
        message = self.chats.messages[id]
        self.chats.conversations[message["conversation_id"]]["active_leaf_id"] = message["parent_id"]
        self.chats.delete(message)
        self.chats.changed(message["conversation_id"])
        return self.chats.path(message["conversation_id"])

    async def events(self, conversation_id: str | None = None, message_id: str | None = None, offset: int = 0) -> Any:
        chats, watcher = self.chats, Watcher(conversation_id, asyncio.get_running_loop())

        async def stream() -> AsyncIterator[str]:
            chats.watch(watcher, message_id, offset)  # not before: a stream that never begins leaves nothing behind
            try:
                while True:
                    yield await watcher.queue.get()
            finally:
                chats.leave(watcher)

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


class FakeServer:
    """Serves the static files, a bare page and the fake API from a thread; it can go away and come back."""

    def __init__(self) -> None:
        self.port = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        model = dict(READY)
        self.chats, self.temporary = Chats(model), Chats(model)
        self.app = FastAPI()
        self.app.dependency_overrides[current_identity] = lambda: Identity(LOCAL_OWNER, None, is_admin=True)
        self.app.include_router(Handlers(self.temporary).routes(), prefix="/api/temporary")
        self.app.include_router(Handlers(self.chats).routes(), prefix="/api")
        self.app.include_router(highlight_routes(), prefix="/api")
        self.app.mount("/static", StaticFiles(directory=STATIC))
        self.app.add_api_route("/", lambda: HTMLResponse(PAGE))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def come_back(self) -> None:
        """Listen, at the same port as before."""
        config = uvicorn.Config(self._serve, port=self.port, interface="asgi3", log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        socket = config.bind_socket()
        self.port = socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, args=([socket],))
        self._thread.start()
        eventually(lambda: [self._server] if self._server.started else [])

    def go_away(self) -> None:
        """Cut all connections and listen no more."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@contextmanager
def serving() -> Iterator[FakeServer]:
    server = FakeServer()
    server.come_back()
    try:
        yield server
    finally:
        server.go_away()
