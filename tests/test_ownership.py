"""Every route of the running program, called by every kind of stranger with another's ids.

What a route answers to them is declared below; a route that is not declared fails. The server is a real one.
"""

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import httpx
import pytest
from conftest import ROOT, Server
from itsdangerous import TimestampSigner
from route_client import no_model
from sqlalchemy import text

from chat.accounts import SCOPES, Accounts
from chat.data_folder import open_database
from chat.limits import DailyTokens
from chat.secret import load_secret
from chat.sessions import Session, Sessions
from chat.sites import NewSite, Sites
from chat.visitors import Visitors
from chat.workspace import Workspace, open_workspace
from storage.conversations import Visitor
from storage.tables import Site

CANARY = "kingfisher-4711"  # in all that is ada's
PASSWORD = "correct horse battery"
OUTSIDE = "https://shop.example"


@dataclass(frozen=True)
class Ids:
    """What is ada's, by the names that paths have for it."""

    conversation_id: str
    message_id: str
    site_id: str
    key_id: str
    user_id: str
    key: str  # of her site
    name: str = "secret-preset"
    model: str = "another"


@dataclass(frozen=True)
class Declared:
    """What one route answers to bob, by his session and by his API key, and what is sent to it."""

    session: int
    key: int
    body: Any = None
    params: dict[str, str] = field(default_factory=dict)


def same(status: int, body: Any = None, **params: str) -> Declared:
    """Declare a route that makes no difference between a person and a program."""
    return Declared(status, status, body, params)


def person(status: int, body: Any = None) -> Declared:
    """Declare a route that programs are kept from."""
    return Declared(status, 403, body)


HELLO = [{"role": "user", "content": "Hi"}]
MESSAGE = {"content": "Hello", "params": {"max_tokens": 1}}
OWN = {
    "GET /conversations": same(200),
    "POST /conversations": same(201, {}),
    "POST /conversations/change": same(404, {"ids": ["{conversation_id}"], "change": {"archived": True}}),
    "GET /conversations/{conversation_id}": same(404),
    "PATCH /conversations/{conversation_id}": same(404, {"title": "Mine"}),
    "DELETE /conversations/{conversation_id}": same(404),
    "GET /conversations/{conversation_id}/messages": same(404),
    "POST /conversations/{conversation_id}/messages": same(404, MESSAGE),
    "POST /conversations/{conversation_id}/preview": same(404, MESSAGE),
    "POST /conversations/{conversation_id}/stop": same(404),
    "POST /conversations/{conversation_id}/clear": same(404),
    "GET /messages/{message_id}/ledger": same(404),
    "POST /messages/{message_id}/regenerate": same(404, {}),
    "POST /messages/{message_id}/continue": same(404, {}),
    "POST /messages/{message_id}/branch": same(404, {"place": 0, "token_id": 5}),
    "POST /messages/{message_id}/edit": same(404, {"content": "Mine"}),
    "POST /messages/{message_id}/switch": same(404),
    "POST /messages/{message_id}/fork": same(404),
    "PATCH /messages/{message_id}": same(404, {"pinned": True}),
    "DELETE /messages/{message_id}": same(404),
    "PUT /messages/{message_id}/feedback": same(404, {"rating": 1}),
    "GET /messages/{message_id}/tokens": same(404),
    "GET /events": same(200, conversation_id="{conversation_id}"),
}
API = {
    **{f"{method} {path}": row for key, row in OWN.items() for method, path in [key.split()]},
    **{f"{method} /temporary{path}": row for key, row in OWN.items() for method, path in [key.split()]},
    "GET /search": same(200, q=CANARY),
    "GET /export": same(404, id="{conversation_id}"),
    "POST /export": same(404, {"ids": ["{conversation_id}"]}),
    "POST /import": same(400, {}),
    "GET /presets": same(200),
    "PUT /presets/{name}": same(200, {"params": {}}),  # one of his own, of the same name
    "DELETE /presets/{name}": same(204),
    "GET /backups": person(403),
    "POST /backups": person(403),
    "POST /expiry": same(200, {"older_than_days": 1, "dry_run": True}),
    "POST /trash/empty": same(200),
    "GET /model": same(200),
    "POST /model": person(403, {"name": "another"}),
    "GET /models": same(200),
    "POST /highlight": same(200, {"code": "x = 1", "language": "python"}),
    "GET /account": person(200),
    "POST /account/password": person(403, {"old": "wrong", "new": "also wrong, but long"}),
    "GET /keys": person(200),
    "POST /keys": person(201, {"name": "mine", "scopes": ["read"]}),
    "DELETE /keys/{key_id}": person(404),
    "GET /users": person(403),
    "POST /users": person(403, {"name": "eve", "password": PASSWORD}),
    "PATCH /users/{user_id}": person(403, {"is_admin": False}),
    "DELETE /users/{user_id}": person(403),
    "GET /sites": same(200),
    "POST /sites": same(201, {"name": "Mine"}),
    "GET /sites/{site_id}": same(404),
    "PATCH /sites/{site_id}": same(404, {"enabled": False}),
    "DELETE /sites/{site_id}": same(404),
    "POST /sites/{site_id}/rotate": same(404),
    "GET /sites/{site_id}/identity-secret": person(404),
    "POST /sites/{site_id}/check": same(404, {"url": "https://shop.example/"}),
    "POST /account/logout-everywhere": person(204),  # the last, for it ends bob's session
}
COMPLETION = {"model": "tiny", "max_tokens": 1}
V1 = {
    "GET /models": same(200),
    "GET /models/{model}": same(404),
    "POST /chat/completions": same(200, {**COMPLETION, "messages": HELLO}),
    "POST /chat/completions/input_tokens": same(200, {"model": "tiny", "messages": HELLO}),
    "POST /completions": same(200, {**COMPLETION, "prompt": "Hi"}),
    "POST /embeddings": same(400, {"model": "tiny", "input": "Hi"}),
    "POST /tokenize": same(200, {"content": "Hi"}),
    "POST /detokenize": same(200, {"tokens": [5]}),
}
# To a visitor of another site, and to another visitor of the same one.
WIDGET = {
    "POST /session": same(200, {"site": "{key}", "origin": OUTSIDE}),  # whoever sees the page may begin one
    "GET /conversations": same(200),
    "GET /conversations/{conversation_id}": same(404),
    "GET /conversations/{conversation_id}/events": same(404),
    "POST /conversations/{conversation_id}/stop": same(404),
    "GET /conversations/{conversation_id}/export": same(404),
    "PUT /messages/{message_id}/rating": same(404, {"rating": 1}),
    "POST /messages": same(404, {"conversation_id": "{conversation_id}", "content": "Hi", "idempotency_key": "1"}),
}
# Without an identity; what is below these is the same for all, or asks for a token of its own.
PUBLIC = {"GET /health", "GET /login", "POST /login", "GET /widget.js", "GET /widget/{key}"}
PUBLIC |= {"GET /manifest.json", "GET /pwa_icon", "GET /pwa_icon/{size}"}  # a browser asks for them without its cookies
PUBLIC_FOLDERS = ("/page", "/widget/static", "/assets")
PRIVATE = {"POST /logout", "GET /metrics"}


@dataclass
class World:
    """A running server with ada's things, and what strangers show to it."""

    url: str
    client: httpx.Client
    kept: Workspace
    ids: Ids
    sessions: Sessions
    bob_id: str
    bob_key: str
    foreign_visitor: str
    other_visitor: str
    revoked_key: str
    expired_session: str
    ended_session: str
    rotated_visitor: str
    addresses: Iterator[str] = field(default_factory=lambda: (f"10.0.{n // 256}.{n % 256}" for n in count()))

    def ask(self, method: str, path: str, declared: Declared, headers: dict[str, str]) -> tuple[int, str]:
        """Call a route with ada's ids; returns the status, and the beginning of the answer's body."""
        known = vars(self.ids)
        url = self.url + path.format_map(known)
        params = {name: value.format_map(known) for name, value in declared.params.items()}
        body = None if declared.body is None else json.dumps(declared.body)
        for name, value in known.items():
            body = body and body.replace(f"{{{name}}}", value)
        # each call from an address of its own, for one may begin only some sessions in a minute
        sent = {"X-Forwarded-For": next(self.addresses), "Accept": "application/json", **headers}
        sent["Content-Type"] = "application/json"
        self.client.cookies.clear()
        with self.client.stream(method, url, params=params, content=body, headers=sent) as answer:
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                return answer.status_code, next(answer.iter_text())
            return answer.status_code, answer.read().decode(errors="replace")

    def bob_session(self) -> str:
        """Return a session of bob's as of now."""
        return self.sessions.issue(self.bob_id, self.kept.accounts.get(self.bob_id).session_epoch)

    def state(self) -> str:
        """Return what stands for all that is ada's."""
        queries = (
            "SELECT * FROM conversations WHERE owner_id = 'local'",
            "SELECT m.* FROM messages m JOIN conversations c ON c.id = m.conversation_id WHERE c.owner_id = 'local'",
            "SELECT * FROM users WHERE id = 'local'",
            "SELECT id, revoked_at FROM api_keys WHERE owner_id = 'local'",
            "SELECT * FROM sites WHERE owner_id = 'local'",
            "SELECT * FROM presets WHERE owner_id = 'local'",
            "SELECT * FROM feedback WHERE user_id = 'local'",
        )
        with self.kept.database.read() as session:
            rows = [[tuple(row) for row in session.execute(text(query))] for query in queries]
        return hashlib.sha256(repr(rows).encode()).hexdigest()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def cookie(token: str) -> dict[str, str]:
    return {"Cookie": f"parley_session={token}"}


def talk(kept: Workspace, owner_id: str, visitor: Visitor | None = None) -> tuple[str, str]:
    """Store a question and its answer; returns the ids of the conversation and the answer."""
    chat = kept.conversations.create(
        owner_id, channel="widget" if visitor else "ui", system_prompt=f"Say {CANARY}.", visitor=visitor
    ).id
    _, reply = kept.conversations.begin_turn(
        owner_id, chat, content=f"Tell me of the {CANARY}", parent_id=None, model="m", params={}, seed=1, title=CANARY
    )
    kept.conversations.finish_reply(
        owner_id, reply.id, content=f"The {CANARY} it is.", status="complete", finish_reason="stop", token_ids=[5]
    )
    return chat, reply.id


def token_of(visitors: Visitors, site: Site) -> str:
    return visitors.enter(site.key, OUTSIDE, "http://own", address="::1", token=None, user=None)


@contextmanager
def expired() -> Iterator[None]:
    """Sign as if it were a month ago and more."""
    with patch.object(TimestampSigner, "get_timestamp", lambda self: int(time.time()) - 90 * 86_400):
        yield


@pytest.fixture(scope="module")
def world(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    data = tmp_path_factory.mktemp("ownership")
    with (
        open_database(data) as database,
        open_workspace(database, no_model) as kept,
        httpx.Client(timeout=60) as client,
    ):
        secret = load_secret(data)
        accounts, sessions = Accounts(kept.accounts), Sessions(secret)
        ada = accounts.add("ada", PASSWORD, is_admin=True)
        bob = accounts.add("bob", PASSWORD, is_admin=False)
        sites, visitors = Sites(kept.sites, kept.presets), Visitors(kept, secret, DailyTokens(None))
        new = NewSite(name=CANARY, origins=[OUTSIDE], system_prompt=f"Say {CANARY}.")
        site, bobs = sites.create(ada.id, new), sites.create(bob.id, NewSite(name="Bob's", origins=[OUTSIDE]))
        rotated = sites.create(ada.id, NewSite(name="Rotated", origins=[OUTSIDE]))
        rotated_visitor = token_of(visitors, rotated)
        sites.rotate(ada.id, rotated.id)
        revoked, revoked_key = accounts.add_key(ada.id, "old", SCOPES)
        kept.accounts.revoke_key(revoked.id)
        live, _ = accounts.add_key(ada.id, "live", SCOPES)
        with expired():
            expired_session = sessions.issue(ada.id, ada.session_epoch)
        ended_session = sessions.issue(ada.id, ada.session_epoch)
        accounts.end_session(cast(Session, sessions.read(ended_session)))
        kept.presets.save(ada.id, Ids.name, system_prompt=CANARY, params={})
        talk(kept, ada.id, Visitor(site.id, "f" * 32))
        chat, reply = talk(kept, ada.id)
        server = Server(data, tiny_path, 0, "--proxies", "127.0.0.1")
        yield World(
            url=server.url,
            client=client,
            kept=kept,
            ids=Ids(chat, reply, site.id, live.id, ada.id, site.key),
            sessions=sessions,
            bob_id=bob.id,
            bob_key=accounts.add_key(bob.id, "bob's", ("completions", "read", "write"))[1],
            foreign_visitor=token_of(visitors, bobs),
            other_visitor=token_of(visitors, site),
            revoked_key=revoked_key,
            expired_session=expired_session,
            ended_session=ended_session,
            rotated_visitor=rotated_visitor,
        )
        assert server.end() == 0
        assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All routes of the program, those of what is mounted in it too, as METHOD path."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.list_routes", str(tmp_path_factory.mktemp("routes"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


STRANGERS = {
    "anonymous": lambda world: {},
    "a revoked key": lambda world: bearer(world.revoked_key),
    "a revoked key as a cookie": lambda world: cookie(world.revoked_key),
    "a key by another header": lambda world: {"X-Api-Key": world.bob_key},
    "an expired session": lambda world: cookie(world.expired_session),
    "a session after its logout": lambda world: cookie(world.ended_session),
    "an expired session as a bearer": lambda world: bearer(world.expired_session),
    "a session as a bearer": lambda world: bearer(world.bob_session()),
    "a visitor of another site": lambda world: bearer(world.foreign_visitor),
    "a visitor of another site as a cookie": lambda world: cookie(world.foreign_visitor),
    "a visitor of the site": lambda world: bearer(world.other_visitor),
    "an unknown key beside a session": lambda world: {**cookie(world.bob_session()), **bearer("parley_" + "x" * 43)},
}
"""Who is nobody to /api, /v1, the page and all else that is not public."""

DECLARED = {"/api": API, "/v1": V1, "/widget/api": WIDGET}


def declared_at(route: str) -> Declared | None:
    """Return what is declared of a route, if it is one of the three applications'."""
    method, _, path = route.partition(" ")
    for prefix, rows in DECLARED.items():
        if path.startswith(f"{prefix}/"):
            return rows.get(f"{method} {path.removeprefix(prefix)}")
    return None


def is_public(route: str) -> bool:
    return route in PUBLIC or route.partition(" ")[2].startswith(PUBLIC_FOLDERS)


def is_description(route: str) -> bool:
    return route.endswith("/openapi.json")


def test_every_route_is_declared(routes: list[str]) -> None:
    ours = [route for route in routes if route.partition(" ")[2].startswith(tuple(DECLARED))]
    assert len(ours) > 80
    undeclared = [route for route in ours if declared_at(route) is None and not is_description(route)]
    assert undeclared == []


def test_no_route_is_declared_that_is_not_there(routes: list[str]) -> None:
    there = set(routes)
    declared = {f"{row.split()[0]} {prefix}{row.split()[1]}" for prefix, rows in DECLARED.items() for row in rows}
    assert declared - there == set()
    assert (PUBLIC | PRIVATE) - there == set()


@pytest.mark.parametrize("stranger", STRANGERS)
def test_nothing_private_answers_a_stranger(world: World, routes: list[str], stranger: str) -> None:
    before, wrong = world.state(), []
    for route in routes:
        method, _, path = route.partition(" ")
        if is_public(route) or path.startswith("/widget/"):
            continue
        status, body = world.ask(method, filled(path), declared_at(route) or same(0), STRANGERS[stranger](world))
        if status != 401 or CANARY in body:
            wrong.append((route, status, body[:80]))
    assert wrong == []
    assert world.state() == before


@pytest.mark.parametrize("shown", ["session", "key"])
def test_another_account_gets_what_is_declared_and_nothing_of_anybody_else(world: World, shown: str) -> None:
    before, wrong = world.state(), []
    for prefix in ("/api", "/v1"):
        for route, declared in DECLARED[prefix].items():
            method, _, path = route.partition(" ")
            headers = cookie(world.bob_session()) if shown == "session" else bearer(world.bob_key)
            status, body = world.ask(method, prefix + path, declared, headers)
            if status != getattr(declared, shown) or CANARY in body:
                wrong.append((route, status, body[:200]))
    assert wrong == []
    assert world.state() == before


@pytest.mark.parametrize("shown", ["session", "key"])
def test_nothing_of_gradio_s_tells_an_account_of_another(world: World, routes: list[str], shown: str) -> None:
    wrong = []
    for route in routes:
        method, _, path = route.partition(" ")
        if declared_at(route) or is_description(route) or is_public(route) or path.startswith("/widget/"):
            continue
        if path == "/logout":
            continue
        headers = cookie(world.bob_session()) if shown == "session" else bearer(world.bob_key)
        status, body = world.ask(method, filled(path), same(0), headers)
        if CANARY in body or status >= 500 or (shown == "key" and status != 403):
            wrong.append((route, status, body[:80]))
    assert wrong == []


NOBODY_S_VISITOR = {
    "anonymous": lambda world: {},
    "an account's session": lambda world: cookie(world.bob_session()),
    "an account's key": lambda world: bearer(world.bob_key),
    "a revoked key": lambda world: bearer(world.revoked_key),
    "a token from before the key was rotated": lambda world: bearer(world.rotated_visitor),
    "a visitor's token as a cookie": lambda world: cookie(world.other_visitor),
    "a forged token": lambda world: bearer(world.other_visitor[:-3] + "AAA"),
}


@pytest.mark.parametrize("stranger", NOBODY_S_VISITOR)
def test_the_widget_answers_only_visitors(world: World, routes: list[str], stranger: str) -> None:
    before, wrong = world.state(), []
    for route, declared in WIDGET.items():
        method, _, path = route.partition(" ")
        status, body = world.ask(method, f"/widget/api{path}", declared, NOBODY_S_VISITOR[stranger](world))
        if status != (200 if path == "/session" else 401) or CANARY in body.replace(f'"name":"{CANARY}"', ""):
            wrong.append((route, status, body[:80]))
    assert wrong == []
    assert world.state() == before


@pytest.mark.parametrize("visitor", ["foreign_visitor", "other_visitor"])
def test_a_visitor_sees_nothing_of_another(world: World, visitor: str) -> None:
    before, wrong = world.state(), []
    for route, declared in WIDGET.items():
        method, _, path = route.partition(" ")
        status, body = world.ask(method, f"/widget/api{path}", declared, bearer(getattr(world, visitor)))
        if status != declared.session or CANARY in body.replace(f'"name":"{CANARY}"', ""):
            wrong.append((route, status, body[:80]))
    assert wrong == []
    assert world.state() == before


def filled(path: str) -> str:
    """Return a path with something for each parameter that is none of ours."""
    known = Ids.__dataclass_fields__
    return re.sub(r"\{(\w+)\}", lambda found: found[0] if found[1] in known else "something", path)
