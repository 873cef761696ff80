"""Replies are written anew and continued, messages edited: always beside what was there, never over it."""

from collections.abc import Callable

import pytest
from conftest import ScriptedEngine

from chat.errors import BlankMessage, MessageTooLong, NotPossible
from chat.manager import DialogueManager
from model.errors import EngineBusy
from model.sampling_params import SamplingParams
from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.errors import ConversationBusy, MessageNotFound
from storage.tables import Message

PARAMS = SamplingParams(seed=5)
Path = Callable[[], list[Message]]
Say = Callable[..., Message]


@pytest.fixture
def chat(manager: DialogueManager) -> str:
    return manager.start("ada", channel="ui").id


@pytest.fixture
def path(store: ConversationStore, chat: str) -> Path:
    return lambda: store.path("ada", chat)


@pytest.fixture
def say(manager: DialogueManager, engine: ScriptedEngine, chat: str, path: Path) -> Say:
    """A function that asks, has the model answer, and returns the reply."""

    def say(text: str, answer: str, reason: str = "stop") -> Message:
        turn = manager.send("ada", chat, text, PARAMS)
        engine.say(answer)
        engine.end(reason)  # type: ignore[arg-type]
        turn.join()
        return path()[-1]

    return say


def contents(path: list[Message]) -> list[str]:
    return [message.content for message in path]


def test_a_reply_written_anew_stands_beside_the_first(
    manager: DialogueManager, branches: BranchStore, engine: ScriptedEngine, say: Say, path: Path
) -> None:
    first = say("hello", "Hi")
    turn = manager.regenerate("ada", first.id, PARAMS)
    engine.say("Hey")
    engine.end()
    turn.join()
    assert contents(path()) == ["hello", "Hey"]
    assert engine.prompts[0] == engine.prompts[1]
    assert branches.siblings("ada", path())[1] == [first.id, path()[1].id]


def test_a_seed_is_drawn_for_each_reply_written_anew(
    manager: DialogueManager, engine: ScriptedEngine, say: Say, path: Path
) -> None:
    turn = manager.regenerate("ada", say("hello", "Hi").id, SamplingParams())
    engine.end()
    turn.join()
    assert path()[-1].seed == engine.params[-1].seed is not None


def test_an_edited_message_is_sent_in_a_branch_of_its_own(
    manager: DialogueManager, engine: ScriptedEngine, say: Say, path: Path, store: ConversationStore
) -> None:
    say("hello", "Hi")
    later = say("and now?", "Well")
    message = store.message("ada", str(later.parent_id))
    turn = manager.edit("ada", message.id, "and then?", PARAMS)
    engine.say("Then")
    engine.end()
    turn.join()
    assert contents(path()) == ["hello", "Hi", "and then?", "Then"]
    assert path()[2].origin_id == message.id
    assert store.message("ada", message.id).content == "and now?"


def test_an_edited_reply_is_what_the_model_reads_from_then_on(
    manager: DialogueManager, engine: ScriptedEngine, say: Say, path: Path
) -> None:
    reply = say("hello", "Hi")
    manager.edit_reply("ada", reply.id, " Good day ")
    say("who are you?", "Me")
    assert contents(path()) == ["hello", " Good day ", "who are you?", "Me"]
    assert len(engine.prompts[-1]) > len(engine.prompts[0])


def test_a_cut_reply_is_continued_beside_itself(
    manager: DialogueManager, engine: ScriptedEngine, say: Say, path: Path, store: ConversationStore
) -> None:
    cut = say("hello", "Once upon", "length")
    turn = manager.continue_reply("ada", cut.id, PARAMS)
    assert turn.snapshot().text == "Once upon"
    assert path()[-1].content == "Once upon"  # on the disk before the first new word
    engine.say(" a time")
    engine.end()
    turn.join()
    longer = path()[-1]
    assert (longer.content, longer.status, longer.origin, longer.origin_id) == (
        "Once upon a time",
        "complete",
        "continued",
        cut.id,
    )
    assert longer.completion_tokens == 1
    assert store.message("ada", cut.id).content == "Once upon"


def test_the_model_goes_on_from_what_it_had_written(manager: DialogueManager, engine: ScriptedEngine, say: Say) -> None:
    cut = say("hello", "Once upon", "length")
    manager.continue_reply("ada", cut.id, PARAMS)
    first, second = engine.prompts
    assert second[: len(first)] == first
    assert len(second) > len(first)


def test_a_continued_reply_that_is_stopped_at_once_has_what_it_began_with(
    manager: DialogueManager, engine: ScriptedEngine, say: Say, path: Path, chat: str
) -> None:
    cut = say("hello", "Once upon", "length")
    turn = manager.continue_reply("ada", cut.id, PARAMS)
    manager.stop("ada", chat)
    engine.end("cancelled")
    turn.join()
    assert (path()[-1].content, path()[-1].status) == ("Once upon", "stopped")


def test_a_continued_reply_that_the_engine_refuses_keeps_its_beginning(
    manager: DialogueManager, engine: ScriptedEngine, say: Say, path: Path
) -> None:
    cut = say("hello", "Once upon", "length")
    engine.failure = EngineBusy("No.", 1)
    with pytest.raises(EngineBusy):
        manager.continue_reply("ada", cut.id, PARAMS)
    assert (path()[-1].content, path()[-1].status, path()[-1].error) == ("Once upon", "error", "No.")


def test_what_makes_no_sense_is_refused_with_the_reason(
    manager: DialogueManager, engine: ScriptedEngine, say: Say, path: Path
) -> None:
    reply = say("hello", "Hi")
    message = path()[0]
    for call, reason in (
        (lambda: manager.continue_reply("ada", reply.id, PARAMS), "The reply ended by itself"),
        (lambda: manager.regenerate("ada", message.id, PARAMS), "A message of the user cannot be written anew"),
        (lambda: manager.edit_reply("ada", message.id, "x"), "A message of the user cannot be edited as a reply"),
        (lambda: manager.edit("ada", reply.id, "x", PARAMS), "A message of the assistant cannot be edited and sent"),
    ):
        with pytest.raises(NotPossible, match=f"^{reason}"):
            call()
    empty = say("again", "", "length")
    with pytest.raises(NotPossible, match="no text that could be continued"):
        manager.continue_reply("ada", empty.id, PARAMS)
    with pytest.raises(BlankMessage):
        manager.edit("ada", message.id, " ", PARAMS)
    with pytest.raises(BlankMessage):
        manager.edit_reply("ada", reply.id, "\n")
    with pytest.raises(MessageTooLong):
        manager.edit("ada", message.id, "x" * 100_000, PARAMS)
    assert contents(path()) == ["hello", "Hi", "again", ""]


def test_while_a_reply_is_being_written_nothing_else_begins_in_its_conversation(
    manager: DialogueManager, say: Say, path: Path, chat: str
) -> None:
    reply = say("hello", "Hi")
    turn = manager.send("ada", chat, "and now?", PARAMS)
    before = contents(path())
    for call in (
        lambda: manager.send("ada", chat, "me too", PARAMS),
        lambda: manager.regenerate("ada", reply.id, PARAMS),
        lambda: manager.edit("ada", str(reply.parent_id), "x", PARAMS),
        lambda: manager.edit_reply("ada", reply.id, "x"),
        lambda: manager.switch("ada", reply.id),
        lambda: manager.fork("ada", reply.id),
        lambda: manager.delete_message("ada", reply.id),
        lambda: manager.delete_branch("ada", reply.id),
        lambda: manager.clear("ada", chat),
    ):
        with pytest.raises(ConversationBusy):
            call()
    assert contents(path()) == before
    assert turn.running


def test_a_reply_whose_end_was_never_stored_is_in_nobody_s_way(
    manager: DialogueManager, store: ConversationStore, chat: str, path: Path
) -> None:
    _, reply = store.begin_turn("ada", chat, content="a", parent_id=None, model="m", params={}, seed=1)
    store.flush_reply("ada", reply.id, content="half")
    manager.switch("ada", reply.id)
    assert (path()[-1].status, path()[-1].content) == ("error", "half")


def test_branches_are_switched_forked_deleted_and_cleared(
    manager: DialogueManager, engine: ScriptedEngine, say: Say, path: Path, chat: str, store: ConversationStore
) -> None:
    first = say("hello", "Hi")
    manager.regenerate("ada", first.id, PARAMS)
    engine.say("Hey")
    engine.end()
    manager.turn("ada", chat) and manager.turn("ada", chat).join()  # type: ignore[union-attr]
    manager.switch("ada", first.id)
    assert contents(path()) == ["hello", "Hi"]
    fork = manager.fork("ada", first.id)
    manager.delete_branch("ada", first.id)
    assert contents(path()) == ["hello", "Hey"]
    manager.delete_message("ada", path()[0].id)
    assert contents(path()) == ["Hey"]
    manager.clear("ada", chat)
    assert contents(path()) == []
    assert contents(store.path("ada", fork.id)) == ["hello", "Hi"]


def test_a_stranger_can_do_nothing(manager: DialogueManager, say: Say, path: Path) -> None:
    reply = say("hello", "Hi")
    message = path()[0]
    for call in (
        lambda: manager.regenerate("eve", reply.id, PARAMS),
        lambda: manager.continue_reply("eve", reply.id, PARAMS),
        lambda: manager.edit("eve", message.id, "x", PARAMS),
        lambda: manager.edit_reply("eve", reply.id, "x"),
        lambda: manager.switch("eve", message.id),
        lambda: manager.fork("eve", message.id),
        lambda: manager.delete_message("eve", message.id),
        lambda: manager.delete_branch("eve", message.id),
        lambda: manager.ledger("eve", reply.id),
    ):
        with pytest.raises(MessageNotFound):
            call()
    assert contents(path()) == ["hello", "Hi"]


def test_the_account_of_a_prompt_can_be_read_before_it_is_sent(
    manager: DialogueManager, store: ConversationStore, engine: ScriptedEngine, say: Say, path: Path, chat: str
) -> None:
    say("hello", "Hi")
    ledger = manager.preview("ada", chat, "and now?", PARAMS)
    kept = manager.ledger("ada", say("and now?", "Well").id)
    assert kept is not None
    assert [entry["tokens"] for entry in ledger["messages"]] == [entry["tokens"] for entry in kept["messages"]]
    assert [entry["reason"] for entry in ledger["messages"]] == ["fits", "fits", "fits"]
    assert [entry["message_id"] for entry in kept["messages"]] == [message.id for message in path()[:3]]
    assert (ledger.get("cached_tokens"), kept.get("cached_tokens")) == (None, 2)
    assert manager.ledger("ada", path()[2].id) is None
    assert len(contents(path())) == 4


def test_a_reply_keeps_only_what_is_new_in_its_account(
    manager: DialogueManager, store: ConversationStore, say: Say, path: Path
) -> None:
    for text in ("one", "two", "three"):
        say(text, "Well")
    stored = [store.message("ada", message.id).ledger for message in path()[1::2]]
    entries = [list(ledger["messages"]) for ledger in stored if ledger]  # type: ignore[call-overload]
    assert [[entry["message_id"] for entry in kept] for kept in entries] == [
        [message.id for message in path()[begin:end]] for begin, end in ((0, 1), (1, 3), (3, 5))
    ]
