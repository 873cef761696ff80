"""Accounts, API keys and users in the page, in a real browser on a real server."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from conftest import Server
from page_driver import BOX, Tabs, log_in, open_panel, open_part, row, send_short, wait_for_end
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.browser

ADMIN = ("ada", "correct horse battery")
USER = ("bob", "staple battery horse")


@pytest.fixture(scope="module")
def server(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two accounts, the first of which is an administrator."""
    server = Server(tmp_path_factory.mktemp("server"), tiny_path)
    with httpx.Client(base_url=server.url) as client:
        for name, password in (ADMIN, USER):
            answer = client.post("/api/users", json={"name": name, "password": password})
            assert answer.status_code == 201, answer.text
            client.post("/login", data={"name": ADMIN[0], "password": ADMIN[1]})
        assert client.put("/api/presets/of ada", json={"system_prompt": "Be Ada."}).status_code == 200
    yield server
    assert server.end() == 0
    assert "Traceback" not in server.log


@pytest.fixture
def open_as(browser: Browser, server: Server) -> Iterator[Callable[[tuple[str, str]], Page]]:
    """A function that opens the page for an account, in a window of its own; the server may refuse what it asks for."""
    windows: list[Tabs] = []

    def open_as(account: tuple[str, str]) -> Page:
        windows.append(Tabs(browser))
        log_in(windows[-1], server, *account)
        return windows[-1].open(server.url)

    yield open_as
    for tabs in windows:
        tabs.errors = [error for error in tabs.errors if "the server responded with a status of 4" not in error]
        tabs.close()


def test_the_first_account_is_made_in_the_page_and_then_everybody_has_to_log_in(
    tabs: Tabs, start_server: Callable[..., Server], tiny_path: Path
) -> None:
    server = start_server(tiny_path)
    page = tabs.open(server.url)
    send_short(page, "Before there were accounts.")
    wait_for_end(page)
    part = open_part(page, "Settings", "account")
    expect(part).to_contain_text("Whoever reaches this page on this machine is its owner.")
    part.get_by_text("Make the first account").click()
    part.get_by_label("Name").fill(ADMIN[0])
    part.get_by_label("Password").fill(ADMIN[1])
    part.get_by_role("button", name="Create account").click()
    expect(page).to_have_url(re.compile(r"/login\?next=/$"))
    tabs.forget_errors()  # the page's stream may have been refused by then
    assert httpx.get(f"{server.url}/api/conversations").status_code == 401
    page.locator("input[name=name]").fill(ADMIN[0])
    page.locator("input[name=password]").fill(ADMIN[1])
    page.keyboard.press("Enter")
    expect(page.locator(BOX)).to_be_editable()
    expect(row(page, "accounts")).to_be_visible()
    expect(open_part(page, "Settings", "account")).to_contain_text("adaAdministrator")
    page.close()  # before its server is ended


def test_a_key_made_in_the_page_opens_the_api_until_it_is_revoked(open_as: Callable[..., Page], server: Server) -> None:
    page = open_as(USER)
    part = open_part(page, "Settings", "keys")
    part.locator("summary").click()
    part.get_by_label("Name").fill("notebook")
    part.get_by_label("read", exact=True).check()
    part.get_by_role("button", name="Create key").click()
    expect(part).to_contain_text("It is shown this once")
    key = part.locator(".parley-copyable code").first.inner_text()
    expect(part.locator(".parley-copyable code").last).to_contain_text(f'base_url="{server.url}/v1"')
    bearer = {"Authorization": f"Bearer {key}"}
    assert httpx.get(f"{server.url}/api/conversations", headers=bearer).status_code == 200
    assert httpx.post(f"{server.url}/api/conversations", headers=bearer, json={}).status_code == 403
    card = part.locator(".parley-card", has_text="notebook")
    expect(card).to_contain_text("Never used")
    card.get_by_role("button", name="Revoke").click()
    expect(card).to_contain_text("Programs that use it are refused from now on.")
    card.get_by_role("button", name="Revoke").click()
    expect(card).to_have_count(0)
    assert httpx.get(f"{server.url}/api/conversations", headers=bearer).status_code == 401


def test_an_ordinary_user_sees_nothing_that_is_for_administrators(open_as: Callable[..., Page], server: Server) -> None:
    page = open_as(USER)
    open_panel(page, "Data")
    expect(page.get_by_role("button", name="Retention")).to_be_visible()
    expect(page.get_by_role("button", name="Backup")).to_be_hidden()
    expect(open_part(page, "Settings", "account")).to_contain_text("bob")
    for hidden in ("#users", "#model-choice", "#data-folder"):
        expect(page.locator(hidden)).to_be_hidden()
    told = page.request.get(f"{server.url}/").text() + page.request.get(f"{server.url}/config").text()
    assert "/server" not in told  # the name of the data folder
    assert "tiny.gguf" not in told


def test_an_administrator_sees_where_the_data_and_the_model_are(open_as: Callable[..., Page]) -> None:
    page = open_as(ADMIN)
    open_panel(page, "Settings")
    expect(page.locator("#data-folder :is(input, textarea)")).to_have_value(re.compile("server"))
    expect(page.locator("#model-name input")).to_have_value(re.compile(r"tiny\.gguf"))


def test_each_has_their_own_presets_and_conversations(open_as: Callable[..., Page]) -> None:
    ada, bob = open_as(ADMIN), open_as(USER)
    send_short(ada, "A secret of Ada.")
    wait_for_end(ada)
    expect(row(ada, "Ada")).to_be_visible()
    for page, n_own in ((ada, 1), (bob, 0)):
        page.bring_to_front()
        open_panel(page, "Chat")
        page.click("#preset input")
        expect(page.get_by_role("option", name="sentiment")).to_be_visible()
        assert page.get_by_role("option", name="of ada").count() == n_own
    expect(bob.locator("parley-sidebar")).not_to_contain_text("Ada")


def test_an_account_is_added_changed_and_removed(open_as: Callable[..., Page]) -> None:
    page = open_as(ADMIN)
    part = open_part(page, "Settings", "users")
    part.get_by_text("Add a user").first.click()
    adding = part.locator("details", has_text="Add a user").last
    adding.get_by_label("Name").fill("mallory")
    adding.get_by_label("Password").fill("a password of hers")
    adding.get_by_role("button", name="Add a user").click()
    card = part.locator(".parley-card", has_text="mallory")
    expect(card).to_contain_text("0 conversations · 0 messages · 0 tokens · never active")
    card.get_by_role("button", name="Make administrator").click()
    expect(card).to_contain_text("Administrator")
    card.get_by_role("button", name="Remove").click()
    expect(card).to_contain_text("All of theirs is erased for good")
    card.get_by_role("button", name="Cancel").click()
    expect(card).to_have_count(1)
    card.get_by_role("button", name="Remove").click()
    card.get_by_role("button", name="Remove").click()
    expect(card).to_have_count(0)
    own = part.locator(".parley-card", has_text="ada")
    expect(own.get_by_role("button", name="Remove")).to_have_count(0)
    expect(own).not_to_contain_text("New password")  # which asks for the old one in the part on the account
    expect(part.locator(".parley-card", has_text="bob")).to_contain_text("New password")


def test_the_last_administrator_stays_one_and_the_page_says_so(open_as: Callable[..., Page]) -> None:
    page = open_as(ADMIN)
    own = open_part(page, "Settings", "users").locator(".parley-card", has_text="ada")
    own.get_by_role("button", name="Make ordinary user").click()
    expect(own.get_by_role("alert")).to_contain_text("administrator")


def test_the_password_is_changed_by_whoever_knows_it(open_as: Callable[..., Page], server: Server) -> None:
    page = open_as(USER)
    part = open_part(page, "Settings", "account")
    part.locator("summary").click()
    for old, new, said in (
        ("not the password", "another password", "password"),
        (USER[1], "short", ""),
        (USER[1], "another password", "The password is changed."),
        ("another password", USER[1], "The password is changed."),
    ):
        part.get_by_label("Password until now").fill(old)
        part.get_by_label("New password").fill(new)
        part.get_by_role("button", name="Change password").click()
        expect(part.locator("parley-account [role=status]").last).to_contain_text(said)
    page.reload()
    expect(page.locator(BOX)).to_be_editable()  # this session goes on


def test_a_session_that_has_ended_leads_to_the_login_and_back_to_what_was_written(
    open_as: Callable[..., Page], server: Server
) -> None:
    page = open_as(USER)
    send_short(page, "Where was I?")
    wait_for_end(page)
    page.fill(BOX, "half a thou")
    url = page.url
    with httpx.Client(base_url=server.url) as other:
        other.post("/login", data={"name": USER[0], "password": USER[1]})
        assert other.post("/api/account/logout-everywhere").status_code == 204
    page.press(BOX, "Enter")
    expect(page).to_have_url(re.compile(r"/login\?next="))
    page.locator("input[name=name]").fill(USER[0])
    page.locator("input[name=password]").fill(USER[1])
    page.keyboard.press("Enter")
    expect(page).to_have_url(url)
    expect(page.locator(BOX)).to_have_value("half a thou")


def test_who_logs_out_leaves_no_draft_behind(open_as: Callable[..., Page], server: Server) -> None:
    page = open_as(USER)
    page.fill(BOX, "between us")
    open_part(page, "Settings", "account").get_by_role("button", name="Log out", exact=True).click()
    expect(page).to_have_url(re.compile("/login"))
    page.request.post(f"{server.url}/login", form={"name": ADMIN[0], "password": ADMIN[1]})
    page.goto(server.url)
    expect(page.locator(BOX)).to_have_value("")
