"""A reply is stored before it is shown, outlives its watchers, and always comes to an end."""

import queue

import pytest
from conftest import ScriptedEngine

from chat.turn import Ending, Snapshot, Turn
from model.engine.generation import Generation
from model.sampling_params import SamplingParams
from storage.errors import StorageError
from storage.tables import Message


class Diary:
    """Takes down what a Turn stores."""

    def __init__(self) -> None:
        self.flushed: list[str] = []
        self.endings: list[Ending] = []
        self.failure: Exception | None = None

    def flush(self, text: str) -> None:
        if self.failure:
            raise self.failure
        self.flushed.append(text)

    def finish(self, ending: Ending) -> None:
        if self.failure:
            raise self.failure
        self.endings.append(ending)


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def generation(engine: ScriptedEngine) -> Generation:
    return engine.submit([1, 2, 3], SamplingParams(), owner="ada")


@pytest.fixture
def turn(generation: Generation, diary: Diary) -> Turn:
    return Turn(generation, Message(id="reply"), flush=diary.flush, finish=diary.finish)


def test_a_watcher_sees_the_reply_grow_to_its_end(turn: Turn, engine: ScriptedEngine) -> None:
    engine.say("Hel", "lo")
    engine.end()
    snapshots = list(turn.watch())
    assert snapshots[-1].text == "Hello"
    assert snapshots[-1].status == "complete"
    assert all(b.text.startswith(a.text) for a, b in zip(snapshots, snapshots[1:], strict=False))


def test_what_is_shown_has_been_stored(turn: Turn, engine: ScriptedEngine, diary: Diary) -> None:
    engine.say("one ")
    shown = next(snapshot for snapshot in turn.watch() if snapshot.text)
    assert shown.text in diary.flushed
    engine.end()
    turn.join()


def test_a_late_watcher_sees_the_whole_reply(turn: Turn, engine: ScriptedEngine) -> None:
    engine.say("Hel", "lo")
    engine.end()
    turn.join()
    assert [snapshot.text for snapshot in turn.watch()] == ["Hello"]


def test_a_watcher_who_leaves_ends_nothing(turn: Turn, engine: ScriptedEngine, diary: Diary) -> None:
    next(turn.watch())
    engine.say("still here")
    engine.end()
    turn.join()
    assert diary.endings[0].text == "still here"


def test_the_end_is_stored_with_the_tokens(turn: Turn, engine: ScriptedEngine, diary: Diary) -> None:
    engine.say("Hel", "lo")
    engine.end("length")
    turn.join()
    assert diary.endings == [Ending("Hello", [3, 3], "complete", "length")]


def test_stop_keeps_what_was_shown_and_no_more(turn: Turn, engine: ScriptedEngine, diary: Diary) -> None:
    engine.say("seen")
    next(snapshot for snapshot in turn.watch() if snapshot.text)
    turn.stop()
    engine.say(" unseen")
    engine.end("cancelled")
    turn.join()
    assert diary.endings == [Ending("seen", [3], "stopped", "cancelled")]


def test_stop_cancels_the_generation(turn: Turn, engine: ScriptedEngine, generation: Generation) -> None:
    turn.stop()
    assert generation.cancelled
    engine.end("cancelled")


def test_a_generation_cancelled_by_nobody_who_watches_was_interrupted(
    turn: Turn, engine: ScriptedEngine, diary: Diary
) -> None:
    engine.say("half")
    engine.end("cancelled")
    turn.join()
    assert diary.endings[0].status == "interrupted"


def test_an_error_of_the_engine_reaches_the_watcher(turn: Turn, engine: ScriptedEngine) -> None:
    engine.end("error", "The model computed numbers that are not finite.")
    last = list(turn.watch())[-1]
    assert (last.status, last.error) == ("error", "The model computed numbers that are not finite.")


def test_a_full_disk_ends_the_reply_with_an_error(turn: Turn, engine: ScriptedEngine, diary: Diary) -> None:
    diary.failure = StorageError("The disk is full.")
    engine.say("text")
    last = list(turn.watch())[-1]
    assert (last.status, last.error) == ("error", "The disk is full.")
    assert engine.generations[0].cancelled


def test_an_unforeseen_error_ends_the_reply_without_its_details(
    turn: Turn, engine: ScriptedEngine, diary: Diary
) -> None:
    diary.failure = RuntimeError("secret path")
    engine.say("text")
    assert list(turn.watch())[-1].error == "The reply could not be stored."


def test_a_watcher_sees_the_reply_wait_then_the_prompt_being_read(
    turn: Turn, engine: ScriptedEngine, generation: Generation
) -> None:
    snapshots = turn.watch()
    assert str(next(snapshots).progress) == "Waiting for the model …"
    generation.queue_position = 2
    assert str(next(snapshots).progress) == "Waiting: number 2 in line …"
    generation.wait_seconds = 1200
    assert str(next(snapshots).progress) == "Waiting: number 2 in line, about 1,200 s …"
    generation.queue_position, generation.wait_seconds, generation.prefilled_tokens = 0, None, 1
    assert str(next(snapshots).progress) == "Reading 1 of 3 tokens …"
    engine.say("Hi")
    assert next(snapshots).progress is None
    engine.end()


def test_a_reply_that_ended_before_its_first_word_goes_nowhere(turn: Turn, engine: ScriptedEngine) -> None:
    engine.end("error", "The engine was too busy to begin within 120 s; try again later.")
    turn.join()
    assert turn.snapshot().progress is None


def test_a_listener_is_called_once_there_is_text_to_see_and_at_the_end(turn: Turn, engine: ScriptedEngine) -> None:
    seen: queue.SimpleQueue[Snapshot] = queue.SimpleQueue()
    with turn.listening(lambda: seen.put(turn.snapshot())):
        engine.say("Hello")
        assert seen.get(timeout=10).text == "Hello"
        engine.end()
        assert seen.get(timeout=10).status == "complete"


def test_a_listener_who_has_left_is_not_called(turn: Turn, engine: ScriptedEngine) -> None:
    calls: list[None] = []
    with turn.listening(lambda: calls.append(None)):
        pass
    engine.say("Hello")
    engine.end()
    turn.join()
    assert calls == []
