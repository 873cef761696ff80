"""POST /highlight tells the parts of a code and loses none of it."""

import json

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from route_client import client_of

from chat.api import highlight as module
from chat.api.highlight import MAX_CODE, MAX_LINE, highlight, highlight_routes

LANGUAGES = ["python", "javascript", "c", "html", "bash", "diff", "json", "console", "pycon", "markdown", "sql", "css"]


@pytest.fixture
def client() -> TestClient:
    return client_of(highlight_routes())


def test_the_parts_of_a_code_are_told(client: TestClient) -> None:
    code = 'def half(x):  # of it\n    return x / 2 + len("é")\n'
    answer = client.post("/api/highlight", json={"code": code, "language": "python"}).json()
    assert [(part["kind"], part["text"]) for part in answer["parts"]] == [
        ("keyword", "def"),
        (None, " "),
        ("name", "half"),
        (None, "(x):  "),
        ("comment", "# of it"),
        (None, "\n    "),
        ("keyword", "return"),
        (None, " x "),
        ("operator", "/"),
        (None, " "),
        ("number", "2"),
        (None, " "),
        ("operator", "+"),
        (None, " "),
        ("name", "len"),
        (None, "("),
        ("string", '"é"'),
        (None, ")\n"),
    ]


def test_added_and_removed_lines_are_told() -> None:
    assert highlight("-a\n+b\n", "diff") == [("deleted", "-a"), (None, "\n"), ("inserted", "+b"), (None, "\n")]


@pytest.mark.parametrize("language", ["klingon", "", "<script>", "../../etc/passwd", "PYTHON3000"])
def test_an_unknown_language_is_plain(client: TestClient, language: str) -> None:
    answer = client.post("/api/highlight", json={"code": "def f():", "language": language})
    assert (answer.status_code, answer.json()) == (200, {"parts": [{"kind": None, "text": "def f():"}]})


@settings(deadline=None)  # each language is loaded once
@given(code=st.text(st.sampled_from("ab1 \n\r\t\"'`\\/*#<>{}()$-+=:.;é中\ufeff\0"), max_size=60) | st.text(max_size=40))
def test_the_parts_together_are_the_code_in_any_language(code: str) -> None:
    for language in LANGUAGES:
        assert "".join(text for _, text in highlight(code, language)) == code


@pytest.mark.parametrize("code", ["return\n" * (MAX_CODE // 7), "return" + " " * (MAX_LINE - 6)])
def test_longer_code_and_longer_lines_are_plain(code: str) -> None:
    longer = code + " " * 8
    assert highlight(code, "python")[0] == ("keyword", "return")
    assert highlight(longer, "python") == [(None, longer)]


def test_what_comes_after_the_time_is_over_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SECONDS", -1.0)
    assert highlight("return 1", "python") == [(None, "return 1")]


def test_no_code_has_no_parts() -> None:
    assert highlight("", "python") == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"code": 5, "language": "c"}, "code"),
        ({"code": "\ud800", "language": "c"}, "code"),
        ({"code": ""}, "language"),
        ({"code": "", "language": "x" * 101}, "language"),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, body: dict[str, object], param: str) -> None:
    content = json.dumps(body).encode()  # ASCII, so that half of a surrogate pair can be sent
    answer = client.post("/api/highlight", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
