"""A message is stored first, its reply is written whoever watches, and every way it can end is kept."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import ScriptedEngine
from fake_runner import END, Counting, FakeRunner

from chat.context import ContextBuilder
from chat.errors import AlreadySent, BlankMessage, MessageTooLong, NotPossible, PromptFailed
from chat.loaded_model import LoadedModel
from chat.manager import DialogueManager
from chat.prompts import join_prompt
from model.chat_template import TRANSCRIPT_STOP, ChatMessage, ChatTemplate
from model.checkpoint.checkpoint import Checkpoint
from model.config import BLOCK_SIZE
from model.engine.engine import Engine
from model.engine.sequence import Limits
from model.errors import CheckpointError, EngineBusy, EngineStopped
from model.sampling_params import SamplingParams
from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.database import Database
from storage.errors import ConversationBusy, ConversationMoved, ConversationNotFound
from storage.tables import Message

PARAMS = SamplingParams(seed=5)


@pytest.fixture
def chat(manager: DialogueManager) -> str:
    return manager.start("ada", channel="ui").id


@pytest.fixture
def path(store: ConversationStore, chat: str) -> Callable[[], list[Message]]:
    return lambda: store.path("ada", chat)


def test_the_message_is_stored_before_the_engine_is_asked(
    manager: DialogueManager, store: ConversationStore, chat: str, engine: ScriptedEngine
) -> None:
    stored = []
    submit = engine.submit
    engine.submit = lambda *args, **kwargs: (stored.extend(store.path("ada", chat)), submit(*args, **kwargs))[1]
    manager.send("ada", chat, "hello", PARAMS)
    assert [(message.role, message.content, message.status) for message in stored] == [
        ("user", "hello", "complete"),
        ("assistant", "", "streaming"),
    ]


def test_a_whole_reply_is_kept_with_its_figures(
    manager: DialogueManager,
    store: ConversationStore,
    chat: str,
    engine: ScriptedEngine,
    path: Callable[[], list[Message]],
) -> None:
    turn = manager.send("ada", chat, "hello", PARAMS)
    engine.say("Hi", " there")
    engine.end()
    turn.join()
    reply = store.message("ada", path()[-1].id)
    assert (reply.content, reply.status, reply.finish_reason) == ("Hi there", "complete", "stop")
    assert (reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens) == (7, 2, 2)
    assert (reply.ttft_ms, reply.duration_ms, reply.seed, reply.model) == (10, 100, 5, "tiny")
    assert reply.ledger is not None
    assert reply.params is not None
    assert reply.params["temperature"] == 0.2


def test_the_next_prompt_continues_the_conversation(
    manager: DialogueManager, chat: str, engine: ScriptedEngine, tiny_checkpoint
) -> None:
    turn = manager.send("ada", chat, "one", PARAMS)
    engine.say("two")
    engine.end()
    turn.join()
    manager.send("ada", chat, "three", PARAMS)
    spelled = tiny_checkpoint.tokenizer.decode(engine.prompts[-1])
    assert spelled == "user\none\nassistant\ntwo\nuser\nthree\nassistant\n"


def test_the_text_so_far_is_stored_while_the_reply_is_written(
    manager: DialogueManager, chat: str, engine: ScriptedEngine, path: Callable[[], list[Message]]
) -> None:
    turn = manager.send("ada", chat, "hello", PARAMS)
    engine.say("partial")
    next(snapshot for snapshot in turn.watch() if snapshot.text)
    assert (path()[-1].content, path()[-1].status) == ("partial", "streaming")


def test_stop_keeps_the_part_that_was_seen(
    manager: DialogueManager, chat: str, engine: ScriptedEngine, path: Callable[[], list[Message]]
) -> None:
    turn = manager.send("ada", chat, "hello", PARAMS)
    engine.say("seen")
    next(snapshot for snapshot in turn.watch() if snapshot.text)
    manager.stop("ada", chat)
    engine.end("cancelled")
    turn.join()
    assert (path()[-1].content, path()[-1].status) == ("seen", "stopped")


def test_closing_marks_running_replies_as_interrupted(
    manager: DialogueManager, chat: str, engine: ScriptedEngine, path: Callable[[], list[Message]]
) -> None:
    manager.send("ada", chat, "hello", PARAMS)
    engine.generations[0].call_on_cancel(lambda: engine.end("cancelled"))
    manager.close()
    assert path()[-1].status == "interrupted"


def test_a_chat_goes_on_after_an_interrupted_reply(
    manager: DialogueManager, store: ConversationStore, chat: str, engine: ScriptedEngine
) -> None:
    message, reply = store.begin_turn("ada", chat, content="hi", parent_id=None, model="m", params={}, seed=1)
    store.flush_reply("ada", reply.id, content="half an ans")
    store.interrupt_streaming()
    turn = manager.send("ada", chat, "go on", PARAMS)
    engine.end()
    turn.join()
    assert [m.content for m in store.path("ada", chat)] == ["hi", "half an ans", "go on", ""]


def test_a_reply_that_nobody_writes_any_more_does_not_block_the_chat(
    manager: DialogueManager, store: ConversationStore, chat: str, path: Callable[[], list[Message]]
) -> None:
    store.begin_turn("ada", chat, content="hi", parent_id=None, model="m", params={}, seed=1)
    manager.send("ada", chat, "go on", PARAMS)
    assert [message.status for message in path()] == ["complete", "error", "complete", "streaming"]


def test_a_second_message_waits_for_the_reply_to_the_first(manager: DialogueManager, chat: str) -> None:
    manager.send("ada", chat, "hello", PARAMS)
    with pytest.raises(ConversationBusy):
        manager.send("ada", chat, "hello?", PARAMS)


def test_a_reply_can_be_answered_as_soon_as_its_end_is_stored(
    manager: DialogueManager,
    store: ConversationStore,
    chat: str,
    engine: ScriptedEngine,
    path: Callable[[], list[Message]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish_reply = store.finish_reply

    def finish_and_send(*args: Any, **kwargs: Any) -> None:
        monkeypatch.undo()
        finish_reply(*args, **kwargs)
        manager.send("ada", chat, "And now?", PARAMS)  # by one who has read it before its turn has told of it

    monkeypatch.setattr(store, "finish_reply", finish_and_send)
    turn = manager.send("ada", chat, "hello", PARAMS)
    engine.say("Hi.")
    engine.end()
    turn.join()
    assert turn.snapshot().status == "complete"
    assert [(message.content, message.status) for message in path()[1:]] == [
        ("Hi.", "complete"),
        ("And now?", "complete"),
        ("", "streaming"),
    ]


def test_of_two_tabs_that_send_at_once_one_is_told_to_wait(manager: DialogueManager, chat: str) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def send() -> None:
        barrier.wait()
        try:
            manager.send("ada", chat, "hello", PARAMS)
            outcomes.append("sent")
        except ConversationBusy:
            outcomes.append("busy")

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["busy"] * 7 + ["sent"]


@pytest.mark.parametrize(("text", "error"), [(" \n", BlankMessage), ("x" * 300, MessageTooLong)])
def test_a_refused_message_leaves_nothing_behind(
    manager: DialogueManager, chat: str, path: Callable[[], list[Message]], text: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        manager.send("ada", chat, text, PARAMS)
    assert path() == []


@pytest.mark.parametrize("failure", [EngineBusy("Full."), EngineStopped("Gone."), ValueError("top_k")])
def test_a_message_that_the_engine_refuses_is_kept(
    manager: DialogueManager,
    chat: str,
    engine: ScriptedEngine,
    path: Callable[[], list[Message]],
    failure: EngineBusy | EngineStopped | ValueError,
) -> None:
    engine.failure = failure
    with pytest.raises(type(failure)):
        manager.send("ada", chat, "hello", PARAMS)
    assert [(message.content, message.status) for message in path()] == [("hello", "complete"), ("", "error")]


def test_a_message_that_the_template_refuses_is_not_stored(
    manager: DialogueManager, chat: str, path: Callable[[], list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ChatTemplate, messages: list[ChatMessage]) -> list[int]:
        raise CheckpointError("chat template: no.")

    monkeypatch.setattr(ChatTemplate, "encode", fail)
    with pytest.raises(PromptFailed, match=r"^chat template: no\.$"):
        manager.send("ada", chat, "hello", PARAMS)
    assert path() == []


def test_a_reply_to_a_transcript_ends_where_the_next_turn_would_begin(
    store: ConversationStore, branches: BranchStore, engine: ScriptedEngine, tiny_checkpoint: Checkpoint
) -> None:
    builder = ContextBuilder(ChatTemplate(None, tiny_checkpoint.tokenizer, {}), tiny_checkpoint.tokenizer, 256)
    model = LoadedModel("base", "", cast(Engine, engine), builder, PARAMS)
    manager = DialogueManager(store, branches, lambda: model)
    manager.send("ada", manager.start("ada", channel="ui").id, "hello", SamplingParams(stop=("!",)))
    assert engine.params[0].stop == ("!", *TRANSCRIPT_STOP)
    engine.close()
    manager.close()


def test_a_seed_is_drawn_and_kept_when_none_is_given(
    manager: DialogueManager, chat: str, engine: ScriptedEngine, path: Callable[[], list[Message]]
) -> None:
    manager.send("ada", chat, "hello", SamplingParams())
    assert path()[-1].seed == engine.generations[0].seed


def test_a_stranger_can_neither_send_nor_watch_nor_stop(
    manager: DialogueManager, chat: str, engine: ScriptedEngine
) -> None:
    manager.send("ada", chat, "hello", PARAMS)
    for call in (
        lambda: manager.send("eve", chat, "mine", PARAMS),
        lambda: manager.turn("eve", chat),
        lambda: manager.stop("eve", chat),
    ):
        with pytest.raises(ConversationNotFound):
            call()
    assert not engine.generations[0].cancelled


def test_the_conversation_is_titled_by_its_first_message(
    manager: DialogueManager, store: ConversationStore, chat: str
) -> None:
    manager.send("ada", chat, "What is the capital of France, and why?", PARAMS)
    assert (store.get("ada", chat).title, store.get("ada", chat).title_source) == (
        "What is the capital of France, and why?",
        "first_message",
    )


def test_once_it_is_answered_its_title_is_made_of_keywords(
    manager: DialogueManager, store: ConversationStore, chat: str, engine: ScriptedEngine
) -> None:
    turn = manager.send("ada", chat, "What is the capital of France, and why?", PARAMS)
    engine.say("The capital of France is Paris.")
    engine.end()
    turn.join()
    conversation = store.get("ada", chat)
    assert (conversation.title_source, "France" in (conversation.title or "")) == ("keywords", True)


def test_a_title_of_the_user_s_own_stays(
    manager: DialogueManager, store: ConversationStore, chat: str, engine: ScriptedEngine
) -> None:
    turn = manager.send("ada", chat, "What is the capital of France, and why?", PARAMS)
    store.update("ada", chat, title="Mine")
    engine.say("The capital of France is Paris.")
    engine.end()
    turn.join()
    assert (store.get("ada", chat).title, store.get("ada", chat).title_source) == ("Mine", "user")


def test_a_repeated_request_adds_nothing_and_names_the_reply(
    manager: DialogueManager, chat: str, engine: ScriptedEngine, path: Callable[[], list[Message]]
) -> None:
    manager.send("ada", chat, "hello", PARAMS, idempotency_key="k")
    with pytest.raises(AlreadySent) as error:
        manager.send("ada", chat, "hello", PARAMS, idempotency_key="k")
    assert error.value.reply_id == path()[-1].id
    assert (len(path()), len(engine.generations)) == (2, 1)


def test_a_repeated_request_whose_reply_has_been_deleted_adds_nothing(
    manager: DialogueManager, chat: str, engine: ScriptedEngine, path: Callable[[], list[Message]]
) -> None:
    turn = manager.send("ada", chat, "hello", PARAMS, idempotency_key="k")
    engine.end()
    turn.join()
    manager.delete_message("ada", path()[-1].id)
    with pytest.raises(AlreadySent) as error:
        manager.send("ada", chat, "hello", PARAMS, idempotency_key="k")
    assert (error.value.message_id, error.value.reply_id) == (path()[0].id, None)


def test_ten_requests_at_once_with_one_key_are_one_message(
    manager: DialogueManager, chat: str, engine: ScriptedEngine, path: Callable[[], list[Message]]
) -> None:
    def send(_: int) -> None:
        with suppress(AlreadySent):
            manager.send("ada", chat, "hello", PARAMS, idempotency_key="k")

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(send, range(10)))
    assert (len(path()), len(engine.generations)) == (2, 1)


def test_a_key_is_not_taken_for_another_message(manager: DialogueManager, chat: str) -> None:
    manager.send("ada", chat, "hello", PARAMS, idempotency_key="k")
    with pytest.raises(NotPossible, match="idempotency_key"):
        manager.send("ada", chat, "something else", PARAMS, idempotency_key="k")


def test_the_same_key_in_another_conversation_is_another_request(manager: DialogueManager, chat: str) -> None:
    other = manager.start("ada", channel="ui").id
    for conversation in (chat, other):
        assert manager.send("ada", conversation, "hello", PARAMS, idempotency_key="k").running


def test_who_has_not_seen_the_newest_message_is_told(
    manager: DialogueManager, chat: str, engine: ScriptedEngine, path: Callable[[], list[Message]]
) -> None:
    turn = manager.send("ada", chat, "from one tab", PARAMS, seen_leaf_id=None)
    engine.end()
    turn.join()
    with pytest.raises(ConversationMoved):
        manager.send("ada", chat, "from another tab", PARAMS, seen_leaf_id=None)
    assert [message.content for message in path()] == ["from one tab", ""]
    manager.send("ada", chat, "from another tab", PARAMS, seen_leaf_id=path()[-1].id)
    assert [message.content for message in path()] == ["from one tab", "", "from another tab", ""]


def test_a_reply_keeps_its_prompt_without_what_the_path_before_it_has(
    manager: DialogueManager, chat: str, engine: ScriptedEngine, path: Callable[[], list[Message]], tiny_checkpoint
) -> None:
    for text in ("one", "two"):
        turn = manager.send("ada", chat, text, PARAMS)
        engine.end()
        turn.join()
    replies = path()[1::2]
    assert [join_prompt(path()[:n], reply) for n, reply in zip((1, 3), replies, strict=True)] == engine.prompts
    assert replies[1].prompt_shared
    assert [reply.model_digest for reply in replies] == ["abc", "abc"]


def test_a_deleted_message_leaves_no_tokens_in_later_prompts(
    manager: DialogueManager,
    branches: BranchStore,
    chat: str,
    engine: ScriptedEngine,
    path: Callable[[], list[Message]],
) -> None:
    for text in ("one", "two"):
        turn = manager.send("ada", chat, text, PARAMS)
        engine.end()
        turn.join()
    branches.delete_message("ada", path()[2].id)
    assert [reply.prompt_ids is None for reply in path() if reply.role == "assistant"] == [False, True]


def test_a_temporary_chat_is_a_chat_that_no_file_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: ScriptedEngine, tiny_checkpoint: Checkpoint
) -> None:
    monkeypatch.chdir(tmp_path)
    builder = ContextBuilder(tiny_checkpoint.chat_template, tiny_checkpoint.tokenizer, 256)
    with closing(Database(None)) as database:
        database.migrate()
        store = ConversationStore(database)
        model = LoadedModel("tiny", "abc", cast(Engine, engine), builder, PARAMS)
        manager = DialogueManager(store, BranchStore(database), lambda: model)
        chat = manager.start("ada", channel="ui").id
        turn = manager.send("ada", chat, "hello", PARAMS)
        engine.say("Hi")
        engine.end()
        turn.join()
        manager.regenerate("ada", store.path("ada", chat)[-1].id, PARAMS)
        engine.close()
        manager.close()
        assert len(store.path("ada", chat)) == 2
    assert list(tmp_path.iterdir()) == []


# On a real engine, with a network that counts: after A comes B, after F the reply is over.

BEGINNING = "{% if messages[0].role != 'system' %}system: You recite the alphabet.\n{% endif %}"
CONTENTS = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "


@pytest.fixture
def runner(tiny_checkpoint: Checkpoint) -> FakeRunner:
    network = Counting(tiny_checkpoint.tokenizer.n_vocab)
    (space,), (first,), (last,) = map(tiny_checkpoint.tokenizer.encode, " AF")
    network.after = {space: first, last: END}
    return FakeRunner(network)


@pytest.fixture
def reciter(
    store: ConversationStore, branches: BranchStore, runner: FakeRunner, tiny_checkpoint: Checkpoint
) -> Iterator[DialogueManager]:
    tokenizer = tiny_checkpoint.tokenizer
    engine = Engine(runner, tokenizer, Limits(1_000, frozenset({END})))
    builder = ContextBuilder(ChatTemplate(BEGINNING + CONTENTS, tokenizer, {}), tokenizer, 1_000)
    model = LoadedModel("alphabet", "", engine, builder, SamplingParams())
    manager = DialogueManager(store, branches, lambda: model)
    yield manager
    runner.gate.set()
    manager.close()
    engine.close()


@pytest.fixture
def ask(reciter: DialogueManager, store: ConversationStore) -> Callable[..., Message]:
    """A function that sends a message and returns the reply as it is stored."""

    def send(owner: str, conversation: str, text: str = "Go on.") -> Message:
        reciter.send(owner, conversation, text, SamplingParams(temperature=0)).join()
        return store.path(owner, conversation)[-1]

    return send


def test_each_turn_computes_only_what_is_new(
    reciter: DialogueManager, ask: Callable[..., Message], runner: FakeRunner
) -> None:
    conversation = reciter.start("ada", channel="ui").id
    before = ask("ada", conversation)
    for _ in range(5):
        runner.steps.clear()
        reply = ask("ada", conversation)
        assert reply.content == "ABCDEF"
        assert reply.cached_tokens == before.prompt_tokens + 6
        assert runner.steps[0] == [(reply.cached_tokens, reply.prompt_tokens - reply.cached_tokens, 1)]
        before = reply


def test_the_same_question_in_another_chat_computes_one_token(
    reciter: DialogueManager, ask: Callable[..., Message]
) -> None:
    replies = [ask("ada", reciter.start("ada", channel="ui").id, "Recite!") for _ in range(2)]
    assert replies[1].cached_tokens == replies[0].prompt_tokens - 1


def test_a_message_after_a_stopped_reply_computes_only_what_is_new(
    reciter: DialogueManager,
    store: ConversationStore,
    ask: Callable[..., Message],
    runner: FakeRunner,
    tiny_checkpoint: Checkpoint,
) -> None:
    conversation = reciter.start("ada", channel="ui").id
    (d,) = tiny_checkpoint.tokenizer.encode("D")
    runner.network.at = {d: runner.gate.clear}  # it stands still where the next token would be computed
    turn = reciter.send("ada", conversation, "Recite!", SamplingParams(temperature=0))
    next(snapshot for snapshot in turn.watch() if snapshot.text)
    reciter.stop("ada", conversation)
    turn.join()
    runner.network.at = {}
    runner.gate.set()
    stopped, reply = store.path("ada", conversation)[-1], ask("ada", conversation)
    assert (stopped.status, reply.content) == ("stopped", "ABCDEF")
    assert "ABCDE".startswith(stopped.content)
    assert reply.cached_tokens == stopped.prompt_tokens + min(len(stopped.content), 4)  # E was never computed


def test_two_owners_share_what_the_template_begins_with_and_nothing_else(
    reciter: DialogueManager, ask: Callable[..., Message], tiny_checkpoint: Checkpoint
) -> None:
    shared = len(tiny_checkpoint.tokenizer.encode("system: You recite the alphabet.\nuser: "))
    replies = [ask(owner, reciter.start(owner, channel="ui").id, "Recite!") for owner in ("ada", "bob")]
    assert replies[0].prompt_tokens == replies[1].prompt_tokens
    assert replies[1].cached_tokens == shared // BLOCK_SIZE * BLOCK_SIZE > 0


def test_two_owners_share_no_system_prompt_of_their_own(reciter: DialogueManager, ask: Callable[..., Message]) -> None:
    prompt = "You recite the alphabet."
    chats = [(owner, reciter.start(owner, channel="ui", system_prompt=prompt).id) for owner in ("ada", "bob", "ada")]
    ada, bob, ada_again = [ask(*chat, "Recite!") for chat in chats]
    assert (ada.cached_tokens, bob.cached_tokens) == (0, 0)
    assert ada_again.cached_tokens == ada.prompt_tokens - 1


def test_a_worker_that_dies_ends_every_reply_with_an_error(
    reciter: DialogueManager, store: ConversationStore, runner: FakeRunner
) -> None:
    runner.hold()
    chats = [(owner, reciter.start(owner, channel="ui").id) for owner in ("ada", "bob") * 10]
    turns = [reciter.send(*chat, "Recite!", PARAMS) for chat in chats]
    runner.broken = True
    runner.gate.set()
    for turn, chat in zip(turns, chats, strict=True):
        assert list(turn.watch())[-1].error == "The engine has stopped after an error (RuntimeError)."
        assert [message.status for message in store.path(*chat)] == ["complete", "error"]
    with pytest.raises(EngineStopped):
        reciter.send(*chats[0], "And now?", PARAMS)
    assert [message.content for message in store.path(*chats[0])] == ["Recite!", "", "And now?", ""]
