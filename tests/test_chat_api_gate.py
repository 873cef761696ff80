"""The gate, in front of anything: what is not exactly public needs an identity."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
import anyio.to_thread
import pytest
from accounts_app import PASSWORD, SECRET, quick_passwords
from fastapi import Body, FastAPI
from fastapi.testclient import TestClient
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from chat.accounts import Accounts
from chat.api import gate
from chat.api.gate import Gate
from chat.sessions import Sessions
from storage.accounts import AccountStore
from storage.database import Database

NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Accept": "text/html"}
STRANGE_KEY = "parley_" + "x" * 43


async def tell_identity(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with who asks, as what stands behind the gate sees it."""
    identity = scope.get("identity")
    told = identity and [identity.owner_id, identity.name, identity.is_admin, sorted(identity.scopes or ())]
    await JSONResponse(told)(scope, receive, send)


@dataclass
class Entrance:
    """A gate on a database, which may have accounts."""

    accounts: Accounts
    store: AccountStore
    sessions: Sessions
    client: TestClient

    def add(self, name: str = "ada") -> str:
        return self.accounts.add(name, PASSWORD, is_admin=False).id

    def cookie(self, user_id: str, epoch: int = 0) -> dict[str, str]:
        return {"Cookie": f"parley_session={self.sessions.issue(user_id, epoch)}"}

    def bearer(self, *scopes: str, owner_id: str = "local") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.accounts.add_key(owner_id, 'test', scopes)[1]}"}

    def code(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, str | None]:
        """Return the status and the error's code of an answer."""
        answer = self.client.request(method, path, headers=headers)
        told = answer.json() if answer.content else None
        return answer.status_code, told["error"]["code"] if isinstance(told, dict) else None


@pytest.fixture
def entrance(database: Database) -> Iterator[Entrance]:
    store, sessions = AccountStore(database), Sessions(SECRET)
    accounts = Accounts(store, quick_passwords())
    client = TestClient(Gate(tell_identity, accounts, sessions), follow_redirects=False)
    with closing(client):
        yield Entrance(accounts, store, sessions, client)


# Without accounts


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Proto", "CF-Connecting-IP"]
)
def test_nobody_who_came_through_a_proxy_is_the_local_owner(entrance: Entrance, header: str) -> None:
    assert entrance.code("/api/x", {header: "198.51.100.7"}) == (403, "account_needed")
    cookie = entrance.cookie(entrance.add())
    assert entrance.code("/api/x", {header: "198.51.100.7", **cookie}) == (200, None)


def test_nobody_who_knows_parley_by_another_name_is_the_local_owner(entrance: Entrance) -> None:
    assert entrance.code("/api/x", {"Origin": "https://chat.example", "Host": "localhost"}) == (403, "account_needed")
    assert entrance.code("/api/x", {"Origin": "http://localhost:7860", "Host": "localhost:7860"}) == (200, None)


@pytest.mark.parametrize("path", ["/", "/api/users", "/v1/models", "/metrics", "/gradio_api/info"])
@pytest.mark.parametrize("bearer", [None, "sk-anything", ""])
def test_without_accounts_everybody_is_the_local_owner(entrance: Entrance, path: str, bearer: str | None) -> None:
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    assert entrance.client.get(path, headers=headers).json() == ["local", None, True, []]


def test_a_key_must_be_good_without_accounts_too(entrance: Entrance) -> None:
    assert entrance.client.get("/api/x", headers=entrance.bearer("read")).json() == ["local", None, False, ["read"]]
    assert entrance.code("/api/x", {"Authorization": f"Bearer {STRANGE_KEY}"}) == (401, "invalid_api_key")


# What is public

PUBLIC = ["/health", "/login", "/widget.js", "/widget/pub_x", "/widget/api/session", "/assets/a.js", "/page/login.css"]


@pytest.mark.parametrize("path", PUBLIC)
def test_what_is_public_asks_for_nothing(entrance: Entrance, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entrance.add()
    monkeypatch.setattr(entrance.store, "some", None)  # no query either
    monkeypatch.setattr(entrance.store, "find_key", None)
    for headers in ({}, {"Authorization": f"Bearer {STRANGE_KEY}"}, {"Cookie": "parley_session=forged"}):
        answer = entrance.client.get(path, headers=headers)
        assert (answer.status_code, answer.json()) == (200, None)


PRIVATE = [
    "/",
    "//",
    "//health",
    "/health/",
    "/health/..",
    "/Health",
    "/HEALTH",
    "/health;x",
    "/health%00",
    "/%2e/health",
    "/api/%2e%2e/health",
    "/login/",
    "/Login",
    "/loginx",
    "/login%2f",
    "/logout",
    "/widget",
    "/widget.js/",
    "/Widget/x",
    "/widget.jsx",
    "/%2fwidget/x",
    "//assets/a.js",
    "/assets",
    "/ASSETS/a.js",
    "/page",
    "/pages/x",
    "/api",
    "/api/account",
    "//api/account",
    "/api%2faccount",
    "/API/account",
    "/v1/chat/completions",
    "/metrics",
    "/metrics/",
    "/config",
    "/theme.css",
    "/static/fonts/x.woff2",
    "/gradio_api/queue/join",
    "/gradio_api/file=/etc/passwd",
    "/heartbeat/x",
    "/no-such-page",
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_what_is_not_exactly_public_is_private(entrance: Entrance, method: str) -> None:
    entrance.add()
    for path in PRIVATE:
        answer = entrance.client.request(method, f"http://testserver{path}")
        assert (path, answer.status_code, answer.headers["WWW-Authenticate"]) == (path, 401, "Bearer")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/health", "/login", "/widget.js"])
def test_a_public_page_is_public_for_reading(entrance: Entrance, path: str, method: str) -> None:
    entrance.add()
    assert entrance.client.request(method, path).status_code == 401
    assert entrance.client.post("/health").status_code == 401
    assert entrance.client.post("/login").status_code == 200


@pytest.mark.parametrize("host", ["testserver/health?", "x/../health", "health", "/health#"])
def test_a_host_header_opens_nothing(entrance: Entrance, host: str) -> None:
    entrance.add()
    assert entrance.client.get("/api/account", headers={"Host": host}).status_code == 401


def test_websockets_are_refused(entrance: Entrance) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def connect() -> None:
        scope = {"type": "websocket", "path": "/health", "headers": []}
        await Gate(tell_identity, entrance.accounts, entrance.sessions)(scope, None, send)  # type: ignore[arg-type]

    anyio.run(connect)
    assert [message["type"] for message in sent] == ["websocket.close"]


# Strangers


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/", "/login"),
        ("/?c=5&d=%2F", "/login?next=/%3Fc%3D5%26d%3D%252F"),
        ("/api/export?format=json", "/login?next=/api/export%3Fformat%3Djson"),
    ],
)
def test_a_browser_is_sent_to_the_login_and_back(entrance: Entrance, path: str, location: str) -> None:
    entrance.add()
    for headers in (NAVIGATION, {"Accept": "text/html,*/*"}):  # the latter as old browsers come
        answer = entrance.client.get(path, headers=headers)
        assert (answer.status_code, answer.headers["Location"]) == (303, location)


def test_a_script_is_not(entrance: Entrance) -> None:
    entrance.add()
    assert entrance.code("/", {"Accept": "text/html", "Sec-Fetch-Mode": "cors"}) == (401, "login_required")
    assert entrance.code("/api/account", {"Accept": "*/*"}) == (401, "login_required")


def test_a_form_that_was_left_open_ends_at_the_login(entrance: Entrance) -> None:
    entrance.add()
    answer = entrance.client.post("/logout", headers=NAVIGATION)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer sk-anything"},
        {"Authorization": f"bearer {STRANGE_KEY}"},
        {"Authorization": "Bearer \xff"},
    ],
)
def test_with_accounts_a_bearer_must_be_a_key(entrance: Entrance, headers: dict[str, str]) -> None:
    user_id = entrance.add()
    raw = {name: value.encode("latin-1") for name, value in {**headers, **entrance.cookie(user_id)}.items()}
    answer = entrance.client.get("/api/x", headers=raw)  # and the cookie is not looked at
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_keys_come_in_the_one_header_alone(entrance: Entrance) -> None:
    entrance.add()
    key = entrance.bearer("read")["Authorization"].removeprefix("Bearer ")
    assert entrance.code("/api/x", {"X-API-Key": key}) == (401, "login_required")
    assert entrance.code("/api/x", {"Authorization": key}) == (401, "login_required")
    assert entrance.code("/api/x", {"Authorization": f"Basic {key}"}) == (401, "login_required")
    assert entrance.code("/api/x", {"Cookie": f"parley_session={key}"}) == (401, "login_required")
    assert entrance.code(f"/api/x?key={key}&api_key={key}&token={key}") == (401, "login_required")


def test_a_revoked_key_is_refused_at_once(entrance: Entrance) -> None:
    headers = entrance.bearer("read")
    assert entrance.client.get("/api/x", headers=headers).status_code == 200
    [key] = entrance.store.keys()
    entrance.store.revoke_key(key.id)
    assert entrance.code("/api/x", headers) == (401, "invalid_api_key")


# Scopes

SCOPES = [
    ("GET", "/v1/models", "completions"),
    ("POST", "/v1/chat/completions", "completions"),
    ("GET", "/api/conversations", "read"),
    ("HEAD", "/api/conversations", "read"),
    ("POST", "/api/conversations", "write"),
    ("DELETE", "/api/conversations/x", "write"),
    ("OPTIONS", "/api/conversations", "write"),
    ("GET", "/metrics", "metrics"),
]


@pytest.mark.parametrize(("method", "path", "needed"), SCOPES)
def test_a_key_does_what_its_scopes_say(entrance: Entrance, method: str, path: str, needed: str) -> None:
    for scope in ("completions", "read", "write", "metrics"):
        answer = entrance.client.request(method, path, headers=entrance.bearer(scope))
        if scope == needed or (scope, needed) == ("write", "read"):
            assert answer.status_code == 200
            continue
        assert answer.status_code == 403
        if method != "HEAD":
            error = answer.json()["error"]
            assert (error["code"], error["message"]) == (
                "insufficient_scope",
                f"This needs an API key with the scope {needed}.",
            )


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/logout", "/api", "/v1", "/Api/x", "/metrics/"])
def test_no_key_reaches_the_page(entrance: Entrance, path: str) -> None:
    headers = entrance.bearer("completions", "read", "write", "metrics")
    assert entrance.code(path, headers) == (403, "login_required")


# Sessions


def test_a_session_is_its_accounts(entrance: Entrance) -> None:
    entrance.add("ada")
    ben = entrance.add("ben")
    assert entrance.client.get("/", headers=entrance.cookie("local")).json() == ["local", "ada", True, []]
    assert entrance.client.get("/", headers=entrance.cookie(ben)).json() == [ben, "ben", False, []]


@pytest.mark.parametrize("cookie", ["", "forged", "parley_x", '"', "a" * 5000])
def test_a_cookie_that_is_none_is_a_strangers(entrance: Entrance, cookie: str) -> None:
    entrance.add()
    assert entrance.code("/", {"Cookie": f"parley_session={cookie}"}) == (401, "login_required")


def test_a_session_of_another_secret_epoch_or_account_is_a_strangers(entrance: Entrance) -> None:
    user_id = entrance.add()
    other = Sessions(bytes(32)).issue(user_id, 0)
    assert entrance.code("/", {"Cookie": f"parley_session={other}"}) == (401, "login_required")
    assert entrance.code("/", entrance.cookie(user_id, epoch=1)) == (401, "login_required")
    assert entrance.code("/", entrance.cookie("nobody")) == (401, "login_required")


def test_over_https_only_the_cookie_of_this_host_counts(entrance: Entrance) -> None:
    token = entrance.sessions.issue(entrance.add(), 0)
    get = entrance.client.get
    assert get("https://testserver/", headers={"Cookie": f"parley_session={token}"}).status_code == 401
    assert get("https://testserver/", headers={"Cookie": f"__Host-parley_session={token}"}).status_code == 200
    assert get("http://testserver/", headers={"Cookie": f"__Host-parley_session={token}"}).status_code == 401


def test_a_session_older_than_a_day_is_renewed(entrance: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    user_id = entrance.add()
    young = entrance.sessions.issue(user_id, 0)
    with monkeypatch.context() as past:
        two_days_ago = time.time() - 2 * 86_400
        past.setattr("itsdangerous.timed.time.time", lambda: two_days_ago)
        old = entrance.sessions.issue(user_id, 0)

    def cookies_for(token: str) -> list[str]:
        headers = {"Cookie": f"__Host-parley_session={token}"}
        return entrance.client.get("https://testserver/", headers=headers).headers.get_list("Set-Cookie")

    assert cookies_for(young) == []
    [renewed] = cookies_for(old)
    name, _, rest = renewed.partition("=")
    token, _, attributes = rest.partition("; ")
    assert name == "__Host-parley_session"
    assert attributes == "Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax; Secure"
    assert cookies_for(token) == []


def test_what_an_account_sees_is_kept_by_no_browser(entrance: Entrance) -> None:
    user_id = entrance.add()
    assert entrance.client.get("/", headers=entrance.cookie(user_id)).headers["Cache-Control"] == "no-store"


# Bodies that come late


def framework(done: list[str]) -> FastAPI:
    """A web application that keeps what it is told."""
    app = FastAPI()

    @app.post("/api/x")
    def keep(told: Annotated[str, Body()]) -> str:
        done.append(told)
        return told

    return app


@pytest.mark.parametrize(("late", "expected"), [(0.0, (401, "login_required")), (60.0, (200, "onetwo"))])
def test_a_body_that_ends_late_is_a_reason_to_look_again(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch, late: float, expected: tuple[int, str]
) -> None:
    monkeypatch.setattr(gate, "LATE", late)
    user_id = entrance.add()
    status, told = post_in_two(entrance, entrance.cookie(user_id), lambda: entrance.store.end_sessions(user_id))
    assert (status, told["error"]["code"] if isinstance(told, dict) else told) == expected


def test_a_key_that_is_revoked_meanwhile_does_nothing_more(entrance: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "LATE", 0.0)
    entrance.add()
    headers = entrance.bearer("write")
    [key] = entrance.store.keys()
    status, told = post_in_two(entrance, headers, lambda: entrance.store.revoke_key(key.id))
    assert (status, told["error"]["code"]) == (401, "invalid_api_key")


def test_a_late_body_of_who_is_still_known_is_carried_out(entrance: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "LATE", 0.0)
    assert post_in_two(entrance, entrance.cookie(entrance.add()), lambda: None) == (200, "onetwo")


def post_in_two(entrance: Entrance, headers: dict[str, str], between: Callable[[], object]) -> tuple[int, Any]:
    """Send a body in two parts, with something that happens between them; return the one answer."""
    sent: list[Message] = []
    done: list[str] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def connect() -> None:
        parts = iter([b'"one', b'two"'])

        async def receive() -> Message:
            part = next(parts)
            if part == b'two"':
                await anyio.to_thread.run_sync(between)
            return {"type": "http.request", "body": part, "more_body": part != b'two"'}

        told = {"Content-Type": "application/json", **headers}
        scope = {
            **{"type": "http", "method": "POST", "scheme": "http", "path": "/api/x", "query_string": b""},
            "headers": [(name.lower().encode(), value.encode()) for name, value in told.items()],
        }
        await Gate(framework(done), entrance.accounts, entrance.sessions)(scope, receive, send)

    anyio.run(connect)
    start, body = sent
    assert done == (["onetwo"] if start["status"] == 200 else [])
    return start["status"], json.loads(body["body"])


# Answers that go on, and a database that fails


@pytest.mark.parametrize("is_damaged", [False, True])
def test_an_answer_that_goes_on_ends_when_its_reader_is_locked_out(
    entrance: Entrance, database: Database, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    monkeypatch.setattr(gate, "LOOK_AGAIN_AFTER", 0)
    user_id = entrance.add()

    async def pieces() -> AsyncIterator[str]:
        yield "first "
        yield "second "
        if is_damaged:  # then nobody knows who it is
            database.close()
            database.path.write_bytes(b"damaged" * 1000)
        else:
            entrance.store.end_sessions(user_id)
        yield "third"

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(pieces())(scope, receive, send)

    client = TestClient(Gate(stream, entrance.accounts, entrance.sessions))
    assert client.get("/", headers=entrance.cookie(user_id)).text == "first second "


def test_a_database_that_cannot_be_read_lets_nobody_in(entrance: Entrance, database: Database) -> None:
    entrance.add()
    database.close()
    database.path.write_bytes(b"damaged" * 1000)
    assert entrance.code("/") == (503, "database_unusable")
