"""The address by which a request is counted, and whose word is taken for it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

import httpx
import pytest
from event_readers import eventually
from fastapi import FastAPI, Request

from chat.api.addresses import address_of
from chat.api.web_server import WebServer
from chat.model_host import ModelHost
from chat.settings import load_settings


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("unknown", "nowhere"),
        ("x" * 10_000, "nowhere"),
    ],
)
def test_an_address_is_counted_with_those_of_its_home(host: str, expected: str) -> None:
    assert address_of({"client": (host, 1)}) == expected


def test_a_request_of_no_address_is_counted_too() -> None:
    assert address_of({"client": None}) == address_of({}) == "nowhere"


# The real web server, and proxies in front of it


@contextmanager
def serve(proxies: str) -> Iterator[str]:
    """Serve what tells where a request comes from; yields the address."""
    app = FastAPI()

    def tell(request: Request) -> list[str]:
        return [address_of(request.scope), request.scope["scheme"]]

    app.add_api_route("/", tell)
    with socket.create_server(("127.0.0.1", 0)) as listener, closing(ModelHost(cast(Any, None))) as host:
        server = WebServer(app, load_settings(proxies=proxies), host, [])
        thread = threading.Thread(target=server.serve_on, args=(listener,))
        thread.start()
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


FORGED = {"X-Forwarded-For": "198.51.100.1", "X-Forwarded-Proto": "https", "Forwarded": "for=198.51.100.1;proto=https"}


@pytest.mark.parametrize("proxies", ["", "192.0.2.1"])
def test_what_a_client_says_of_itself_changes_nothing(proxies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # uvicorn's own setting is none of ours
    with serve(proxies) as url:
        assert httpx.get(url, headers=FORGED).json() == ["127.0.0.1", "http"]


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("203.0.113.9, 198.51.100.1", "198.51.100.1"),  # the proxy adds to what the client has forged
        ("198.51.100.1, 127.0.0.1", "198.51.100.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("rubbish", "nowhere"),
    ],
)
def test_a_proxy_of_the_settings_is_believed(forwarded: str, expected: str) -> None:
    with serve("10.0.0.0/8, 127.0.0.1") as url:
        headers = {"X-Forwarded-For": forwarded, "X-Forwarded-Proto": "https"}
        assert httpx.get(url, headers=headers).json() == [expected, "https"]
