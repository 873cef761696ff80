"""The sidebar in a real browser, in a bare page, on a server that is made up."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import SECONDS
from event_readers import eventually
from fake_list_api import FakeListApi, Handler, serving
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

pytestmark = pytest.mark.browser

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
ON_PHONES_TOO = pytest.mark.parametrize("width", [1280, 360])


class Windows:
    """Browser windows of different sizes, languages and places, and what went wrong in them."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.errors: list[str] = []
        self._browser = browser
        self._url = url
        self._windows: dict[tuple[int, str, str], BrowserContext] = {}

    def open_page(self, width: int = 1280, *, locale: str = "en-GB", timezone: str = "Europe/Berlin") -> Page:
        """Open the page in a window; what it has shown before is still in its cache."""
        key = width, locale, timezone
        if key not in self._windows:
            self._windows[key] = self._browser.new_context(
                viewport={"width": width, "height": 700}, locale=locale, timezone_id=timezone
            )
        page = self._windows[key].new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.clock.set_fixed_time(NOW)
        page.goto(self._url)
        expect(page.locator(".parley-list")).to_have_attribute("aria-busy", "false")
        page.evaluate(WATCH)
        return page

    def close_pages(self) -> None:
        """Close all pages, but not the windows."""
        for window in self._windows.values():
            for page in window.pages:
                page.close()


@pytest.fixture(scope="module")
def windows(browser: Browser) -> Iterator[Windows]:
    expect.set_options(timeout=SECONDS)
    with serving() as url:
        yield Windows(browser, url)


@pytest.fixture
def api() -> FakeListApi:
    """Three conversations of today: Apple, Banana, Cherry."""
    Handler.api = api = FakeListApi(NOW)
    for hours, title in enumerate(["Apple", "Banana", "Cherry"]):
        api.add(title, hours * HOUR)
    return api


@pytest.fixture
def open_page(windows: Windows, api: FakeListApi) -> Iterator[Callable[..., Page]]:
    """Opens the page; every page must end without an error."""
    yield windows.open_page
    windows.close_pages()
    assert windows.errors == []


WATCH = """async () => {
  const { session } = await import('/static/session.js');
  Object.assign(window, { session, notices: [], exported: [] });
  session.addEventListener('notice', ({ detail }) => notices.push(detail));
  document.addEventListener('parley:export', ({ detail }) => exported.push(detail.ids));
}"""


@pytest.fixture
def width() -> int:
    return 1280


@pytest.fixture
def page(open_page: Callable[..., Page], width: int) -> Page:
    return open_page(width)


def rows(page: Page) -> Locator:
    return page.locator(".parley-row-title")


def link(page: Page, title: str) -> Locator:
    return page.locator(".parley-row-link", has_text=title)


def choose(page: Page, title: str, item: str) -> None:
    """Choose an item of a conversation's menu."""
    link(page, title).hover()
    page.get_by_role("button", name=f"Options for “{title}”").click()
    page.get_by_role("menuitem", name=item, exact=True).click()


def view(page: Page, name: str) -> None:
    page.get_by_role("group", name="Which conversations are listed").get_by_role("button", name=name).click()
    expect(page.locator(".parley-list")).to_have_attribute("aria-busy", "false")


def wait_for_rest(page: Page) -> None:
    """Wait until the list has loaded nothing for some frames."""
    page.evaluate("""() => new Promise((done) => {
      const list = document.querySelector('.parley-list');
      let nRows = 0, nFrames = 0;
      const look = () => {
        const found = list.querySelectorAll('.parley-row').length;
        nFrames = list.ariaBusy === 'false' && found === nRows ? nFrames + 1 : 0;
        nRows = found;
        nFrames > 20 ? done() : requestAnimationFrame(look);
      };
      look();
    })""")


def notice(page: Page) -> str:
    page.wait_for_function("notices.length > 0")
    return str(page.evaluate("notices.at(-1).text"))


def undo(page: Page) -> None:
    page.wait_for_function("notices.length > 0")
    page.evaluate("notices.at(-1).action.run()")


def groups(page: Page) -> dict[str, list[str]]:
    sections = page.locator(".parley-groups section").all()
    return {
        one.locator("h3").text_content() or "": one.locator(".parley-row-title").all_text_contents() for one in sections
    }


def listed(api: FakeListApi) -> list[str]:
    return [request for request in api.requests if request.startswith("GET /api/conversations?")]


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.textContent"))


def expect_focus(page: Page, text: str) -> None:
    """Wait until what says this has the focus."""
    expect(page.locator(":focus")).to_have_text(text)


# The list.


@pytest.fixture
def ages(api: FakeListApi) -> None:
    for title, age in {"a": DAY, "b": 2 * DAY, "c": 7 * DAY, "d": 8 * DAY, "e": 30 * DAY, "f": 31 * DAY}.items():
        api.add(title, age)
    api.add("g", 90 * DAY)
    api.add("p", 50 * DAY, pinned=True)


def test_conversations_are_grouped_by_the_day_they_were_last_used(ages: None, open_page: Callable[..., Page]) -> None:
    assert groups(open_page()) == {
        "Pinned": ["p"],
        "Today": ["Apple", "Banana", "Cherry"],
        "Yesterday": ["a"],
        "Previous 7 days": ["b", "c"],
        "Previous 30 days": ["d", "e"],
        "February": ["f"],
        "December 2025": ["g"],
    }


def test_headings_are_in_the_language_of_the_reader(ages: None, open_page: Callable[..., Page]) -> None:
    assert list(groups(open_page(locale="de-DE"))) == [
        "Angeheftet",
        "Heute",
        "Gestern",
        "Letzte 7 Tage",
        "Letzte 30 Tage",
        "Februar",
        "Dezember 2025",
    ]


@pytest.mark.parametrize(("timezone", "heading"), [("UTC", "Today"), ("America/New_York", "Yesterday")])
def test_days_begin_at_midnight_of_the_reader(
    api: FakeListApi, open_page: Callable[..., Page], timezone: str, heading: str
) -> None:
    api.add("Half past midnight in UTC", 11.5 * HOUR)
    assert "Half past midnight in UTC" in groups(open_page(timezone=timezone))[heading]


def test_ten_thousand_conversations_are_listed_page_by_page(api: FakeListApi, open_page: Callable[..., Page]) -> None:
    for number in range(10_000):
        api.add(f"Conversation {number}", number * HOUR + DAY)
    page = open_page()
    expect(rows(page)).to_have_count(50)
    assert len(listed(api)) <= 2  # once more when the stream is there
    page.wait_for_function("""() => {
      const scroll = document.querySelector('.parley-scroll');
      scroll.scrollTop = scroll.scrollHeight;
      return document.querySelectorAll('.parley-row').length >= 1000;
    }""")
    expect(rows(page).nth(999)).to_have_text("Conversation 996")
    assert len(listed(api)) <= 2 + rows(page).count() // 50


def test_a_change_elsewhere_moves_no_more_than_has_changed(api: FakeListApi, open_page: Callable[..., Page]) -> None:
    ids = [api.add(f"Conversation {number}", number * HOUR + DAY) for number in range(200)]
    page = open_page()
    link(page, "Conversation 40").focus()
    expect(rows(page)).not_to_have_count(50)
    eventually(lambda: len(listed(api)) > rows(page).count() // 50)  # once more when the stream is there
    wait_for_rest(page)
    loaded = rows(page).count()
    top = page.locator(".parley-scroll").evaluate("(it) => it.scrollTop")
    assert top > 0
    page.evaluate("document.querySelectorAll('.parley-row').forEach((row) => (row.isOld = true))")
    api.requests.clear()
    api.change([ids[3]], {"title": "Renamed elsewhere"})
    expect(rows(page).nth(6)).to_have_text("Renamed elsewhere")
    assert rows(page).count() == loaded
    assert len(listed(api)) == 1
    assert page.evaluate("[...document.querySelectorAll('.parley-row')].every((row) => row.isOld)")
    assert focused(page) == "Conversation 40"
    assert page.locator(".parley-scroll").evaluate("(it) => it.scrollTop") == top


def test_the_focus_goes_with_a_row_that_moves(page: Page, api: FakeListApi) -> None:
    link(page, "Banana").focus()
    api.change(["2".zfill(32)], {"pinned": True})
    expect(rows(page)).to_have_text(["Cherry", "Apple", "Banana"])
    assert focused(page) == "Banana"
    api.change(["1".zfill(32)], {"pinned": True})
    expect(rows(page)).to_have_text(["Banana", "Cherry", "Apple"])
    assert focused(page) == "Banana"
    api.change(["1".zfill(32)], {"pinned": False})
    expect(rows(page)).to_have_text(["Cherry", "Apple", "Banana"])
    assert focused(page) == "Banana"


def test_a_title_is_edited_on_while_the_list_changes(page: Page, api: FakeListApi) -> None:
    link(page, "Banana").focus()
    page.keyboard.press("F2")
    page.get_by_label("New title").click()
    page.get_by_label("New title").fill("Ba")
    api.change(["1".zfill(32)], {"pinned": True})
    expect(page.locator(".parley-heading").first).to_have_text("Pinned")
    page.keyboard.type("obab")
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_text(["Baobab", "Apple", "Cherry"])
    assert page.evaluate("session.conversation") is None  # a click into the field opens nothing


def test_arranging_any_elements_gives_their_order_and_keeps_the_focus(open_page: Callable[..., Page]) -> None:
    wrong = open_page().evaluate("""async () => {
      const { arrange } = await import('/static/sidebar_parts.js');
      let seed = 1;
      const random = (n) => (seed = (seed * 48271) % 2147483647) % n;
      const all = Array.from({ length: 8 }, () => document.createElement('button'));
      const parent = document.body.appendChild(document.createElement('div'));
      const pick = () => all.map((one) => [random(100), one]).sort(([a], [b]) => a - b).map(([, one]) => one);
      for (let i = 0; i < 500; i++) {
        const before = pick().slice(random(8)), after = pick().slice(random(8));
        parent.replaceChildren(...before);
        before[0].focus();
        arrange(parent, after);
        const kept = document.activeElement === before[0];
        if (!kept || !after.every((one, j) => parent.children[j] === one)) return i;
      }
      parent.remove();
      return null;
    }""")
    assert wrong is None


def test_the_open_conversation_is_marked(page: Page) -> None:
    link(page, "Banana").click()
    expect(page).to_have_url(re.compile(r"\?c=0+1$"))
    expect(page.locator("[aria-current=page]")).to_have_text("Banana")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("[aria-current=page]")).to_have_text("Cherry")
    page.go_back()
    expect(page.locator("[aria-current=page]")).to_have_text("Banana")


def test_a_new_chat_and_a_temporary_one_mark_none(page: Page) -> None:
    link(page, "Banana").click()
    expect(page.locator("[aria-current=page]")).to_have_count(1)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("[aria-current=page]")).to_have_count(0)
    page.get_by_role("button", name="Temporary chat").click()
    expect(page.get_by_role("button", name="Temporary chat")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("session.temporary")


@ON_PHONES_TOO
def test_keys_move_the_focus_and_tab_reaches_one_row_only(page: Page) -> None:
    link(page, "Apple").focus()
    seen = []
    for key in ["ArrowUp", "ArrowDown", "ArrowDown", "ArrowDown", "Home", "End"]:
        page.keyboard.press(key)
        seen.append(focused(page))
    assert seen == ["Apple", "Banana", "Cherry", "Cherry", "Apple", "Cherry"]
    assert page.locator(".parley-row-link[tabindex='0']").all_text_contents() == ["Cherry"]


@ON_PHONES_TOO
def test_a_title_is_one_line_of_text_whatever_it_holds(api: FakeListApi, page: Page) -> None:
    hostile = "<img src=x onerror=alert(1)> & <b>bold</b> " * 5
    api.add(hostile)
    api.add("مرحبا بالعالم")
    api.add(None)
    api.publish()
    expect(rows(page)).to_have_count(6)
    title = rows(page).filter(has_text="onerror")
    assert title.text_content() == hostile
    assert title.locator("..").get_attribute("title") == hostile
    assert title.evaluate("(it) => it.scrollWidth > it.clientWidth && it.clientHeight < 30")
    assert rows(page).filter(has_text="مرحبا").evaluate("(it) => getComputedStyle(it).direction") == "rtl"
    expect(rows(page).filter(has_text="Untitled")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]


# One conversation.


@ON_PHONES_TOO
def test_a_menu_is_used_by_the_keyboard(page: Page) -> None:
    link(page, "Banana").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem")).to_have_text(["Rename", "Pin", "Archive", "Export", "Delete"])
    assert focused(page) == "Rename"
    page.keyboard.press("ArrowDown")
    assert focused(page) == "Pin"
    page.keyboard.press("End")
    assert focused(page) == "Delete"
    page.keyboard.press("e")
    assert focused(page) == "Export"
    page.keyboard.press("Escape")
    expect(page.get_by_role("menu")).to_have_count(0)
    assert page.evaluate("document.activeElement.ariaLabel") == "Options for “Banana”"
    assert page.evaluate("document.activeElement.ariaExpanded") == "false"


@ON_PHONES_TOO
def test_a_menu_stays_in_the_window(api: FakeListApi, page: Page) -> None:
    for number in range(40):
        api.add(f"Conversation {number}", DAY)
    api.publish()
    expect(rows(page)).to_have_count(43)
    button = page.locator(".parley-row-more").nth(14)
    button.hover()
    button.click()
    box = page.get_by_role("menu").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 700
    assert box["x"] + box["width"] <= page.viewport_size["width"]  # type: ignore[index]


@ON_PHONES_TOO
def test_a_title_is_changed_in_its_place(page: Page, api: FakeListApi) -> None:
    choose(page, "Banana", "Rename")
    page.keyboard.type("  Berries ")
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_text(["Apple", "Berries", "Cherry"])
    assert api.titles() == ["Apple", "Berries", "Cherry"]


@pytest.mark.parametrize(("text", "key"), [("Berries", "Escape"), ("   ", "Enter"), ("Banana", "Enter")])
def test_a_title_stays_if_nothing_else_is_given(
    open_page: Callable[..., Page], api: FakeListApi, text: str, key: str
) -> None:
    page = open_page()
    link(page, "Banana").focus()
    page.keyboard.press("F2")
    page.keyboard.type(text)
    page.keyboard.press(key)
    expect_focus(page, "Banana")
    assert not [request for request in api.requests if request.startswith("PATCH")]


def test_pinning_puts_a_conversation_on_top(page: Page) -> None:
    choose(page, "Cherry", "Pin")
    expect(rows(page)).to_have_text(["Cherry", "Apple", "Banana"])
    assert list(groups(page)) == ["Pinned", "Today"]
    choose(page, "Cherry", "Unpin")
    expect(rows(page)).to_have_text(["Apple", "Banana", "Cherry"])
    assert list(groups(page)) == ["Today"]


def test_an_archived_conversation_is_in_the_archive_until_it_is_taken_out(page: Page) -> None:
    choose(page, "Banana", "Archive")
    expect(rows(page)).to_have_text(["Apple", "Cherry"])
    view(page, "Archive")
    expect(rows(page)).to_have_text(["Banana"])
    choose(page, "Banana", "Unarchive")
    expect(rows(page)).to_have_count(0)
    view(page, "Recent")
    expect(rows(page)).to_have_text(["Apple", "Banana", "Cherry"])


@ON_PHONES_TOO
def test_a_deleted_conversation_comes_back_by_undo(page: Page) -> None:
    choose(page, "Banana", "Delete")
    expect(rows(page)).to_have_text(["Apple", "Cherry"])
    undo(page)
    expect(rows(page)).to_have_text(["Apple", "Banana", "Cherry"])


def test_the_delete_key_deletes_and_the_focus_goes_to_the_next_row(page: Page) -> None:
    link(page, "Banana").focus()
    page.keyboard.press("Delete")
    expect(rows(page)).to_have_text(["Apple", "Cherry"])
    expect_focus(page, "Cherry")
    page.keyboard.press("Delete")
    expect(rows(page)).to_have_text(["Apple"])
    expect_focus(page, "Apple")


def test_one_conversation_is_exported(page: Page) -> None:
    choose(page, "Banana", "Export")
    assert page.evaluate("exported") == [["1".zfill(32)]]


def test_what_another_tab_has_deleted_is_said_and_leaves_the_list(page: Page, api: FakeListApi) -> None:
    del api.conversations["1".zfill(32)]
    link(page, "Banana").focus()
    page.keyboard.press("Delete")
    assert notice(page) == "There is no such conversation."
    expect(rows(page)).to_have_text(["Apple", "Cherry"])


def test_a_change_that_is_refused_is_said_and_changes_nothing(page: Page, api: FakeListApi) -> None:
    api.fail_next = 409, "A reply is being written."
    choose(page, "Banana", "Archive")
    assert notice(page) == "A reply is being written."
    expect(rows(page)).to_have_text(["Apple", "Banana", "Cherry"])


# The trash.


@pytest.fixture
def trash(api: FakeListApi, page: Page) -> Page:
    """A page that shows the trash, with Apple and Banana in it."""
    api.change(["0".zfill(32), "1".zfill(32)], {"trashed": True})
    view(page, "Trash")
    expect(rows(page)).to_have_text(["Banana", "Apple"])
    return page


def test_a_conversation_is_restored_from_the_trash(trash: Page, api: FakeListApi) -> None:
    choose(trash, "Banana", "Restore")
    expect(rows(trash)).to_have_text(["Apple"])
    assert api.titles(trashed_at=None) == ["Banana", "Cherry"]


@ON_PHONES_TOO
def test_deleting_forever_is_asked_for_first(trash: Page, api: FakeListApi) -> None:
    link(trash, "Banana").focus()
    trash.keyboard.press("Delete")
    expect(trash.get_by_role("group", name="Delete it forever?")).to_be_visible()
    expect_focus(trash, "Cancel")
    trash.keyboard.press("Enter")
    expect_focus(trash, "Banana")
    choose(trash, "Banana", "Delete forever")
    trash.keyboard.press("Escape")
    assert api.titles() == ["Apple", "Banana", "Cherry"]
    choose(trash, "Banana", "Delete forever")
    trash.get_by_role("button", name="Delete", exact=True).click()
    expect(rows(trash)).to_have_text(["Apple"])
    assert api.titles() == ["Apple", "Cherry"]


def test_the_trash_is_emptied_with_all_that_is_not_loaded(trash: Page, api: FakeListApi) -> None:
    for number in range(60):
        api.add(f"Rubbish {number}", trashed_at=NOW.isoformat())
    api.publish()
    expect(rows(trash).nth(49)).to_contain_text("Rubbish")
    trash.get_by_role("button", name="Empty trash").click()
    expect_focus(trash, "Cancel")
    trash.get_by_role("button", name="Delete", exact=True).click()
    expect(trash.locator(".parley-list")).to_have_text("The trash is empty.")
    assert api.titles() == ["Cherry"]
    expect(trash.get_by_role("button", name="Empty trash")).to_be_hidden()


# Many conversations.


def select(page: Page, *titles: str) -> None:
    page.get_by_role("button", name="Select conversations").click()
    for title in titles:
        link(page, title).click()


@ON_PHONES_TOO
def test_many_are_deleted_at_once_and_come_back_by_undo(page: Page, api: FakeListApi) -> None:
    select(page, "Apple", "Cherry")
    expect(page.locator(".parley-count")).to_have_text("2 selected")
    page.get_by_role("toolbar").get_by_role("button", name="Delete").click()
    expect(rows(page)).to_have_text(["Banana"])
    expect(page.get_by_role("toolbar")).to_have_count(0)
    assert [request for request in api.requests if request.startswith("POST")] == ["POST /api/conversations/change"]
    undo(page)
    expect(rows(page)).to_have_text(["Apple", "Banana", "Cherry"])


def test_the_shift_key_selects_a_range(page: Page) -> None:
    select(page, "Apple")
    link(page, "Cherry").click(modifiers=["Shift"])
    expect(page.locator(".parley-row-box:checked")).to_have_count(3)
    page.get_by_role("toolbar").get_by_role("button", name="Archive").click()
    expect(rows(page)).to_have_count(0)
    view(page, "Archive")
    expect(rows(page)).to_have_count(3)


def test_all_are_selected_and_exported(page: Page) -> None:
    select(page)
    expect(page.get_by_role("toolbar").get_by_role("button", name="Export")).to_be_disabled()
    page.get_by_role("button", name="Select all").click()
    page.get_by_role("toolbar").get_by_role("button", name="Export").click()
    assert page.evaluate("exported") == [[str(number).zfill(32) for number in range(3)]]
    page.get_by_role("button", name="Select none").click()
    expect(page.locator(".parley-row-box:checked")).to_have_count(0)
    page.get_by_role("button", name="End selecting").click()
    expect(page.locator(".parley-row-box").first).to_be_hidden()


def test_selecting_and_pinning_by_the_keyboard_keeps_the_selection(page: Page) -> None:
    select(page)
    assert focused(page) == "Apple"
    for key in ["ArrowDown", " ", "ArrowDown", "Enter"]:
        page.keyboard.press(key)
    expect(page.locator(".parley-count")).to_have_text("2 selected")
    page.get_by_role("toolbar").get_by_role("button", name="Pin").click()
    expect(rows(page)).to_have_text(["Banana", "Cherry", "Apple"])
    expect(page.locator(".parley-row-box:checked")).to_have_count(2)


def test_many_are_deleted_forever_after_a_question(trash: Page, api: FakeListApi) -> None:
    select(trash, "Apple", "Banana")
    trash.get_by_role("toolbar").get_by_role("button", name="Delete forever").click()
    expect(trash.get_by_role("group", name="Delete 2 forever?")).to_be_visible()
    trash.get_by_role("button", name="Delete", exact=True).click()
    expect(rows(trash)).to_have_count(0)
    assert api.titles() == ["Cherry"]


# The search.


def hit(number: int, message: str | None, *snippet: tuple[str, bool], role: str = "user") -> dict[str, Any]:
    title = ["Apple", "Banana", "Cherry"][number]
    of_message = {"message_id": message, "role": role if message else None, "created_at": NOW.isoformat()}
    return {"conversation_id": str(number).zfill(32), "title": title, **of_message, "snippet": snippet}


@pytest.fixture
def found(api: FakeListApi) -> None:
    api.hits = [
        hit(1, None, ("Ban", True), ("ana", False)),
        hit(0, "m1", ("<b>A</b> ", False), ("ban", True), (" on apples", False)),
        hit(1, "m2", ("A ", False), ("banana", True), role="assistant"),
    ]


def search(page: Page, text: str) -> None:
    page.get_by_role("searchbox").press_sequentially(text)
    expect(page.locator(".parley-results")).to_be_visible()


def asked(api: FakeListApi) -> list[dict[str, str]]:
    urls = [urlsplit(request.removeprefix("GET ")) for request in api.requests if "/api/search" in request]
    return [{name: values[0] for name, values in parse_qs(url.query).items()} for url in urls]


@ON_PHONES_TOO
def test_what_is_found_is_shown_under_its_conversation(found: None, page: Page) -> None:
    search(page, "ban")
    expect(page.locator(".parley-results [role=status]")).to_have_text("3 results")
    sections = page.locator(".parley-hits section")
    expect(sections.locator("h3")).to_have_text(["Banana", "Apple"])
    expect(page.locator(".parley-hits mark")).to_have_text(["Ban", "banana", "ban"])
    expect(sections.nth(1).locator("li")).to_have_text(["You · Mar 10<b>A</b> ban on apples"])
    expect(page.locator(".parley-list")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator(".parley-results")).to_be_hidden()
    expect(rows(page)).to_have_text(["Apple", "Banana", "Cherry"])


def test_a_hit_opens_its_conversation_at_its_message(found: None, page: Page) -> None:
    page.evaluate("session.open = (...all) => (window.opened = all)")
    search(page, "ban")
    expect(page.locator(".parley-hit")).to_have_count(4)
    page.keyboard.press("ArrowDown")
    assert focused(page) == "Banana"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.evaluate("opened") == ["1".zfill(32), {"messageId": "m2"}]


def test_a_search_waits_for_the_last_key(found: None, page: Page, api: FakeListApi) -> None:
    type_quickly = """(field) => ['b', 'ba', 'ban'].forEach((text) => {
      field.value = text;
      field.dispatchEvent(new Event('input'));
    })"""
    page.get_by_role("searchbox").evaluate(type_quickly)
    expect(page.locator(".parley-hit")).to_have_count(4)
    assert asked(api) == [{"q": "ban", "limit": "50", "offset": "0"}]


@ON_PHONES_TOO
def test_a_search_is_narrowed_by_filters(found: None, page: Page, api: FakeListApi) -> None:
    search(page, "ban")
    page.get_by_text("Filters").click()
    page.get_by_label("Who").select_option("Assistant")
    page.get_by_label("Rated").select_option("Good")
    page.get_by_label("Since").fill("2026-03-28")
    with page.expect_response(lambda response: "until" in response.url):
        page.get_by_label("Until").fill("2026-03-29")  # which has 23 hours in Berlin
    fields = {"role": "assistant", "rating": "1", "since": "2026-03-27T23:00:00.000Z"}
    assert asked(api)[-1] == {"q": "ban", "limit": "50", "offset": "0", **fields, "until": "2026-03-29T22:00:00.000Z"}


def test_more_is_shown_of_many_hits(page: Page, api: FakeListApi) -> None:
    api.hits = [hit(number % 3, f"m{number}", ("ban", True)) for number in range(70)]
    search(page, "ban")
    expect(page.locator(".parley-results [role=status]")).to_have_text("The first 50 results")
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".parley-hits li")).to_have_count(70)
    expect(page.locator(".parley-results [role=status]")).to_have_text("70 results")


def test_a_search_that_finds_nothing_says_so(page: Page) -> None:
    search(page, "zebra")
    expect(page.locator(".parley-results")).to_have_text("Nothing found. Try fewer or other words.")


# Nothing to show.


@pytest.fixture
def visited(api: FakeListApi) -> None:
    """Two sites with a conversation each, the second one's with a visitor who is known."""
    api.sites = [{"id": "s1", "name": "Shop"}, {"id": "s2", "name": "Blog"}]
    api.add("Tea", channel="widget", site_id="s1")
    api.add("Comments", channel="widget", site_id="s2", visitor_name="Ada")


@ON_PHONES_TOO
def test_conversations_of_visitors_say_whose_they_are(visited: None, page: Page) -> None:
    expect(link(page, "Tea").locator(".parley-row-visitor")).to_have_text("Shop")
    expect(link(page, "Comments").locator(".parley-row-visitor")).to_have_text("Ada")
    expect(page.locator(".parley-row-visitor")).to_have_count(2)


def test_the_list_is_narrowed_to_a_site_in_every_view(visited: None, page: Page) -> None:
    chosen = page.get_by_label("Where they were begun")
    expect(chosen.get_by_role("option")).to_have_text(
        ["All conversations", "Begun on this page", "Of visitors", "Shop", "Blog"]
    )
    for name, titles in (
        ("Shop", ["Tea"]),
        ("Of visitors", ["Comments", "Tea"]),
        ("Begun on this page", ["Apple", "Banana", "Cherry"]),
    ):
        chosen.select_option(name)
        expect(rows(page)).to_have_text(titles)
    chosen.select_option("Blog")
    view(page, "Trash")
    expect(page.locator(".parley-list")).to_contain_text("There are none of these here.")


def test_whoever_has_no_site_has_no_filter(page: Page) -> None:
    expect(page.get_by_label("Where they were begun")).to_be_hidden()


def test_a_site_that_is_gone_is_shown_no_longer(visited: None, page: Page, api: FakeListApi) -> None:
    chosen = page.get_by_label("Where they were begun")
    page.evaluate("import('/static/site_names.js').then(({ showSite }) => showSite('s2'))")
    expect(rows(page)).to_have_text(["Comments"])
    del api.sites[1]
    page.evaluate("import('/static/site_names.js').then(({ tellOfSites }) => tellOfSites())")
    expect(rows(page)).to_have_count(5)
    expect(chosen).to_have_value("")
    expect(link(page, "Comments").locator(".parley-row-visitor")).to_have_text("Ada")


def test_a_list_without_conversations_says_what_would_be_there(page: Page, api: FakeListApi) -> None:
    api.conversations.clear()
    api.publish()
    expect(page.locator(".parley-list")).to_have_text("No conversations yet. Write a message to begin one.")
    view(page, "Archive")
    expect(page.locator(".parley-list")).to_contain_text("Nothing is archived.")
    view(page, "Trash")
    expect(page.locator(".parley-list")).to_have_text("The trash is empty.")


def test_a_list_that_cannot_be_loaded_is_asked_for_again(page: Page, api: FakeListApi) -> None:
    api.fail_lists = True
    view(page, "Archive")
    expect(page.get_by_role("alert")).to_have_text("The database cannot be used.")
    api.fail_lists = False
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".parley-list")).to_contain_text("Nothing is archived.")
