"""A server that answers as Parley's API does where the sidebar asks it, over conversations made up here.

It serves the page's own JavaScript, and a bare page with nothing but the sidebar in it.
"""

import json
import mimetypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

STATIC = Path(__file__).parent.parent / "chat/ui/static"
Json = dict[str, Any]

THEME = """
body { --body-text-color: #27272a; --background-fill-primary: white; --background-fill-secondary: #fafafa;
  --border-color-primary: #e4e4e7; --color-accent: #f97316; --color-accent-soft: #fff7ed; --radius-lg: 8px;
  --input-background-fill: white; --error-text-color: #b91c1c; --font: ui-sans-serif, system-ui, sans-serif;
  margin: 0; background: var(--background-fill-primary); font-family: var(--font); }
body.dark { --body-text-color: #f4f4f5; --background-fill-primary: #0f0f11; --background-fill-secondary: #18181b;
  --border-color-primary: #3f3f46; --color-accent-soft: #3f3f46; --input-background-fill: #27272a;
  --error-text-color: #fef2f2; }
#frame { width: 290px; max-width: 100%; height: 100dvh; background: var(--background-fill-secondary);
  border-right: 1px solid var(--border-color-primary); }
"""
PAGE = f"""<!doctype html><html><head><meta charset="utf-8"><title>Parley</title>
<link rel="icon" href="data:,"><style>{THEME}</style>
<link rel="stylesheet" href="/static/sidebar.css"><script type="module" src="/static/sidebar.js"></script></head>
<body><div id="frame"><parley-sidebar></parley-sidebar></div></body></html>"""


class FakeListApi:
    """The conversations, what was asked of them, and what is to fail."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.conversations: dict[str, Json] = {}
        self.requests: list[str] = []
        self.hits: list[Json] = []
        self.sites: list[Json] = []
        self.fail_next: tuple[int, str] | None = None  # the status and message that the next change is refused with
        self.fail_lists = False
        self._changed = threading.Condition()
        self._version = 0

    def add(self, title: str | None, age: timedelta = timedelta(), **fields: Any) -> str:
        """Add a conversation that was last used some time ago; return its id."""
        number = len(self.conversations)
        at = (self.now - age).isoformat()
        shape: Json = {"id": f"{number:032x}", "title": title, "title_source": "user", "channel": "ui", "preset": None}
        shape |= {"site_id": None, "visitor_name": None}
        shape |= {"system_prompt": None, "recap": False, "params": None, "model": None, "active_leaf_id": None}
        shape |= {"pinned": False, "archived": False, "created_at": at, "updated_at": at, "trashed_at": None}
        self.conversations[str(shape["id"])] = shape | fields
        return str(shape["id"])

    def titles(self, **fields: object) -> list[str]:
        """The titles of those that have these values."""
        found = [one for one in self.conversations.values() if all(one[name] == fields[name] for name in fields)]
        return [one["title"] for one in found]

    def change(self, ids: list[str], change: Json) -> list[Json]:
        """Change conversations, all or none, and tell all pages; KeyError for one that is not there."""
        found = [self.conversations[one] for one in ids]
        for conversation in found:
            fields = dict(change)
            if "trashed" in fields:
                fields["trashed_at"] = self.now.isoformat() if fields.pop("trashed") else None
            conversation.update(fields)
        self.publish()
        return found

    def erase(self, conversation_id: str) -> None:
        """Delete a conversation, and tell all pages; KeyError if it is not there."""
        del self.conversations[conversation_id]
        self.publish()

    def empty_trash(self) -> Json:
        """Delete what is in the trash, and tell all pages."""
        ids = [one["id"] for one in self.conversations.values() if VIEWS["trashed"](one)]
        for conversation_id in ids:
            self.erase(conversation_id)
        return {"conversation_ids": ids}

    def publish(self) -> None:
        """Tell all pages that some conversation has changed."""
        with self._changed:
            self._version += 1
            self._changed.notify_all()

    def page(self, query: dict[str, str]) -> Json:
        """A page of a view, as GET /conversations has it."""
        limit, after = int(query["limit"]), query.get("after")
        fields = {name: query[name] for name in ("channel", "site_id") if name in query}
        chosen = [row for row in self.conversations.values() if fields.items() <= row.items()]
        rows = sorted(filter(VIEWS[query["show"]], chosen), key=_place, reverse=True)
        if after is not None:
            last = tuple(json.loads(after))
            rows = [row for row in rows if _place(row) < last]
        page = rows[:limit]
        return {"conversations": page, "next": json.dumps(_place(page[-1])) if len(rows) > limit else None}

    def versions(self) -> Iterator[int]:
        """Yield whenever something has changed from now on, or half a second has passed."""
        return self._versions_after(self._version)

    def _versions_after(self, seen: int) -> Iterator[int]:
        while True:
            with self._changed:
                if self._version == seen:
                    self._changed.wait(timeout=0.5)
                n_changes, seen = self._version - seen, self._version
            yield n_changes  # not under the lock: the page is written to meanwhile


LIST_EVENT = b'event: list\ndata: {"version": "1"}\n\n'
VIEWS = {
    "recent": lambda row: not row["archived"] and row["trashed_at"] is None,
    "archived": lambda row: row["archived"] and row["trashed_at"] is None,
    "trashed": lambda row: row["trashed_at"] is not None,
}


def _place(row: Json) -> tuple[bool, str, str]:
    if row["trashed_at"]:
        return False, row["trashed_at"], row["id"]
    return row["pinned"], row["updated_at"], row["id"]


class Handler(BaseHTTPRequestHandler):
    """Answers with the files of the page, and with what a FakeListApi has."""

    api: ClassVar[FakeListApi]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with a file, the page, a list, hits, a path or the stream of events."""
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/":
            self._send(200, PAGE.encode(), "text/html")
        elif url.path.startswith("/static/"):
            kind = mimetypes.guess_type(url.path)[0] or "text/plain"
            self._send(200, (STATIC / url.path.removeprefix("/static/")).read_bytes(), kind, cache="max-age=3600")
        elif url.path == "/api/events" or url.path == "/api/temporary/events":
            self._stream()
        else:
            self.api.requests.append(f"GET {self.path}")
            self._get(url.path, query)

    def _get(self, path: str, query: dict[str, str]) -> None:
        if path == "/api/search":
            first = int(query["offset"])
            self._answer(200, {"hits": self.api.hits[first : first + int(query["limit"])]})
        elif path == "/api/sites":
            self._answer(200, {"sites": self.api.sites})
        elif path == "/api/conversations" and self.api.fail_lists:
            self._refuse(503, "The database cannot be used.")
        elif path == "/api/conversations":
            self._answer(200, self.api.page(query))
        elif (conversation := self.api.conversations.get(path.split("/")[-2])) is not None:
            self._answer(200, {"conversation": conversation, "messages": []})
        else:
            self._refuse(404, "There is no such conversation.")

    def do_POST(self) -> None:
        """Change conversations, or empty the trash."""
        if self.path == "/api/trash/empty":
            return self._change(self.api.empty_trash)
        body = self._body()
        self._change(lambda: {"conversations": self.api.change(body["ids"], body["change"])})

    def do_PATCH(self) -> None:
        """Change a conversation."""
        body = self._body()
        self._change(lambda: self.api.change([self.path.split("/")[3]], body)[0])

    def do_DELETE(self) -> None:
        """Delete a conversation."""
        self._change(lambda: self.api.erase(self.path.split("/")[3]))

    def _change(self, change: Any) -> None:
        self.api.requests.append(f"{self.command} {self.path}")
        if self.api.fail_next:
            failure, self.api.fail_next = self.api.fail_next, None
            self._refuse(*failure)
            return
        try:
            self._answer(200, change())
        except KeyError:
            self._refuse(404, "There is no such conversation.")

    def _body(self) -> Json:
        body: Json = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, {"error": {"message": message, "type": "error", "param": None, "code": "some_code"}})

    def _answer(self, status: int, body: object) -> None:
        self._send(status, json.dumps(body).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str, cache: str = "no-store") -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", cache)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.close_connection = True
        try:
            versions = self.api.versions()
            self.wfile.write(LIST_EVENT)
            for n_changes in versions:
                self.wfile.write(LIST_EVENT if n_changes else b": ping\n\n")
        except OSError:
            pass  # the page has gone

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[str]:
    """Serve the page, and the `api` that Handler has, on a free port; yields the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
