"""The whole page in a real browser, on a real server with the default model.

Every test ends by checking that the page asked no other host for anything and logged no error.
"""

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from conftest import Server
from event_readers import eventually
from page_driver import (
    BOX,
    REPLY,
    Tabs,
    open_panel,
    reply,
    row,
    send,
    send_long,
    send_short,
    stop,
    stored,
    tool,
    wait_for_end,
    wait_for_text,
)
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(default_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), default_path)
    yield server
    assert server.end() == 0
    assert "Traceback" not in server.log


@pytest.fixture
def page(tabs: Tabs, server: Server) -> Page:
    return tabs.open(server.url)


def test_the_capital_of_france_is_paris(page: Page) -> None:
    send(page, "What is the capital of France?", temperature=0)
    wait_for_end(page)
    assert reply(page) == "The capital of France is Paris."
    expect(row(page, "Capital of France")).to_be_visible()


def test_a_reply_is_seen_to_grow_and_stops_at_what_was_seen(page: Page, server: Server) -> None:
    send_long(page, "dragon")
    early = reply(page)
    wait_for_text(page, f".{{{len(early) + 40}}}")
    stop(page)
    assert reply(page).startswith(early[:20])
    expect(page.locator(".parley-ending")).to_contain_text("Stopped")
    assert stored(server, page)[-1]["status"] == "stopped"


def test_tabs_that_chat_at_once_get_each_their_own_reply(tabs: Tabs, server: Server) -> None:
    animals = ["dragon", "horse", "parrot"]
    pages = [tabs.open(server.url) for _ in animals]
    for page, animal in zip(pages, animals, strict=True):
        send_long(page, animal)
    assert all(page.locator(".parley-growing").count() for page in pages)  # none is over yet
    for page, animal in zip(pages, animals, strict=True):
        page.bring_to_front()
        wait_for_text(page, f"{animal[1:]}")
        stop(page)
        assert [name for name in animals if name in reply(page).lower()] == [animal]


def test_a_reload_and_a_second_tab_see_every_character_once(page: Page, tabs: Tabs, server: Server) -> None:
    send_long(page, "horse")
    page.reload()
    wait_for_text(page, ".{60}")
    second = tabs.open(page.url)
    wait_for_text(second, ".{120}")
    stop(second)
    for one in (page, second):
        one.bring_to_front()
        wait_for_end(one)
        assert re.sub(r"\s+", "", reply(one)) == re.sub(r"[\s*#]+", "", stored(server, one)[-1]["content"])


def test_a_reply_goes_on_while_another_conversation_is_open(page: Page) -> None:
    send_long(page, "ship")
    page.get_by_role("button", name="New chat").first.click()
    expect(page.locator(".parley-message")).to_have_count(0)
    send_short(page)
    wait_for_end(page)
    row(page, "ship").click()
    wait_for_text(page, ".{100}")
    stop(page)


def test_back_and_forward_follow_the_conversations(page: Page) -> None:
    send_short(page)
    wait_for_end(page)
    page.get_by_role("button", name="New chat").first.click()
    expect(page).to_have_url(re.compile(r"/$"))
    page.go_back()
    expect(page.locator(".parley-user .parley-body")).to_have_text("Say hello.")


def test_a_reply_has_versions_to_turn_over(page: Page) -> None:
    send_short(page)
    wait_for_end(page)
    tool(page, "Regenerate")
    expect(page.locator(".parley-assistant .parley-version")).to_have_text("2 / 2")
    wait_for_end(page)
    tool(page, "Previous version")
    expect(page.locator(".parley-assistant .parley-version")).to_have_text("1 / 2")


def test_an_edited_message_gets_a_branch_of_its_own(page: Page, server: Server) -> None:
    send_short(page)
    wait_for_end(page)
    tool(page, "Edit", "user")
    page.fill(".parley-editor textarea", "Say goodbye.")
    page.get_by_role("button", name="Save and send").click()
    expect(page.locator(".parley-user .parley-version")).to_have_text("2 / 2")
    wait_for_end(page)
    assert stored(server, page)[0]["content"] == "Say goodbye."


def test_a_cut_reply_goes_on_where_it_was_cut(page: Page) -> None:
    send(page, "Count from one to one hundred in words.", min_tokens=12, max_tokens=12)
    wait_for_end(page)
    before = reply(page)
    page.locator(".parley-ending").get_by_role("button", name="Continue").click()
    expect(page.locator(".parley-assistant .parley-version")).to_have_text("2 / 2")
    wait_for_end(page)
    assert reply(page).startswith(before)


def test_a_rating_and_a_comment_are_kept(page: Page, server: Server) -> None:
    send_short(page)
    wait_for_end(page)
    tool(page, "Good reply")
    page.get_by_placeholder("What was it like? (optional)").fill("short and kind")
    page.keyboard.press("Enter")
    eventually(lambda: (stored(server, page)[-1]["feedback"] or {}).get("comment"))  # which comes after the rating
    assert stored(server, page)[-1]["feedback"] == {"rating": 1, "comment": "short and kind"}


def test_a_token_can_be_looked_at_and_branched_from(page: Page, server: Server) -> None:
    send(page, "What is the capital of France?", temperature=0)
    wait_for_end(page)
    tool(page, "Show tokens")
    tokens = page.locator(".parley-token")
    expect(tokens.first).to_be_visible()
    assert "".join(tokens.all_text_contents()) == reply(page)
    tokens.nth(2).click()
    page.locator(".parley-alternatives button:enabled").first.click()
    expect(page.locator(".parley-assistant .parley-version")).to_have_text("2 / 2")
    wait_for_end(page)
    messages = stored(server, page)
    assert messages[-1]["content"].startswith("The capital")
    assert messages[-1]["content"] != "The capital of France is Paris."


def test_the_panel_shows_what_the_model_saw(page: Page) -> None:
    send_short(page, "My name is Ada.")
    wait_for_end(page)
    send_short(page, "What is my name?")
    wait_for_end(page, n_replies=2)
    open_panel(page, "Context")
    expect(page.locator(".parley-ledger li")).to_have_count(3)
    expect(page.locator(".parley-ledger li").first).to_contain_text("My name is Ada.")
    expect(page.locator(".parley-ledger li").first).to_contain_text("known already")


def test_sampling_set_in_the_panel_counts_and_can_be_reset(page: Page, server: Server) -> None:
    open_panel(page, "Chat")
    page.fill("#seed input", "7")
    page.fill("#max-tokens input[type=number]", "16")
    page.press("#max-tokens input[type=number]", "Tab")
    expect(page.locator("#max-tokens input[type=range]")).to_have_value("16")
    page.fill(BOX, "Count to ten.")
    page.press(BOX, "Enter")
    wait_for_end(page)
    params = stored(server, page)[-1]["params"]
    assert (params["seed"], params["max_tokens"]) == (7, 16)
    page.click("#reset-sampling")
    expect(page.locator("#max-tokens input[type=range]")).to_have_value("1024")


def test_a_preset_and_a_system_prompt_begin_a_chat(page: Page, server: Server) -> None:
    open_panel(page, "Chat")
    page.click("#preset input")
    page.get_by_role("option", name="sentiment").click()
    expect(page.locator("#system-prompt textarea")).to_have_value(re.compile("positive, negative or neutral"))
    page.fill(BOX, "I love this.")
    page.press(BOX, "Enter")
    wait_for_end(page)
    assert stored(server, page)[-1]["params"]["max_tokens"] == 8


def test_a_blank_message_is_not_sent_and_the_page_says_why(page: Page) -> None:
    send(page, "   ")
    expect(page.get_by_role("alert")).to_contain_text("empty")
    assert page.locator(".parley-message").count() == 0


def test_a_message_longer_than_the_context_stays_in_its_box(page: Page, tabs: Tabs) -> None:
    text = "word " * 9000
    send(page, text)
    expect(page.get_by_role("alert")).to_contain_text(
        re.compile(r"The message is too long: it has 9,001 tokens, and at most 7,1\d\d fit.")
    )
    assert page.input_value(BOX) == text
    tabs.forget_errors()


def test_reading_a_long_message_shows_its_progress(page: Page) -> None:
    send(page, "Summarize: " + "The quick brown fox jumps over the lazy dog. " * 400, max_tokens=1000, min_tokens=999)
    expect(page.locator(".parley-progress").last).to_contain_text(re.compile(r"Reading [\d,]+ of 4,0\d\d tokens"))
    stop(page)


HOSTILE = """<script>document.title = 'hacked'</script><img src=x onerror="document.title = 'hacked'">
  <b>bold</b> a < b &amp; <|im_end|> ![x](http://127.0.0.2/x.png) [y](javascript:alert(1))"""


def test_a_message_is_shown_as_it_was_typed(page: Page) -> None:
    send_short(page, HOSTILE)
    wait_for_end(page)
    assert page.locator(".parley-user .parley-body").text_content() == HOSTILE  # white space too
    assert "hacked" not in page.title()


def test_what_a_model_writes_is_no_markup_and_fetches_nothing(page: Page, server: Server) -> None:
    send_short(page)
    wait_for_end(page)
    tool(page, "Edit")
    page.fill(".parley-editor textarea", HOSTILE)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(REPLY).last).to_contain_text("<script>")
    assert page.locator(f"{REPLY} :is(script, img, b)").count() == 0
    assert page.locator(f'{REPLY} a[href^="javascript"]').count() == 0
    assert "hacked" not in page.title()


def test_an_unknown_conversation_is_said_to_be_missing(tabs: Tabs, server: Server) -> None:
    page = tabs.open(f"{server.url}/?c={'0' * 32}")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page).to_have_url(re.compile(r"/$"))
    tabs.forget_errors()
    send_short(page)
    wait_for_end(page)


def test_a_draft_survives_a_reload(page: Page) -> None:
    page.fill(BOX, "half a thou")
    page.reload()
    expect(page.locator(BOX)).to_have_value("half a thou")


def test_a_temporary_chat_is_neither_listed_nor_found_again(page: Page) -> None:
    page.get_by_role("button", name="Temporary chat").click()
    send_short(page, "Tell nobody.")
    wait_for_end(page)
    assert "c=" not in page.url
    page.reload()
    expect(page.locator(".parley-message")).to_have_count(0)
    expect(page.locator("parley-sidebar")).not_to_contain_text("Tell nobody")


def test_a_conversation_is_found_by_what_was_said(page: Page) -> None:
    send_short(page, "The zebra counts its stripes.")
    wait_for_end(page)
    page.get_by_role("button", name="New chat").first.click()
    page.fill("parley-sidebar input[type=search]", "zeb")
    expect(page.locator("parley-sidebar mark").first).to_have_text("zebra")
    page.locator("parley-sidebar mark").first.click()
    expect(page.locator(".parley-user .parley-body")).to_have_text("The zebra counts its stripes.")


def test_a_deleted_conversation_comes_back_by_undo(page: Page) -> None:
    send_short(page, "Remember the walrus.")
    wait_for_end(page)
    row(page, "walrus").focus()
    page.keyboard.press("Delete")
    expect(row(page, "walrus")).to_be_hidden()
    page.get_by_role("button", name="Undo").click()
    expect(row(page, "walrus")).to_be_visible()


def test_a_chat_is_exported_and_imported_again(page: Page, tmp_path: Path) -> None:
    send_short(page, "Export the ocelot.")
    wait_for_end(page)
    open_panel(page, "Data")
    with page.expect_download() as download:
        page.get_by_role("button", name="This chat").click()
    path = tmp_path / "chat.jsonl"
    download.value.save_as(path)
    assert "Export the ocelot." in path.read_text()
    page.get_by_role("button", name="Import").click()
    page.set_input_files("parley-import input[type=file]", path)
    expect(page.locator("parley-import")).to_contain_text("it is here already")


def test_rubbish_is_not_imported_and_the_page_says_why(page: Page, tabs: Tabs, tmp_path: Path) -> None:
    path = tmp_path / "rubbish.json"
    path.write_bytes(b"\x00\xff not json")
    open_panel(page, "Data")
    page.get_by_role("button", name="Import").click()
    page.set_input_files("parley-import input[type=file]", path)
    expect(page.locator("parley-import .parley-problem")).to_contain_text("rubbish.json")
    tabs.forget_errors()


def test_the_database_is_backed_up_from_the_page(page: Page) -> None:
    open_panel(page, "Data")
    page.get_by_role("button", name="Backup").click()
    page.get_by_role("button", name="Back up now").click()
    expect(page.locator("parley-backup")).to_contain_text(re.compile(r"Copied to \S+\.db .*MB"))


def test_what_would_be_erased_is_shown_before_it_is_erased(page: Page, server: Server) -> None:
    said = {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["An old <b>question</b>"]}}
    node = {"id": "a", "parent": None, "children": [], "message": {"id": "a", **said}}
    old = {
        "title": "<b>Old</b>",
        "create_time": 1.5e9,
        "update_time": 1.5e9,
        "mapping": {"a": node},
        "current_node": "a",
    }
    answer = httpx.post(f"{server.url}/api/import", params={"name": "conversations.json"}, json=[old], timeout=60)
    assert answer.json()["conversations"] == 1
    open_panel(page, "Data")
    page.get_by_role("button", name="Retention").click()
    erase, result = page.get_by_role("button", name="Erase for good"), page.locator("parley-expiry")
    expect(erase).to_be_disabled()
    page.get_by_role("button", name="Show what would be erased").click()
    expect(result).to_contain_text("1 conversation would be erased. Pinned ones stay.")
    expect(result.get_by_role("listitem")).to_have_text(["<b>Old</b>"])
    page.locator("#expiry-days input").fill("364")
    expect(erase).to_be_disabled()
    page.get_by_role("button", name="Show what would be erased").click()
    erase.click()
    expect(result).to_contain_text("1 conversation was erased.1 message")
    expect(erase).to_be_disabled()


def test_a_rule_that_is_none_is_refused_in_the_page(page: Page, tabs: Tabs) -> None:
    open_panel(page, "Data")
    page.get_by_role("button", name="Retention").click()
    page.locator("#expiry-days input").fill("0")
    page.get_by_role("button", name="Show what would be erased").click()
    expect(page.locator("parley-expiry").get_by_role("alert")).to_contain_text("older_than_days")
    tabs.forget_errors()


def test_the_colours_and_the_language_are_the_readers_choice(page: Page) -> None:
    open_panel(page, "Settings")
    page.locator("#theme label", has_text="Dark").click()
    expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
    page.locator("#language label", has_text="Deutsch").click()
    expect(page.get_by_role("button", name="Neuer Chat").first).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "de")
    expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
    page.click(".parley-meter")
    page.get_by_role("tab", name="Einstellungen").click()
    expect(page.locator("#theme label").last).to_have_text("Dunkel")


def test_the_keyboard_reaches_everything(page: Page) -> None:
    send_short(page)
    wait_for_end(page)
    page.keyboard.press("Control+Shift+O")
    expect(page.locator(".parley-message")).to_have_count(0)
    page.keyboard.press("Control+K")
    expect(page.locator("parley-sidebar input[type=search]")).to_be_focused()
    page.keyboard.press("Shift+Escape")
    expect(page.locator(BOX)).to_be_focused()
    page.keyboard.press("Alt+ArrowDown")
    expect(page.locator(".parley-user .parley-body")).to_have_text("Say hello.")
    page.locator(".parley-messages").click()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_hidden()


def test_escape_stops_a_reply(page: Page) -> None:
    send_long(page, "fox")
    page.keyboard.press("Escape")
    expect(page.locator(".parley-ending")).to_contain_text("Stopped")


def test_a_message_during_a_reply_stays_in_its_box(page: Page) -> None:
    send_long(page, "cow")
    page.fill(BOX, "And a second one.")
    page.press(BOX, "Enter")
    assert page.input_value(BOX) == "And a second one."
    stop(page)
    assert page.input_value(BOX) == "And a second one."


def test_kill_9_keeps_the_question_and_what_was_seen_and_the_page_recovers_by_itself(
    tabs: Tabs, start_server: Callable[..., Server], default_path: Path
) -> None:
    server = start_server(default_path)
    page = tabs.open(server.url)
    send_long(page, "king", n_characters=60)
    server.process.send_signal(signal.SIGSTOP)  # nothing more can be shown from here on
    seen = reply(page)
    server.end(signal.SIGKILL)
    expect(page.locator(".parley-lost")).to_be_visible()
    start_server(default_path, server.port)
    expect(page.locator(".parley-lost")).to_be_hidden()
    expect(page.locator(".parley-ending")).to_contain_text("Interrupted")
    assert reply(page).startswith(seen)
    tabs.forget_errors()
    expect(page.locator(".parley-composer-status")).to_be_empty()  # the model is there again
    send_short(page)
    wait_for_end(page, n_replies=2)
    page.close()  # before its server is ended
