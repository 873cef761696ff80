"""The chat pane in a real browser, over an API whose replies the test speaks.

Every test ends by checking that the page asked no other host for anything and logged no error of its own.
"""

import re
from collections.abc import Iterator

import pytest
from conftest import SECONDS
from fake_api import FakeServer, error, eventually, serving
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Route,
    WebError,
    expect,
)

pytestmark = pytest.mark.browser

BOX = ".parley-composer-text"


@pytest.fixture(scope="module")
def served() -> Iterator[FakeServer]:
    with serving() as server:
        yield server


@pytest.fixture
def server(served: FakeServer) -> FakeServer:
    served.reset()
    return served


class Tabs:
    """Tabs of one browser window, and what they asked for and complained about."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self._context = context
        self._url = url
        context.on("request", self._note_request)
        context.on("weberror", self._note_error)
        context.on("console", self._note_message)

    def open(self, query: str = "") -> Page:
        page = self._context.new_page()
        page.goto(self._url + query)
        expect(page.locator(BOX)).to_be_visible()
        return page

    def close(self) -> None:
        """Close all, and forget what the page keeps in the browser."""
        for page in self._context.pages:
            page.evaluate("() => localStorage.clear()")
            page.close()
        self._context.remove_listener("request", self._note_request)
        self._context.remove_listener("weberror", self._note_error)
        self._context.remove_listener("console", self._note_message)

    def _note_request(self, request: Request) -> None:
        self.hosts.add(request.url.split("/")[2])

    def _note_error(self, failure: WebError) -> None:
        self.errors.append(str(failure.error))

    def _note_message(self, message: ConsoleMessage) -> None:
        # Chromium itself logs each answer that is an error: here those are part of the tests.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)


@pytest.fixture(scope="module")
def context(browser: Browser) -> BrowserContext:
    expect.set_options(timeout=SECONDS)
    permissions = ["clipboard-read", "clipboard-write"]
    return browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US", permissions=permissions)


@pytest.fixture
def tabs(context: BrowserContext, server: FakeServer) -> Iterator[Tabs]:
    tabs = Tabs(context, server.url)
    yield tabs
    tabs.close()
    assert tabs.errors == []
    assert tabs.hosts <= {f"127.0.0.1:{server.port}"}


def send(page: Page, text: str) -> None:
    page.fill(BOX, text)
    page.press(BOX, "Enter")


def messages(page: Page) -> Locator:
    return page.locator(".parley-message .parley-body")


def tool(page: Page, name: str, nth: int = -1) -> Locator:
    """Return a button of a message's toolbar."""
    return page.locator(".parley-message").nth(nth).get_by_role("button", name=name, exact=True)


def draft(page: Page, key: str) -> str | None:
    text: str | None = page.evaluate("(key) => localStorage.getItem(`parley.draft.${key}`)", key)
    return text


def expect_texts(page: Page, *texts: str) -> None:
    expect(messages(page)).to_have_text([re.compile(rf"^\s*{re.escape(text)}\s*$") for text in texts])


# Sending and watching.


def test_a_first_message_begins_a_conversation_and_its_reply_is_seen_to_grow(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open()
    send(page, "Hello <b>there</b>\n  you")
    server.chats.say("Hel")
    expect_texts(page, "Hello <b>there</b>\n  you", "Hel")
    server.chats.say("lo **you**.")
    expect(messages(page).last.locator("strong")).to_have_text("you")
    expect(page.get_by_role("log", name="Messages")).to_have_attribute("aria-busy", "true")
    server.chats.end()
    expect(page.get_by_role("log", name="Messages")).to_have_attribute("aria-busy", "false")
    expect(page).to_have_url(re.compile(r"\?c=c1$"))
    expect(page).to_have_title("Hello <b>there</b>\n  you · Parley".replace("\n  ", " "))
    expect(page.locator(BOX)).to_have_value("")
    expect(page.locator(BOX)).to_be_focused()


def test_a_growing_reply_keeps_the_nodes_of_its_finished_blocks(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open(f"?c={server.chats.begin('Hi', 'Hello')}")
    expect(messages(page)).to_have_count(2)
    send(page, "More")
    server.chats.say("First paragraph.\n\nSecond ")
    first = messages(page).last.locator("p").first
    expect(first).to_have_text("First paragraph.")
    node = first.element_handle()
    server.chats.say("paragraph.")
    expect(messages(page).last).to_contain_text("Second paragraph.")
    server.chats.end()
    expect(tool(page, "Copy")).to_be_visible()
    assert node.evaluate("(node) => node.isConnected")


def test_stop_ends_a_reply_and_says_so(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open()
    send(page, "Count")
    server.chats.say("One, two")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".parley-ending")).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.get_by_role("button", name="Continue").click()
    server.chats.say(", three")
    expect(messages(page).last).to_have_text("One, two, three")
    server.chats.end()
    expect(page.locator(".parley-version")).to_have_text("2 / 2")


def test_two_presses_send_once(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open(f"?c={server.chats.begin('Hi', 'Hello')}")
    page.fill(BOX, "Once")
    page.evaluate(
        """() => { const box = document.querySelector('.parley-composer-text');
        for (let i = 0; i < 2; i++) box.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}));
        document.querySelector('.parley-send').click(); }"""
    )
    server.chats.say("Yes")
    expect_texts(page, "Hi", "Hello", "Once", "Yes")
    assert server.chats.sent == ["Once"]


def test_shift_enter_begins_a_line_and_a_word_being_chosen_is_not_sent(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open()
    page.locator(BOX).press_sequentially("one")
    page.press(BOX, "Shift+Enter")
    page.locator(BOX).press_sequentially("two")
    page.evaluate(
        """() => document.querySelector('.parley-composer-text').dispatchEvent(
        new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, isComposing: true}))"""
    )
    expect(page.locator(BOX)).to_have_value("one\ntwo")
    assert server.chats.sent == []


def test_a_blank_message_is_refused_with_a_reason(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open()
    send(page, "  \n ")
    expect(page.get_by_role("alert")).to_contain_text("The message is empty")
    assert server.chats.conversations == {}


def test_a_refused_first_message_stays_in_the_box_and_leaves_no_conversation(tabs: Tabs, server: FakeServer) -> None:
    server.chats.refusals.append(error(400, "message_too_long", "The message is too long: at most 5 fit."))
    page = tabs.open()
    send(page, "A long message")
    expect(page.get_by_role("alert")).to_contain_text("too long")
    expect(page.locator(BOX)).to_have_value("A long message")
    page.wait_for_function("() => !document.querySelector('.parley-composer-text').readOnly")
    assert server.chats.conversations == {}
    page.press(BOX, "Enter")
    server.chats.say("Now it fits.")
    expect_texts(page, "A long message", "Now it fits.")


def test_a_message_whose_answer_is_lost_is_sent_once(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open()
    lost: list[Route] = []

    def lose(route: Route) -> None:
        if route.request.method == "POST" and not lost:
            lost.append(route)
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/messages", lose)
    send(page, "Only once")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    expect(page.locator(BOX)).to_have_value("Only once")
    expect(page.locator(BOX)).to_be_editable()
    page.press(BOX, "Enter")
    server.chats.say("Yes.")
    expect_texts(page, "Only once", "Yes.")
    expect(page.locator(BOX)).to_have_value("")
    assert server.chats.sent == ["Only once", "Only once"]


# Drafts and edits.


def test_drafts_are_kept_for_each_conversation(tabs: Tabs, server: FakeServer) -> None:
    first, second = server.chats.begin("Hi", "Hello"), server.chats.begin("Ho", "Hello")
    page = tabs.open(f"?c={first}")
    expect_texts(page, "Hi", "Hello")
    page.fill(BOX, "half a thought")
    page.evaluate("(id) => import('/static/session.js').then(({ session }) => session.open(id))", second)
    expect_texts(page, "Ho", "Hello")
    expect(page.locator(BOX)).to_have_value("")
    page.go_back()
    expect_texts(page, "Hi", "Hello")
    expect(page.locator(BOX)).to_have_value("half a thought")
    page.reload()
    expect(page.locator(BOX)).to_have_value("half a thought")
    assert draft(page, first) == "half a thought"


def test_a_message_edited_in_place_is_answered_in_a_branch_of_its_own(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open(f"?c={server.chats.begin('2 + 2?', '4')}")
    expect_texts(page, "2 + 2?", "4")
    page.press(BOX, "ArrowUp")
    page.get_by_role("textbox", name="Edit").fill("3 + 3?")
    page.get_by_role("button", name="Save and send").click()
    server.chats.say("6")
    server.chats.end()
    expect_texts(page, "3 + 3?", "6")
    tool(page, "Previous version", 0).click()
    expect_texts(page, "2 + 2?", "4")
    expect(tool(page, "Previous version", 0)).to_be_disabled()


def test_escape_leaves_an_edit_as_it_was(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open(f"?c={server.chats.begin('Hi', 'Hello')}")
    tool(page, "Edit").click()
    page.get_by_role("textbox", name="Edit").fill("Something else")
    page.keyboard.press("Escape")
    expect_texts(page, "Hi", "Hello")
    expect(page.locator(".parley-message").last).to_be_focused()


def test_a_message_is_deleted_after_asking_in_place_and_the_focus_stays(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open(f"?c={server.chats.begin('Hi', 'Hello', 'How?', 'Well')}")
    tool(page, "Delete").click()
    page.keyboard.press("Escape")
    expect(tool(page, "Delete")).to_be_focused()
    tool(page, "Delete").click()
    page.get_by_role("button", name="This and all that follows").click()
    expect_texts(page, "Hi", "Hello", "How?")
    expect(page.locator(".parley-message").last).to_be_focused()


def test_a_reply_is_rated_commented_and_pinned(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open(f"?c={server.chats.begin('Hi', 'Hello')}")
    tool(page, "Good reply").click()
    page.get_by_role("textbox", name="What was it like?").fill("friendly")
    page.keyboard.press("Enter")
    tool(page, "Pin").click()
    expect(page.locator(".parley-marks").last).to_have_text("Pinned")
    expect(tool(page, "Good reply")).to_have_attribute("aria-pressed", "true")
    reply = [*server.chats.messages.values()][-1]
    eventually(lambda: [reply] if reply["feedback"] == {"rating": 1, "comment": "friendly"} else [])


def test_a_reply_is_copied_as_it_was_written(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open(f"?c={server.chats.begin('Hi', '**Hello**')}")
    tool(page, "Copy").click()
    expect(page.locator(".parley-message").last.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("() => navigator.clipboard.readText()") == "**Hello**"


def test_code_has_its_language_its_colours_and_a_button_that_copies(tabs: Tabs, server: FakeServer) -> None:
    chat_id = server.chats.begin("Code", "```python\nif 1 < 2:\n    pass\n```")
    page = tabs.open(f"?c={chat_id}")
    code = page.locator(".parley-code")
    expect(code.locator(".parley-code-header")).to_have_text("python")
    expect(code.locator(".parley-code-keyword").first).to_have_text("if")
    code.get_by_role("button", name="Copy code").click()
    expect(code.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("() => navigator.clipboard.readText()") == "if 1 < 2:\n    pass\n"


def test_a_fork_is_shown_at_its_own_address(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open(f"?c={server.chats.begin('Hi', 'Hello')}")
    tool(page, "Fork into a new chat").click()
    expect(page.get_by_role("button", name="A fork")).to_be_visible()
    expect_texts(page, "Hi", "Hello")
    page.go_back()
    expect(page.get_by_role("button", name="A chat")).to_be_visible()


def test_what_is_put_into_the_trash_is_left_and_can_be_taken_back(tabs: Tabs, server: FakeServer) -> None:
    chat_id = server.chats.begin("Hi", "Hello")
    page = tabs.open(f"?c={chat_id}")
    expect_texts(page, "Hi", "Hello")
    page.evaluate("(id) => import('/static/session.js').then(({ session }) => session.trash([id]))", chat_id)
    expect(messages(page)).to_have_count(0)
    expect(page.locator(".parley-notice")).to_contain_text("Moved to the trash.")
    assert server.chats.conversations[chat_id]["trashed"] is True
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".parley-notice")).to_have_count(0)
    while server.chats.conversations[chat_id]["trashed"]:
        page.wait_for_timeout(10)


# Titles, URLs, tabs.


def test_a_title_is_renamed_in_its_place(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open(f"?c={server.chats.begin('Hi', 'Hello')}")
    page.get_by_role("button", name="A chat").dblclick()
    page.get_by_role("textbox", name="Title").fill("A better title")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="A better title")).to_be_focused()
    expect(page).to_have_title("A better title · Parley")


def test_an_unknown_conversation_gives_a_new_chat_and_a_clean_url(tabs: Tabs) -> None:
    page = tabs.open("?c=nowhere")
    expect(page.get_by_role("alert")).to_contain_text("does not exist")
    expect(page).not_to_have_url(re.compile("c="))
    expect(page.get_by_role("heading", name="What is on your mind?")).to_be_visible()


def test_a_conversation_deleted_elsewhere_leaves_its_unsent_text(tabs: Tabs, server: FakeServer) -> None:
    chat_id = server.chats.begin("Hi", "Hello")
    page = tabs.open(f"?c={chat_id}")
    expect_texts(page, "Hi", "Hello")
    page.fill(BOX, "not sent yet")
    server.chats.watched(chat_id)
    server.chats.conversations.pop(chat_id)
    server.chats.changed(chat_id)
    expect(page.get_by_role("alert")).to_contain_text("deleted elsewhere")
    expect(page.locator(BOX)).to_have_value("not sent yet")


def test_a_conversation_deleted_while_nobody_watches_leaves_its_unsent_text(tabs: Tabs, server: FakeServer) -> None:
    chat_id = server.chats.begin("Hi", "Hello")
    page = tabs.open(f"?c={chat_id}")
    expect_texts(page, "Hi", "Hello")
    page.fill(BOX, "not sent yet")
    server.go_away()
    server.chats.conversations.pop(chat_id)
    server.come_back()
    expect(page.get_by_role("alert")).to_contain_text("deleted elsewhere")
    expect(page.locator(BOX)).to_have_value("not sent yet")


def test_two_tabs_show_the_same(tabs: Tabs, server: FakeServer) -> None:
    chat_id = server.chats.begin("Hi", "Hello")
    one, other = tabs.open(f"?c={chat_id}"), tabs.open(f"?c={chat_id}")
    expect_texts(one, "Hi", "Hello")
    expect_texts(other, "Hi", "Hello")
    send(one, "And now?")
    server.chats.say("Both see it.")
    server.chats.end()
    for page in (one, other):
        expect_texts(page, "Hi", "Hello", "And now?", "Both see it.")


def test_a_stale_tab_is_told_reads_and_keeps_its_text(tabs: Tabs, server: FakeServer) -> None:
    chat_id = server.chats.begin("Hi", "Hello")
    page = tabs.open(f"?c={chat_id}")
    server.chats.watched(chat_id)
    expect_texts(page, "Hi", "Hello")
    server.chats.add(chat_id, "user", "From elsewhere")  # without a word to those who watch
    send(page, "From here")
    expect(page.get_by_role("alert")).to_contain_text("has gone on elsewhere")
    expect_texts(page, "Hi", "Hello", "From elsewhere")
    expect(page.locator(BOX)).to_have_value("From here")


def test_a_reload_finds_the_reply_where_it_is(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open()
    send(page, "A story")
    server.chats.say("Once upon")
    expect(messages(page).last).to_have_text("Once upon")
    page.reload()
    expect(messages(page).last).to_have_text("Once upon")
    server.chats.say(" a time 🐉")
    server.chats.say("!")
    server.chats.end()
    expect_texts(page, "A story", "Once upon a time 🐉!")


# The server and the model.


def test_a_lost_server_is_told_and_what_it_wrote_meanwhile_is_found(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open()
    send(page, "A story")
    server.chats.say("Once")
    expect(messages(page).last).to_have_text("Once")
    server.go_away()
    expect(page.locator(".parley-lost")).to_have_text("Connection lost, trying again …")
    page.fill(BOX, "written meanwhile")
    page.press(BOX, "Enter")
    expect(page.locator(BOX)).to_have_value("written meanwhile")
    server.chats.say(" upon a time")
    server.come_back()
    expect(page.locator(".parley-lost")).to_be_empty()
    expect(messages(page).last).to_have_text("Once upon a time")
    server.chats.end()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert server.chats.sent == ["A story"]


def test_a_model_that_loads_is_waited_for(tabs: Tabs, server: FakeServer) -> None:
    server.chats.show_model(state="loading", label="tiny", done=30, total=100)
    page = tabs.open()
    expect(page.locator(".parley-composer-status")).to_have_text("The model is being loaded: tiny 30 %")
    send(page, "Hello?")
    assert server.chats.sent == []
    server.chats.show_model(state="ready")
    expect(page.locator(".parley-composer-status")).to_be_empty()
    page.press(BOX, "Enter")
    server.chats.report(queue_position=2, wait_seconds=12)
    expect(page.locator(".parley-progress").last).to_have_text("Waiting: number 2 in line, about 12 s …")
    server.chats.report(prefilled_tokens=64, prompt_tokens=4000)
    expect(page.locator(".parley-progress").last).to_have_text("Reading 64 of 4,000 tokens …")
    server.chats.say("Yes")
    expect(messages(page).last).to_have_text("Yes")
    expect(page.locator(".parley-progress").last).to_be_empty()


def test_a_failed_reply_says_why_and_is_tried_again(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open()
    send(page, "Hello")
    server.chats.running()
    server.chats.end("error", "error", "The engine stopped.")
    expect(page.locator(".parley-ending")).to_contain_text("The reply failed. The engine stopped.")
    page.get_by_role("button", name="Retry").click()
    server.chats.say("Here I am.")
    server.chats.end()
    expect_texts(page, "Hello", "Here I am.")


def test_a_temporary_chat_is_in_no_url_and_ends_when_it_is_left(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open()
    page.evaluate("() => import('/static/session.js').then(({ session }) => session.startNew({ temporary: true }))")
    expect(page.locator(".parley-note")).to_contain_text("Nothing of this chat is kept")
    page.fill(BOX, "a secret")
    assert draft(page, "new") is None
    page.press(BOX, "Enter")
    server.temporary.say("Hush.")
    server.temporary.end()
    expect_texts(page, "a secret", "Hush.")
    expect(page).not_to_have_url(re.compile("c="))
    assert server.chats.conversations == {}
    page.evaluate("() => import('/static/session.js').then(({ session }) => session.startNew())")
    expect(messages(page)).to_have_count(0)
    while server.temporary.conversations:
        page.wait_for_timeout(10)


# Reading.


def scroll_top(page: Page) -> int:
    top: int = page.evaluate("() => document.querySelector('.parley-scroll').scrollTop")
    return top


def wait_for_rest(page: Page) -> int:
    """Wait until nothing has been scrolled for some frames; returns where that is."""
    return int(
        page.evaluate(
            """() => new Promise((done) => {
              const scroll = document.querySelector('.parley-scroll');
              let top = -1, nFrames = 0;
              const look = () => {
                nFrames = scroll.scrollTop === top ? nFrames + 1 : 0;
                top = scroll.scrollTop;
                nFrames > 20 ? done(top) : requestAnimationFrame(look);
              };
              look();
            })"""
        )
    )


def test_a_long_chat_opens_at_its_end_and_a_reader_who_left_it_is_not_moved(tabs: Tabs, server: FakeServer) -> None:
    chat_id = server.chats.begin(*(f"Message {i}\n" * 4 for i in range(300)))
    page = tabs.open(f"?c={chat_id}")
    expect(page.locator(".parley-message").last).to_be_in_viewport()
    send(page, "Go on")
    server.chats.say("line\n\n" * 20)
    expect(page.locator(".parley-growing p").last).to_be_in_viewport()
    page.locator(".parley-scroll").hover()
    page.mouse.wheel(0, -3000)
    expect(page.get_by_role("button", name="Jump to the end")).to_be_visible()
    anchor = page.locator(".parley-message", has_text="Message 290")
    before = wait_for_rest(page)
    server.chats.say("line\n\n" * 40 + "the end")
    expect(messages(page).last).to_contain_text("the end")
    assert scroll_top(page) == before
    assert anchor.count() == 1
    page.get_by_role("button", name="Jump to the end").click()
    expect(page.locator(".parley-growing p").last).to_be_in_viewport()
    expect(page.get_by_role("button", name="Jump to the end")).to_be_hidden()


def test_whole_sentences_are_spoken(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open()
    send(page, "Hello")
    server.chats.say("One is **here**. And two")
    expect(page.locator(".parley-spoken p")).to_have_text(["One is here."])
    server.chats.say(" is there")
    server.chats.end()
    expect(page.locator(".parley-spoken p")).to_have_text(
        ["One is here.", "And two is there", "The reply is finished."]
    )


def test_suggestions_send_what_they_say(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open()
    page.locator(".parley-suggestions button").first.click()
    server.chats.say("Light and rain.")
    expect_texts(page, "Explain how a rainbow comes about, in simple words.", "Light and rain.")


def test_the_pane_fits_a_phone_and_speaks_german(browser: Browser, server: FakeServer) -> None:
    chat_id = server.chats.begin("W" * 300, "```\n" + "x" * 500 + "\n```\n\n|a|b|\n|-|-|\n|" + "y" * 300 + "|z|")
    phone = browser.new_context(viewport={"width": 360, "height": 740}, locale="de-DE", has_touch=True)
    tabs = Tabs(phone, server.url)
    page = tabs.open(f"?c={chat_id}")
    expect(page.get_by_placeholder("Nachricht schreiben")).to_be_visible()
    expect(page.locator(".parley-message")).to_have_count(2)
    assert page.evaluate("() => document.documentElement.scrollWidth") == 360
    assert page.evaluate("() => document.querySelector('.parley-scroll').scrollWidth") <= 360
    phone.close()
    assert tabs.errors == []


def test_an_element_that_is_put_elsewhere_goes_on_once(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open(f"?c={server.chats.begin('Hi', 'Hello')}")
    expect_texts(page, "Hi", "Hello")
    page.evaluate(
        """() => { const chat = document.querySelector('parley-chat'); chat.remove(); document.body.append(chat); }"""
    )
    expect_texts(page, "Hi", "Hello")
    send(page, "Still there?")
    server.chats.say("Yes")
    expect_texts(page, "Hi", "Hello", "Still there?", "Yes")
    assert server.chats.sent == ["Still there?"]


def test_a_reply_that_is_over_before_the_answer_to_its_message_is_whole(tabs: Tabs, server: FakeServer) -> None:
    page = tabs.open()

    def hold(route: Route) -> None:
        answer = route.fetch()
        server.chats.say("Hi")
        server.chats.end()
        page.wait_for_timeout(200)  # all of it has been told by then
        route.fulfill(response=answer)

    page.route("**/messages", lambda route: hold(route) if route.request.method == "POST" else route.continue_())
    send(page, "Hello")
    expect_texts(page, "Hello", "Hi")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
