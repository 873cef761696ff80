"""What the page's document begins with."""

import inspect
import subprocess
import sys

import pytest
from conftest import ROOT
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from chat.identity import Identity
from chat.ui.head import Head
from chat.ui.quick_import import import_gradio

ACCOUNT = '<meta name="parley-account" content="ada">'
PAGE = "<!doctype html><html><head><title>é</title></head><body></body></html>"


def client_of(app: ASGIApp, head: str, *, is_admin: bool = False) -> TestClient:
    """Return a client of an application whose page has a head, for an administrator or for others."""
    with_head = Head(app, head, "<meta>")

    async def identified(scope: Scope, receive: Receive, send: Send) -> None:
        await with_head({**scope, "identity": Identity("someone", "ada", is_admin)}, receive, send)

    return TestClient(identified)


@pytest.fixture
def client() -> TestClient:
    routes = [
        Route("/", lambda request: HTMLResponse(PAGE)),
        Route("/other", lambda request: HTMLResponse(PAGE)),
    ]
    return client_of(Starlette(routes=routes), "<script></script>")


def test_the_page_begins_with_the_head(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.text == PAGE.replace("<head>", f"<head><script></script>{ACCOUNT}")
    assert int(answer.headers["Content-Length"]) == len(answer.content)


def test_everything_else_stays_as_it_is(client: TestClient) -> None:
    assert client.get("/other").text == PAGE


def test_a_page_that_comes_in_pieces_is_changed_too() -> None:
    pieces = Route("/", lambda request: StreamingResponse(iter([PAGE[:18], PAGE[18:]]), media_type="text/html"))
    assert "<head>?" in client_of(Starlette(routes=[pieces]), "?").get("/").text


def test_administrators_are_told_more() -> None:
    page = Starlette(routes=[Route("/", lambda request: HTMLResponse(PAGE))])
    assert client_of(page, "?", is_admin=True).get("/").text == PAGE.replace("<head>", f"<head>?{ACCOUNT}<meta>")


def test_the_page_is_not_asked_for_compressed() -> None:
    asked = Route("/", lambda request: HTMLResponse(f"<head>{request.headers.get('accept-encoding')}"))
    assert client_of(Starlette(routes=[asked]), "").get("/").text == f"<head>{ACCOUNT}None"


def test_gradio_is_imported_and_python_left_as_it_was() -> None:
    getfile = inspect.getfile
    import_gradio()
    assert inspect.getfile is getfile


def test_what_gradio_seldom_needs_is_there_once_it_is_asked_for() -> None:
    program = """
import sys
from chat.ui.quick_import import import_gradio
import_gradio()
import inspect, gradio.caching
inspect.getmodule(print)  # looks through all modules
assert "pandas.core" not in sys.modules
from pandas.io.formats.style import Styler
assert gradio.caching.pd.DataFrame is sys.modules["pandas"].DataFrame
"""
    assert complaints(program) == ""


def test_tables_can_be_written_though_gradio_is_imported_without_pandas() -> None:
    program = """
from chat.ui.quick_import import import_gradio
import_gradio()
import pyarrow
assert pyarrow.Table.from_pylist([{"a": 1}]).to_pandas()["a"][0] == 1
"""
    assert complaints(program) == ""


def complaints(program: str) -> str:
    """Run a program in a Python of its own, and return what that says has gone wrong."""
    child = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    return child.stderr if child.returncode else ""
