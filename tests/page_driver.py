"""The page as a reader uses it: tabs of a real browser, and what is done and seen in them."""

import re
from typing import Any

import httpx
from conftest import SECONDS, Server
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

BOX = ".parley-composer-text"
STOP = ".parley-stop"
REPLY = ".parley-assistant .parley-body"
LONG = "Write a very long story about a {}."


class Tabs:
    """Tabs of one browser window, and what they asked for and complained about."""

    def __init__(self, browser: Browser, width: int = 1280, **options: Any) -> None:
        height = 740 if width < 500 else 800
        self.context: BrowserContext = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.context.set_default_timeout(SECONDS)
        expect.set_options(timeout=SECONDS)
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        self.context.on("request", lambda request: self.hosts.add(request.url.split("/")[2].split(":")[0]))
        self.context.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        self.context.on("weberror", lambda error: self._note(str(error.error)))

    def open(self, url: str) -> Page:
        """Open a URL in a new tab, ready to be written in."""
        page = self.context.new_page()
        page.goto(url)
        expect(page.locator(BOX)).to_be_editable()
        return page

    def close(self) -> None:
        """Close all tabs; they must have asked no other host for anything, and logged no error."""
        self.context.close()
        assert self.hosts <= {"127.0.0.1", ""}  # the latter for what the page has made itself
        assert self.errors == []

    def forget_errors(self) -> None:
        """Let a browser log that a server was not there, or that it refused something."""
        self.errors.clear()

    def _note(self, text: str) -> None:
        self.errors.append(text)


def send(page: Page, text: str, **params: Any) -> None:
    """Send a message, its reply drawn with sampling parameters as the panel sets them."""
    page.evaluate("params => import('/page/session.js').then(({session}) => { session.params = params; })", params)
    page.fill(BOX, text)
    page.press(BOX, "Enter")


def send_short(page: Page, text: str = "Say hello.") -> None:
    """Send a message whose reply is soon over."""
    send(page, text, max_tokens=12)


def send_long(page: Page, animal: str, n_characters: int = 20) -> None:
    """Send a message whose reply goes on until it is stopped, and wait for some of it."""
    send(page, LONG.format(animal), min_tokens=4000, max_tokens=4000)
    wait_for_text(page, f".{{{n_characters}}}")


def reply(page: Page) -> str:
    """Return the text of the last reply, which may not have been laid out yet."""
    return page.locator(REPLY).last.text_content() or ""


def wait_for_text(page: Page, pattern: str) -> None:
    """Wait until the last reply has a text."""
    expect(page.locator(REPLY).last).to_have_text(re.compile(pattern, re.DOTALL))


def wait_for_end(page: Page, n_replies: int = 1) -> None:
    """Wait until so many replies are shown, the last one whole."""
    expect(page.locator(".parley-assistant")).to_have_count(n_replies)
    expect(page.locator(".parley-growing")).to_have_count(0)
    expect(page.locator(STOP)).to_be_hidden()


def stop(page: Page) -> None:
    """Stop the reply, and wait for its end."""
    page.click(STOP)
    expect(page.locator(".parley-growing")).to_have_count(0)


def row(page: Page, title: str) -> Any:
    """Return the row of a conversation in the list."""
    return page.locator("parley-sidebar .parley-row-link", has_text=title).first


def tool(page: Page, name: str, role: str = "assistant") -> None:
    """Press a button of the last message of a role."""
    message = page.locator(f".parley-{role}").last
    message.hover()
    message.get_by_role("button", name=name, exact=True).click()


def open_panel(page: Page, tab: str) -> None:
    """Show a tab of the panel at the right."""
    if not page.locator("#panel.open").count():
        page.click(".parley-meter")
    page.get_by_role("tab", name=tab, exact=True).click()


def open_part(page: Page, tab: str, part: str) -> Locator:
    """Unfold a part of a tab of the panel, and return it."""
    open_panel(page, tab)
    page.locator(f"#{part} > button").click()
    return page.locator(f"#{part}")


def log_in(tabs: Tabs, server: Server, name: str, password: str) -> None:
    """Begin a session in a window."""
    answer = tabs.context.request.post(f"{server.url}/login", form={"name": name, "password": password})
    assert answer.ok, answer.text()


def stored(server: Server, page: Page) -> list[dict[str, Any]]:
    """Return the messages of the conversation that a page shows, as the server has them."""
    conversation_id = re.search(r"c=([0-9a-f]{32})", page.url)
    assert conversation_id
    answer = httpx.get(f"{server.url}/api/conversations/{conversation_id[1]}/messages", timeout=60)
    messages: list[dict[str, Any]] = answer.raise_for_status().json()["messages"]
    return messages


def open_list(page: Page) -> None:
    """Show the list at the left if it is not."""
    if not page.locator("#sidebar.open").count():
        page.get_by_role("button", name="Show or hide the list of conversations").click()
    expect(page.locator("#sidebar.open")).to_be_visible()
