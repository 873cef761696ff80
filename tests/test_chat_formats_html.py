"""The exported page loses nothing, runs nothing but its own script, and is read in a real browser without a network."""

import re
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
from archives import conversations
from conftest import SECONDS
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Locator, Page, expect

from chat.errors import Unreadable
from chat.formats import html, parley
from chat.formats.archive import ArchivedConversation, check

MOMENT = "2026-01-31T12:00:00.000000Z"

HOSTILE = {
    "a script": "<script>window.ran = 1</script>",
    "an image": "<img src=x onerror='window.ran = 1'>",
    "the end of the block": '</script><script>window.ran = 1</script><script type="application/json">',
    "a comment that hides the end": "<!--<script>",
    "the end of the page": "</pre></div></section></article></main></body></html>",
    "attributes": '" onmouseover="window.ran = 1" autofocus onfocus=\'window.ran = 1\' x="',
    "a link": "javascript:window.ran=1 [a](javascript:window.ran=1) <a href='javascript:window.ran=1'>a</a>",
    "a frame": "<iframe srcdoc='<script>parent.ran = 1</script>'></iframe><svg onload='window.ran = 1'/>",
    "a style": "</style><style>* { display: none }</style>",
    "a template": "{{ 7 * 7 }}{% for x in y %}${window.ran = 1}",
    "entities": "&lt;b&gt; &amp; &#0; &nbsp",
    "line separators": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "NUL and other controls": "a\0b\x01c\x1bd\x7fe",
    "ends of lines": "\n\na\r\nb\rc\n",
    "text that runs backwards": "\u202egpj.exe\u202c \u2066a",
    "a mark of the page": html.MARK + html.BLOCK,
    "code": "```<img src=x onerror='window.ran = 1'>\n\n</pre><script>window.ran = 1</script>\n```\n<b>",
    "what UTF-8 can hold": "\ufeff\ufffe\uffff\U0010ffff👩‍👩‍👧 é",
}

OURS = {
    *("article", "header", "section", "h2", "h3", "h4", "p", "span", "bdi", "time"),
    *("button", "div", "pre", "mark", "script"),
}


def message(message_id: str, parent_id: str | None, role: str, content: str, **changes: object) -> dict[str, Any]:
    absent = ("origin_id", "finish_reason", "error", "model", "params", "seed", "token_ids", "ledger", "feedback")
    absent += ("model_digest", "prompt_shared", "prompt_ids")
    counts = ("prompt_tokens", "cached_tokens", "completion_tokens", "ttft_ms", "duration_ms")
    given = {"id": message_id, "parent_id": parent_id, "role": role, "content": content, "origin": "written"}
    return dict.fromkeys(absent + counts) | given | {"status": "complete", "pinned": False} | changes


def conversation(*messages: dict[str, Any], leaf: str, **changes: object) -> ArchivedConversation:
    absent = dict.fromkeys(
        ("site_id", "visitor_id", "visitor_name", "title", "title_source", "preset", "system_prompt", "params", "model")
    )
    given = {"id": "c", "channel": "ui", "active_leaf_id": leaf, "pinned": False, "archived": False, "recap": False}
    tree = [{"seq": seq, "created_at": MOMENT} | message for seq, message in enumerate(messages, start=1)]
    times = {"created_at": MOMENT, "updated_at": MOMENT}
    return check(absent | given | times | changes | {"messages": tree}, "test")


def hostile(text: str) -> ArchivedConversation:
    """A conversation all of whose texts are the same."""
    opinion = {"rating": -1, "comment": text, "created_at": MOMENT, "updated_at": MOMENT}
    reply = message(text[:100], "u", "assistant", text, status="error", error=text, model=text, feedback=opinion)
    question = message("u", None, "user", text, params={text: text})
    fields = dict.fromkeys(("title", "preset", "system_prompt", "model"), text)
    return conversation(question, reply, leaf=text[:100], **fields)


def page_of(*shown: ArchivedConversation) -> str:
    return "".join(html.write(shown))


def lines(page: str) -> list[str]:
    """The conversations of a page, as they are archived."""
    return list(parley.write(html.read(StringIO(page))))


PAIR = (
    conversation(
        message("q", None, "user", "Which fruit?"),
        message("a1", "q", "assistant", "An apple.", model="tiny"),
        message("q1", "a1", "user", "Thank you (really)."),
        message("a2", "q", "assistant", "A pear, a PEAR.", status="stopped", finish_reason="cancelled"),
        message("a3", "q", "assistant", "A fig.\n\n```python\npear = 1\n```\n", finish_reason="length", pinned=True),
        message("q2", "a1", "user", "Why?"),
        leaf="a3",
        title="Fruit",
        system_prompt="Name a pear.",
    ),
    conversation(message("r", None, "user", "Is a pear blue?"), leaf="r", title="Colours"),
)


@settings(deadline=None, max_examples=50)
@given(shown=st.lists(conversations(), max_size=3))
def test_what_is_written_comes_back_byte_for_byte(shown: list[ArchivedConversation]) -> None:
    assert lines(page_of(*shown)) == list(parley.write(shown))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_comes_back_byte_for_byte(name: str) -> None:
    shown = [hostile(HOSTILE[name]), *PAIR]
    assert lines(page_of(*shown)) == list(parley.write(shown))


def test_conversations_are_asked_for_when_they_are_written() -> None:
    asked = 0

    def endless() -> Iterator[ArchivedConversation]:
        nonlocal asked
        while True:
            asked += 1
            yield PAIR[0]

    pieces = html.write(endless())
    n_written = 0
    while n_written < 5:
        n_written += next(pieces).count('"format":"parley"')
    assert asked == 5


@settings(deadline=None)
@given(data=st.data())
def test_a_page_that_was_cut_off_is_refused(data: st.DataObject) -> None:
    page = page_of(*PAIR)
    cut = data.draw(st.integers(0, len(page) - len(">\n")))
    with pytest.raises(Unreadable, match=r"^(page|line \d+): expected "):
        lines(page[:cut])


@pytest.mark.parametrize(
    "text", ["", "text", "<!DOCTYPE html><html><head></head><body></body></html>", '{"format": "parley"}', "\0"]
)
def test_what_is_no_page_of_parley_is_refused(text: str) -> None:
    with pytest.raises(Unreadable, match="^page: expected one that Parley wrote"):
        lines(text)


@pytest.mark.parametrize(
    ("whole", "damaged", "reason"),
    [
        ('"title":"Colours"', '"title":5', "title: input should be a valid string, got 5"),
        ('"title":"Colours"', '"title":"Col', "expected JSON"),
        ('"title":"Colours"', '"title":"</script>"', "expected JSON"),
    ],
)
def test_a_damaged_conversation_is_refused_with_its_line(whole: str, damaged: str, reason: str) -> None:
    page = page_of(*PAIR)
    line = page[: page.index(whole)].count("\n") + 1
    with pytest.raises(Unreadable, match=f"^line {line}: {reason}"):
        lines(page.replace(whole, damaged))


Open = Callable[..., Page]

WATCH = """
window.violations = [];
document.addEventListener('securitypolicyviolation', (event) => violations.push(event.violatedDirective));
"""


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """A function that opens a page from a file, without a network; in the end it must have asked for nothing else."""
    expect.set_options(timeout=SECONDS)
    opened: list[Page] = []
    complaints: list[str] = []
    requests: set[str] = set()

    def open_page(text: str, *, width: int = 1280, **options: Any) -> Page:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8", newline="")
        context = browser.new_context(viewport={"width": width, "height": 800}, offline=True, **options)
        context.set_default_timeout(SECONDS)
        context.add_init_script(WATCH)
        context.on("console", lambda message: complaints.append(message.text))
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("request", lambda request: requests.add(request.url.split("#")[0]))
        opened.append(context.new_page())
        opened[-1].goto(path.as_uri())
        return opened[-1]

    yield open_page
    violations = [page.evaluate("window.violations ?? []") for page in opened]
    for page in opened:
        page.context.close()
    assert complaints == []
    assert violations == [[]] * len(opened)
    assert requests <= {(tmp_path / "page.html").as_uri()}


def texts(page: Page) -> list[str]:
    """The messages that are seen, once the page is drawn: a block that comes into view has no inner text before."""
    page.wait_for_timeout(200)  # milliseconds
    return [text.strip() for text in page.locator(".message > .text:visible").all_inner_texts()]


def versions(page: Page, text: str) -> Locator:
    return page.locator(".message", has_text=text).locator(".versions")


def search(page: Page, query: str, found: str) -> None:
    page.fill("#query", query)
    expect(page.locator("#found")).to_have_text(found)


@pytest.mark.browser
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_shown_and_does_nothing(open_page: Open, name: str) -> None:
    text = HOSTILE[name]
    page = open_page(page_of(hostile(text), *PAIR))
    page.fill("#query", text[:20])
    expect(page.locator("#found")).not_to_be_empty()
    page.mouse.move(640, 400)
    shown = re.sub("\r\n?", "\n", text.replace("\0", "\ufffd"))
    for element in page.locator("#conversation-1").locator("h2, .system .text, .message .text").all():
        seen = cast(str, element.text_content())
        if name == "code" and element.evaluate("(element) => element.matches('.text')"):
            assert element.locator("pre").get_attribute("data-language") is not None
            assert "</pre><script>window.ran = 1</script>" in seen
        else:
            assert seen == shown
    assert page.evaluate("window.ran") is None
    assert set(page.evaluate("[...document.querySelectorAll('main *')].map((element) => element.localName)")) <= OURS
    expect(page.locator("article")).to_have_count(3)


@pytest.mark.browser
def test_an_archive_of_nothing_is_a_page(open_page: Open) -> None:
    assert lines(page_of()) == []
    search(open_page(page_of()), "a", "Nothing found")


@pytest.mark.browser
def test_a_script_that_got_in_is_not_run(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    injected = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'><style>main { color: red }</style>"
    path.write_text(page_of(*PAIR).replace("</main>", f"{injected}</main>"), encoding="utf-8")
    page = browser.new_page()
    page.add_init_script(WATCH)
    page.goto(path.as_uri())
    page.wait_for_timeout(300)
    assert page.evaluate("window.ran") is None
    assert set(page.evaluate("violations")) >= {"script-src-elem", "style-src-elem", "img-src"}
    assert page.evaluate("() => { try { document.body.innerHTML = '<b>'; } catch (error) { return error.name; } }")
    page.close()


@pytest.mark.browser
def test_without_scripts_the_shown_branches_are_read(open_page: Open) -> None:
    page = open_page(page_of(*PAIR), java_script_enabled=False)
    assert texts(page) == ["Which fruit?", "A fig.\n\n\npear = 1", "Is a pear blue?"]
    assert page.locator("h2:visible").all_inner_texts() == ["Fruit", "Colours"]
    expect(page.locator("button:visible, input:visible, nav:visible")).to_have_count(0)


@pytest.mark.browser
def test_a_message_says_when_by_whom_and_how_it_ended(open_page: Open) -> None:
    page = open_page(page_of(*PAIR))
    reply = page.locator(".message", has_text="A fig.")
    expect(reply.locator(".facts")).to_have_text("2026-01-31 12:00 UTC · pinned")
    expect(reply.locator(".end")).to_have_text("The reply reached its limit of tokens.")
    expect(page.locator(".message", has_text="A PEAR.").locator(".end")).to_have_text("Stopped.")
    failed = open_page(page_of(hostile("x"))).locator(".message.assistant")
    expect(failed.locator(".facts")).to_have_text("2026-01-31 12:00 UTC · x · rated bad")
    expect(failed.locator(".end")).to_have_text("An error ended this reply. x")
    expect(failed.locator(".comment .text")).to_have_text("x")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a\n```python\nb\n```\nc", ["a\n", ("python", "b\n"), "c"]),
        ("```\n\n  b\n```", [("", "\n  b\n")]),
        ("~~~~ x\n~~~\n```\n~~~~~\n", [("x", "~~~\n```\n")]),
        ("a\r\n```\r\nb\r\n```\r\n", ["a\n", ("", "b\n")]),
        ("```\nunfinished", [("", "unfinished")]),
        ("a ```b``` c\n```d``` e\n# f *g*", ["a ```b``` c\n```d``` e\n# f *g*"]),
    ],
)
def test_fenced_code_stands_apart_and_all_else_is_text(open_page: Open, text: str, parts: list[object]) -> None:
    page = open_page(page_of(conversation(message("m", None, "user", text), leaf="m")))
    nodes = "(text) => [...text.childNodes].map((node) => [node.nodeName, node.dataset?.language, node.textContent])"
    expected = [["#text", None, part] if isinstance(part, str) else ["PRE", *cast(Any, part)] for part in parts]
    assert page.locator(".message .text").evaluate(nodes) == expected


@pytest.mark.browser
def test_branches_are_switched_by_mouse_and_keys(open_page: Open) -> None:
    page = open_page(page_of(*PAIR))
    expect(versions(page, "A fig.").locator("span")).to_have_text("3/3")
    versions(page, "A fig.").get_by_label("Previous version").click()
    assert texts(page) == ["Which fruit?", "A pear, a PEAR."]
    page.keyboard.press("Enter")
    assert texts(page) == ["Which fruit?", "An apple.", "Why?"]
    versions(page, "Why?").get_by_label("Next version").focus()
    page.keyboard.press("Space")
    assert texts(page) == ["Which fruit?", "An apple.", "Thank you (really)."]
    versions(page, "An apple.").get_by_label("Previous version").click()
    assert texts(page)[0:2] == ["Which fruit?", "A fig.\n\n\npear = 1"]


@pytest.mark.browser
def test_the_search_goes_through_all_branches_of_all_conversations(open_page: Open) -> None:
    page = open_page(page_of(*PAIR))
    search(page, "pear", "1 of 5")
    assert page.locator("mark").all_text_contents() == ["pear", "pear", "PEAR", "pear"]
    expect(page.locator("nav li:visible")).to_have_text(["Fruit4", "Colours1"])
    current = page.locator("mark.current:visible")
    expect(current).to_have_text("pear")
    page.press("#query", "Enter")
    assert texts(page) == ["Which fruit?", "A pear, a PEAR."]
    page.press("#query", "Enter")
    expect(current).to_have_text("PEAR")
    page.click("#next")
    assert texts(page)[1].startswith("A fig.")
    page.click("#next")
    expect(page.locator("#found")).to_have_text("5 of 5")
    assert texts(page) == ["Is a pear blue?"]
    expect(current).to_have_text("pear")
    page.click("#next")
    expect(page.locator("#found")).to_have_text("1 of 5")
    page.press("#query", "Shift+Enter")
    expect(page.locator("#found")).to_have_text("5 of 5")
    search(page, "", "")
    expect(page.locator("mark")).to_have_count(0)
    expect(page.locator("nav li:visible")).to_have_text(["Fruit", "Colours"])


@pytest.mark.browser
def test_what_is_searched_is_taken_literally(open_page: Open) -> None:
    page = open_page(page_of(*PAIR))
    search(page, "(REALLY).", "1 of 1")
    expect(page.locator("mark.current:visible")).to_have_text("(really).")
    search(page, ".*", "Nothing found")
    expect(page.locator("#next")).to_be_disabled()
    search(page, "\\", "Nothing found")


@pytest.mark.browser
def test_each_conversation_has_an_address(open_page: Open) -> None:
    page = open_page(page_of(*PAIR))
    assert texts(page)[0] == "Which fruit?"
    page.get_by_role("link", name="Colours").click()
    expect(page.get_by_role("heading", level=2)).to_have_text("Colours")
    assert page.title() == "Colours"
    page.reload()
    assert texts(page) == ["Is a pear blue?"]
    page.go_back()
    expect(page.get_by_role("heading", level=2)).to_have_text("Fruit")


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(open_page: Open, width: int) -> None:
    long = "W" * 500
    page = open_page(page_of(*PAIR, hostile(f"{long}\n```{long}\n{long}\n```")), width=width)
    for address in ("#conversation-1", "#conversation-3"):
        page.goto(page.url.split("#")[0] + address)
        search(page, "w", "1 of 4002" if address.endswith("1") else "3 of 4002")
        assert page.evaluate("document.documentElement.scrollWidth") == width
    page.get_by_label("Next match").click()


@pytest.mark.browser
def test_a_dark_scheme_makes_it_dark(open_page: Open) -> None:
    def lightness(scheme: str) -> list[int]:
        page = open_page(page_of(*PAIR), color_scheme=scheme)
        colours = page.evaluate(
            "(({ backgroundColor, color }) => [backgroundColor, color])(getComputedStyle(document.body))"
        )
        return [sum(map(int, re.findall(r"\d+", colour))) for colour in colours]

    (light_paper, light_ink), (dark_paper, dark_ink) = lightness("light"), lightness("dark")
    assert light_paper > 700 > 150 > light_ink
    assert dark_paper < 150 < 600 < dark_ink


@pytest.mark.browser
def test_print_shows_the_messages_and_no_controls(open_page: Open) -> None:
    page = open_page(page_of(*PAIR))
    page.emulate_media(media="print")
    assert texts(page) == ["Which fruit?", "A fig.\n\n\npear = 1"]
    expect(page.locator("button:visible, input:visible, nav:visible")).to_have_count(0)


@pytest.mark.browser
def test_a_page_that_the_browser_saved_after_use_is_imported_too(open_page: Open) -> None:
    shown = [*PAIR, *map(hostile, HOSTILE.values())]
    page = open_page(page_of(*shown))
    search(page, "PEAR", "1 of 5")
    page.click("#next")
    assert lines(page.content()) == list(parley.write(shown))
