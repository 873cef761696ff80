"""By which names the server is reached."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Server
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse

from chat.accounts import Accounts
from chat.api.hosts import Hosts
from chat.data_folder import open_database
from chat.settings import SettingsError, load_settings
from storage.accounts import AccountStore

PASSWORD = "correct horse battery"


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.add_middleware(Hosts, names=["chat.example"])
    app.add_api_route("/{path:path}", lambda: PlainTextResponse("in"))
    return TestClient(app)


OURS = ["localhost", "LocalHost:7860", "127.0.0.1:80", "192.0.2.7", "[::1]:7860", "[2001:db8::1]", "Chat.Example:443"]
STRANGE = [
    "evil.example",
    "chat.example.evil.example",
    "127.0.0.1.evil.example",
    "evil.example#localhost",
    "localhost@evil.example",
    "localhost/../?",
    "localhost:port",
    "localhost:123456",
    "localhost:80:80",
    "localhost, evil.example",
    "localhost\t",
    "[::1",
    "[::1]evil.example",
    "[localhost]",
    "[127.0.0.1]",
    "::1",
    "127.1",
    "0x7f.0.0.1",
    "2130706433",
    "127.0.0.01",
    "",
    ".",
    "\u00e4.example",
]


@pytest.mark.parametrize("host", OURS)
def test_an_address_and_a_name_of_ours_is_answered(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).text == "in"


@pytest.mark.parametrize("host", STRANGE)
def test_any_other_host_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/", headers={"Host": host.encode("latin-1")})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (400, "invalid_request_error", "unknown_host")
    assert error["message"].startswith("Host: expected an address, localhost or a name of the setting hosts, got '")
    assert "\n" not in error["message"]


def test_two_hosts_are_refused_though_both_are_ours(client: TestClient) -> None:
    assert client.get("/", headers=[("Host", "localhost"), ("Host", "127.0.0.1")]).status_code == 400


@pytest.mark.parametrize("hosts", ["*", "*.example", "https://chat.example", "chat.example:443", "a b", "."])
def test_a_setting_that_names_no_host_is_refused(hosts: str) -> None:
    with pytest.raises(SettingsError, match=r"^--hosts or PARLEY_HOSTS: must be names such as chat\.example\.org"):
        load_settings(hosts=hosts)


@pytest.mark.parametrize("proxies", ["*", "proxy.example", "10.0.0.1/8", "127.0.0.1:80"])
def test_a_setting_that_names_no_proxy_is_refused(proxies: str) -> None:
    with pytest.raises(SettingsError, match=r"^--proxies or PARLEY_PROXIES: must be addresses or networks such as"):
        load_settings(proxies=proxies)


def test_settings_are_lists_with_commas_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_HOSTS", " Chat.Example, other.example,")
    monkeypatch.setenv("PARLEY_PROXIES", "127.0.0.1, 10.0.0.0/8, ::1")
    settings = load_settings()
    assert settings.hosts == ("chat.example", "other.example")
    assert settings.proxies == ("127.0.0.1/32", "10.0.0.0/8", "::1/128")


# The real server


@pytest.fixture(scope="module")
def server(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("hosts")
    with open_database(data) as database:  # others can reach it, so there must be somebody who logs in
        Accounts(AccountStore(database)).add("ada", PASSWORD, is_admin=True)
    server = Server(data, tiny_path, 0, "--hosts", "chat.example,Other.example", "--proxies", "192.0.2.1")
    yield server
    assert server.end() == 0


def ask(server: Server, path: str, *hosts: str) -> int:
    """Return the status of the answer to a request with these Host headers."""
    lines = [f"GET {path} HTTP/1.1", *(f"Host: {host}" for host in hosts), "Connection: close"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"))
        return int(connection.makefile("rb").readline().split()[1])


PATHS = ["/", "/config", "/gradio_api/info", "/api/conversations", "/v1/models", "/widget.js", "/page/page.js"]
PATHS += ["/health", "/metrics", "/login", "/no-such-page"]


@pytest.mark.parametrize("path", PATHS)
def test_a_rebound_name_is_refused_everywhere(server: Server, path: str) -> None:
    assert ask(server, path, "evil.example") == 400


@pytest.mark.parametrize("hosts", [[], [""], ["x/../?"], ["@evil.example"], ["localhost", "localhost"]])
def test_a_host_that_is_none_is_refused(server: Server, hosts: list[str]) -> None:
    assert ask(server, "/health", *hosts) == 400


@pytest.mark.parametrize("target", ["@evil.example", "http://evil.example/health", "//evil.example/health"])
def test_what_is_asked_for_cannot_name_another_host(server: Server, target: str) -> None:
    assert ask(server, target, "localhost") in (303, 400, 401, 404)


@pytest.mark.parametrize("host", ["chat.example", "other.example", "localhost", "192.0.2.7:7860", "[::1]"])
def test_configured_names_and_addresses_reach_it(server: Server, host: str) -> None:
    assert ask(server, "/health", host) == 200
