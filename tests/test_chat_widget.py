"""The widget in a real browser, on pages of another host than Parley's, over an engine whose replies a test writes.

Every test ends by checking that no other host was asked for anything, no cookie set, and no error logged.
"""

from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import Server
from event_readers import eventually
from measure_widget import LOADER, files_of_frame
from playwright.sync_api import Browser, Error, Route, expect
from widget_host import Visit, Website, WidgetServer, Window, serve_widget

from chat import visitors
from chat.sites import SiteChange
from model.checkpoint.checkpoint import Checkpoint
from storage.tables import Site

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Iterator[WidgetServer]:
    with serve_widget(tmp_path_factory.mktemp("widget") / "parley.db", tiny_checkpoint) as server:
        yield server


@pytest.fixture
def server(served: WidgetServer, monkeypatch: pytest.MonkeyPatch) -> WidgetServer:
    monkeypatch.setattr(visitors, "NEW_VISITORS", (1000, 60))  # all tests have one address
    served.begin_test()
    return served


@pytest.fixture(scope="module")
def website() -> Iterator[Website]:
    website = Website()
    yield website
    website.close()


@pytest.fixture
def window(browser: Browser) -> Iterator[Window]:
    window = Window(browser)
    yield window
    window.close()


@pytest.fixture
def site(server: WidgetServer, website: Website) -> Site:
    return server.site(website.origin)


def tag(server: WidgetServer, site: Site, options: str = "") -> str:
    return f'<script src="{server.url}/widget.js" data-site="{site.key}" {options} defer></script>'


@pytest.fixture
def visit(window: Window, website: Website, server: WidgetServer, site: Site) -> Visit:
    return window.open(website.show(tag(server, site)))


def test_a_message_is_sent_and_its_reply_streams(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("Hello?")
    server.say("It is **open** n")
    visit.expect_texts("Hello?", "It is open n")
    server.say("ow.")
    server.engine.end()
    visit.expect_texts("Hello?", "It is open now.")
    expect(visit.texts.locator("strong")).to_have_text("open")
    expect(visit.chat.locator(".dots")).to_have_count(0)


def test_the_enter_key_sends_and_with_shift_it_breaks_the_line(visit: Visit, server: WidgetServer) -> None:
    visit.open()
    visit.box.fill("One")
    visit.box.press("Shift+Enter")
    visit.box.press_sequentially("two")
    visit.box.dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    expect(visit.box).to_have_value("One\ntwo")
    visit.box.press("Enter")
    server.reply("Yes.")
    visit.expect_replied("One\ntwo", "Yes.")
    expect(visit.box).to_have_value("")


def test_nothing_is_asked_of_the_api_until_something_is_wanted(visit: Visit, window: Window) -> None:
    asked: list[str] = []
    window.context.on("request", lambda request: asked.append(request.url))
    visit.open()
    visit.expect_texts()
    assert not [url for url in asked if "/widget/api/" in url]


def test_a_reload_keeps_the_conversation(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("Hello?")
    server.reply("Hi.")
    visit.expect_replied("Hello?", "Hi.")
    visit.page.reload()
    visit.open().expect_texts("Hello?", "Hi.")


def test_a_reload_goes_on_with_the_reply_that_is_being_written(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("A story")
    server.say("Once upon")
    visit.expect_texts("A story", "Once upon")
    visit.page.reload()
    visit.open().expect_texts("A story", "Once upon")
    server.reply(" a time 🐉")
    visit.expect_replied("A story", "Once upon a time 🐉")


def test_many_replies_in_one_view_leave_no_stream_open(visit: Visit, server: WidgetServer) -> None:
    visit.open()
    texts: list[str] = []
    for text in ("One", "Two", "Three", "Four", "Five", "Six"):
        visit.send(text)
        server.reply(f"{text}!")
        texts += [text, f"{text}!"]
        visit.expect_replied(*texts)
    eventually(server.is_idle)


def test_a_message_on_its_way_as_a_new_chat_begins_does_not_free_the_next(visit: Visit, window: Window) -> None:
    held: list[Route] = []
    window.context.route("**/widget/api/messages", lambda route: held.append(route))
    visit.open().send("Left behind")
    visit.tool("New chat").click()
    visit.expect_texts()
    visit.send("In the new chat")
    eventually(lambda: visit.page.wait_for_timeout(20) or len(held) == 2)
    with visit.page.expect_response("**/widget/api/messages"):
        held[0].continue_()
    visit.box.fill("Too early")
    expect(visit.tool("Stop")).to_be_visible()
    expect(visit.tool("Send")).to_be_hidden()


def test_a_reply_that_had_ended_when_its_message_was_sent_again_is_no_hindrance(
    visit: Visit, window: Window, server: WidgetServer
) -> None:
    def lose_answer(route: Route) -> None:
        route.fetch()
        route.abort()

    window.context.route("**/widget/api/messages", lose_answer, times=1)
    visit.open()
    visit.box.fill("Hello?")
    visit.box.press("Enter")
    expect(visit.tool("Try again")).to_be_visible()
    server.reply("Hi.")
    visit.tool("Try again").click()
    visit.expect_replied("Hello?", "Hi.")


def test_a_new_chat_begins_and_the_earlier_one_is_found_again(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("First question")
    server.reply("First answer")
    visit.expect_replied("First question", "First answer")
    visit.tool("New chat").click()
    visit.expect_texts()
    visit.send("Second question")
    server.reply("Second answer")
    visit.expect_replied("Second question", "Second answer")
    visit.tool("Earlier chats").click()
    rows = visit.chat.get_by_role("navigation").get_by_role("button")
    expect(rows).to_have_count(2)
    rows.filter(has_text="First").click()
    visit.expect_texts("First question", "First answer")
    visit.page.reload()
    visit.open().expect_texts("First question", "First answer")


def send_too_early(visit: Visit, window: Window, text: str) -> None:
    """Come back, and send a message before the earlier chat is there."""
    held: list[Route] = []
    window.context.route("**/widget/api/conversations/*", lambda route: held.append(route))
    visit.page.reload()
    visit.open()
    visit.box.fill(text)
    visit.box.press("Enter")
    eventually(lambda: visit.page.wait_for_timeout(20) or held)
    expect(visit.box).to_have_value(text)
    held[0].continue_()


def test_a_message_written_before_the_earlier_chat_is_there_comes_after_it(
    visit: Visit, window: Window, server: WidgetServer
) -> None:
    visit.open().send("First question")
    server.reply("First answer")
    visit.expect_replied("First question", "First answer")
    send_too_early(visit, window, "Second question")
    server.reply("Second answer")
    visit.expect_replied("First question", "First answer", "Second question", "Second answer")


def test_a_message_written_before_a_reply_that_is_still_written_stays_in_the_box(
    visit: Visit, window: Window, server: WidgetServer
) -> None:
    visit.open().send("A story")
    server.say("Once")
    visit.expect_texts("A story", "Once")
    send_too_early(visit, window, "Too early")
    visit.expect_texts("A story", "Once")
    expect(visit.box).to_have_value("Too early")


def test_what_the_page_sends_while_a_reply_is_written_is_put_into_the_box(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("A story")
    server.say("Once")
    visit.expect_texts("A story", "Once")
    visit.call("Parley.send('From the page')")
    expect(visit.box).to_have_value("From the page")
    server.reply(" upon a time")
    visit.expect_replied("A story", "Once upon a time")


def test_a_reply_is_stopped(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("A long story")
    server.say("Once upon a time")
    visit.expect_texts("A long story", "Once upon a time")
    visit.tool("Stop").click()
    eventually(lambda: server.engine.generations[-1].cancelled)
    server.engine.end("cancelled")
    expect(visit.chat.locator(".foot").last).to_contain_text("Stopped")
    expect(visit.tool("Send")).to_be_visible()
    expect(visit.box).to_be_focused()


def test_a_rating_is_kept_and_taken_back(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("Hello?")
    server.reply("Hi.")
    visit.tool("Good reply").click()
    expect(visit.tool("Good reply")).to_have_attribute("aria-pressed", "true")
    visit.tool("Bad reply").click()
    expect(visit.tool("Good reply")).to_have_attribute("aria-pressed", "false")
    expect(visit.tool("Bad reply")).to_have_attribute("aria-pressed", "true")
    visit.page.reload()
    visit.open()
    expect(visit.tool("Bad reply")).to_have_attribute("aria-pressed", "true")
    visit.tool("Bad reply").click()
    expect(visit.tool("Bad reply")).to_have_attribute("aria-pressed", "false")


@pytest.mark.parametrize(
    ("item", "name"), [("As Markdown", "chat.md"), ("As plain text", "chat.txt"), ("As JSON", "chat.json")]
)
def test_a_chat_is_saved_as_a_file(visit: Visit, server: WidgetServer, item: str, name: str) -> None:
    visit.open().send("When do you open?")
    server.reply("At nine.")
    visit.expect_replied("When do you open?", "At nine.")
    visit.tool("Save this chat").click()
    with visit.page.expect_download() as download:
        visit.tool(item).click()
    assert download.value.suggested_filename == name
    text = Path(download.value.path()).read_text()
    assert "When do you open?" in text
    assert "At nine." in text


def test_a_lost_connection_is_told_and_the_reply_is_whole_in_the_end(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("A story")
    server.say("Once")
    visit.expect_texts("A story", "Once")
    server.go_away()
    expect(visit.chat.locator(".lost")).to_have_text("Connection lost, trying again …")
    server.say(" upon 🐉 a")
    server.come_back()
    visit.expect_texts("A story", "Once upon 🐉 a")
    expect(visit.chat.locator(".lost")).to_be_empty()
    server.reply(" time")
    visit.expect_replied("A story", "Once upon 🐉 a time")


def test_a_message_that_could_not_be_sent_is_sent_again_and_only_once(visit: Visit, server: WidgetServer) -> None:
    visit.open()
    server.go_away()
    visit.box.fill("Hello?")
    visit.box.press("Enter")
    expect(visit.chat.get_by_role("alert")).to_contain_text("There is no connection.")
    expect(visit.box).to_have_value("Hello?")
    server.come_back()
    visit.tool("Try again").click()
    server.reply("Hi.")
    visit.expect_replied("Hello?", "Hi.")
    expect(visit.chat.get_by_role("alert")).to_be_empty()


def test_a_visitor_who_asks_too_much_is_told_when_to_come_back(
    window: Window, website: Website, server: WidgetServer
) -> None:
    site = server.site(website.origin, messages_per_visitor=1)
    visit = window.open(website.show(tag(server, site))).open()
    visit.send("One")
    server.reply("1")
    visit.expect_replied("One", "1")
    visit.box.fill("Two")
    visit.box.press("Enter")
    expect(visit.chat.get_by_role("alert")).to_have_text("That was a lot. Please try again in 10 minutes.")
    expect(visit.box).to_have_value("Two")


def test_a_site_that_is_switched_off_meanwhile_says_so(visit: Visit, server: WidgetServer, site: Site) -> None:
    visit.open()
    server.sites.change("local", site.id, SiteChange(enabled=False))
    visit.box.fill("Hello?")
    visit.box.press("Enter")
    expect(visit.chat.get_by_role("alert")).to_have_text("This chat is not available any more.")


def test_a_conversation_that_is_gone_leads_to_a_new_one(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("Hello?")
    server.reply("Hi.")
    visit.expect_replied("Hello?", "Hi.")
    [newest] = server.workspace.conversations.recent("local", limit=1)
    server.workspace.erasure.erase("local", [newest.id])
    visit.box.fill("Still there?")
    visit.box.press("Enter")
    expect(visit.chat.get_by_role("alert")).to_contain_text("This chat has been deleted.")
    visit.chat.get_by_role("alert").get_by_role("button", name="New chat").click()
    visit.expect_texts()


def test_a_conversation_that_was_erased_meanwhile_is_not_missed(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("Hello?")
    server.reply("Hi.")
    visit.expect_replied("Hello?", "Hi.")
    [newest] = server.workspace.conversations.recent("local", limit=1)
    server.workspace.erasure.erase("local", [newest.id])
    visit.page.reload()
    visit.open().send("Again?")
    server.reply("Yes.")
    visit.expect_replied("Again?", "Yes.")


def test_the_number_of_characters_left_is_shown_near_the_end(visit: Visit) -> None:
    visit.open()
    visit.box.fill("x" * 7000)
    expect(visit.chat.locator(".left")).to_be_empty()
    visit.box.fill("x" * 7999)
    expect(visit.chat.locator(".left")).to_have_text("1 character left")
    visit.box.press_sequentially("yz")
    assert len(visit.box.input_value()) == 8000


# What the page may say.


LOOK = """() => {
  const style = (selector) => getComputedStyle(document.querySelector(selector));
  const { backgroundColor: paper, direction } = style('html');
  const { backgroundColor: accent, color: ink } = style('header');
  const text = (selector) => document.querySelector(selector).textContent;
  return { paper, direction, accent, ink, title: text('h1'), greeting: text('.body'),
    language: document.documentElement.lang, placeholder: document.querySelector('textarea').placeholder };
}"""


@pytest.mark.parametrize(
    ("options", "look"),
    [
        ("", {"side": "right", "accent": "rgb(37, 99, 235)", "title": "Chat"}),
        ('data-position="left"', {"side": "left"}),
        ('data-accent="#fde047"', {"accent": "rgb(253, 224, 71)", "ink": "rgb(17, 17, 17)"}),
        ('data-accent="red;} body{display:none"', {"accent": "rgb(37, 99, 235)", "ink": "rgb(255, 255, 255)"}),
        ('data-title="Tea &amp; <b>more</b>"', {"title": "Tea & <b>more</b>"}),
        ('data-greeting="Ask!"', {"greeting": "Ask!"}),
        ('data-theme="dark"', {"paper": "rgb(23, 25, 30)"}),
        ('data-theme="light"', {"paper": "rgb(255, 255, 255)"}),
        ('data-language="de"', {"language": "de", "placeholder": "Nachricht schreiben"}),
        ('data-language="he"', {"language": "en", "direction": "rtl"}),
    ],
)
def test_an_option_of_the_script_tag_counts(
    window: Window, website: Website, server: WidgetServer, site: Site, options: str, look: dict[str, str]
) -> None:
    visit = window.open(website.show(tag(server, site, options)))
    visit.button.click()
    expect(visit.box).to_be_visible()
    box = visit.frame.bounding_box()
    assert box
    shown = visit.chat.locator("body").evaluate(LOOK)
    shown["side"] = "left" if box["x"] < 300 else "right"
    assert {name: shown[name] for name in look} == look


def test_the_site_says_how_the_chat_looks_unless_the_page_does(
    window: Window, website: Website, server: WidgetServer
) -> None:
    site = server.site(
        website.origin, title="Ours", greeting="Welcome", accent="#7c2d12", position="left", language="de"
    )
    visit = window.open(website.show(tag(server, site, 'data-title="Mine"')))
    visit.button.click()
    expect(visit.chat.locator("h1")).to_have_text("Mine")
    expect(visit.texts).to_have_text(["Welcome"])
    expect(visit.button).to_have_attribute("aria-label", "Chat schließen")
    expect(visit.button).to_have_css("background-color", "rgb(124, 45, 18)")


def test_the_language_is_that_of_the_page_before_that_of_the_browser(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    visit = window.open(website.show(tag(server, site), html='lang="de-AT"'))
    expect(visit.button).to_have_attribute("aria-label", "Chat öffnen")


def test_it_opens_at_once_without_taking_the_focus(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    visit = window.open(website.show(f"<input autofocus>{tag(server, site, 'data-open')}"))
    expect(visit.box).to_be_visible()
    expect(visit.page.locator("input")).to_be_focused()


def test_it_stands_in_the_page_where_that_says(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    place = '<div id="here" style="width: 500px; height: 450px"></div>'
    visit = window.open(website.show(place + tag(server, site, 'data-target="#here"')))
    visit.send("Hello?")
    server.reply("Hi.")
    visit.expect_replied("Hello?", "Hi.")
    expect(visit.button).to_be_hidden()
    expect(visit.tool("Close the chat")).to_have_count(0)
    visit.page.keyboard.press("Escape")
    box, around = visit.frame.bounding_box(), visit.page.locator("#here").bounding_box()
    assert box == around


# The script interface of the page.


EVENTS = """
window.told = [];
for (const name of ['ready', 'opened', 'closed', 'message', 'error']) {
  addEventListener(`parley:${name}`, ({ detail }) => told.push([name, detail?.role ?? detail?.code ?? null]));
}
"""


def test_the_page_drives_the_chat_and_hears_of_it(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    calls = "addEventListener('DOMContentLoaded', () => { Parley.open(); Parley.send('From the page'); });"
    visit = window.open(website.show(f"<script>{EVENTS}{calls}</script>{tag(server, site)}"))
    server.reply("To the page")
    visit.expect_replied("From the page", "To the page")
    visit.page.wait_for_function("told.length === 4")
    visit.call("Parley.close()")
    expect(visit.frame).to_be_hidden()
    visit.call("Parley.toggle()")
    expect(visit.frame).to_be_visible()
    visit.call("Parley.newConversation()")
    visit.expect_texts()
    told = [
        ["ready", None],
        ["opened", None],
        ["message", "user"],
        ["message", "assistant"],
        ["closed", None],
        ["opened", None],
    ]
    assert visit.call("told") == told


def test_a_listener_hears_until_it_is_taken_off(visit: Visit) -> None:
    expect(visit.button).to_be_visible()
    visit.call("window.heard = 0; window.off = Parley.on('opened', () => heard++); 0")
    visit.call("Parley.open(); Parley.close(); off(); Parley.open();")
    assert visit.call("heard") == 1


def test_events_do_not_tell_the_page_what_was_said(visit: Visit, server: WidgetServer) -> None:
    visit.call("window.details = []; addEventListener('parley:message', ({ detail }) => details.push(detail));")
    visit.open().send("A secret question")
    server.reply("A secret answer")
    visit.expect_replied("A secret question", "A secret answer")
    visit.page.wait_for_function("details.length === 2")
    assert "secret" not in str(visit.call("JSON.stringify(details)"))


def test_nothing_is_left_once_it_is_destroyed(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    url = website.show('<p id="text">Text</p>')
    visit = window.open(url)
    describe = "() => document.documentElement.outerHTML + Object.keys(window).sort()"
    before = visit.page.evaluate(describe)
    add = """([src, site]) => {
      const script = Object.assign(document.createElement('script'), { src, onload: () => script.remove() });
      script.dataset.site = site;
      document.body.append(script);
    }"""
    for _ in range(2):
        visit.page.evaluate(add, [f"{server.url}/widget.js", site.key])
        visit.open()
        visit.call("Parley.destroy()")
        assert visit.page.evaluate(describe) == before


def test_a_second_script_tag_does_nothing(window: Window, website: Website, server: WidgetServer, site: Site) -> None:
    visit = window.open(website.show(tag(server, site) + tag(server, site)))
    expect(visit.button).to_have_count(1)
    assert "warning: Parley: a second script tag does nothing." in window.log


def test_an_element_of_the_same_name_is_no_second_script_tag(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    visit = window.open(website.show(f'<p id="Parley">About</p>{tag(server, site)}'))
    visit.open()
    visit.call("Parley.close()")
    expect(visit.frame).to_be_hidden()


def test_a_call_that_fails_does_not_stop_those_after_it(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    calls = "Parley.setUser(Symbol()); Parley.setUser('ada', null); Parley.open();"
    script = f"<script>addEventListener('DOMContentLoaded', () => {{ {calls} }});</script>"
    visit = window.open(website.show(script + tag(server, site)))
    expect(visit.chat.get_by_role("alert")).to_have_text("It could not be confirmed who you are.")
    expect(visit.frame).to_be_visible()
    [line] = window.errors()
    assert "Symbol() could not be cloned" in line
    window.log.clear()


def test_a_user_whom_the_page_vouches_for_is_the_same_everywhere(
    browser: Browser, window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    vouch = f"Parley.setUser('ada', {{hash: '{server.identity(site, 'ada')}'}})"
    visit = window.open(website.show(tag(server, site)))
    visit.call(vouch)
    visit.open().send("It is me")
    server.reply("Hello Ada")
    visit.expect_replied("It is me", "Hello Ada")
    other = Window(browser)
    elsewhere = other.open(visit.page.url).open()
    with elsewhere.page.expect_response("**/widget/api/session"):
        elsewhere.call(vouch)
    elsewhere.tool("Earlier chats").click()
    elsewhere.chat.get_by_role("navigation").get_by_role("button").click()
    elsewhere.expect_texts("It is me", "Hello Ada")
    other.close()
    visit.page.reload()  # the page vouches for nobody now
    visit.open().expect_texts()


def test_what_the_page_sends_for_a_user_comes_after_their_chat(visit: Visit, server: WidgetServer, site: Site) -> None:
    visit.call(f"Parley.setUser('ada', {{hash: '{server.identity(site, 'ada')}'}}); Parley.send('It is me')")
    server.reply("Hello Ada")
    visit.open().expect_replied("It is me", "Hello Ada")


def test_a_wrong_hash_is_an_error_and_nobody_chats(visit: Visit, server: WidgetServer) -> None:
    visit.call(
        "window.failed = new Promise((done) => Parley.on('error', done)); Parley.setUser('ada', {hash: 'f'.repeat(64)})"
    )
    visit.open()
    assert visit.call("failed")["code"] == "wrong_hash"
    expect(visit.chat.get_by_role("alert")).to_have_text("It could not be confirmed who you are.")
    visit.box.fill("Hello?")
    visit.box.press("Enter")
    expect(visit.box).to_have_value("Hello?")
    assert server.engine.generations == []


# By keyboard, by ear, on small screens.


def test_the_keyboard_alone_is_enough(visit: Visit, server: WidgetServer) -> None:
    expect(visit.button).to_be_visible()
    press = visit.page.keyboard.press
    press("Tab")
    expect(visit.button).to_have_attribute("aria-expanded", "false")
    press("Enter")
    expect(visit.box).to_be_focused()
    expect(visit.button).to_have_attribute("aria-expanded", "true")
    visit.page.keyboard.type("Hello?")
    press("Enter")
    server.reply("Hi.")
    visit.expect_replied("Hello?", "Hi.")
    expect(visit.box).to_be_focused()
    press("Shift+Tab")
    press("Shift+Tab")
    expect(visit.tool("Good reply")).to_be_focused()
    press("Space")
    expect(visit.tool("Good reply")).to_have_attribute("aria-pressed", "true")
    press("Escape")
    expect(visit.frame).to_be_hidden()
    assert visit.call("document.querySelector('parley-widget').shadowRoot.activeElement.ariaExpanded") == "false"
    press("Enter")
    expect(visit.box).to_be_focused()


def test_escape_closes_the_innermost_thing(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("Hello?")
    server.reply("Hi.")
    visit.tool("Save this chat").click()
    visit.page.keyboard.press("Escape")
    expect(visit.tool("As JSON")).to_be_hidden()
    visit.tool("Earlier chats").click()
    expect(visit.chat.get_by_role("navigation").get_by_role("button")).to_be_focused()
    visit.page.keyboard.press("Escape")
    expect(visit.box).to_be_focused()
    visit.page.keyboard.press("Escape")
    expect(visit.frame).to_be_hidden()


def test_a_reply_that_came_while_it_was_closed_is_marked(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("Hello?")
    server.say("Hi")
    visit.expect_texts("Hello?", "Hi")
    visit.call("Parley.close()")
    server.say(" there")
    visit.expect_texts("Hello?", "Hi there")  # by then the chat has heard that it is closed
    server.engine.end()
    expect(visit.button).to_have_attribute("aria-label", "Open the chat: there is a new reply")
    visit.open()
    expect(visit.button).to_have_attribute("aria-label", "Close the chat")


def test_finished_sentences_are_read_out(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("Hello?")
    server.say("One is **here**. And two")
    spoken = visit.chat.get_by_role("log").locator("p")
    expect(spoken).to_have_text(["One is here."])
    server.reply(" is there")
    expect(spoken).to_have_text(["One is here.", "And two is there", "The reply is finished."])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible_to_all(
    window: Window, website: Website, server: WidgetServer, site: Site, theme: str
) -> None:
    visit = window.open(website.show(tag(server, site, f'data-theme="{theme}" data-accent="#f59e0b"'))).open()
    visit.send("Hello?")
    server.reply("See [this](https://a.example), `code` and\n\n> a quote\n\n```\n" + "wide " * 60 + "\n```")
    expect(visit.tool("Good reply")).to_be_visible()
    frame = visit.page.frames[1]
    assert Axe().run(frame).response["violations"] == []
    visit.tool("Earlier chats").click()
    expect(visit.chat.get_by_role("navigation").get_by_role("button")).to_be_visible()
    assert Axe().run(frame).response["violations"] == []


def test_it_fills_a_small_screen(browser: Browser, website: Website, server: WidgetServer, site: Site) -> None:
    window = Window(browser, (360, 740), has_touch=True, is_mobile=True)
    visit = window.open(website.show(tag(server, site))).open()
    visit.frame.evaluate("(frame) => Promise.all(frame.getAnimations().map(({ finished }) => finished))")
    assert visit.frame.bounding_box() == {"x": 0, "y": 0, "width": 360, "height": 740}
    expect(visit.button).to_be_hidden()
    visit.send("Hello?")
    server.reply("A word that is long: " + "o" * 80 + "\n\n| a | b |\n|---|---|\n| " + "x" * 60 + " | y |")
    expect(visit.tool("Good reply")).to_be_visible()
    assert visit.chat.locator("html").evaluate("(html) => html.scrollWidth") == 360
    visit.tool("Close the chat").click()
    expect(visit.button).to_be_visible()
    assert visit.call("visualViewport.scale") == 1
    window.close()


def test_a_page_from_right_to_left_has_it_mirrored(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    visit = window.open(website.show(tag(server, site), html='lang="he" dir="rtl"')).open()
    box, header = visit.frame.bounding_box(), visit.chat.locator("h1").bounding_box()
    assert box
    assert header
    assert box["x"] < 50
    assert header["x"] > box["x"] + 150
    expect(visit.chat.locator("html")).to_have_attribute("dir", "rtl")


@pytest.mark.parametrize(
    ("options", "side"), [("", "left"), ('data-position="left"', "left"), ('data-position="right"', "right")]
)
def test_left_is_left_on_a_page_from_right_to_left_too(
    window: Window, website: Website, server: WidgetServer, site: Site, options: str, side: str
) -> None:
    visit = window.open(website.show(tag(server, site, options), html='dir="rtl"')).open()
    for place in (visit.button, visit.frame):
        box = place.bounding_box()
        assert box
        assert ("left" if box["x"] < 300 else "right") == side


def test_words_from_left_to_right_begin_where_a_page_from_right_to_left_does(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    visit = window.open(website.show(tag(server, site, 'data-title="Questions"'), html='dir="rtl"')).open()
    expect(visit.chat.locator("h1")).to_have_css("text-align", "right")
    expect(visit.box).to_have_css("text-align", "right")
    visit.box.fill("What is written is by its own script")
    expect(visit.box).to_have_css("text-align", "start")


def test_the_messages_have_a_frame_only_if_somebody_came_to_them_by_keyboard(
    browser: Browser, website: Website, server: WidgetServer, site: Site
) -> None:
    window = Window(browser, (360, 740), has_touch=True, is_mobile=True)
    visit = window.open(website.show(tag(server, site))).open()
    expect(visit.chat.locator(":focus")).to_have_css("outline-style", "none")
    visit.page.keyboard.press("Shift+Tab")
    expect(visit.chat.locator(".log")).to_be_focused()
    expect(visit.chat.locator(".log")).to_have_css("outline-style", "solid")
    window.close()


def test_a_list_has_discs_and_one_within_it_circles(visit: Visit, server: WidgetServer) -> None:
    visit.open().send("Hello?")
    server.reply("- tea\n  - green")
    expect(visit.texts.locator("ul").first).to_have_css("list-style-type", "disc")
    expect(visit.texts.locator("ul ul")).to_have_css("list-style-type", "circle")


def test_nothing_moves_for_those_who_want_that(
    browser: Browser, website: Website, server: WidgetServer, site: Site
) -> None:
    window = Window(browser, reduced_motion="reduce")
    visit = window.open(website.show(tag(server, site))).open()
    visit.send("Hello?")
    expect(visit.chat.locator(".dots")).to_be_visible()
    expect(visit.chat.locator(".dots i").first).to_have_css("animation-name", "none")
    expect(visit.frame).to_have_css("animation-name", "none")
    window.close()


# Where it must not be shown, or is made hard to show.


STRICT = (
    "default-src 'none'; img-src data:; script-src {0}; frame-src {0}; style-src 'self'; "
    "require-trusted-types-for 'script'"
)


def test_a_strict_policy_of_the_page_is_enough(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    visit = window.open(website.show(tag(server, site), csp=STRICT.format(server.url))).open()
    expect(visit.button).to_have_css("position", "fixed")
    visit.send("Hello?")
    server.reply("Hi.")
    visit.expect_replied("Hello?", "Hi.")


def expect_reason(visit: Visit, window: Window, reason: str) -> None:
    """Wait for one line that says why nothing is shown, and take it away."""
    eventually(lambda: visit.page.wait_for_timeout(20) or window.errors())
    [line] = window.errors()
    assert reason in line
    assert f"parley site check {visit.page.url}" in line
    assert visit.page.locator("parley-widget").count() == 0
    window.log.clear()


def test_an_origin_that_is_not_listed_is_told_so(window: Window, website: Website, server: WidgetServer) -> None:
    visit = window.open(website.show(tag(server, server.site("https://shop.example"))))
    expect_reason(visit, window, "The origin of this page is not among those of the site")


def test_a_wrong_key_is_told(window: Window, website: Website, server: WidgetServer, site: Site) -> None:
    visit = window.open(website.show(tag(server, site).replace(site.key, "pub_wrong")))
    expect_reason(visit, window, "No site has the key in data-site")


def test_a_site_that_is_off_is_told(window: Window, website: Website, server: WidgetServer) -> None:
    visit = window.open(website.show(tag(server, server.site(website.origin, enabled=False))))
    expect_reason(visit, window, "The site is switched off in Parley.")


def test_a_page_whose_policy_forbids_the_frame_is_told(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    visit = window.open(website.show(tag(server, site), csp=f"script-src {server.url}; frame-src 'self'"))
    eventually(lambda: visit.page.wait_for_timeout(20) or len(window.errors()) > 1)
    window.log = [line for line in window.log if "Framing" not in line]  # the browser's own complaint
    expect_reason(visit, window, f'policy lacks "frame-src {server.url}"')


def test_a_file_is_told_that_it_needs_an_origin(
    window: Window, tmp_path: Path, server: WidgetServer, site: Site
) -> None:
    page = tmp_path / "page.html"
    page.write_text(tag(server, site))
    visit = window.open(page.as_uri())
    expect_reason(visit, window, "A page that is opened as a file has no origin")


def test_a_target_that_is_not_there_is_told(window: Window, website: Website, server: WidgetServer, site: Site) -> None:
    visit = window.open(website.show(tag(server, site, 'data-target="#nowhere"')))
    expect_reason(visit, window, 'Nothing matches data-target="#nowhere"')


@pytest.mark.parametrize("target", ["", "##", "1"])
def test_a_target_that_is_no_selector_is_told(
    window: Window, website: Website, server: WidgetServer, site: Site, target: str
) -> None:
    visit = window.open(website.show(f"<script>{EVENTS}</script>" + tag(server, site, f'data-target="{target}"')))
    expect_reason(visit, window, f'Nothing matches data-target="{target}"')
    assert visit.call("told") == [["error", "no_target"]]


def test_a_server_that_does_not_answer_is_told(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    window.context.route("**/widget/pub_*", lambda route: route.fulfill(content_type="text/html", body="Bad gateway"))
    window.context.clock.install()
    visit = window.open(website.show(tag(server, site)))
    expect(visit.chat.locator("body")).to_have_text("Bad gateway")
    visit.page.wait_for_load_state()  # with that of the frame
    visit.page.clock.fast_forward(10_000)
    expect_reason(visit, window, f"{server.url} does not answer in a frame.")


def test_where_storage_is_forbidden_it_chats_all_the_same(window: Window, server: WidgetServer) -> None:
    stranger = Website("localhost")  # a window without history forbids the storage of a site in the page of another
    site = server.site(stranger.origin)
    visit = window.open(stranger.show(tag(server, site))).open()
    with pytest.raises(Error, match="Access is denied"):
        visit.page.frames[1].evaluate("localStorage")
    visit.send("One")
    server.reply("One!")
    visit.expect_replied("One", "One!")
    visit.send("Two")
    server.reply("Two!")
    visit.expect_replied("One", "One!", "Two", "Two!")
    stranger.close()


def test_two_sites_of_one_server_know_nothing_of_each_other(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    visit = window.open(website.show(tag(server, site))).open()
    visit.send("On the first site")
    server.reply("Hi.")
    visit.expect_replied("On the first site", "Hi.")
    other = window.open(website.show(tag(server, server.site(website.origin)), path="/other")).open()
    other.expect_texts()
    other.tool("Earlier chats").click()
    expect(other.chat.get_by_role("navigation")).to_have_text("There are no earlier chats.")


def test_two_tabs_chat_side_by_side(visit: Visit, window: Window, server: WidgetServer) -> None:
    visit.open().send("In the first tab")
    server.reply("One.")
    visit.expect_replied("In the first tab", "One.")
    other = window.open(visit.page.url).open()
    other.expect_texts("In the first tab", "One.")
    other.send("In the second")
    server.reply("Two.")
    other.expect_replied("In the first tab", "One.", "In the second", "Two.")
    visit.page.bring_to_front()
    visit.call("Parley.close(); Parley.open()")
    visit.expect_texts("In the first tab", "One.", "In the second", "Two.")


# Attacks.

PAYLOADS = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<svg onload='window.hacked = 1'></svg>",
    "[a](javascript:window.hacked=1)",
    "[b](data:text/html,<script>window.hacked=1</script>)",
    "[c](vbscript:x) [d](JaVaScRiPt:window.hacked=1) [e](\tjavascript:window.hacked=1)",
    "![pixel](https://evil.example/pixel.png?q=SECRET)",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe><base href='https://evil.example/'>",
    "<a href='javascript:window.hacked=1'>x</a><form action='https://evil.example'><button>y</button></form>",
    '"><style>@import "https://evil.example/x.css"</style><link rel=stylesheet href=https://evil.example/y.css>',
    "```\n</code></pre><script>window.hacked = 1</script>\n```",
    "{{constructor.constructor('window.hacked = 1')()}} ${window.hacked = 1}",
]


MARKUP = "script, img, svg:not(.icon > svg), iframe, style, form form, base, link[href*=evil], [onload], [onerror]"


def expect_no_harm(visit: Visit) -> None:
    """No text has become a script, an element or an address that is followed by itself."""
    frame = visit.page.frames[1]
    assert frame.evaluate("window.hacked") is None
    assert visit.call("window.hacked") is None
    assert frame.locator(f":is(header, main) :is({MARKUP})").count() == 0


def test_no_text_becomes_markup(visit: Visit, server: WidgetServer) -> None:
    visit.open()
    for payload in PAYLOADS:
        visit.tool("New chat").click()
        visit.send(payload)
        server.reply(payload)
        expect(visit.tool("Good reply")).to_be_visible()
        expect_no_harm(visit)
        for link in visit.chat.locator("main a").all():
            assert str(link.get_attribute("href")).startswith("https://evil.example")
            assert link.get_attribute("rel") == "noopener noreferrer nofollow ugc"
            assert link.get_attribute("target") == "_blank"
    visit.page.reload()
    visit.open().tool("Earlier chats").click()
    expect(visit.chat.get_by_role("navigation").get_by_role("button")).to_have_count(len(PAYLOADS))
    expect_no_harm(visit)


def test_no_option_becomes_markup(window: Window, website: Website, server: WidgetServer, site: Site) -> None:
    for i, payload in enumerate(PAYLOADS[::3]):
        names = ("title", "greeting", "accent", "position", "theme", "language")
        options = " ".join(f'data-{name}="{escape(payload)}"' for name in names)
        visit = window.open(website.show(tag(server, site, options), path=f"/{i}")).open()
        expect(visit.chat.locator("h1")).to_have_text(" ".join(payload.split()))
        expect_no_harm(visit)


ATTACK = """(targetOrigin) => {
  const messages = ['send', 'new', 'user', 'opened', 'closed', 'show'].flatMap((name) =>
    [[name, 'attack', 'f'.repeat(64)], { type: name, text: 'attack' }, { type: 'parley:' + name, text: 'attack' }]);
  const windows = [...Array(top.frames.length).keys()].map((i) => top.frames[i]);
  for (const target of [top, ...windows]) {
    for (const message of messages) target.postMessage(message, targetOrigin);
    const { port1, port2 } = new MessageChannel();
    target.postMessage({ type: 'parley:port', options: { title: 'attack' } }, targetOrigin, [port2]);
    for (const message of messages) if (Array.isArray(message)) port1.postMessage(message);
    target.postMessage({ type: 'parley:refused', code: 'attack', reason: 'attack' }, targetOrigin);
    target.postMessage({ type: 'parley:ready' }, targetOrigin);
    for (const odd of [null, 7, 'x', [], { type: {} }]) target.postMessage(odd, targetOrigin);
  }
}"""


def test_messages_of_other_windows_do_nothing(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    stranger = Website()
    inner = stranger.show("A frame of somebody else.")
    visit = window.open(website.show(f'<iframe src="{inner}" title="other"></iframe>{tag(server, site)}')).open()
    visit.expect_texts()
    for attacker in (visit.page.main_frame, visit.page.frame(url=inner)):
        assert attacker
        attacker.evaluate(ATTACK, "*")
    visit.page.wait_for_timeout(300)
    visit.expect_texts()
    expect(visit.chat.locator("h1")).to_have_text("Chat")
    expect(visit.frame).to_be_visible()
    assert server.engine.generations == []
    visit.send("Hello?")
    server.reply("Hi.")
    visit.expect_replied("Hello?", "Hi.")
    stranger.close()


def test_another_page_in_the_place_of_ours_gets_no_port(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    stranger = Website()
    listener = "<script>addEventListener('message', ({ data }) => { window.got = data; });</script>"
    visit = window.open(website.show(tag(server, site)))
    expect(visit.button).to_be_visible()
    with visit.page.expect_event("framenavigated"):
        visit.frame.evaluate("(frame, url) => { frame.src = url; }", stranger.show(listener))
    frame = visit.page.frames[1]
    frame.evaluate("parent.postMessage({ type: 'parley:ready' }, '*')")
    visit.page.wait_for_timeout(300)
    assert frame.evaluate("window.got") is None
    stranger.close()


def test_a_page_that_changes_what_all_objects_have_does_not_break_it(
    window: Window, website: Website, server: WidgetServer, site: Site
) -> None:
    changes = "Object.prototype.extra = () => 1; Array.prototype.toJSON = () => 'x'; Function.prototype.bind = null;"
    visit = window.open(website.show(f"<script>{changes}</script>{tag(server, site)}")).open()
    visit.send("Hello?")
    server.reply("Hi.")
    visit.expect_replied("Hello?", "Hi.")


def test_the_page_cannot_look_into_the_widget(
    browser: Browser, website: Website, server: WidgetServer, site: Site
) -> None:
    window = Window(browser, script="")
    visit = window.open(website.show(tag(server, site)))
    visit.page.wait_for_selector("parley-widget.right", state="attached")
    assert visit.call("document.querySelector('parley-widget').shadowRoot") is None
    window.close()


# The whole server, with the default model.


def test_the_default_model_answers_on_a_website(
    window: Window, website: Website, default_path: Path, start_server: Callable[..., Server]
) -> None:
    server = start_server(default_path)
    greedy = {"system_prompt": None, "params": {"temperature": 0}}
    httpx.put(f"{server.url}/api/presets/greedy", json=greedy).raise_for_status()
    new = {"name": "Shop", "origins": [website.origin], "preset": "greedy"}
    key = httpx.post(f"{server.url}/api/sites", json=new).raise_for_status().json()["key"]
    asked: list[str] = []
    window.context.on("request", lambda request: asked.append(request.url.removeprefix(server.url).split("?")[0]))
    visit = window.open(website.show(f'<script src="{server.url}/widget.js" data-site="{key}" defer></script>')).open()
    files = {path.name for path in [LOADER, *files_of_frame()]} - {"frame.html"}
    assert {path.rpartition("/")[2] for path in asked if path.endswith((".js", ".css"))} == files
    visit.send("What is the capital of France?")
    visit.expect_texts("What is the capital of France?", "The capital of France is Paris.")
    expect(visit.tool("Good reply")).to_be_visible()
