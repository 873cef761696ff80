"""/account, /keys and /users, behind the gate, as persons, administrators, programs and strangers see them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accounts_app import PASSWORD, AccountsApp, log_in, open_accounts_app
from fastapi.testclient import TestClient

from chat.api import accounts
from chat.api.identity import current_identity
from chat.identity import Identity
from chat.workspace import Workspace
from model.checkpoint.checkpoint import Checkpoint
from model.sampling_params import SamplingParams

CANARY = "canary-90aa"


@pytest.fixture
def app(tmp_path: Path, tiny_checkpoint: Checkpoint) -> Iterator[AccountsApp]:
    with open_accounts_app(tmp_path / "parley.db", tiny_checkpoint) as app:
        yield app


@pytest.fixture
def admin(app: AccountsApp) -> TestClient:
    """A client of the first account."""
    return app.logged_in("ada")


@pytest.fixture
def ben(app: AccountsApp, admin: TestClient) -> TestClient:
    """A client of another account, which is none of an administrator."""
    return app.logged_in("ben")


def id_of(app: AccountsApp, name: str) -> str:
    user = app.kept.accounts.named(name)
    assert user
    return user.id


def error(client: TestClient, method: str, path: str, body: Any = None) -> tuple[int, str | None, str]:
    """Return the status, the field and the code of the error that must come."""
    answer = client.request(method, f"/api{path}", json=body)
    told = answer.json()["error"]
    assert "\n" not in told["message"]
    assert PASSWORD not in answer.text
    return answer.status_code, told["param"], told["code"]


def converse(app: AccountsApp, client: TestClient, text: str, root: str = "/api") -> str:
    """Begin a conversation whose reply is being written, and return its id."""
    chat: str = client.post(f"{root}/conversations", json={}).raise_for_status().json()["id"]
    client.post(f"{root}/conversations/{chat}/messages", json={"content": text}).raise_for_status()
    return chat


def end(app: AccountsApp) -> None:
    """Write the newest reply, and wait until its end is stored."""
    turns = [*app.kept.manager._turns.values()]
    app.engine.say("Yes.")
    app.engine.end()
    for turn in turns:
        turn.join()


# One's own account


def test_the_local_owner_has_no_name(app: AccountsApp) -> None:
    told = app.stranger().get("/api/account").json()
    assert told == {"name": None, "is_admin": True, "has_accounts": False}


def test_an_account_has(ben: TestClient) -> None:
    assert ben.get("/api/account").json() == {"name": "ben", "is_admin": False, "has_accounts": True}


def test_another_password_ends_all_sessions_but_this_one(app: AccountsApp, ben: TestClient) -> None:
    other = app.logged_in("ben")
    changed = ben.post("/api/account/password", json={"old": PASSWORD, "new": "another password"})
    assert changed.status_code == 204
    assert (ben.get("/api/account").status_code, other.get("/api/account").status_code) == (200, 401)
    assert log_in(app.stranger(), "ben").status_code == 401
    assert log_in(app.stranger(), "ben", "another password").status_code == 303


def test_the_old_password_must_be_right_and_the_new_one_good(ben: TestClient) -> None:
    wrong = {"old": "wrong", "new": "another password"}
    assert error(ben, "POST", "/account/password", wrong) == (403, "old", "wrong_password")
    bad = {"old": PASSWORD, "new": "short"}
    assert error(ben, "POST", "/account/password", bad) == (400, "new", "bad_password")
    assert ben.get("/api/account").status_code == 200


def test_a_stolen_session_cannot_guess_the_password(ben: TestClient) -> None:
    wrong = {"old": "wrong", "new": "another password"}
    codes = [error(ben, "POST", "/account/password", wrong)[2] for _ in range(6)]
    assert codes == ["wrong_password"] * 5 + ["limit_exceeded"]


def test_logout_everywhere_ends_all_sessions(app: AccountsApp, ben: TestClient) -> None:
    other, cookie = app.logged_in("ben"), ben.cookies["parley_session"]
    ended = ben.post("/api/account/logout-everywhere")
    assert (ended.status_code, ben.cookies.get("parley_session")) == (204, None)
    ben.cookies.set("parley_session", cookie)
    assert (ben.get("/api/account").status_code, other.get("/api/account").status_code) == (401, 401)
    assert app.logged_in("ben").get("/api/account").status_code == 200


@pytest.mark.parametrize(
    ("path", "body"), [("password", {"old": "", "new": "another password"}), ("logout-everywhere", None)]
)
def test_without_an_account_there_is_nothing_to_change(app: AccountsApp, path: str, body: Any) -> None:
    assert error(app.stranger(), "POST", f"/account/{path}", body) == (409, None, "no_account")


# Keys


def test_a_key_is_shown_once_and_works_until_it_is_revoked(app: AccountsApp, ben: TestClient) -> None:
    made = ben.post("/api/keys", json={"name": " note\nbook ", "scopes": ["write"]})
    assert made.status_code == 201
    key = made.json().pop("key")
    listed = ben.get("/api/keys")
    assert key not in listed.text
    [shown] = listed.json()["keys"]
    assert shown == {name: value for name, value in made.json().items() if name != "key"}
    assert (shown["name"], shown["scopes"], shown["last_used_at"]) == ("note book", ["write"], None)
    program = app.stranger()
    program.headers["Authorization"] = f"Bearer {key}"
    chat = program.post("/api/conversations", json={}).json()["id"]
    assert ben.get(f"/api/conversations/{chat}").status_code == 200
    assert ben.get("/api/keys").json()["keys"][0]["last_used_at"]
    assert ben.delete(f"/api/keys/{shown['id']}").status_code == 204
    assert program.get("/api/conversations").status_code == 401
    assert ben.get("/api/keys").json() == {"keys": []}


def test_a_key_is_its_owners_alone(app: AccountsApp, admin: TestClient, ben: TestClient) -> None:
    key_id = ben.post("/api/keys", json={"name": "notebook", "scopes": ["read"]}).json()["id"]
    assert admin.get("/api/keys").json() == {"keys": []}
    assert error(admin, "DELETE", f"/keys/{key_id}") == (404, None, "key_not_found")
    assert len(ben.get("/api/keys").json()["keys"]) == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["admin"]}, "scopes.0"),
        ({"name": "x", "scopes": "read"}, "scopes"),
        ({"name": " ", "scopes": ["read"]}, "name"),
        ({"name": "x" * 61, "scopes": ["read"]}, "name"),
        ({"scopes": ["read"]}, "name"),
        ({"name": "x", "scopes": ["read"], "key": "parley_mine"}, "key"),
    ],
)
def test_a_bad_key_is_refused(ben: TestClient, body: Any, param: str) -> None:
    status, field, _ = error(ben, "POST", "/keys", body)
    assert (status, field) == (400, param)
    assert ben.get("/api/keys").json() == {"keys": []}


FOR_PERSONS = [
    ("GET", "/account"),
    ("POST", "/account/password"),
    ("POST", "/account/logout-everywhere"),
    ("GET", "/keys"),
    ("POST", "/keys"),
    ("DELETE", "/keys/x"),
    ("GET", "/users"),
    ("POST", "/users"),
    ("PATCH", "/users/x"),
    ("DELETE", "/users/x"),
]


@pytest.mark.parametrize(("method", "path"), FOR_PERSONS)
def test_no_key_manages_accounts_or_keys(app: AccountsApp, admin: TestClient, method: str, path: str) -> None:
    program = app.stranger()
    program.headers.update(app.key("local", "completions", "read", "write", "metrics"))
    answer = program.request(method, f"/api{path}", json={"name": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize(("method", "path"), FOR_PERSONS)
def test_strangers_reach_none_of_it(app: AccountsApp, admin: TestClient, method: str, path: str) -> None:
    assert error(app.stranger(), method, path) == (401, None, "login_required")


@pytest.mark.parametrize(("method", "path"), [route for route in FOR_PERSONS if "users" in route[1]])
def test_accounts_are_for_administrators(ben: TestClient, method: str, path: str) -> None:
    body = {"name": "eve", "password": PASSWORD, "is_admin": True} if method == "POST" else {}
    assert error(ben, method, path, body) == (403, None, "forbidden")


# Accounts


def test_the_first_account_takes_over_and_must_log_in(app: AccountsApp) -> None:
    nobody = app.stranger()
    chat = nobody.post("/api/conversations", json={}).json()["id"]
    made = nobody.post("/api/users", json={"name": "ada", "password": PASSWORD})
    assert made.status_code == 201
    assert (made.json()["is_admin"], made.json()["n_conversations"]) == (True, 1)
    assert nobody.get("/api/conversations").status_code == 401
    assert app.logged_in("ada").get(f"/api/conversations/{chat}").status_code == 200


def test_administrators_see_counts_and_never_texts(app: AccountsApp, admin: TestClient, ben: TestClient) -> None:
    chat = converse(app, ben, f"{CANARY} question")
    end(app)
    ben.patch(f"/api/conversations/{chat}", json={"title": f"{CANARY} title"}).raise_for_status()
    answer = admin.get("/api/users")
    assert CANARY not in answer.text
    assert "hash" not in answer.text
    ada, other = answer.json()["users"]
    assert (ada["name"], ada["is_admin"], ada["n_conversations"], ada["last_active_at"]) == ("ada", True, 0, None)
    assert (other["n_conversations"], other["n_messages"], other["n_tokens"]) == (1, 2, 8)
    assert other["last_active_at"] > other["created_at"]
    assert admin.get(f"/api/conversations/{chat}").status_code == 404


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"name": "two words", "password": PASSWORD}, (400, "name", "bad_name")),
        ({"name": "eve", "password": "short"}, (400, "password", "bad_password")),
        ({"name": "ADA", "password": PASSWORD}, (409, "name", "name_taken")),
        ({"name": "eve"}, (400, "password", "invalid_field")),
        ({"name": "eve", "password": PASSWORD, "is_admin": 1}, (400, "is_admin", "invalid_field")),
        ({"name": "eve", "password": PASSWORD, "id": "local"}, (400, "id", "invalid_field")),
    ],
)
def test_a_bad_account_is_refused(admin: TestClient, body: Any, expected: tuple[int, str, str]) -> None:
    assert error(admin, "POST", "/users", body) == expected
    assert len(admin.get("/api/users").json()["users"]) == 1


def test_an_administrator_sets_a_password_and_makes_another_one(
    app: AccountsApp, admin: TestClient, ben: TestClient
) -> None:
    changed = admin.patch(f"/api/users/{id_of(app, 'ben')}", json={"password": "another password", "is_admin": True})
    assert (changed.status_code, changed.json()["is_admin"]) == (200, True)
    assert ben.get("/api/account").status_code == 401
    assert log_in(ben, "ben", "another password").status_code == 303
    assert ben.get("/api/users").status_code == 200


def test_an_administrator_needs_the_old_password_for_a_new_one_of_their_own(
    app: AccountsApp, admin: TestClient
) -> None:
    change = {"password": "another password", "is_admin": True}
    assert error(admin, "PATCH", "/users/local", change) == (409, "password", "old_password_needed")
    assert log_in(app.stranger(), "ada").status_code == 303


def test_a_password_of_an_administrators_revokes_the_keys_and_ones_own_does_not(
    app: AccountsApp, admin: TestClient, ben: TestClient
) -> None:
    def is_good(key: dict[str, str]) -> bool:
        return app.stranger().get("/api/conversations", headers=key).status_code == 200

    user_id = id_of(app, "ben")
    key, other = app.key(user_id, "read"), app.key("local", "read")
    ben.post("/api/account/password", json={"old": PASSWORD, "new": "another password"}).raise_for_status()
    ben.post("/api/account/logout-everywhere").raise_for_status()
    assert is_good(key)
    admin.patch(f"/api/users/{user_id}", json={"password": PASSWORD}).raise_for_status()
    assert (is_good(key), is_good(other)) == (False, True)


def test_the_last_administrator_stays_one(app: AccountsApp, admin: TestClient, ben: TestClient) -> None:
    assert error(admin, "PATCH", "/users/local", {"is_admin": False}) == (409, None, "last_admin")
    assert error(admin, "PATCH", "/users/nobody", {"is_admin": False}) == (404, None, "user_not_found")


def test_neither_oneself_nor_the_first_account_is_removed(app: AccountsApp, admin: TestClient, ben: TestClient) -> None:
    assert error(admin, "DELETE", "/users/local") == (409, None, "not_removable")
    admin.patch(f"/api/users/{id_of(app, 'ben')}", json={"is_admin": True}).raise_for_status()
    assert error(ben, "DELETE", "/users/local") == (409, None, "not_removable")
    assert error(ben, "DELETE", f"/users/{id_of(app, 'ben')}") == (409, None, "not_removable")
    assert error(admin, "DELETE", "/users/nobody") == (404, None, "user_not_found")
    assert len(admin.get("/api/users").json()["users"]) == 2


def test_a_removed_account_leaves_nothing_and_its_replies_are_stopped(
    app: AccountsApp, admin: TestClient, ben: TestClient, tmp_path: Path
) -> None:
    user_id = id_of(app, "ben")
    converse(app, admin, f"{CANARY} ada")
    end(app)
    converse(app, ben, f"{CANARY} ben")
    running = app.engine.generations[-1]
    converse(app, ben, f"{CANARY} ben", root="/api/temporary")
    program = app.stranger()
    program.headers.update(app.key(user_id, "read"))
    heard: list[str | None] = []
    with app.kept.bus.listening(user_id, heard.append):
        assert admin.delete(f"/api/users/{user_id}").status_code == 204
    assert heard
    assert running.finish_reason == "cancelled"
    assert (ben.get("/api/account").status_code, program.get("/api/conversations").status_code) == (401, 401)
    assert log_in(app.stranger(), "ben").status_code == 401
    assert app.temporary.conversations.recent(user_id) == []
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("parley.db*"))
    assert f"{CANARY} ada".encode() in kept
    assert f"{CANARY} ben".encode() not in kept


def test_an_account_that_keeps_sending_is_removed(
    app: AccountsApp, admin: TestClient, ben: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id = id_of(app, "ben")
    chat = app.kept.manager.start(user_id, channel="ui").id
    stop, tries = accounts._stop_replies, []

    def send_after(workspace: Workspace, owner_id: str) -> None:
        """What was let in before the account was locked out begins a reply once the others are stopped."""
        stop(workspace, owner_id)
        if workspace is app.kept and len(tries) < 2:
            tries.append(ben.get("/api/account").status_code)
            workspace.manager.send(owner_id, chat, "More.", SamplingParams())

    monkeypatch.setattr(accounts, "_stop_replies", send_after)
    assert admin.delete(f"/api/users/{user_id}").status_code == 204
    assert tries == [401, 401]
    assert app.kept.accounts.some([user_id]) == {}


def test_an_account_that_cannot_be_erased_yet_stays_locked_out(
    app: AccountsApp, admin: TestClient, ben: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    converse(app, ben, "Hello?")
    monkeypatch.setattr(accounts, "_stop_replies", lambda *_: None)
    monkeypatch.setattr(accounts, "SECONDS_BETWEEN", 0)
    path = f"/users/{id_of(app, 'ben')}"
    assert error(admin, "DELETE", path) == (409, None, "conversation_busy")
    assert (ben.get("/api/account").status_code, log_in(app.stranger(), "ben").status_code) == (401, 401)
    end(app)
    assert admin.delete(f"/api{path}").status_code == 204


def test_what_was_let_in_before_the_account_went_is_refused(app: AccountsApp, admin: TestClient) -> None:
    user_id = app.add("ben")
    app.kept.erasure.erase_owner(user_id)
    app.app.dependency_overrides[current_identity] = lambda: Identity(user_id, "ben", is_admin=False)
    answer = admin.post("/api/conversations", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "owner_gone")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_key_for_metrics_which_are_of_all_is_an_administrator_s(admin: TestClient, ben: TestClient) -> None:
    body = {"name": "prometheus", "scopes": ["metrics"]}
    assert error(ben, "POST", "/keys", body) == (403, None, "forbidden")
    assert admin.post("/api/keys", json=body).status_code == 201
