"""Who watches a conversation hears of all that changes, and of each reply every character once."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import httpx
import pytest
from conftest import ScriptedEngine
from event_readers import SECONDS, Event, FakeModel, SlowTab, Tab, World, eventually, parse, said
from fastapi import FastAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chat import turn as turn_module
from chat.api import event_stream
from chat.api import events as events_module
from chat.api.replies import UNSTORED
from chat.data_folder import LOCAL_OWNER as ME
from chat.turn import Turn
from chat.workspace import Workspace
from model.checkpoint.checkpoint import Checkpoint
from model.errors import EngineBusy
from model.sampling_params import SamplingParams
from storage.database import Database
from storage.errors import StorageError

PARAMS = SamplingParams(seed=5)


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Iterator[World]:
    with closing(Database(tmp_path_factory.mktemp("events") / "parley.db")) as database:
        database.migrate()
        with closing(World(database, tiny_checkpoint)) as world:
            yield world


@pytest.fixture
def world(request: pytest.FixtureRequest) -> World:
    return request.getfixturevalue("own_world" if "own_world" in request.fixturenames else "shared_world")


@pytest.fixture
def own_world(database: Database, tiny_checkpoint: Checkpoint) -> Iterator[World]:
    """For a test that closes it."""
    with closing(World(database, tiny_checkpoint)) as world:
        yield world


@pytest.fixture
def workspace(world: World) -> Workspace:
    return world.workspace


@pytest.fixture
def engine(world: World) -> ScriptedEngine:
    return world.engine


@pytest.fixture
def model(world: World) -> FakeModel:
    return world.model


@pytest.fixture
def app(world: World) -> FastAPI:
    return world.app


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=world.server.url, timeout=SECONDS) as client:
        yield client


@pytest.fixture
def watch(client: httpx.Client) -> Iterator[Callable[..., Tab]]:
    """A function that opens a tab, given the query and, as `at`, the id of the last event."""
    with ExitStack() as tabs:

        def open_tab(conversation_id: str | None = None, *, at: str | None = None, **query: str | int) -> Tab:
            params = {**query, **({"conversation_id": conversation_id} if conversation_id else {})}
            headers = {"Last-Event-ID": at.encode("latin-1")} if at else {}
            return Tab(tabs.enter_context(client.stream("GET", "/events", params=params, headers=headers)))

        yield open_tab


@pytest.fixture
def chat(workspace: Workspace) -> str:
    return workspace.manager.start(ME, channel="ui").id


@pytest.fixture
def send(workspace: Workspace, chat: str) -> Callable[..., tuple[Turn, str]]:
    """A function that sends a message and returns the reply's turn and id."""

    def send(text: str = "hello") -> tuple[Turn, str]:
        turn = workspace.manager.send(ME, chat, text, PARAMS)
        return turn, tip_of(workspace, chat)

    return send


def tip_of(workspace: Workspace, conversation_id: str) -> str:
    tip = workspace.conversations.get(ME, conversation_id).active_leaf_id
    assert tip is not None
    return tip


def stored(workspace: Workspace, message_id: str) -> str:
    return workspace.conversations.message(ME, message_id).content


def assert_no_reply_is_told(tab: Tab, workspace: Workspace, conversation_id: str) -> None:
    for _ in range(2):  # what is told after the first would come before the second
        workspace.bus.publish(ME, conversation_id)
        assert {event.name for event in tab.until("conversation")} <= {"list", "conversation"}


# What is told.


def test_a_stream_begins_with_the_model_the_list_and_the_conversation(
    watch, model: FakeModel, workspace: Workspace, chat: str
) -> None:
    tab = watch(chat)
    assert tab.response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert tab.response.headers["Cache-Control"] == "no-store"
    assert tab.response.headers["X-Accel-Buffering"] == "no"
    assert next(tab.events) == ("model", None, model.get())
    assert next(tab.events) == ("list", None, {"version": workspace.bus.version(ME)})
    name, _, conversation = next(tab.events)
    assert (name, conversation["id"], conversation["channel"]) == ("conversation", chat, "ui")


def test_without_a_conversation_the_model_and_the_list_are_told(watch, workspace: Workspace) -> None:
    tab = watch()
    assert [next(tab.events).name, next(tab.events).name] == ["model", "list"]
    workspace.bus.publish(ME, "another")
    assert next(tab.events) == ("list", None, {"version": workspace.bus.version(ME)})


def test_whoever_has_the_list_as_it_is_hears_nothing_of_it(watch, workspace: Workspace, chat: str) -> None:
    version = watch().next("list").data["version"]
    assert [event.name for event in watch(chat, list_version=version).until("conversation")] == [
        "model",
        "conversation",
    ]
    workspace.bus.publish(ME, "another")
    assert watch(list_version=version).next("list").data["version"] != version


def test_a_change_of_the_conversation_is_told(watch, workspace: Workspace, chat: str) -> None:
    tab = watch(chat)
    tab.next("conversation")
    workspace.conversations.update(ME, chat, title="Tea")
    workspace.bus.publish(ME, chat)
    assert tab.next("conversation").data["title"] == "Tea"


def test_a_conversation_in_the_trash_is_still_there(watch, workspace: Workspace, chat: str) -> None:
    workspace.conversations.update(ME, chat, trashed=True)
    assert watch(chat).next("conversation").data["trashed_at"] is not None


def test_an_erased_conversation_is_gone(watch, workspace: Workspace, chat: str) -> None:
    tab = watch(chat)
    tab.next("conversation")
    workspace.erasure.erase(ME, [chat])
    workspace.bus.publish(ME, chat)
    assert tab.next("gone").data == {"id": chat}


def test_other_conversations_change_only_the_list(watch, workspace: Workspace, chat: str) -> None:
    tab = watch(chat)
    tab.next("conversation")
    workspace.bus.publish(ME, "another")
    assert next(tab.events).name == "list"


def test_another_owners_changes_are_not_told(watch, workspace: Workspace) -> None:
    tab = watch()
    tab.next("model")
    workspace.bus.publish("eve", "hers")
    workspace.bus.publish(ME, "mine")
    workspace.bus.publish("eve", "hers")
    assert next(tab.events).name == "list"


def test_many_changes_of_the_list_are_told_together(
    watch, monkeypatch: pytest.MonkeyPatch, workspace: Workspace, model: FakeModel
) -> None:
    monkeypatch.setattr(event_stream, "LIST_SECONDS", 2.0)  # in which a busy machine publishes them all
    tab = watch()
    tab.next("list")
    for _ in range(100):
        workspace.bus.publish(ME, "another")
    assert next(tab.events) == ("list", None, {"version": workspace.bus.version(ME)})
    model.go_on()
    assert next(tab.events).name == "model"


def test_the_models_last_status_is_told_however_fast_it_changes(
    watch, monkeypatch: pytest.MonkeyPatch, model: FakeModel
) -> None:
    monkeypatch.setitem(event_stream.PAUSES, "model", 2.0)  # in which a busy machine changes it so often
    tab = watch()
    tab.next("model")
    for _ in range(1000):
        model.go_on()
    statuses = [tab.next("model").data["done"]]
    while statuses[-1] != model.done:
        statuses.append(tab.next("model").data["done"])
    assert len(statuses) <= 3


def test_silence_is_broken_by_pings(watch, monkeypatch: pytest.MonkeyPatch, chat: str) -> None:
    monkeypatch.setattr(event_stream, "PING_SECONDS", 0.05)
    tab = watch(chat)
    tab.next("conversation")
    assert [next(tab.events).name for _ in range(2)] == ["ping", "ping"]


def test_a_reply_is_told_as_it_grows_to_its_end(watch, workspace: Workspace, chat: str, send, engine) -> None:
    tab = watch(chat)
    tab.next("conversation")
    turn, reply_id = send()
    engine.say("Hel")
    first = tab.next("text")
    assert first == ("text", f"{reply_id}:3", {"message_id": reply_id, "text": "Hel"})
    engine.say("lo")
    engine.end()
    *events, end = tab.until("end")
    assert "Hel" + "".join(event.data["text"] for event in events if event.name == "text") == "Hello"
    assert end.id == f"{reply_id}:5"
    assert (end.data["content"], end.data["status"], end.data["siblings"]) == ("Hello", "complete", [reply_id])


def test_the_end_comes_with_what_the_owner_thinks_of_it(watch, workspace: Workspace, chat: str, send, engine) -> None:
    turn, reply_id = send()
    workspace.feedback.rate(ME, reply_id, rating=1)
    engine.end()
    turn.join()
    assert watch(chat, message_id=reply_id).next("end").data["feedback"] == {"rating": 1, "comment": None}


def test_the_first_words_wait_for_no_clock(watch, monkeypatch: pytest.MonkeyPatch, chat: str, send, engine) -> None:
    monkeypatch.setattr(event_stream, "PROGRESS_SECONDS", 3600.0)
    monkeypatch.setattr(event_stream, "PING_SECONDS", 3600.0)
    tab = watch(chat)
    send()
    tab.next("progress")
    engine.say("Hi")
    assert tab.next("text").data["text"] == "Hi"


def test_what_goes_on_before_the_first_words_is_told_and_cleared(watch, chat: str, send, engine) -> None:
    tab = watch(chat)
    _, reply_id = send()
    progress = {"queue_position": 0, "wait_seconds": None, "prefilled_tokens": 0, "prompt_tokens": 20}
    assert tab.next("progress").data == {"message_id": reply_id, "progress": progress}
    engine.generations[-1].queue_position, engine.generations[-1].wait_seconds = 2, 12
    assert tab.next("progress").data["progress"] == {**progress, "queue_position": 2, "wait_seconds": 12}
    engine.say("Hi")
    cleared, text = tab.until("text")
    assert (cleared.data["progress"], text.data["text"]) == (None, "Hi")


def test_a_stopped_reply_ends_with_what_was_shown(watch, workspace: Workspace, chat: str, send, engine) -> None:
    tab = watch(chat)
    send()
    engine.say("seen")
    tab.next("text")
    workspace.manager.stop(ME, chat)
    engine.say(" unseen")
    engine.end("cancelled")
    end = tab.next("end").data
    assert (end["content"], end["status"]) == ("seen", "stopped")


def test_an_interrupted_reply_ends_with_all_of_it(watch, chat: str, send, engine) -> None:
    tab = watch(chat)
    tab.next("conversation")  # a reply that had ended by now would be no news
    _, reply_id = send()
    engine.say("one ", "two")
    engine.end("cancelled")
    events = tab.until("end")
    assert said(events, reply_id) == "one two"
    assert events[-1].data["status"] == "interrupted"


def test_an_error_of_the_engine_is_told(watch, chat: str, send, engine) -> None:
    tab = watch(chat)
    tab.next("conversation")  # a reply that had ended by now would be no news
    send()
    engine.end("error", "The model computed numbers that are not finite.")
    events = tab.until("end")
    assert events[-1].data["error"] == "The model computed numbers that are not finite."
    assert [event.data["progress"] for event in events if event.name == "progress"][-1:] in ([], [None])


def test_a_reply_that_could_not_begin_is_told_by_its_end(
    watch, workspace: Workspace, chat: str, engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = watch(chat)
    tab.next("conversation")
    monkeypatch.setattr(engine, "failure", EngineBusy(1))
    with pytest.raises(EngineBusy):
        workspace.manager.send(ME, chat, "hello", PARAMS)
    assert tab.next("end").data["status"] == "error"


def test_an_end_that_cannot_be_stored_is_told_as_an_error(
    watch, workspace: Workspace, chat: str, send, engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(workspace.conversations, "finish_reply", fail)
    tab = watch(chat)
    turn, reply_id = send()
    engine.say("half")
    tab.next("text")
    engine.end()
    end = tab.next("end").data
    assert (end["content"], end["status"], end["error"]) == ("half", "error", "The disk is full.")
    # told once only; and who comes later hears of it too
    assert_no_reply_is_told(tab, workspace, chat)
    late = watch(chat, message_id=reply_id, offset=2).until("end")
    assert [event.data["text"] for event in late if event.name == "text"] == ["lf"]
    assert late[-1].data["error"] == UNSTORED


def test_a_half_of_a_surrogate_pair_does_not_end_the_stream(
    watch, workspace: Workspace, chat: str, send, engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace.conversations, "flush_reply", lambda *_, **__: None)  # which could not store it
    tab = watch(chat)
    _, reply_id = send()
    engine.say("a\ud83d\n\u2028")
    text = tab.next("text")
    assert text == ("text", f"{reply_id}:4", {"message_id": reply_id, "text": "a\ud83d\n\u2028"})
    engine.end()
    assert tab.next("end").data["status"] == "error"


# Coming back.


def test_places_count_code_points(watch, chat: str, send, engine) -> None:
    turn, reply_id = send()
    engine.say("a😀é\u0301b")
    engine.end()
    turn.join()
    text = watch(chat, at=f"{reply_id}:2").next("text")
    assert text == ("text", f"{reply_id}:5", {"message_id": reply_id, "text": "é\u0301b"})


def test_whoever_has_the_whole_reply_hears_only_of_its_end(watch, chat: str, send, engine) -> None:
    turn, reply_id = send()
    engine.say("Hello")
    engine.end()
    turn.join()
    events = watch(chat, at=f"{reply_id}:5").until("end")
    assert [event.name for event in events] == ["model", "list", "conversation", "end"]


def test_a_reply_that_is_being_written_goes_on_from_the_place(watch, chat: str, send, engine) -> None:
    turn, reply_id = send()
    engine.say("Hello")
    eventually(lambda: turn.snapshot().text == "Hello")
    tab = watch(chat, message_id=reply_id, offset=3)
    assert tab.next("text").data["text"] == "lo"
    engine.say(", you")
    engine.end()
    assert said(
        [Event("text", f"{reply_id}:5", {"message_id": reply_id, "text": "Hello"}), *tab.until("end")], reply_id
    )


def test_the_header_counts_before_the_query(watch, chat: str, send, engine) -> None:
    turn, reply_id = send()
    engine.say("Hello")
    engine.end()
    turn.join()
    tab = watch(chat, at=f"{reply_id}:4", message_id=reply_id, offset=1)
    assert tab.next("text").data["text"] == "o"


def test_a_reply_that_is_being_written_is_told_from_its_start_to_whoever_has_nothing(
    watch, chat: str, send, engine
) -> None:
    turn, reply_id = send()
    engine.say("Hello")
    eventually(lambda: turn.snapshot().text == "Hello")
    assert watch(chat).next("text").data == {"message_id": reply_id, "text": "Hello"}


def test_replies_that_ended_before_are_not_told(watch, workspace: Workspace, chat: str, send, engine) -> None:
    turn, _ = send()
    engine.say("Hello")
    engine.end()
    turn.join()
    tab = watch(chat)
    tab.next("conversation")
    assert_no_reply_is_told(tab, workspace, chat)


@pytest.mark.parametrize("at", ["", ":", "nonsense", "{}", "{}:", "{}:-1", "{}:x", "{}:²", "{}:" + "9" * 5000, ":::5"])
def test_nonsense_for_a_place_is_as_none(watch, chat: str, send, engine, at: str) -> None:
    turn, reply_id = send()
    engine.say("Hello")
    eventually(lambda: turn.snapshot().text == "Hello")
    assert watch(chat, at=at.format(reply_id)).next("text").data["text"] == "Hello"


def test_a_place_beyond_the_end_is_as_none(watch, chat: str, send, engine) -> None:
    turn, reply_id = send()
    engine.say("Hello")
    eventually(lambda: turn.snapshot().text == "Hello")
    assert watch(chat, at=f"{reply_id}:6").next("text").data["text"] == "Hello"
    engine.end()
    turn.join()
    assert watch(chat, at=f"{reply_id}:999999999").next("text").data["text"] == "Hello"


def test_an_offset_that_is_no_number_is_refused(client: httpx.Client) -> None:
    assert client.get("/events", params={"offset": "x"}).status_code == 400


def test_another_owners_messages_and_conversations_are_not_there(
    watch, workspace: Workspace, chat: str, engine
) -> None:
    hers = workspace.manager.start("eve", channel="ui").id
    turn = workspace.manager.send("eve", hers, "hello", PARAMS)
    engine.say("secret")
    eventually(lambda: turn.snapshot().text == "secret")
    reply_id = workspace.conversations.get("eve", hers).active_leaf_id
    assert [event.name for event in watch(hers, message_id=str(reply_id)).until("gone")] == ["model", "list", "gone"]
    tab = watch(chat, message_id=str(reply_id))
    tab.next("conversation")
    assert_no_reply_is_told(tab, workspace, chat)


def test_a_message_of_another_conversation_is_no_place(watch, workspace: Workspace, chat: str, send, engine) -> None:
    turn, reply_id = send()
    engine.say("Hello")
    engine.end()
    turn.join()
    other = workspace.manager.start(ME, channel="ui").id
    tab = watch(other, message_id=reply_id)
    tab.next("conversation")
    assert_no_reply_is_told(tab, workspace, other)


def test_what_is_stored_but_not_yet_shown_is_not_told_twice(
    watch, workspace: Workspace, chat: str, send, engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two a reader can get it from the path of the conversation."""
    flush, flushed, may_show = workspace.conversations.flush_reply, threading.Event(), threading.Event()

    def flush_and_wait(*args: str, content: str) -> None:
        flush(*args, content=content)
        flushed.set()
        assert may_show.wait(SECONDS)

    monkeypatch.setattr(workspace.conversations, "flush_reply", flush_and_wait)
    turn, reply_id = send()
    engine.say("Hello")
    assert flushed.wait(SECONDS)
    tab = watch(chat, message_id=reply_id, offset=5)
    tab.next("progress")
    may_show.set()
    engine.say("!")
    engine.end()
    assert [event.data["text"] for event in tab.until("end") if event.name == "text"] == ["!"]


def test_a_reply_whose_turn_is_about_to_begin_is_followed(
    watch, workspace: Workspace, chat: str, engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, stored_already, may_begin = engine.submit, threading.Event(), threading.Event()

    def submit_later(*args: Any, **kwargs: Any) -> Any:
        stored_already.set()
        assert may_begin.wait(SECONDS)
        return submit(*args, **kwargs)

    monkeypatch.setattr(engine, "submit", submit_later)
    with ThreadPoolExecutor(2) as pool:
        sending = pool.submit(workspace.manager.send, ME, chat, "hello", PARAMS)
        assert stored_already.wait(SECONDS)
        first_text = pool.submit(lambda: watch(chat).next("text"))
        may_begin.set()
        sending.result()
        engine.say("Hi")
        assert first_text.result().data["text"] == "Hi"


def test_a_turn_that_begins_while_the_stream_looks_is_followed(
    watch, workspace: Workspace, chat: str, send, engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_turn, has_looked = workspace.manager.turn, threading.Event()

    def turn_of(*args: str) -> Turn | None:
        turn = find_turn(*args)
        if not has_looked.is_set():
            has_looked.set()
            send()  # just after it was seen that there is none
        return turn

    tab = watch(chat)
    tab.next("conversation")
    monkeypatch.setattr(workspace.manager, "turn", turn_of)
    workspace.bus.publish(ME, chat)
    events = tab.until("progress")
    engine.say("Hi")
    events += tab.until("text")
    assert events[-1].data["text"] == "Hi"
    assert "end" not in [event.name for event in events]


# Turns one after the other, and other tabs.


def test_the_next_reply_is_followed_from_its_start(watch, chat: str, send, engine) -> None:
    tab = watch(chat)
    tab.next("conversation")  # a reply that had ended by now would be no news
    for text in ("one", "two"):
        _, reply_id = send(text)
        engine.say(text)
        engine.end()
        assert said(tab.until("end"), reply_id) == text


def test_another_version_of_a_reply_is_followed(watch, workspace: Workspace, chat: str, send, engine) -> None:
    turn, first_id = send()
    engine.say("Hello")
    engine.end()
    turn.join()
    tab = watch(chat, at=f"{first_id}:5")
    tab.next("end")
    workspace.manager.regenerate(ME, first_id, PARAMS)
    second_id = tip_of(workspace, chat)
    engine.say("Hallo")
    engine.end()
    events = tab.until("end")
    assert said(events, second_id) == "Hallo"
    assert events[-1].data["siblings"] == [first_id, second_id]


def test_a_continued_reply_is_told_with_its_beginning(watch, workspace: Workspace, chat: str, send, engine) -> None:
    turn, first_id = send()
    engine.say("Hel")
    engine.end("length")
    turn.join()
    tab = watch(chat)
    tab.next("conversation")
    workspace.manager.continue_reply(ME, first_id, PARAMS)
    engine.say("lo")
    engine.end()
    assert said(tab.until("end"), tip_of(workspace, chat)) == "Hello"


def test_showing_another_branch_tells_no_reply_again(watch, workspace: Workspace, chat: str, send, engine) -> None:
    turn, first_id = send()
    engine.say("Hello")
    engine.end()
    turn.join()
    turn = workspace.manager.regenerate(ME, first_id, PARAMS)
    engine.say("Hallo")
    engine.end()
    turn.join()
    tab = watch(chat)
    tab.next("conversation")
    for _ in range(2):
        second_id = tip_of(workspace, chat)
        workspace.manager.switch(ME, second_id if tip_of(workspace, chat) == first_id else first_id)
        assert_no_reply_is_told(tab, workspace, chat)


def test_a_reply_that_its_reader_has_edited_is_not_told_as_one_being_written(
    watch, workspace: Workspace, chat: str, send, engine
) -> None:
    turn, reply_id = send()
    engine.say("Hello")
    engine.end()
    turn.join()
    tab = watch(chat)
    tab.next("conversation")
    edited = workspace.manager.edit_reply(ME, reply_id, "mine")
    workspace.bus.publish(ME, chat)
    events = tab.until("conversation")
    assert events[-1].data["active_leaf_id"] == edited.id
    assert_no_reply_is_told(tab, workspace, chat)


def test_a_reader_who_was_stuck_hears_of_every_turn_meanwhile(app: FastAPI, chat: str, send, engine) -> None:
    async def run() -> None:
        async with SlowTab(app, chat) as tab:
            await tab.is_stuck()
            said_by = {}
            for text in ("one", "two", "three"):
                turn, reply_id = send(text)
                for character in text:
                    engine.say(character)
                engine.end()
                turn.join()
                said_by[reply_id] = text
            _, last_id = send("four")
            engine.say("four")
            events = await tab.read_on('"text": "four"')
            for reply_id, text in said_by.items():
                assert said(events, reply_id) == text
                assert [e.data["status"] for e in events if e.name == "end" and e.data["id"] == reply_id] == [
                    "complete"
                ]
            assert said(events, last_id) == "four"

    asyncio.run(run())


def test_for_a_slow_reader_nothing_is_queued(
    app: FastAPI, chat: str, send, engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "PUBLISH_SECONDS", 0.0)

    async def run() -> None:
        async with SlowTab(app, chat) as tab:
            turn, reply_id = send()
            await tab.is_stuck()
            for _ in range(60):
                engine.say("word ")
            await asyncio.to_thread(eventually, lambda: len(turn.snapshot().text) == 300)
            assert tab.n_waiting == 1
            events = await tab.read_on("word word")
            assert said(events, reply_id) == "word " * 60
            assert len([event for event in events if event.name == "text"]) == 1

    asyncio.run(run())


# Leaving.


def n_listeners(workspace: Workspace, model: FakeModel, *turns: Turn) -> int:
    buses = sum(map(len, workspace.bus._listeners.values()))
    return buses + len(model.listeners) + sum(len(turn._listeners) for turn in turns)


def test_when_a_reader_goes_nobody_listens_any_more(
    watch, workspace: Workspace, chat: str, send, engine, model: FakeModel
) -> None:
    turn, _ = send()
    tab = watch(chat)
    tab.next("progress")
    eventually(lambda: n_listeners(workspace, model, turn) == 3)  # when those of an earlier test are gone
    tab.response.close()
    eventually(lambda: n_listeners(workspace, model, turn) < 3)
    eventually(lambda: n_listeners(workspace, model) == 0)
    assert n_listeners(workspace, model, turn) == 0


def test_a_reader_who_is_stuck_and_goes_leaves_nothing_behind(
    app: FastAPI, workspace: Workspace, chat: str, send, engine, model: FakeModel
) -> None:
    turn, _ = send()

    async def run() -> None:
        async with SlowTab(app, chat) as tab:
            await tab.is_stuck()
            await asyncio.to_thread(eventually, lambda: n_listeners(workspace, model, turn) == 3)
        assert n_listeners(workspace, model, turn) == 0

    asyncio.run(run())


def test_a_reply_that_has_ended_is_listened_to_no_longer(
    watch, workspace: Workspace, chat: str, send, engine, model: FakeModel
) -> None:
    turn, _ = send()
    tab = watch(chat)
    tab.next("progress")
    eventually(lambda: n_listeners(workspace, model, turn) == 3)  # when those of an earlier test are gone
    engine.end()
    tab.next("end")
    assert n_listeners(workspace, model, turn) == 2


def test_an_owner_may_have_some_streams_at_a_time(watch, chat: str) -> None:
    tabs = [watch(chat) for _ in range(events_module.MAX_STREAMS)]
    refused = watch(chat).response
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "10")
    assert json.loads(refused.read())["error"]["code"] == "limit_exceeded"
    tabs[0].response.close()
    eventually(lambda: watch(chat).response.status_code == 200)


def test_a_hundred_idle_readers_cost_neither_threads_nor_time(
    world: World, watch, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "MAX_STREAMS", 200)
    watch(chat).next("conversation")
    n_threads = threading.active_count()
    request = f"GET /events?conversation_id={chat} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(socket.create_connection(world.server.socket.getsockname()))
            connection.sendall(request)
            got = b""
            while b"event: conversation" not in got:
                got += connection.recv(65536)
        assert threading.active_count() <= n_threads + 2
        used = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - used < 0.1


def test_streams_end_by_themselves_when_parley_does(
    own_world: World, watch, chat: str, send, caplog: pytest.LogCaptureFixture
) -> None:
    send()
    tab = watch(chat)
    tab.next("progress")
    own_world.workspace.bus.close()
    own_world.server.close()
    assert list(tab.events) == []  # and no error, as the response is complete
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_reader_who_comes_when_parley_ends_is_sent_away(own_world: World, watch, chat: str) -> None:
    own_world.workspace.bus.close()
    assert [event.name for event in watch(chat).events] == ["model", "list", "conversation"]


def test_a_database_that_fails_ends_the_stream_with_a_line_in_the_log(
    watch, workspace: Workspace, chat: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: str) -> None:
        raise StorageError("The disk cannot be read.")

    monkeypatch.setattr(workspace.conversations, "get", fail)
    assert list(watch(chat).events) == []
    assert [record.getMessage() for record in caplog.records if record.name == events_module.__name__] == [
        "a stream of events ended: The disk cannot be read."
    ]


# Whatever happens.


PIECES = st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=5), max_size=6)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turns=st.lists(
        st.tuples(PIECES, st.sampled_from(["stop", "length", "cancelled", "error", "stopped"])), min_size=1, max_size=2
    ),
    cuts=st.lists(st.integers(0, 1500), max_size=6),
)
@example(turns=[(["a", "😀"], "stop"), (["b"], "stopped")], cuts=[700, 900, 0, 1400])
def test_a_stream_that_is_cut_anywhere_loses_and_repeats_nothing(
    client: httpx.Client, workspace: Workspace, engine: ScriptedEngine, turns: list[Any], cuts: list[int]
) -> None:
    """The connection breaks after any number of bytes, and is made anew with the id of the last whole event."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(turn_module, "PUBLISH_SECONDS", 0.0)
        patch.setitem(event_stream.PAUSES, "text", 0.0)
        chat = workspace.manager.start(ME, channel="ui").id
        for pieces, ending in turns:
            turn = workspace.manager.send(ME, chat, "hello", PARAMS)
            reply_id = tip_of(workspace, chat)
            reading = pool.submit(read_with_cuts, client, chat, reply_id, cuts)
            for piece in pieces:
                engine.say(piece)
            if ending == "stopped":
                workspace.manager.stop(ME, chat)
                ending = "cancelled"
            engine.end(ending, "broken" if ending == "error" else None)
            events = reading.result(SECONDS)
            turn.join()
            assert said(events, reply_id) == stored(workspace, reply_id) == events[-1].data["content"]


def read_with_cuts(client: httpx.Client, chat: str, reply_id: str, cuts: list[int]) -> list[Event]:
    """Return the events of a reply, the end last, that a reader has whose connection breaks after so many bytes."""
    events: list[Event] = []
    for cut in [*cuts, 10**9]:
        query = {"conversation_id": chat, "message_id": reply_id, "offset": "0"}
        ids = [event.id for event in events if event.id]
        with client.stream(
            "GET", "/events", params=query, headers={"Last-Event-ID": ids[-1]} if ids else {}
        ) as response:
            text = b""
            for chunk in response.iter_raw():
                text += chunk
                whole = text[:cut].decode(errors="ignore").rpartition("\n\n")[0]
                came = list(parse([*whole.split("\n"), ""])) if whole else []
                if len(text) >= cut or any(event.name == "end" for event in came):
                    break
        events += came
        if came and any(event.name == "end" for event in came):
            return events
    raise AssertionError(f"the stream has no end: {events}")
