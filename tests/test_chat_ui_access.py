"""The page for those who use a keyboard, a screen reader, a small screen, or another language."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import Server
from page_driver import BOX, Tabs, open_list, open_panel, open_part, row, send, tool, wait_for_end
from playwright.sync_api import Browser, Locator, Page, expect

STATIC = Path(__file__).parent.parent / "chat/ui/static"
PANEL_TABS = ["Chat", "Context", "Data", "Sites", "Settings"]
SMALLEST = 24  # pixels that a finger needs

REPLY = """A list:

- [x] done

```python
print("a line that is far too long for a phone, which scrolls on its own")
```

| Animal | Legs |
|--------|-----:|
| Ant    |    6 |
"""


@pytest.fixture(scope="module")
def server(default_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), default_path)
    chats = [[("human", "What has legs?"), ("gpt", REPLY)], [("human", "Rubbish?"), ("gpt", "Yes.")]]
    shapes = [
        {"id": name, "conversations": [{"from": who, "value": text} for who, text in chat]}
        for name, chat in zip(("legs", "rubbish"), chats, strict=True)
    ]
    with httpx.Client(base_url=f"{server.url}/api") as api:
        assert api.post("/import", params={"name": "chats.json"}, content=json.dumps(shapes)).status_code == 200
        assert api.patch("/conversations/legs", json={"title": "Legs"}).status_code == 200
        assert api.patch("/conversations/rubbish", json={"title": "Rubbish", "trashed": True}).status_code == 200
        assert api.post("/sites", json={"name": "Shop", "origins": ["https://shop.example"]}).status_code == 201
    yield server
    assert server.end() == 0


@pytest.fixture(scope="module")
def tabs(browser: Browser) -> Iterator[Tabs]:
    tabs = Tabs(browser, reduced_motion="reduce")
    yield tabs
    tabs.close()


@pytest.fixture(scope="module")
def small_tabs(browser: Browser) -> Iterator[Tabs]:
    tabs = Tabs(browser, width=360, has_touch=True, is_mobile=True, reduced_motion="reduce")
    yield tabs
    tabs.close()


@pytest.fixture
def page(tabs: Tabs, server: Server) -> Iterator[Page]:
    page = tabs.open(server.url)
    yield page
    page.close()


@pytest.fixture
def small_page(small_tabs: Tabs, server: Server) -> Iterator[Page]:
    page = small_tabs.open(server.url)
    yield page
    page.close()


# What can be on the page.


def show_chat(page: Page) -> None:
    open_list(page)
    row(page, "Legs").click()
    expect(page.locator(".parley-code-keyword, .parley-code-name").first).to_be_visible()


def states(page: Page) -> Iterator[str]:
    """Put the page into one state after the other."""
    yield "empty"
    show_chat(page)
    yield "chat"
    for tab in PANEL_TABS:
        open_panel(page, tab)
        yield f"panel {tab}"
    for part in ("account", "keys"):
        unfold(open_part(page, "Settings", part))
    yield "account and keys"
    open_panel(page, "Sites")
    page.get_by_role("button", name="Shop").click()
    unfold(page.locator("parley-sites"))
    yield "site"
    page.keyboard.press("Escape")  # closes the panel where it covers the chat
    page.locator(".parley-meter").focus()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    yield "help"
    page.keyboard.press("Escape")
    send(page, "What is the capital of France?", temperature=0, max_tokens=12)
    wait_for_end(page, n_replies=2)
    tool(page, "Show tokens")
    page.locator(".parley-token").nth(1).click()
    yield "tokens"
    page.keyboard.press("Escape")
    open_list(page)
    page.get_by_role("button", name="Trash", exact=True).click()
    expect(row(page, "Rubbish")).to_be_visible()
    yield "trash"


def unfold(part: Locator) -> None:
    """Show all that is folded away in a part of the panel."""
    expect(part.locator("summary").first).to_be_visible()
    part.locator("details").evaluate_all("parts => parts.forEach((part) => (part.open = true))")


def faults(page: Page, *rules: str) -> list[str]:
    """Return what axe-core finds grave, by some of its rules or all, a line each."""
    options = {"resultTypes": ["violations"], "preload": False, **({"runOnly": rules} if rules else {})}
    found: list[dict[str, Any]] = Axe().run(page, options=options).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def dress(page: Page, theme: str) -> None:
    """Put the page into dark colours, or light ones."""
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    expect(page.locator("body.dark")).to_have_count(int(theme == "dark"))


@pytest.mark.browser
def test_axe_finds_no_grave_fault_whatever_is_shown(page: Page) -> None:
    for state in states(page):
        assert faults(page) == [], state
        dress(page, "dark")
        assert faults(page, "color-contrast") == [], state
        dress(page, "light")


@pytest.mark.browser
def test_axe_finds_no_grave_fault_on_a_phone_and_everything_fits_it_and_a_finger(small_page: Page) -> None:
    for state in states(small_page):
        assert faults(small_page) == [], state
        assert small_page.evaluate("document.documentElement.scrollWidth") == 360, state
        assert too_wide(small_page) == [], state
        assert too_small(small_page) == [], state


def too_wide(page: Page) -> list[str]:
    """Return the open dialogs and panels whose content is wider than they are."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll('dialog[open], .sidebar.open > .sidebar-content, parley-chat')]
          .filter((box) => box.scrollWidth > box.clientWidth || box.getBoundingClientRect().right > innerWidth)
          .map((box) => box.className || box.tagName)"""
    )
    return found


def too_small(page: Page) -> list[str]:
    """Return our buttons that are seen and that a finger would miss; the tokens are words of a text."""
    found: list[str] = page.evaluate(
        """(smallest) => [...document.querySelectorAll('[class*="parley-"] button:not(.parley-token)')]
          .filter((button) => button.checkVisibility({ visibilityProperty: true }))
          .filter((button) => {
            const { width, height } = button.getBoundingClientRect();
            return Math.min(width, height) < smallest;
          })
          .map((button) => button.outerHTML.slice(0, 200))""",
        SMALLEST,
    )
    return found


# A small screen.


@pytest.mark.browser
def test_the_list_covers_a_phone_until_a_conversation_is_chosen(small_page: Page) -> None:
    expect(small_page.locator("#sidebar.open")).to_have_count(0)
    open_list(small_page)
    row(small_page, "Legs").tap()
    expect(small_page.locator("#sidebar.open")).to_have_count(0)
    expect(small_page.locator(".parley-user").first).to_have_text(re.compile("What has legs?"))


@pytest.mark.browser
def test_a_tap_beside_the_list_closes_it_and_does_nothing_else(small_page: Page) -> None:
    open_list(small_page)
    beside = small_page.locator(".parley-suggestions button").first.bounding_box()
    assert beside
    small_page.touchscreen.tap(350, beside["y"] + beside["height"] / 2)
    expect(small_page.locator("#sidebar.open")).to_have_count(0)
    assert small_page.input_value(BOX) == ""
    expect(small_page.locator(".parley-message")).to_have_count(0)


# The keyboard.


def focused(page: Page) -> str:
    """Return the name of what has the focus."""
    name: str = page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent")
    return name


def tab_until(page: Page, name: str, key: str = "Tab") -> None:
    """Press Tab until something has the focus, within as many steps as there can be."""
    for _ in range(40):
        page.keyboard.press(key)
        if focused(page) == name:
            return
    raise AssertionError(f"no {name} is reached")


@pytest.mark.browser
def test_tab_goes_from_the_box_back_to_the_tools_of_the_last_message(page: Page) -> None:
    show_chat(page)
    page.focus(BOX)
    page.keyboard.press("Shift+Tab")
    assert focused(page) == "Delete"
    tab_until(page, "Copy", "Shift+Tab")
    foot = page.locator(".parley-foot:focus-within")
    assert foot.evaluate("foot => getComputedStyle(foot).opacity") == "1"


@pytest.mark.browser
def test_a_dialog_keeps_the_focus_and_gives_it_back(page: Page) -> None:
    page.locator(".parley-meter").focus()
    page.keyboard.press("?")
    assert focused(page) == "Close"
    for key in ("Tab", "Tab", "Shift+Tab"):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    expect(page.locator(".parley-meter")).to_be_focused()


@pytest.mark.browser
def test_the_controls_of_a_closed_panel_are_not_reached(page: Page) -> None:
    page.keyboard.press("Control+B")
    expect(page.locator("#sidebar.open")).to_have_count(0)
    page.focus(BOX)
    for _ in range(30):
        page.keyboard.press("Tab")
        assert not page.evaluate("!!document.activeElement.closest('.sidebar')")


@pytest.mark.browser
def test_what_closes_with_the_focus_in_it_gives_it_to_the_box(page: Page) -> None:
    page.focus("parley-sidebar input[type=search]")
    page.keyboard.press("Control+B")
    expect(page.locator(BOX)).to_be_focused()
    page.keyboard.press("Control+K")
    expect(page.locator("parley-sidebar input[type=search]")).to_be_focused()


@pytest.mark.browser
def test_the_last_message_is_edited_by_the_keyboard(page: Page) -> None:
    show_chat(page)
    page.keyboard.press("Control+Shift+E")
    expect(page.locator(".parley-editor textarea")).to_be_focused()


# The rest.


@pytest.mark.browser
def test_nothing_moves_for_those_who_want_no_motion(page: Page) -> None:
    moving = page.evaluate(
        """() => ['#sidebar', '.sidebar-parent', '#panel'].map((name) => document.querySelector(name))
          .filter((element) => getComputedStyle(element).transitionDuration !== '0s').map(({ id }) => id)"""
    )
    assert moving == []
    page.evaluate("""() => document.querySelector('parley-chat').append(
      Object.assign(document.createElement('span'), { className: 'parley-dots', innerHTML: '<i></i>' }))""")
    assert page.locator(".parley-dots i").evaluate("dot => getComputedStyle(dot).animationName") == "none"


@pytest.mark.browser
def test_the_page_can_be_installed(page: Page, server: Server) -> None:
    link = page.locator("link[rel=manifest]").first.get_attribute("href")
    assert link
    manifest = httpx.get(f"{server.url}/{link.lstrip('/')}").json()
    assert manifest["name"] == "Parley"
    assert manifest["icons"]


# The texts, which are an object of JavaScript with one key a line.

ENTRY = re.compile(r"^  '([\w.]+)': (.+),$", re.MULTILINE)


def texts(language: str) -> dict[str, str]:
    """Return the texts of a language, each as it is written in its file."""
    entries = ENTRY.findall((STATIC / f"texts_{language}.js").read_text())
    assert len(entries) == len(dict(entries))
    return dict(entries)


def test_both_languages_have_the_same_texts_with_the_same_names_in_them() -> None:
    english, german = texts("en"), texts("de")
    assert german.keys() == english.keys()
    for key, text in english.items():
        assert set(re.findall(r"{\w+}", german[key])) == set(re.findall(r"{\w+}", text)), key


def test_every_text_that_the_scripts_ask_for_is_there_and_the_other_way_round() -> None:
    scripts = "".join(path.read_text() for path in STATIC.rglob("*.js") if not path.name.startswith("texts_"))
    known = texts("en").keys()
    assert set(re.findall(r"\bt\('([\w.]+)'", scripts)) <= known
    asked = set(re.findall(r"'([a-z]+\.[\w.]+)'", scripts))
    begun = tuple(re.findall(r"`([a-z]+\.(?:\w+\.)*)\$\{", scripts))
    assert [key for key in known if key not in asked and not key.startswith(begun)] == []
