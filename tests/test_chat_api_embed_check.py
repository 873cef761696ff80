"""/sites/{site_id}/check tells what keeps a page from showing a site's chat, and looks only where it may."""

import threading
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from route_client import client_of, no_model
from web_host import Answer, WebHost, serve_web

from chat.api.embed_check import CHECKS_PER_MINUTE, check_routes
from chat.api.identity import current_identity
from chat.identity import Identity
from chat.settings import Settings
from chat.sites import NewSite, Sites
from chat.workspace import Workspace, open_workspace
from storage.database import Database
from storage.tables import Site

PARLEY = "http://testserver"  # as the client calls it


@pytest.fixture
def workspace(database: Database) -> Iterator[Workspace]:
    with open_workspace(database, no_model) as workspace:
        yield workspace


@pytest.fixture
def client(workspace: Workspace) -> TestClient:
    return client_of(check_routes(workspace, Settings(hosts=("chat.example",))))


@pytest.fixture
def page() -> Iterator[WebHost]:
    with serve_web() as page:
        yield page


@pytest.fixture
def site(workspace: Workspace, page: WebHost) -> Site:
    site = Sites(workspace.sites, workspace.presets).create("local", NewSite(name="The shop", origins=[page.url]))
    page.answers["/"] = Answer(f'<script src="http://localhost:7860/widget.js" data-site="{site.key}" defer></script>')
    return site


def become(client: TestClient, identity: Identity) -> None:
    assert isinstance(client.app, FastAPI)
    client.app.dependency_overrides[current_identity] = lambda: identity


def test_an_administrator_learns_that_all_is_well(client: TestClient, page: WebHost, site: Site) -> None:
    answer = client.post(f"/api/sites/{site.id}/check", json={"url": page.url})
    assert answer.status_code == 200
    findings = answer.json()["findings"]
    assert findings[-1] == {"code": "verdict", "level": "ok", "text": "The widget would load.", "fix": None}
    assert [path for path, _ in page.asked] == ["/"]


def test_what_is_wrong_is_told(client: TestClient, page: WebHost, site: Site) -> None:
    page.answers["/"].body = str(page.answers["/"].body).replace("localhost:7860", "other.example")
    found = client.post(f"/api/sites/{site.id}/check", json={"url": page.url}).json()["findings"]
    assert (found[0]["code"], found[0]["level"]) == ("wrong_host", "error")
    assert found[0]["fix"] == f"Load it from {PARLEY}, or add the name to the setting `hosts`."
    assert found[-1]["level"] == "error"


@pytest.mark.parametrize("host", ["http://testserver", "http://chat.example"])
def test_the_names_that_parley_answers_to_are_good(client: TestClient, page: WebHost, site: Site, host: str) -> None:
    page.answers["/"].body = str(page.answers["/"].body).replace("localhost:7860", host.removeprefix("http://"))
    found = client.post(f"/api/sites/{site.id}/check", json={"url": page.url}).json()["findings"]
    assert "wrong_host" not in [finding["code"] for finding in found]


@pytest.mark.parametrize(
    "identity",
    [
        Identity("local", "ada", is_admin=False),
        Identity("local", "ada", is_admin=True, scopes=frozenset({"write"})),  # a key is not a person
    ],
)
def test_only_an_administrator_has_it_look_inside(
    client: TestClient, page: WebHost, site: Site, identity: Identity
) -> None:
    become(client, identity)
    found = client.post(f"/api/sites/{site.id}/check", json={"url": page.url}).json()["findings"]
    assert [finding["code"] for finding in found] == ["page_unreachable", "verdict"]
    assert "is not on the public internet" in found[0]["text"]
    assert page.asked == []


def test_another_owners_site_is_none(client: TestClient, page: WebHost, site: Site) -> None:
    become(client, Identity("eve", "eve", is_admin=True))
    assert client.post(f"/api/sites/{site.id}/check", json={"url": page.url}).status_code == 404
    assert page.asked == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "url: field required"),
        ({"url": 5}, "url: input should be a valid string, got 5"),
        ({"url": "file:///etc/passwd"}, "url: must begin with http:// or https://"),
        ({"url": "https://u:p@shop.example"}, "url: must have no user name and no password"),
        ({"url": "x" * 2_001}, "url: string should have at most 2000 characters"),
        ({"url": "https://shop.example", "depth": 3}, "depth: extra inputs are not permitted"),
    ],
)
def test_what_is_no_page_is_refused(client: TestClient, site: Site, body: object, reason: str) -> None:
    answer = client.post(f"/api/sites/{site.id}/check", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(reason)
    assert answer.json()["error"]["param"] == reason.partition(":")[0]


def test_there_is_an_end_to_what_one_owner_may_check(client: TestClient, page: WebHost, site: Site) -> None:
    statuses = [client.post(f"/api/sites/{site.id}/check", json={"url": page.url}).status_code for _ in range(8)]
    assert statuses == [200] * CHECKS_PER_MINUTE + [429] * 2
    assert len(page.asked) == CHECKS_PER_MINUTE


def test_one_page_is_checked_at_a_time(client: TestClient, page: WebHost, site: Site) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    class Waiting(dict[str, Answer]):
        def get(self, path: str, default: Answer) -> Answer:  # type: ignore[override]
            asked.set()
            may_answer.wait(30)
            return super().get(path, default)

    page.answers = Waiting(page.answers)
    statuses: list[int] = []

    def check() -> None:
        statuses.append(client.post(f"/api/sites/{site.id}/check", json={"url": page.url}).status_code)

    first = threading.Thread(target=check)
    first.start()
    assert asked.wait(30)
    answer = client.post(f"/api/sites/{site.id}/check", json={"url": page.url})
    may_answer.set()
    first.join()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")
    check()
    assert statuses == [200, 200]
