"""The page in a real browser, on a real server with the default model.

Every test ends by checking that the page asked no other host for anything and logged no error.
"""

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import SECONDS, Server
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(default_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), default_path)
    yield server
    server.end()


class Tabs:
    """Tabs of one browser window, and what they asked for and complained about."""

    def __init__(self, browser: Browser) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 800})
        self.context.set_default_timeout(SECONDS)
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        self.context.on("request", lambda request: self.hosts.add(request.url.split("/")[2].split(":")[0]))
        self.context.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        self.context.on("weberror", lambda error: self._note(str(error.error)))

    def open(self, url: str) -> Page:
        """Open a URL in a new tab, ready to be written in."""
        page = self.context.new_page()
        page.goto(url)
        expect(page.locator("#message textarea")).to_be_editable()
        return page

    def forget_errors(self) -> None:
        """Gradio complains when a stream is cut under a page that goes away: that is no error of a page in use."""
        self.errors.clear()

    def _note(self, text: str) -> None:
        self.errors.append(text)


@pytest.fixture
def tabs(browser: Browser) -> Iterator[Tabs]:
    expect.set_options(timeout=SECONDS)
    tabs = Tabs(browser)
    yield tabs
    tabs.context.close()
    assert tabs.hosts <= {"127.0.0.1"}
    assert tabs.errors == []


@pytest.fixture
def page(tabs: Tabs, server: Server) -> Page:
    return tabs.open(server.url)


def set_number(page: Page, name: str, value: str) -> None:
    field = page.locator(f"#{name} input[type=number]")
    if not field.is_visible():
        page.click("#sampling button")
    slider = page.locator(f"#{name} input[type=range]")
    while slider.input_value() != value:  # Gradio sets a slider once more after it has appeared
        field.fill(value)
        field.press("Tab")
        page.wait_for_timeout(100)


def send(page: Page, text: str) -> None:
    page.fill("#message textarea", text)
    page.press("#message textarea", "Enter")


def send_short(page: Page, text: str) -> None:
    """Send a message whose reply is soon over: small models can go round in circles."""
    set_number(page, "max-tokens", "12")
    send(page, text)


def replies(page: Page) -> list[str]:
    return page.locator("#chat .message.bot").all_inner_texts()


def wait_for_text(page: Page, pattern: str) -> None:
    expect(page.locator("#chat .message.bot").last).to_have_text(re.compile(pattern, re.DOTALL))


def wait_for_end(page: Page, n_replies: int = 1) -> None:
    expect(page.locator("#chat .bot-row")).to_have_count(n_replies)
    expect(page.locator("#message .submit-button")).to_be_visible()


def test_the_capital_of_france_is_paris(page: Page) -> None:
    set_number(page, "temperature", "0")
    send(page, "What is the capital of France?")
    wait_for_end(page)
    assert replies(page) == ["The capital of France is Paris."]


def test_a_reply_is_seen_to_grow_and_stops_at_what_was_seen(page: Page) -> None:
    send(page, "Write a very long story about a dragon.")
    wait_for_text(page, r".{20}")
    early = replies(page)[0]
    wait_for_text(page, rf".{{{len(early) + 40}}}")
    page.click("#message .stop-button")
    wait_for_end(page)
    story, mark = replies(page)[0].strip().rsplit("\n", 1)
    assert story.startswith(early)
    assert mark == "Stopped."


def test_a_reload_shows_the_conversation_of_the_url(page: Page, tabs: Tabs) -> None:
    send_short(page, "Say hello.")
    wait_for_end(page)
    before, url = page.locator("#chat .message").all_inner_texts(), page.url
    page.reload()
    wait_for_text(page, ".")
    assert re.search(r"/\?c=[0-9a-f]{32}$", url)
    assert page.url == url
    expect(page.locator("#chat .message")).to_have_text(before)
    tabs.forget_errors()


def test_a_reply_goes_on_while_another_conversation_is_open(page: Page) -> None:
    send(page, "Write a very long story about a ship.")
    wait_for_text(page, r".{20}")
    page.click("#new-chat")
    expect(page.locator("#chat .message")).to_have_count(0)
    send_short(page, "Say hello.")
    wait_for_end(page)
    page.locator("#conversations label", has_text="ship").click()
    wait_for_text(page, r".{100}")
    page.click("#message .stop-button")
    wait_for_end(page)
    assert page.locator("#conversations label").all_inner_texts()[:2] == [
        "Say hello",  # by its keywords, since it has been answered
        "Write a very long story about a ship.",
    ]


def test_tabs_that_chat_at_once_get_each_their_own_reply(tabs: Tabs, server: Server) -> None:
    animals = ["dragon", "horse", "parrot"]
    pages = []
    for animal in animals:  # only the page in front takes in what its sliders are set to
        page = tabs.open(server.url)
        set_number(page, "temperature", "0")
        set_number(page, "max-tokens", "150")
        page.fill("#message textarea", f"Write a very long story about a {animal}.")
        pages.append(page)
    for page in pages:
        page.press("#message textarea", "Enter")
    for page in pages:
        wait_for_text(page, r".{20}")
    assert all(page.locator("#message .stop-button").is_visible() for page in pages)  # none is over yet
    for page, animal in zip(pages, animals, strict=True):
        wait_for_end(page)
        expect(page.locator("#chat .message.user")).to_have_text(f"Write a very long story about a {animal}.")
        story, mark = replies(page)[0].strip().rsplit("\n", 1)
        assert [name for name in animals if name in story] == [animal]
        assert mark == "The reply reached its limit of tokens."


def test_a_quiet_page_keeps_the_stream_of_what_it_hears(tabs: Tabs, server: Server) -> None:
    ended: list[str] = []
    for event in ("requestfinished", "requestfailed"):
        tabs.context.on(event, lambda request: ended.append(request.url.split("?")[0].rsplit("/", 1)[-1]))
    page = tabs.open(server.url)
    page.wait_for_timeout(1000)
    assert "join" in ended  # what the page has asked for has been answered
    assert "data" not in ended


def test_a_reload_in_mid_reply_goes_on_watching_it(page: Page, tabs: Tabs) -> None:
    send(page, "Write a very long story about a horse.")
    wait_for_text(page, r".{20}")
    page.reload()
    wait_for_text(page, r".{20}")
    tabs.forget_errors()
    second_tab = tabs.open(page.url)
    wait_for_text(second_tab, r".{60}")
    second_tab.click("#message .stop-button")
    wait_for_end(page)
    wait_for_end(second_tab)
    assert replies(page) == replies(second_tab)


def test_back_and_forward_follow_the_conversations(page: Page, tabs: Tabs) -> None:
    send_short(page, "Say hello.")
    wait_for_end(page)
    page.click("#new-chat")
    expect(page).to_have_url(re.compile(r"/$"))
    page.go_back()
    expect(page.locator("#chat .message.user")).to_have_text("Say hello.")
    tabs.forget_errors()


def test_a_blank_message_is_not_sent_and_the_page_says_why(page: Page) -> None:
    send(page, "   ")
    expect(page.get_by_role("alert")).to_have_text("The message is empty: write something first.")
    assert page.locator("#chat .message").count() == 0


def test_a_message_longer_than_the_context_stays_in_its_box(page: Page) -> None:
    text = "word " * 9000
    send(page, text)
    expect(page.get_by_role("alert")).to_have_text(
        re.compile(r"The message is too long: it has 9,001 tokens, and at most 7,1\d\d fit.")
    )
    assert page.input_value("#message textarea") == text


def test_reading_a_long_message_shows_its_progress(page: Page) -> None:
    send(page, "Summarize: " + "The quick brown fox jumps over the lazy dog. " * 400)
    expect(page.locator("#progress")).to_have_text(re.compile(r"Reading [\d,]+ of 4,0\d\d tokens …"))
    page.click("#new-chat")
    expect(page.locator("#progress")).to_be_hidden()
    expect(page.locator("#conversations label.selected")).to_have_count(0)
    page.locator("#conversations label").first.click()
    page.click("#message .stop-button")
    wait_for_text(page, "Stopped.")


def test_a_message_during_a_reply_stays_in_its_box(page: Page) -> None:
    send(page, "Write a very long story about a cow.")
    wait_for_text(page, r".{20}")
    send(page, "And a second one.")
    expect(page.get_by_role("alert")).to_have_text(re.compile("still being written"))
    assert page.input_value("#message textarea") == "And a second one."
    page.click("#message .stop-button")
    wait_for_end(page)


HOSTILE = """<script>document.title = 'hacked'</script><img src=x onerror="document.title = 'hacked'">
  <b>bold</b> a < b &amp; <|im_end|> ![x](http://127.0.0.2/x.png) [y](javascript:alert(1))"""


def test_a_message_is_shown_as_it_was_typed(page: Page) -> None:
    send_short(page, HOSTILE)
    wait_for_end(page)
    expect(page.locator("#chat .message.user")).to_have_text(HOSTILE)
    assert page.locator("#chat .message.user").inner_text() == HOSTILE  # white space too
    assert page.title() == "Parley"


def test_an_unknown_conversation_is_said_to_be_missing(tabs: Tabs, server: Server) -> None:
    page = tabs.open(f"{server.url}/?c={'0' * 32}")
    expect(page.get_by_role("alert")).to_have_text(f"There is no conversation {'0' * 32}.")
    send_short(page, "Say hello.")
    wait_for_end(page)


def test_kill_9_keeps_the_question_and_what_was_seen_of_the_answer(
    tabs: Tabs, start_server: Callable[..., Server], default_path: Path
) -> None:
    server = start_server(default_path)
    page = tabs.open(server.url)
    send(page, "Write a very long story about a king.")
    wait_for_text(page, r".{60}")
    server.process.send_signal(signal.SIGSTOP)  # nothing more can be shown from here on
    seen, url = replies(page)[0], page.url
    server.end(signal.SIGKILL)
    page.wait_for_timeout(500)  # in which the browser notices
    page.close()

    start_server(default_path, server.port)
    page = tabs.open(url)
    wait_for_text(page, "Interrupted")
    tabs.forget_errors()
    expect(page.locator("#chat .message.user")).to_have_text("Write a very long story about a king.")
    assert replies(page)[0].startswith(seen)
    send_short(page, "Say hello.")
    wait_for_end(page, n_replies=2)
    page.close()  # before its server is ended


@pytest.mark.parametrize("milliseconds", [0, 20, 60, 100])
def test_a_click_right_after_sending_does_not_mix_two_conversations(page: Page, milliseconds: int) -> None:
    send_short(page, "Say hello.")
    wait_for_end(page)
    page.click("#new-chat")
    expect(page.locator("#chat .message")).to_have_count(0)
    send(page, "Write a very long story about a fox.")
    page.wait_for_timeout(milliseconds)
    page.locator("#conversations label", has_text="Say hello").first.click()
    page.wait_for_timeout(1000)  # in which whatever is under way arrives
    selected = page.locator("#conversations label.selected")  # the click may be lost when the list is drawn anew
    expect(page.locator("#chat .message.user")).to_contain_text(selected.inner_text())
    assert selected.locator("input").get_attribute("value") in page.url
    page.locator("#conversations label", has_text="fox").first.click()
    wait_for_text(page, r".{20}")
    page.click("#message .stop-button")
    wait_for_text(page, "Stopped.")


@pytest.mark.parametrize("milliseconds", [0, 20, 60, 100])
def test_a_new_chat_right_after_sending_is_empty(page: Page, milliseconds: int) -> None:
    send(page, "Write a very long story about a wolf.")
    page.wait_for_timeout(milliseconds)
    page.click("#new-chat")
    page.wait_for_timeout(1000)
    is_new = page.url == page.url.split("?")[0]
    expect(page.locator("#chat .message")).to_have_count(0 if is_new else 2)
    expect(page.locator("#conversations label.selected")).to_have_count(0 if is_new else 1)
    page.locator("#conversations label", has_text="wolf").first.click()
    page.click("#message .stop-button")
    wait_for_text(page, "Stopped.")
