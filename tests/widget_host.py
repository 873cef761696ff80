"""A server with chats for websites, whose replies a test writes; websites that show them; and who visits those."""

import hashlib
import hmac
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import uvicorn
from conftest import SECONDS, ScriptedEngine
from event_readers import eventually
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from new_database import new_database
from playwright.sync_api import Browser, BrowserContext, FrameLocator, Locator, Page, Request, expect

from chat.api.guard import Guard
from chat.api.widget import create_widget, loader_route
from chat.context import ContextBuilder
from chat.limits import DailyTokens
from chat.loaded_model import LoadedModel
from chat.sites import Appearance, NewSite, Sites
from chat.turn import Turn
from chat.ui.page import STATIC, STATIC_PATH
from chat.visitors import identity_secret
from chat.workspace import Workspace, open_workspace
from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.sampling_params import SamplingParams
from storage.tables import Site

# Tests look into the widget, which pages cannot: its shadow root is closed.
OPEN_SHADOW = """
const attach = Element.prototype.attachShadow;
Element.prototype.attachShadow = function () { return attach.call(this, { mode: 'open' }); };
"""
HEAD = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    '<title>Shop</title><link rel="icon" href="data:,">'
)
SECRET = bytes(range(32))
APPEARANCE = tuple(Appearance.model_fields)


class WidgetServer:
    """Serves the widget from a thread, as Parley does; it can go away and come back."""

    def __init__(self, workspace: Workspace, engine: ScriptedEngine) -> None:
        self.workspace = workspace
        self.engine = engine
        self.sites = Sites(workspace.sites, workspace.presets)
        self.app = FastAPI()
        self.app.add_middleware(Guard)
        self.app.router.routes.append(loader_route())
        self.app.mount("/widget", create_widget(workspace, SECRET, DailyTokens(None)))
        self.app.mount(STATIC_PATH, StaticFiles(directory=STATIC))
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def come_back(self) -> None:
        """Listen, at the same port as before."""
        config = uvicorn.Config(self.app, port=self.port, log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        socket = config.bind_socket()
        self.port = socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, args=([socket],))
        self._thread.start()
        eventually(lambda: self._server.started)

    def go_away(self) -> None:
        """Cut all connections and listen no more."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    def begin_test(self) -> None:
        """End what an earlier test has left: a message that its window sent last may still be on its way."""
        eventually(lambda: not self._server.server_state.connections)
        eventually(self.is_idle)
        self.engine.close()
        for turn in self._turns():
            turn.join()
        self.engine.generations.clear()

    def is_idle(self) -> bool:
        """Tell whether nothing is being answered: no stream is open either."""
        return not self._server.server_state.tasks

    def say(self, text: str) -> None:
        """Let the reply that is being written grow, as soon as there is one."""
        eventually(lambda: self.engine.generations and self.engine.generations[-1].finish_reason is None)
        self.engine.say(text)

    def reply(self, text: str) -> None:
        """Write a whole reply, until it is stored."""
        self.say(text)
        self.engine.end()
        newest = self.engine.generations[-1]
        eventually(lambda: [turn for turn in self._turns() if turn._generation is newest and not turn.running])

    def _turns(self) -> list[Turn]:
        return [*self.workspace.manager._turns.values()]

    def site(self, *origins: str, **values: Any) -> Site:
        """Make a site."""
        appearance = {name: values.pop(name) for name in APPEARANCE if name in values}
        new = {"name": "Shop", "origins": list(origins), "appearance": appearance, **values}
        return self.sites.create("local", NewSite.model_validate(new))

    def identity(self, site: Site, user_id: str) -> str:
        """Return the word of a site for a user, as its own server would have it."""
        secret = identity_secret(SECRET, site)
        return hmac.new(secret.encode(), user_id.encode(), hashlib.sha256).hexdigest()


@contextmanager
def serve_widget(path: Path, checkpoint: Checkpoint) -> Iterator[WidgetServer]:
    """Serve the widget over a new database."""
    engine = ScriptedEngine()
    builder = ContextBuilder(checkpoint.chat_template, checkpoint.tokenizer, checkpoint.config.n_ctx)
    model = LoadedModel("tiny", "abc", cast(Engine, engine), builder, SamplingParams())
    with closing(new_database(path)) as database, open_workspace(database, lambda: model) as workspace:
        server = WidgetServer(workspace, engine)
        server.come_back()
        try:
            yield server
        finally:
            engine.close()
            server.workspace.bus.close()
            server.go_away()


class Website:
    """A website of somebody else: of another origin than Parley, and as localhost of another site too."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.pages: dict[str, tuple[str, dict[str, str]]] = {}
        website = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                html, headers = website.pages.get(self.path, ("", {}))
                self.send_response(200 if html else 404)
                for name, value in {"Content-Type": "text/html; charset=utf-8", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(html.encode())

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def show(self, body: str, *, html: str = 'lang="en"', path: str = "/", csp: str = "") -> str:
        """Have a page, and return its URL."""
        headers = {"Content-Security-Policy": csp} if csp else {}
        self.pages[path] = f"<!doctype html><html {html}><head>{HEAD}</head><body>{body}</body></html>", headers
        return self.origin + path


class Window:
    """A window of a browser in which somebody visits websites."""

    def __init__(
        self, browser: Browser, size: tuple[int, int] = (1000, 760), *, script: str = OPEN_SHADOW, **options: Any
    ) -> None:
        width, height = size
        self.context: BrowserContext = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.context.set_default_timeout(SECONDS)
        expect.set_options(timeout=SECONDS)
        self.context.add_init_script(script)
        self.hosts: set[str] = set()
        self.log: list[str] = []
        self.context.on("request", self._note_request)
        self.context.on("console", lambda message: self.log.append(f"{message.type}: {message.text}"))
        self.context.on("weberror", lambda error: self.log.append(f"error: {error.error}"))

    def _note_request(self, request: Request) -> None:
        self.hosts.add(request.url.split("/")[2].split(":")[0])

    def open(self, url: str) -> "Visit":
        """Go to a page, in a tab of its own."""
        page = self.context.new_page()
        page.goto(url)
        return Visit(page)

    def errors(self) -> list[str]:
        """Return what was complained about, but for answers that refuse."""
        return [line for line in self.log if line.startswith("error: ") and "Failed to load resource" not in line]

    def close(self) -> None:
        """Close it; nothing may have gone wrong unseen, no other host asked, and no cookie set."""
        cookies = self.context.cookies()
        self.context.close()
        assert self.hosts <= {"localhost", "127.0.0.1", ""}  # the last for data: and blob:
        assert cookies == []
        assert self.errors() == []


class Visit:
    """A page with the widget on it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.chat: FrameLocator = page.frame_locator("parley-widget iframe")
        self.button: Locator = page.locator("parley-widget button")
        self.frame: Locator = page.locator("parley-widget iframe")
        self.box: Locator = self.chat.locator("textarea")
        self.texts: Locator = self.chat.locator(".messages .body")

    def open(self) -> "Visit":
        """Open the chat."""
        self.button.click()
        expect(self.box).to_be_visible()
        return self

    def send(self, text: str) -> None:
        """Send a message."""
        self.box.fill(text)
        self.box.press("Enter")
        expect(self.chat.locator(".user .body").last).to_have_text(text)

    def tool(self, name: str) -> Locator:
        """Return a button of the chat."""
        return self.chat.get_by_role("button", name=name, exact=True)

    def expect_texts(self, *texts: str) -> None:
        """Wait until these messages are shown after the greeting."""
        expect(self.texts).to_have_text(["Hello! How can I help you?", *texts])

    def expect_replied(self, *texts: str) -> None:
        """Wait until these messages are shown after the greeting, and no reply is being written: now one can send."""
        self.expect_texts(*texts)
        expect(self.tool("Send")).to_be_visible()

    def call(self, code: str) -> Any:
        """Run a script on the page."""
        return self.page.evaluate(code)
