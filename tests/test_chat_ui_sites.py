"""Sites in the page: made, put on a page, previewed and checked, in a real browser on a real server.

Every test ends by checking that the page asked no other host for anything and logged no error.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Server
from page_driver import BOX, REPLY, Tabs, open_panel, row
from playwright.sync_api import Frame, FrameLocator, Locator, Page, expect
from web_host import Answer, WebHost, serve_web

pytestmark = pytest.mark.browser

ICON = '<link rel="icon" href="data:,">'


@pytest.fixture(scope="module")
def server(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), tiny_path)
    yield server
    assert server.end() == 0
    assert "Traceback" not in server.log


@pytest.fixture(scope="module")
def shop() -> Iterator[WebHost]:
    """A website of another origin."""
    with serve_web() as host:
        yield host


@pytest.fixture
def site(server: Server, shop: WebHost) -> dict[str, Any]:
    """A site that no other test uses."""
    appearance = {"title": "Help", "greeting": "Welcome to the shop!", "language": "en"}
    new = {"name": "The shop", "origins": ["https://shop.example", shop.url], "appearance": appearance}
    made: dict[str, Any] = httpx.post(f"{server.url}/api/sites", json=new).raise_for_status().json()
    return made


@pytest.fixture
def page(tabs: Tabs, server: Server, site: dict[str, Any]) -> Iterator[Page]:
    """The page with the site open in its panel."""
    page = tabs.open(server.url)
    open_panel(page, "Sites")
    page.locator(f"[data-site-id='{site['id']}']").click()
    yield page
    httpx.delete(f"{server.url}/api/sites/{site['id']}")


def panel(page: Page) -> Locator:
    return page.locator("parley-sites")


def is_widget(frame: Frame) -> bool:
    return "/widget/pub_" in frame.url


def preview(page: Page) -> Frame:
    """Return the frame of the chat; it is in a closed shadow root."""
    found = [frame for frame in page.frames if is_widget(frame)]
    return found[-1] if found else page.wait_for_event("framenavigated", predicate=is_widget)


def host(page: Page) -> FrameLocator:
    """Return the page in which the preview has the chat."""
    return page.frame_locator(".parley-preview")


@contextmanager
def anew(page: Page) -> Iterator[None]:
    """Wait for the preview to be there anew after what is done."""
    preview(page)
    with page.expect_event("framenavigated", predicate=is_widget):
        yield


def save(page: Page) -> None:
    """Save the settings, and wait for the preview to be there anew."""
    with anew(page):
        panel(page).get_by_role("button", name="Save").click()


def show_chat(page: Page) -> Frame:
    """Have the preview show the chat from the beginning, and return its frame."""
    with anew(page):
        panel(page).get_by_label("Open at once").check()
    return preview(page)


def unfold(page: Page, part: str) -> None:
    panel(page).locator("summary", has_text=part).click()


def stored(server: Server, site: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/api/sites/{site['id']}").json()
    return found


def ask_for(page: Page, thing: str) -> None:
    """Write to the site as its visitor does, and wait for the list to have it."""
    box = show_chat(page).get_by_role("textbox")
    box.fill(f"Is there a {thing}?")
    box.press("Enter")
    expect(row(page, thing)).to_be_visible()


def test_a_site_is_made_in_the_page(tabs: Tabs, server: Server) -> None:
    page = tabs.open(server.url)
    open_panel(page, "Sites")
    expect(panel(page)).to_contain_text("There are no sites yet.")
    panel(page).get_by_role("button", name="New site").click()
    panel(page).get_by_label("Name").fill("Blog")
    panel(page).get_by_label("Pages that may show it").fill("https://blog.example\n\n  https://*.blog.example ")
    panel(page).get_by_role("button", name="Create site").click()
    expect(panel(page).get_by_role("heading", name="Blog")).to_be_focused()
    panel(page).get_by_role("button", name="Back to all sites").click()
    card = panel(page).get_by_role("button", name="Blog")
    expect(card).to_be_focused()
    expect(card).to_contain_text("https://blog.example https://*.blog.example")
    expect(card).to_contain_text("0 conversations")
    [site] = httpx.get(f"{server.url}/api/sites").json()["sites"]
    httpx.delete(f"{server.url}/api/sites/{site['id']}")


def test_what_is_no_origin_is_refused_and_the_page_says_why(page: Page, tabs: Tabs) -> None:
    unfold(page, "Settings of the site")
    panel(page).get_by_label("Pages that may show it").fill("shop.example")
    panel(page).get_by_role("button", name="Save").click()
    alert = panel(page).get_by_role("alert")
    expect(alert).to_have_text(
        "Pages that may show it: expected scheme and host as in https://shop.example, got 'shop.example'"
    )
    tabs.forget_errors()


def test_a_refusal_is_taken_away_when_the_browser_stops_the_next_try(page: Page, tabs: Tabs) -> None:
    unfold(page, "Settings of the site")
    panel(page).get_by_label("Pages that may show it").fill("shop.example")
    panel(page).get_by_role("button", name="Save").click()
    expect(panel(page).get_by_role("alert")).to_be_visible()
    panel(page).get_by_label("Name").fill("")
    panel(page).get_by_role("button", name="Save").click()
    expect(panel(page).get_by_role("alert")).to_have_count(0)
    tabs.forget_errors()


def test_a_new_sites_refusal_names_the_field_as_the_form_does(tabs: Tabs, server: Server) -> None:
    page = tabs.open(server.url)
    open_panel(page, "Sites")
    panel(page).get_by_role("button", name="New site").click()
    panel(page).get_by_label("Name").fill("Blog")
    panel(page).get_by_label("Pages that may show it").fill("https://blog.example\nnull")
    panel(page).get_by_role("button", name="Create site").click()
    expect(panel(page).get_by_role("alert")).to_contain_text(re.compile("^Pages that may show it: .*got 'null'$"))
    tabs.forget_errors()


def test_the_snippet_is_what_puts_the_chat_on_a_page(
    page: Page, tabs: Tabs, server: Server, site: dict[str, Any], shop: WebHost
) -> None:
    snippet = panel(page).locator(".parley-copyable code").first
    plain = f'<script src="{server.url}/widget.js" data-site="{site["key"]}" defer></script>'
    expect(snippet).to_have_text(plain)
    panel(page).get_by_label("Open at once").check()
    expect(snippet).to_have_text(plain.replace(" defer", " data-open defer"))
    visitor = tabs.context.new_page()
    shop.answers["/"] = Answer(f"<!doctype html>{ICON}{snippet.inner_text()}")
    visitor.goto(shop.url)
    expect(preview(visitor).get_by_text("Welcome to the shop!")).to_be_visible()
    page.bring_to_front()
    panel(page).get_by_label("In the page, instead of a button").check()
    panel(page).get_by_label("Which element").fill('[id="a&b"]')
    expect(snippet).to_have_text(plain.replace(" defer", ' data-target="[id=&quot;a&amp;b&quot;]" defer'))


def test_the_preview_is_the_chat_itself_and_follows_the_settings(
    page: Page, server: Server, site: dict[str, Any]
) -> None:
    expect(show_chat(page).get_by_text("Welcome to the shop!")).to_be_visible()
    unfold(page, "Settings of the site")
    panel(page).get_by_label("Greeting").fill("Good morning!")
    panel(page).get_by_label("Colours").select_option("Dark")
    panel(page).get_by_label("Tokens a day").fill("")
    save(page)
    expect(preview(page).get_by_text("Good morning!")).to_be_visible()
    expect(host(page).locator("parley-widget")).to_have_count(1)
    kept = stored(server, site)
    assert kept["appearance"] == site["appearance"] | {"greeting": "Good morning!", "theme": "dark"}
    assert (kept["tokens_per_day"], kept["messages_per_visitor"]) == (None, 20)
    panel(page).get_by_label("On", exact=True).uncheck()
    panel(page).get_by_role("button", name="Save").click()
    expect(panel(page)).to_contain_text("The site is off: nobody sees the chat.")
    expect(host(page).locator("parley-widget")).to_have_count(0)


def test_the_preview_shows_looks_before_they_are_saved(page: Page, server: Server, site: dict[str, Any]) -> None:
    show_chat(page)
    unfold(page, "Settings of the site")
    field = panel(page).get_by_label
    with anew(page):
        field("Title").fill("Ask us")
    expect(preview(page).get_by_text("Ask us")).to_be_visible()
    with anew(page):
        field("Greeting").fill('Any "questions"?\n<b>Ask!</b>')
        field("Language").select_option("German")
        field("Colours").select_option("Dark")
        field("Corner").select_option("Left")
        field("Accent").fill("#a21caf")
    root = preview(page).locator("html")
    expect(root).to_have_attribute("lang", "de")
    expect(root).to_have_attribute("data-theme", "dark")
    expect(root).to_have_attribute("style", re.compile("--accent: ?#a21caf"))
    expect(preview(page).get_by_text('Any "questions"? <b>Ask!</b>')).to_be_visible()
    expect(host(page).locator("parley-widget")).to_have_class("left open")
    assert stored(server, site) == site


def test_the_preview_shows_what_the_snippet_says(page: Page) -> None:
    widget = host(page).locator("parley-widget")
    expect(widget).to_have_class(re.compile("^right *$"))
    panel(page).get_by_label("Open at once").check()
    expect(widget).to_have_class("right open")
    panel(page).get_by_label("In the page, instead of a button").check()
    expect(widget).to_have_class("inline")
    expect(preview(page).get_by_text("Welcome to the shop!")).to_be_visible()


def test_a_chat_that_was_opened_in_the_preview_stays_open(page: Page) -> None:
    widget = host(page).locator("parley-widget")
    expect(widget).to_have_class(re.compile("right"))
    widget.evaluate("() => Parley.open()")
    expect(widget).to_have_class("right open")
    unfold(page, "Settings of the site")
    with anew(page):
        panel(page).get_by_label("Corner").select_option("Left")
    expect(widget).to_have_class("left open")


def test_the_preview_waits_until_nobody_types(page: Page) -> None:
    preview(page)
    unfold(page, "Settings of the site")
    loaded: list[str] = []
    page.on("framenavigated", lambda frame: loaded.append(frame.url) if is_widget(frame) else None)
    with anew(page):
        panel(page).get_by_label("Title").evaluate(
            """async (title) => {
              for (const letter of 'Ask us anything') {
                title.value += letter;
                title.dispatchEvent(new Event('input', { bubbles: true }));
                await new Promise((resolve) => { setTimeout(resolve, 50); });
              }
            }"""
        )
    expect(host(page).locator("script")).to_have_attribute("data-title", "HelpAsk us anything")
    assert len(loaded) == 1


def test_a_preset_tells_the_model_what_the_site_is_for(page: Page, server: Server, site: dict[str, Any]) -> None:
    unfold(page, "Settings of the site")
    panel(page).get_by_label("Preset").select_option("translate")
    panel(page).get_by_role("button", name="Save").click()
    expect(panel(page)).to_contain_text("Saved.")
    assert stored(server, site)["preset"] == "translate"


def test_a_page_is_checked_and_what_is_wrong_is_said_with_its_cure(page: Page, shop: WebHost) -> None:
    unfold(page, "Check a page")
    address = panel(page).get_by_label("Address of the page")
    expect(address).to_have_value("https://shop.example")
    findings = panel(page).locator(".parley-finding")
    snippet = panel(page).locator(".parley-copyable code").first.inner_text()
    for body, level, said in (
        (snippet, "Fine", "The widget would load."),
        (snippet.replace("pub_", "pub_x"), "Wrong", "Copy the site's line anew."),
    ):
        shop.answers["/checked"] = Answer(f"<!doctype html>{body}")
        address.fill(f"{shop.url}/checked")
        panel(page).get_by_role("button", name="Check", exact=True).click()
        finding = findings.filter(has_text=said).first
        expect(finding.locator("strong")).to_have_text(level)
        expect(finding.locator("svg")).to_be_visible()


def test_conversations_of_visitors_are_in_the_list_by_themselves(
    page: Page, server: Server, site: dict[str, Any], tabs: Tabs
) -> None:
    httpx.post(f"{server.url}/api/conversations", json={})
    expect(row(page, "Untitled")).to_be_visible()
    ask_for(page, "teapot")
    mark = page.locator(".parley-row-visitor")
    expect(mark).to_have_text("The shop")
    unfold(page, "Conversations, key, deletion")
    panel(page).get_by_role("button", name="Show its conversations").click()
    expect(page.locator(".parley-row")).to_have_count(1)
    page.locator(".parley-row-link").click()
    expect(page.locator(".parley-user .parley-body")).to_have_text("Is there a teapot?")
    expect(page.locator(REPLY)).not_to_be_empty()
    expect(page.locator(".parley-composer-status")).to_have_attribute("data-hint", re.compile("as if they had said it"))
    expect(page.locator(BOX)).to_be_editable()


def test_conversations_of_a_site_are_exported_before_the_form_of_exports_was_seen(page: Page, tmp_path: Path) -> None:
    ask_for(page, "samovar")
    unfold(page, "Conversations, key, deletion")
    with page.expect_download() as download:
        panel(page).get_by_role("button", name="Export them").click()
    download.value.save_as(tmp_path / "site.jsonl")
    lines = (tmp_path / "site.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert "Is there a samovar?" in lines[0]


def test_the_identity_secret_is_shown_on_demand(page: Page, server: Server, site: dict[str, Any]) -> None:
    unfold(page, "Conversations, key, deletion")
    secret = httpx.get(f"{server.url}/api/sites/{site['id']}/identity-secret").json()["secret"]
    expect(panel(page)).not_to_contain_text(secret)
    panel(page).get_by_role("button", name="Show identity secret").click()
    expect(panel(page).locator("code", has_text=secret)).to_be_visible()


def test_a_key_is_replaced_once_the_question_is_answered(page: Page, server: Server, site: dict[str, Any]) -> None:
    snippet = panel(page).locator(".parley-copyable code").first
    unfold(page, "Conversations, key, deletion")
    panel(page).get_by_role("button", name="New key").click()
    question = panel(page).get_by_role("group", name="Make a new key?")
    expect(question).to_contain_text("The snippet that pages have now stops working")
    page.keyboard.press("Escape")
    expect(question).to_have_count(0)
    assert stored(server, site)["key"] == site["key"]
    panel(page).get_by_role("button", name="New key").click()
    with anew(page):
        question.get_by_role("button", name="New key").click()
    expect(snippet).not_to_contain_text(site["key"])
    expect(snippet).to_contain_text(stored(server, site)["key"])
    expect(show_chat(page).get_by_text("Welcome to the shop!")).to_be_visible()


def test_a_site_is_deleted_and_its_conversations_stay(page: Page, server: Server, site: dict[str, Any]) -> None:
    ask_for(page, "kettle")
    unfold(page, "Conversations, key, deletion")
    panel(page).get_by_role("button", name="Delete site").click()
    panel(page).get_by_role("group", name="Delete this site?").get_by_role("button", name="Delete site").click()
    expect(panel(page).get_by_role("button", name="The shop")).to_have_count(0)
    assert httpx.get(f"{server.url}/api/sites/{site['id']}").status_code == 404
    expect(row(page, "kettle").locator(".parley-row-visitor")).to_have_text("Visitor")
    expect(page.locator(".parley-preview")).to_have_count(0)
