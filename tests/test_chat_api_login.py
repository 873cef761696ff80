"""The login: the page, the form, the cookie, and the way back; in a client, in a real server and in a real browser."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from accounts_app import PASSWORD, AccountsApp, log_in, open_accounts_app
from axe_playwright_python.sync_playwright import Axe
from command_line import run_app
from conftest import Server
from event_readers import eventually
from fastapi.testclient import TestClient
from page_driver import BOX, Tabs, row, send_short, wait_for_end
from playwright.sync_api import Browser, Page, expect

from chat.api.login import own_path, preferred
from chat.lockout import FREE_TRIES
from model.checkpoint.checkpoint import Checkpoint


@pytest.fixture
def app(tmp_path: Path, tiny_checkpoint: Checkpoint) -> Iterator[AccountsApp]:
    with open_accounts_app(tmp_path / "parley.db", tiny_checkpoint) as app:
        app.add("ada")
        yield app


@pytest.fixture
def client(app: AccountsApp) -> TestClient:
    return app.stranger()


# The form


def test_the_right_password_gives_a_session_and_the_way_back(client: TestClient) -> None:
    answer = log_in(client, "ada", next="/?c=5")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/?c=5")
    cookie = answer.headers["Set-Cookie"]
    assert re.fullmatch(r"parley_session=[\w.-]+; Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax", cookie)
    assert client.get("/api/account").json()["name"] == "ada"


def test_over_https_the_cookie_is_this_hosts_and_secure(app: AccountsApp) -> None:
    client = app.stranger("https://testserver")
    cookie = log_in(client, "ada").headers["Set-Cookie"]
    attributes = "; Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax; Secure"
    assert re.fullmatch(r"__Host-parley_session=[\w.-]+" + attributes, cookie)
    assert client.get("/api/account").json()["name"] == "ada"
    assert client.post("/logout").headers["Set-Cookie"].startswith("__Host-parley_session=; Path=/; Max-Age=0;")


@pytest.mark.parametrize(
    ("name", "password"), [("ada", "not this"), ("nobody", PASSWORD), ("", ""), ("ada", "x" * 999)]
)
def test_a_wrong_one_shows_the_form_again(client: TestClient, name: str, password: str) -> None:
    answer = log_in(client, name, password, next="/?c=5")
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (401, False)
    assert '<p class="problem" id="problem" role="alert">The name or the password is wrong.</p>' in answer.text
    assert f'name="name" value="{name}"' in answer.text
    assert 'name="next" value="/?c=5"' in answer.text
    assert not password or password not in answer.text


def test_too_many_wrong_ones_say_how_long_to_wait(client: TestClient) -> None:
    for _ in range(FREE_TRIES):
        assert log_in(client, "ada", "wrong").status_code == 401
    answer = log_in(client, "ada")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "60")
    assert "Too many tries. Wait 60 seconds, then try again." in answer.text


def test_what_was_typed_is_shown_as_text(client: TestClient) -> None:
    hostile = '"><script>alert(1)</script>$password_label${x}'
    page = log_in(client, hostile, "wrong", next="/" + hostile).text
    assert "<script" not in page
    assert hostile in unescape(page)


OTHERS_PLACES = [
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "\t//evil.example",
    " //evil.example",
    "https://evil.example",
    "https:evil.example",
    "HTTPS://evil.example",
    "javascript:alert(1)",
    "data:text/html,x",
    "evil.example",
    "@evil.example",
    ".evil.example",
    "",
    "?next=x",
    "#x",
    "/a\\b",
    "/a b",
    "/a\r\nSet-Cookie: x=y",
    "/ä",
    "/\0",
]


@pytest.mark.parametrize("place", OTHERS_PLACES)
def test_the_way_back_leads_to_no_other_server(client: TestClient, place: str) -> None:
    assert own_path(place) == "/"
    answer = log_in(client, "ada", next=place)
    assert answer.headers["Location"] == "/"
    assert len(answer.headers.get_list("Set-Cookie")) == 1


@pytest.mark.parametrize("place", ["/", "/?c=5", "/api/export?format=json&x=//y", "/a:b@c", "/%5c%5cevil.example"])
def test_the_way_back_leads_to_any_own_place(place: str) -> None:
    assert own_path(place) == place


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}])
@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_another_web_sites_form_is_refused(app: AccountsApp, path: str, headers: dict[str, str]) -> None:
    client = app.logged_in("ada")
    answer = client.post(path, data={"name": "ada", "password": PASSWORD}, headers=headers)
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (403, False)
    assert client.get("/api/account").status_code == 200


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b'{"name": "ada"}', 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("", b"name=ada", 415),
        ("application/x-www-form-urlencoded", b"&".join([b"a=b"] * 11), 400),
        ("application/x-www-form-urlencoded", b"", 401),
        ("application/x-www-form-urlencoded; charset=utf-8", b"name=\xff\xfe&password=%ff%00%f0", 401),
        ("application/x-www-form-urlencoded", b"name=ada&name=ben&password", 401),
        ("application/x-www-form-urlencoded", b"x" * 64_001, 413),
    ],
)
def test_a_form_that_is_none_is_refused(client: TestClient, content_type: str, body: bytes, status: int) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = client.post("/login", content=body, headers=headers)
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (status, False)


def test_without_accounts_there_is_nothing_to_log_in_to(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    with open_accounts_app(tmp_path / "none.db", tiny_checkpoint) as app:
        answer = app.stranger().get("/login?next=/?c=5")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/?c=5")


def test_a_logout_forgets_the_session_and_what_the_browser_kept(app: AccountsApp) -> None:
    client = app.logged_in("ada")
    answer = client.post("/logout")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
    assert answer.headers["Clear-Site-Data"] == '"storage"'
    assert client.get("/api/account").status_code == 401


def test_a_logout_ends_the_session_for_its_copies_too_and_no_other(app: AccountsApp) -> None:
    client, other, copy = app.logged_in("ada"), app.logged_in("ada"), app.stranger()
    copy.cookies.set("parley_session", client.cookies["parley_session"])
    assert copy.get("/api/account").status_code == 200
    client.post("/logout")
    assert (copy.get("/api/account").status_code, other.get("/api/account").status_code) == (401, 200)


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("en-US,en;q=0.9,de;q=0.8", "en"),
        ("fr, de;q=0.5", "de"),
        ("en;q=0.2, de;q=0.7", "de"),
        ("de;q=0, en;q=0.1", "en"),
        ("fr", "en"),
        ("*", "en"),
        (";;,,q=x;=", "en"),
    ],
)
def test_the_page_speaks_its_readers_language(client: TestClient, accepted: str, language: str) -> None:
    assert preferred(accepted) == language
    page = client.get("/login", headers={"Accept-Language": accepted}).text
    assert f'<html lang="{language}">' in page
    assert ("Anmelden" if language == "de" else "Log in</button>") in page


# The real server


@pytest.fixture(scope="module")
def server(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server with one account."""
    data = tmp_path_factory.mktemp("server")
    parley(data, "user", "add", "ada", "--password-stdin", text=f"{PASSWORD}\n")
    server = Server(data, tiny_path)
    yield server
    assert server.end() == 0
    assert "Traceback" not in server.log


def parley(data: Path, *arguments: str, text: str = "") -> str:
    """Run a command on a data folder, and return what it prints."""
    ended = run_app(*arguments, "--data", str(data), text=text)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


@contextmanager
def enter(server: Server, name: str = "ada", password: str = PASSWORD) -> Iterator[httpx.Client]:
    """A client with a session."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        assert client.post("/login", data={"name": name, "password": password}).status_code == 303
        yield client


TRICKS = [
    "/../config",
    "/./config",
    "//config",
    "/%2e%2e/config",
    "/page/../config",
    "/page/..%2f..%2fconfig",
    "/page/%2e%2e/%2e%2e/app.py",
    "/page/../../page.py",
    "/page//etc/passwd",
    "/assets/../config",
    "/assets/..%2f..%2fconfig",
    "/assets/%2e%2e/%2e%2e/routes.py",
    "/assets//etc/passwd",
    "/widget/../config",
    "/widget/..%2fconfig",
    "/widget/static/../../settings.py",
    "/health/../config",
    "/login/../config",
    "/HEALTH",
    "http://evil.example/config",
    "/config?/health",
    "/config#/health",
    "/config;/page/x",
]


@pytest.mark.parametrize("target", TRICKS)
def test_no_trick_with_a_path_opens_the_gate(server: Server, target: str) -> None:
    """Sent as they are, which no client of HTTP would do."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        host = f"127.0.0.1:{server.port}"
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    status = int(answer.split()[1])
    assert status in (400, 401, 403, 404), answer[:500]
    assert b"root:" not in answer
    assert b"import" not in answer


GRADIOS = [
    ("GET", "/config"),
    ("GET", "/gradio_api/info"),
    ("GET", "/gradio_api/startup-events"),
    ("GET", "/gradio_api/app_id"),
    ("GET", "/gradio_api/heartbeat/x"),
    ("GET", "/gradio_api/file=/etc/passwd"),
    ("GET", "/gradio_api/queue/data?session_hash=x"),
    ("POST", "/gradio_api/queue/join"),
    ("POST", "/gradio_api/run/predict"),
    ("POST", "/login/"),
    ("GET", "/logout"),
    ("GET", "/token"),
    ("GET", "/user"),
    ("GET", "/theme.css"),
    ("GET", "/robots.txt"),
    ("GET", "/monitoring"),
    ("GET", "/static/img/logo.svg"),
    ("GET", "/api/openapi.json"),
    ("GET", "/api/events"),
    ("GET", "/api/temporary/events"),
]


@pytest.mark.parametrize(("method", "path"), GRADIOS)
def test_strangers_get_nothing_from_gradio_or_the_api(server: Server, method: str, path: str) -> None:
    answer = httpx.request(method, server.url + path, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "login_required")


def test_a_running_server_heeds_the_command_line_at_once(server: Server) -> None:
    data = Path(re.search(r"--data (\S+)", " ".join(server.process.args))[1])  # type: ignore[index, arg-type]
    parley(data, "user", "add", "ben", "--password-stdin", text="another password\n")
    with enter(server, "ben", "another password") as ben:
        assert ben.get("/api/account").json()["name"] == "ben"
        key = parley(data, "key", "add", "test", "--user", "ben", "--scope", "read").strip()
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{server.url}/api/conversations", headers=headers, timeout=60).status_code == 200
        [line] = parley(data, "key", "list", "--user", "ben").splitlines()
        parley(data, "key", "revoke", line.split()[0])
        assert httpx.get(f"{server.url}/api/conversations", headers=headers, timeout=60).status_code == 401
        parley(data, "user", "passwd", "ben", "--password-stdin", text="a third password\n")
        assert ben.get("/api/account").status_code == 401
    with enter(server, "ben", "a third password") as ben:
        parley(data, "user", "remove", "ben", "--yes")
        assert ben.get("/api/account").status_code == 401


def test_no_key_password_or_cookie_gets_into_the_log(server: Server) -> None:
    with enter(server) as client:
        key = client.post("/api/keys", json={"name": "test", "scopes": ["read"]}).json()["key"]
        wrong_password, cookie = "canary wrong password", client.cookies["parley_session"]
        client.headers["X-Request-Id"] = "watched"
        client.post("/login", data={"name": "canary-name", "password": wrong_password})
        client.post("/api/account/password", json={"old": wrong_password, "new": "short"})
        client.post("/api/users", json={"name": "x y", "password": wrong_password})
        client.post("/api/users", json={"name": "eve", "password": [wrong_password]})
        for sent in (key, key[:-1]):
            headers = {"Authorization": f"Bearer {sent}", "X-Request-Id": "watched"}
            httpx.get(f"{server.url}/api/conversations", headers=headers, timeout=60)
        eventually(lambda: server.log.count("id=watched") == 6)
        for secret in (PASSWORD, wrong_password, "canary", key[12:-1], cookie, cookie.split(".")[-1]):
            assert secret not in server.log


# A real browser


def fill_in(page: Page, name: str = "ada", password: str = PASSWORD) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


@pytest.mark.browser
def test_log_in_chat_log_out_and_the_back_button_shows_nothing(tabs: Tabs, server: Server) -> None:
    page = tabs.context.new_page()
    page.goto(server.url)
    expect(page).to_have_url(f"{server.url}/login")
    fill_in(page)
    expect(page.locator(BOX)).to_be_editable()
    send_short(page, "hello canary")
    wait_for_end(page)
    expect(row(page, "hello canary")).to_be_visible()
    chat = page.url
    page.evaluate("localStorage.setItem('parley.draft.new', 'canary')")
    log_out(page)
    expect(page).to_have_url(f"{server.url}/login")
    assert page.evaluate("localStorage.length") == 0
    page.go_back()
    expect(page).to_have_url(re.compile("/login"))
    assert "canary" not in page.content()
    page.goto(chat)
    expect(page.get_by_role("heading")).to_have_text("Log in to Parley")
    fill_in(page)
    expect(page).to_have_url(chat)
    expect(page.locator(".parley-user .parley-body")).to_have_text("hello canary")
    tabs.forget_errors()


def log_out(page: Page) -> None:
    """Send the form of a logout, as the page does."""
    page.evaluate(
        """() => {
          const form = document.createElement('form');
          Object.assign(form, { method: 'post', action: '/logout' });
          document.body.append(form);
          form.submit();
        }"""
    )


@pytest.mark.browser
@pytest.mark.parametrize("options", [{}, {"java_script_enabled": False}], ids=["with scripts", "without"])
def test_the_form_works_with_and_without_scripts(browser: Browser, server: Server, options: dict[str, Any]) -> None:
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(f"{server.url}/login?next=/api/account")
    expect(page.get_by_label("Name")).to_be_focused()
    fill_in(page, password="wrong")
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    expect(page.get_by_label("Name")).to_have_value("ada")
    expect(page.get_by_label("Password")).to_be_focused()
    expect(page.get_by_label("Password")).to_have_accessible_description("The name or the password is wrong.")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{server.url}/api/account")
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_the_page_is_accessible_and_fits(browser: Browser, server: Server, scheme: Any, width: int) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 640})
    page = context.new_page()
    page.goto(f"{server.url}/login")
    fill_in(page, password="wrong")
    expect(page.get_by_role("alert")).to_be_visible()
    assert [violation["id"] for violation in Axe().run(page).response["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
