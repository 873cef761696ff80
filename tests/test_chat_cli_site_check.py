"""`parley site check` tells what keeps a page from showing the chat, asking a real server as a browser would."""

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import run_app
from conftest import Server
from web_host import Answer, WebHost, serve_web


@pytest.fixture
def page() -> Iterator[WebHost]:
    with serve_web() as page:
        yield page


def site(data: Path, *arguments: str) -> list[str]:
    """Run `parley site`, and return what it prints."""
    done = run_app("site", *arguments, "--data", str(data))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_page_of_a_running_parley_is_checked(
    start_server: Callable[..., Server], tiny_path: Path, tmp_path: Path, page: WebHost
) -> None:
    server = start_server(tiny_path)
    site(tmp_path, "add", "The shop", "--origin", page.url)
    [shop] = json.loads(site(tmp_path, "list", "--json")[0])
    [line] = site(tmp_path, "snippet", shop["id"], "--url", server.url)
    page.answers["/"] = Answer(line)
    good = run_app("site", "check", page.url, "--data", str(tmp_path))
    assert good.stdout.splitlines()[-2:] == [
        f"ok: Parley at {server.url} gives the page the script and the frame.",
        "ok: The widget would load.",
    ]
    assert good.returncode == 0

    site(tmp_path, "set", shop["id"], "--origin", "https://shop.example", "--disabled")
    bad = run_app("site", "check", page.url, "--data", str(tmp_path), "--json")
    assert bad.returncode == 1
    findings = json.loads(bad.stdout)["findings"]
    assert [finding["code"] for finding in findings if finding["level"] == "error"] == [
        "site_disabled",
        "origin_not_listed",
        "frame_refused",
        "verdict",
    ]
    advice, _, command = findings[1]["fix"].partition(" with: ")
    assert advice == "Add it to the pages that may show it, in the tab Sites or"
    assert command == f"parley site set {shop['id']} --origin https://shop.example --origin {page.url}"
    assert "has this site switched off" in findings[2]["text"]

    for finding in findings[:2]:
        site(tmp_path, *shlex.split(finding["fix"].partition("parley site ")[2]))
    assert run_app("site", "check", page.url, "--data", str(tmp_path)).returncode == 0


def test_a_page_without_the_place_that_its_tag_names_is_no_success(tmp_path: Path, page: WebHost) -> None:
    site(tmp_path, "add", "The shop", "--origin", page.url)
    [shop] = json.loads(site(tmp_path, "list", "--json")[0])
    [line] = site(tmp_path, "snippet", shop["id"], "--url", page.url)
    page.answers["/"] = Answer(line.replace("defer", 'data-target="#nope"'))
    done = run_app("site", "check", page.url, "--data", str(tmp_path))
    assert done.returncode == 1
    assert any(
        line.startswith("error: Nothing in the page's HTML has the id nope") for line in done.stdout.splitlines()
    )


def test_where_parley_is_can_be_said(tmp_path: Path, page: WebHost) -> None:
    page.answers["/"] = Answer("<script></script>")
    done = run_app("site", "check", page.url, "--url", "http://127.0.0.1:9", "--data", str(tmp_path))
    assert done.returncode == 1
    first, fix = done.stdout.splitlines()[:2]
    assert first.startswith("error: Parley does not answer: http://127.0.0.1:9 cannot be connected to")
    assert fix == "  Start Parley there, or load the widget from where it is."


@pytest.mark.parametrize(
    "arguments", [["ftp://shop.example"], ["https://u:p@shop.example"], ["http://x", "--url", "x"], []]
)
def test_a_wrong_use_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    done = run_app("site", "check", *arguments, "--data", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("parley: ")
    assert len(done.stderr.splitlines()) == 1
