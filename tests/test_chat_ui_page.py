"""What the page's handlers give to which page, whatever comes in between."""

import asyncio
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import gradio as gr
import pytest
from conftest import ScriptedEngine

from chat.manager import DialogueManager
from chat.ui.page import Page
from model.errors import EngineBusy
from storage.conversations import ConversationStore

TAB, OTHER_TAB = gr.Request(session_hash="tab"), gr.Request(session_hash="other tab")
SKIP = gr.skip()


@pytest.fixture
def page(manager: DialogueManager, store: ConversationStore) -> Page:
    return Page(manager, store, "local")


@pytest.fixture
def send(page: Page) -> Callable[..., tuple[Any, ...]]:
    """A function that sends a text as the page does, and gives what comes back."""
    return lambda text, conversation_id="", tab=TAB: list(page.send(tab, text, conversation_id, 0.2, 0.9, 50))[0]


def texts(bubbles: list[dict[str, Any]]) -> list[str]:
    return [part.get("text") or part["value"] for bubble in bubbles for part in bubble["content"]]


def watch(
    page: Page,
    conversation_id: str,
    tab: gr.Request = TAB,
    *,
    then: Callable[[tuple[Any, ...]], None] = lambda update: None,
) -> list[tuple[Any, ...]]:
    """Return what a watcher gives; `then` is called with each update, before the next."""

    async def collect() -> list[tuple[Any, ...]]:
        updates = []
        async for update in page.watch(tab, conversation_id):
            updates.append(update)
            then(update)
        return updates

    return asyncio.run(collect())


def open_(page: Page, conversation_id: str, tab: gr.Request = TAB) -> tuple[Any, ...]:
    return list(page.open(tab, conversation_id))[0]


def test_a_sent_message_is_shown_with_its_conversation(page: Page, send: Callable[..., tuple[Any, ...]]) -> None:
    box, conversation_id, _, bubbles, notice = send("Hello")
    assert (box, texts(bubbles), notice) == ("", ['<div class="typed">Hello</div>'], "")
    assert open_(page, conversation_id)[0] == conversation_id


def test_a_watched_reply_is_shown_to_its_end(
    page: Page, send: Callable[..., tuple[Any, ...]], engine: ScriptedEngine
) -> None:
    conversation_id = send("Hello")[1]
    engine.say("Hi", " there")
    engine.end()
    assert texts(watch(page, conversation_id)[-1][0]) == ['<div class="typed">Hello</div>', "Hi there"]


def test_a_reply_that_has_ended_before_it_is_watched_is_shown(
    page: Page, send: Callable[..., tuple[Any, ...]], engine: ScriptedEngine, manager: DialogueManager
) -> None:
    conversation_id = send("Hello")[1]
    turn = manager.turn("local", conversation_id)
    engine.say("Hi")
    engine.end()
    assert turn is not None
    turn.join()
    assert texts(watch(page, conversation_id)[-1][0])[-1] == "Hi"


def test_a_watcher_of_what_is_not_shown_any_more_gives_nothing(
    page: Page, send: Callable[..., tuple[Any, ...]], engine: ScriptedEngine
) -> None:
    conversation_id = send("Hello")[1]
    engine.say("Hi")
    open_(page, "")
    assert watch(page, conversation_id) == [(SKIP, SKIP, SKIP, SKIP)]


def test_opening_another_conversation_ends_the_watcher_before_it_is_shown(
    page: Page, send: Callable[..., tuple[Any, ...]], engine: ScriptedEngine
) -> None:
    conversation_id = send("Hello")[1]
    engine.say("Hi")
    watcher = Thread(target=watch, args=(page, conversation_id))
    watcher.start()
    time.sleep(0.3)  # it has seen what there is, and nothing more comes
    open_(page, "")
    watcher.join(timeout=1)
    assert not watcher.is_alive()  # though the reply goes on


def test_a_message_sent_while_the_page_turns_to_another_conversation_is_kept_but_not_shown(
    page: Page, send: Callable[..., tuple[Any, ...]], store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_id = send("Other", tab=OTHER_TAB)[1]
    begin_turn, opened = store.begin_turn, []

    def open_meanwhile(*args: Any, **kwargs: Any) -> Any:
        opened.append(Thread(target=open_, args=(page, other_id)))
        opened[0].start()
        while page._views._views["tab"].conversation_id != other_id:
            pass
        return begin_turn(*args, **kwargs)

    monkeypatch.setattr(store, "begin_turn", open_meanwhile)
    open_(page, "")
    assert send("Hello") == ("", SKIP, SKIP, SKIP, SKIP)
    opened[0].join()
    assert [conversation.title for conversation in store.recent("local")] == ["Hello", "Other"]


def test_of_two_conversations_opened_at_once_the_later_is_shown(
    page: Page, send: Callable[..., tuple[Any, ...]]
) -> None:
    ids = [send("First", tab=OTHER_TAB)[1], send("Second", tab=gr.Request(session_hash="third tab"))[1]]
    given: dict[str, tuple[Any, ...]] = {}
    with page._views.writing("tab") as writer:
        threads = [Thread(target=lambda key=key: given.update({key: open_(page, key)})) for key in ids]
        for key, thread in zip(ids, threads, strict=True):
            thread.start()
            while writer.view.conversation_id != key:
                pass
    for thread in threads:
        thread.join()
    assert set(map(str, given[ids[0]])) == {str(SKIP)}
    assert given[ids[1]][0] == ids[1]


def test_pages_do_not_disturb_each_other(
    page: Page, send: Callable[..., tuple[Any, ...]], engine: ScriptedEngine
) -> None:
    conversation_id = send("Hello")[1]
    engine.say("Hi")
    engine.end()
    open_(page, "", tab=OTHER_TAB)
    assert texts(watch(page, conversation_id)[-1][0])[-1] == "Hi"


def test_a_page_that_has_not_seen_the_newest_message_is_told_shows_it_and_can_send_again(
    page: Page, send: Callable[..., tuple[Any, ...]], engine: ScriptedEngine
) -> None:
    conversation_id = send("Hello")[1]
    engine.end()
    watch(page, conversation_id)
    open_(page, conversation_id, tab=OTHER_TAB)
    send("From here", conversation_id)
    engine.end()
    watch(page, conversation_id)
    box, *_, notice = send("From there", conversation_id, tab=OTHER_TAB)
    assert (str(box), "gone on elsewhere" in notice) == (str(SKIP), True)
    assert '<div class="typed">From here</div>' in texts(watch(page, conversation_id, OTHER_TAB)[-1][0])
    assert send("From there", conversation_id, tab=OTHER_TAB)[0] == ""


def test_a_reply_that_waits_shows_its_place_then_what_is_read_then_its_text(
    page: Page, send: Callable[..., tuple[Any, ...]], engine: ScriptedEngine
) -> None:
    conversation_id = send("Hello")[1]
    generation = engine.generations[0]
    generation.queue_position = 3

    def go_on(update: tuple[Any, ...]) -> None:
        if "Waiting" in update[1]:
            generation.queue_position, generation.prefilled_tokens = 0, 5
        elif "Reading" in update[1]:
            engine.say("Hi")
            engine.end()

    waiting, reading, *others = [update[1] for update in watch(page, conversation_id, then=go_on)]
    assert waiting == '<div role="status">Waiting: 3rd in line …</div>'
    assert reading == f'<div role="status">Reading 5 of {generation.prompt_tokens} tokens …</div>'
    assert set(others) == {""}


def test_a_busy_engine_says_when_to_try_again_and_the_message_is_kept(
    page: Page, send: Callable[..., tuple[Any, ...]], engine: ScriptedEngine
) -> None:
    engine.failure = EngineBusy("32 of your replies are waiting already; try again in 7 s.", 7)
    _, conversation_id, _, bubbles, notice = send("Hello")
    assert notice == '<div role="alert">32 of your replies are waiting already; try again in 7 s.</div>'
    kept = ['<div class="typed">Hello</div>', "*An error ended this reply.*"]
    assert texts(bubbles) == kept
    shown, progress, notice, _ = watch(page, conversation_id)[-1]
    assert (texts(shown), progress, notice) == (kept, "", SKIP)  # what the notice says stays


def test_a_worker_that_dies_is_told_to_whoever_watches(
    page: Page, send: Callable[..., tuple[Any, ...]], engine: ScriptedEngine
) -> None:
    def die(update: tuple[Any, ...]) -> None:
        if engine.generations[0].finish_reason is None:
            engine.say("Hi")
            engine.end("error", "The engine has stopped after an error (RuntimeError).")

    shown, _, notice, _ = watch(page, send("Hello")[1], then=die)[-1]
    assert notice == '<div role="alert">The engine has stopped after an error (RuntimeError).</div>'
    assert texts(shown)[1:] == ["Hi", "*An error ended this reply.*"]


def test_a_page_that_has_gone_is_forgotten(page: Page, send: Callable[..., tuple[Any, ...]]) -> None:
    conversation_id = send("Hello")[1]

    async def stay_a_while() -> None:
        staying = page.stay(TAB)
        await anext(staying)
        await staying.aclose()

    asyncio.run(stay_a_while())
    assert len(watch(page, conversation_id)) == 1  # it shows no conversation any more, so there is nothing to follow
