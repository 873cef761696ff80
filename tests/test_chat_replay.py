"""A stored reply is written again token by token, and the first token that differs is found."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from time import sleep
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from fake_runner import END, Counting, FakeRunner, Network, TokenIds
from real_engine import WatchedRunner, new_engine

from chat.context import ContextBuilder
from chat.loaded_model import LoadedModel
from chat.manager import DialogueManager
from chat.replay import Comparison, Mark, ReplayImpossible, check_model, read_recording, replay
from model.chat_template import ChatTemplate
from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.engine.sequence import Limits
from model.errors import ModelError, PromptTooLong
from model.sampling import Floats
from model.sampling_params import ResponseFormat, SamplingParams
from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.database import Database
from storage.errors import MessageNotFound
from storage.tables import Message

DIGEST = "d" * 64
N_CTX = 1_000
PARAMS = SamplingParams(temperature=1, top_p=1, max_tokens=60, seed=7)


class Letters:
    """Logits of a few letters and the end, which depend on all tokens so far: another prompt gives another reply."""

    def __init__(self, checkpoint: Checkpoint, seed: int = 0) -> None:
        self._n_vocab, self._seed = checkpoint.tokenizer.n_vocab, seed
        self._ids = [checkpoint.tokenizer.encode(text)[0] for text in ("a", "b", "c", "d", "e", " ", "hello")] + [END]

    def __call__(self, token_ids: TokenIds) -> Floats:
        logits = np.full(self._n_vocab, -50, np.float32)
        logits[self._ids] = np.random.default_rng((crc32(token_ids.tobytes()), self._seed)).normal(size=len(self._ids))
        return logits


class Slow:
    """A network that takes its time, so that a reply can be stopped before it ends by itself."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def __call__(self, token_ids: TokenIds) -> Floats:
        sleep(0.02)
        return self._network(token_ids)


@contextmanager
def engine_of(checkpoint: Checkpoint, network: Network, *, n_ctx: int = N_CTX, n_draft: int = 0) -> Iterator[Engine]:
    limits = Limits(n_ctx, frozenset({END}))
    with closing(Engine(FakeRunner(network), checkpoint.tokenizer, limits, n_draft=n_draft)) as engine:
        yield engine


Open = Callable[..., DialogueManager]


@pytest.fixture
def open_manager(store: ConversationStore, branches: BranchStore) -> Iterator[Open]:
    """A function that gives a manager of its own to an engine."""
    managers = []

    def open_manager(engine: Engine, checkpoint: Checkpoint) -> DialogueManager:
        builder = ContextBuilder(checkpoint.chat_template, checkpoint.tokenizer, N_CTX)
        model = LoadedModel("m", DIGEST, engine, builder, PARAMS)
        manager = DialogueManager(store, branches, lambda: model)
        managers.append(manager)
        return manager

    yield open_manager
    for manager in managers:
        manager.close()


@pytest.fixture
def manager(open_manager: Open, tiny_checkpoint: Checkpoint) -> Iterator[DialogueManager]:
    with engine_of(tiny_checkpoint, Letters(tiny_checkpoint)) as engine:
        yield open_manager(engine, tiny_checkpoint)


@pytest.fixture
def slow_manager(open_manager: Open, tiny_checkpoint: Checkpoint) -> Iterator[DialogueManager]:
    with engine_of(tiny_checkpoint, Slow(Letters(tiny_checkpoint))) as engine:
        yield open_manager(engine, tiny_checkpoint)


@pytest.fixture
def chat(store: ConversationStore) -> str:
    return store.create("ada", channel="ui").id


Ask = Callable[..., Message]


@pytest.fixture
def ask(manager: DialogueManager, store: ConversationStore, chat: str) -> Ask:
    """A function that sends a message and returns the reply, once it is stored."""

    def ask(text: str = "hello", **changes: Any) -> Message:
        manager.send("ada", chat, text, replace(PARAMS, **changes)).join()
        return store.path("ada", chat)[-1]

    return ask


Again = Callable[..., Comparison]


@pytest.fixture
def again(store: ConversationStore, tiny_checkpoint: Checkpoint) -> Again:
    """A function that replays a reply in an engine that knows nothing yet."""

    def again(reply: Message, network: Network | None = None, **options: Any) -> Comparison:
        recording = read_recording(store, "ada", reply.id)
        with engine_of(tiny_checkpoint, network or Letters(tiny_checkpoint), **options) as engine:
            return replay(engine, tiny_checkpoint, recording, owner="ada")

    return again


def test_every_reply_of_a_chat_comes_out_the_same(
    manager: DialogueManager, store: ConversationStore, ask: Ask, again: Again
) -> None:
    replies = [ask("one", seed=1), ask("two", seed=2), ask("three", seed=3)]
    manager.regenerate("ada", replies[1].id, replace(PARAMS, seed=4)).join()
    replies.append(store.path("ada", replies[0].conversation_id)[-1])
    assert len({reply.content for reply in replies}) == 4
    for reply in replies:
        assert again(reply) == Comparison("tokens", len(reply.token_ids or ()))


def test_drafts_change_nothing(ask: Ask, again: Again) -> None:
    reply = ask("hello hello hello hello", stop_token_ids=(END,))
    assert again(reply, n_draft=4).identical


def test_a_drawn_seed_and_all_parameters_are_those_of_the_reply(
    ask: Ask, again: Again, tiny_checkpoint: Checkpoint
) -> None:
    (b,) = tiny_checkpoint.tokenizer.encode("b")
    reply = ask(seed=None, logit_bias=((b, 2.0),), response_format=ResponseFormat("regex", "[a-e]{20}"))
    assert len(reply.content) == 20
    assert again(reply) == Comparison("tokens", 20)


def test_a_fork_is_replayed_like_the_original(
    branches: BranchStore, store: ConversationStore, ask: Ask, again: Again
) -> None:
    ask("one")
    fork = branches.fork("ada", ask("two").id)
    reply = store.path("ada", fork.id)[-1]
    assert again(reply) == Comparison("tokens", len(reply.token_ids or ()))


def test_of_a_continued_reply_what_is_new_is_written_again(
    manager: DialogueManager, store: ConversationStore, chat: str, ask: Ask, again: Again
) -> None:
    cut = ask(max_tokens=3, min_tokens=3)
    manager.continue_reply("ada", cut.id, replace(PARAMS, seed=8, max_tokens=5, min_tokens=5)).join()
    longer = store.path("ada", chat)[-1]
    assert (len(longer.token_ids or ()), longer.completion_tokens) == (8, 5)
    assert (again(cut), again(longer)) == (Comparison("tokens", 3), Comparison("tokens", 5))


def test_a_reply_cut_inside_a_token_is_compared_by_its_text(
    store: ConversationStore, manager: DialogueManager, branches: BranchStore, chat: str, ask: Ask, again: Again
) -> None:
    cut = ask(max_tokens=3, min_tokens=3)
    manager.continue_reply(
        "ada", cut.id, replace(PARAMS, stop=("llo",), banned_token_ids=(END,), max_tokens=500)
    ).join()
    longer = store.path("ada", chat)[-1]
    assert longer.content.startswith(cut.content)
    assert (longer.token_ids, longer.finish_reason) == (None, "stop")
    n_characters = len(longer.content) - len(cut.content)
    copy = store.path("ada", branches.fork("ada", longer.id).id)[-1]
    assert (again(longer), again(copy)) == (Comparison("characters", n_characters),) * 2
    branches.delete_branch("ada", cut.id)
    with pytest.raises(ReplayImpossible, match="what it was continued from has been deleted"):
        again(longer)


def test_a_stopped_reply_is_compared_as_far_as_it_goes(
    slow_manager: DialogueManager, store: ConversationStore, chat: str, again: Again
) -> None:
    turn = slow_manager.send("ada", chat, "hello", replace(PARAMS, max_tokens=900, min_tokens=900))
    next(snapshot for snapshot in turn.watch() if snapshot.text)
    slow_manager.stop("ada", chat)
    turn.join()
    reply = store.path("ada", chat)[-1]
    assert reply.status == "stopped"
    assert reply.token_ids
    assert again(reply) == Comparison("tokens", len(reply.token_ids))


def test_an_interrupted_reply_is_compared_as_far_as_it_goes(
    slow_manager: DialogueManager, store: ConversationStore, chat: str, again: Again
) -> None:
    turn = slow_manager.send("ada", chat, "hello", replace(PARAMS, max_tokens=900, min_tokens=900))
    next(snapshot for snapshot in turn.watch() if snapshot.text)
    slow_manager.close()
    reply = store.path("ada", chat)[-1]
    assert reply.status == "interrupted"
    assert again(reply) == Comparison("tokens", len(reply.token_ids or ()))


def test_a_reply_that_a_smaller_context_cut_ends_where_it_did(
    open_manager: Open, store: ConversationStore, chat: str, again: Again, tiny_checkpoint: Checkpoint
) -> None:
    with engine_of(tiny_checkpoint, Letters(tiny_checkpoint), n_ctx=64) as engine:
        manager = open_manager(engine, tiny_checkpoint)
        manager.send("ada", chat, "hello", replace(PARAMS, max_tokens=500, min_tokens=500)).join()
    reply = store.path("ada", chat)[-1]
    assert (reply.finish_reason, len(reply.token_ids or ())) == ("length", 64 - (reply.prompt_tokens or 0))
    assert again(reply).identical


def test_a_context_too_small_for_the_reply_is_no_difference(ask: Ask, again: Again) -> None:
    reply = ask(max_tokens=50, min_tokens=50)
    prompt_tokens = reply.prompt_tokens or 0
    with pytest.raises(ReplayImpossible, match="--kv-memory"):
        again(reply, n_ctx=prompt_tokens + 20)
    with pytest.raises(PromptTooLong):
        again(reply, n_ctx=prompt_tokens)


def test_the_template_s_own_stop_strings_end_a_reply_again(
    open_manager: Open, store: ConversationStore, chat: str, tiny_checkpoint: Checkpoint
) -> None:
    tokenizer = tiny_checkpoint.tokenizer
    checkpoint = replace(tiny_checkpoint, chat_template=ChatTemplate(None, tokenizer, {}))
    network = Counting(tokenizer.n_vocab)
    text = tokenizer.encode(":a\nUser:")
    network.after = dict(zip(text, text[1:], strict=False))
    with engine_of(checkpoint, network) as engine:
        open_manager(engine, checkpoint).send("ada", chat, "hello", PARAMS).join()
    reply = store.path("ada", chat)[-1]
    assert (reply.content, reply.finish_reason) == ("a", "stop")
    with engine_of(checkpoint, network) as engine:
        comparison = replay(engine, checkpoint, read_recording(store, "ada", reply.id), owner="ada")
    assert comparison.identical


# Where it differs.


@pytest.fixture
def alphabet(tiny_checkpoint: Checkpoint) -> Callable[..., Counting]:
    """A function that makes a network which writes ABCDEF, with some letters followed by others."""

    def alphabet(**after: str) -> Counting:
        network = Counting(tiny_checkpoint.tokenizer.n_vocab)
        (newline, a, f) = (tiny_checkpoint.tokenizer.encode(text)[0] for text in ("\n", "A", "F"))
        network.after = {newline: a, f: END}
        for letter, next_one in after.items():
            (key,) = tiny_checkpoint.tokenizer.encode(letter)
            network.after[key] = tiny_checkpoint.tokenizer.encode(next_one)[0] if next_one else END
        return network

    return alphabet


@pytest.fixture
def recited(
    open_manager: Open,
    store: ConversationStore,
    chat: str,
    alphabet: Callable[..., Counting],
    tiny_checkpoint: Checkpoint,
) -> Message:
    with engine_of(tiny_checkpoint, alphabet()) as engine:
        open_manager(engine, tiny_checkpoint).send("ada", chat, "hello", PARAMS).join()
    reply = store.path("ada", chat)[-1]
    assert (reply.content, reply.finish_reason) == ("ABCDEF", "stop")
    return reply


def test_the_first_token_that_differs_is_named(
    recited: Message, again: Again, alphabet: Callable[..., Counting], tiny_checkpoint: Checkpoint
) -> None:
    d, x = (tiny_checkpoint.tokenizer.encode(letter)[0] for letter in "DX")
    assert again(recited, alphabet(C="X")) == Comparison("tokens", 3, Mark(d, "D"), Mark(x, "X"))


def test_a_reply_that_goes_on_or_ends_too_early_differs(
    recited: Message, again: Again, alphabet: Callable[..., Counting], tiny_checkpoint: Checkpoint
) -> None:
    d, g = (tiny_checkpoint.tokenizer.encode(letter)[0] for letter in "DG")
    assert again(recited, alphabet(F="G")) == Comparison("tokens", 6, Mark(), Mark(g, "G"))
    assert again(recited, alphabet(C="")) == Comparison("tokens", 3, Mark(d, "D"), Mark())


def test_where_tokens_are_not_stored_the_first_character_that_differs_is_named(
    recited: Message, again: Again, alphabet: Callable[..., Counting], database: Database
) -> None:
    with database.write() as session:
        session.get_one(Message, recited.number).token_ids = None
    assert again(recited, alphabet()) == Comparison("characters", 6)
    assert again(recited, alphabet(C="X")) == Comparison("characters", 3, Mark(text="D"), Mark(text="X"))
    assert again(recited, alphabet(F="G")) == Comparison("characters", 6, Mark(), Mark(text="G"))


def test_another_network_is_found_out(ask: Ask, again: Again, tiny_checkpoint: Checkpoint) -> None:
    reply = ask()
    comparison = again(reply, Letters(tiny_checkpoint, seed=1))
    assert comparison.stored != comparison.new
    assert comparison.n_same < len(reply.token_ids or ())


def test_an_engine_that_fails_is_an_error_and_no_difference(
    ask: Ask, again: Again, tiny_checkpoint: Checkpoint
) -> None:
    network = Counting(tiny_checkpoint.tokenizer.n_vocab)
    network.bad = set(tiny_checkpoint.tokenizer.encode("hello"))
    with pytest.raises(ModelError, match="not finite"):
        again(ask(), network)


def test_progress_ends_with_all_tokens_that_are_read_and_written(
    ask: Ask, store: ConversationStore, tiny_checkpoint: Checkpoint
) -> None:
    reply = ask()
    told: list[tuple[int, int]] = []
    with engine_of(tiny_checkpoint, Letters(tiny_checkpoint)) as engine:
        recording = read_recording(store, "ada", reply.id)
        replay(engine, tiny_checkpoint, recording, owner="ada", progress=lambda *counts: told.append(counts))
    n_all = (reply.prompt_tokens or 0) + len(reply.token_ids or ())
    assert (told == sorted(told), told[-1]) == (True, (n_all, n_all))


# What cannot be replayed.


def change(database: Database, reply: Message, **values: Any) -> None:
    with database.write() as session:
        for name, value in values.items():
            setattr(session.get_one(Message, reply.number), name, value)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"origin": "edited"}, "The reply was edited: it cannot be replayed"),
        ({"origin": "imported"}, "The reply was imported: it cannot be replayed"),
        ({"status": "streaming"}, "The reply is still being written"),
        ({"prompt_ids": None}, "The prompt of the reply is not stored"),
        ({"prompt_shared": None}, "The prompt of the reply is not stored"),
        ({"prompt_shared": 10**9, "prompt_ids": [3]}, "The prompt of the reply is not stored"),
        ({"model_digest": None}, "The prompt of the reply is not stored"),
        ({"params": None}, "The parameters of the reply are not stored"),
        ({"seed": None}, "The parameters of the reply are not stored"),
        ({"params": {"top_k": "x"}}, "The parameters of the reply are not those of this Parley: top_k must be"),
        ({"params": {"top_q": 1}}, "The parameters of the reply are not those of this Parley: "),
        ({"token_ids": [], "finish_reason": "cancelled", "completion_tokens": 0}, "The reply was cut off before"),
    ],
)
def test_what_is_not_stored_whole_is_refused_with_the_reason(
    ask: Ask, again: Again, database: Database, values: dict[str, Any], text: str
) -> None:
    reply = ask()
    change(database, reply, **values)
    with pytest.raises(ReplayImpossible) as error:
        again(reply)
    assert str(error.value).startswith(text)
    assert str(error.value).isprintable()


def test_token_ids_that_the_model_does_not_have_are_refused(ask: Ask, again: Again, database: Database) -> None:
    reply = ask()
    change(database, reply, prompt_shared=0, prompt_ids=[10**9] * (reply.prompt_tokens or 0))
    with pytest.raises(ReplayImpossible, match="cannot have been written by this model: token_ids must lie between"):
        again(reply)


def test_a_user_s_message_has_nothing_to_replay(ask: Ask, store: ConversationStore) -> None:
    with pytest.raises(ReplayImpossible, match=r"^A message of the user cannot be replayed"):
        read_recording(store, "ada", str(ask().parent_id))


def test_what_follows_a_deleted_message_cannot_be_replayed(ask: Ask, again: Again, branches: BranchStore) -> None:
    first, second = ask("one"), ask("two")
    branches.delete_message("ada", str(first.parent_id))
    for reply in (first, second):
        with pytest.raises(ReplayImpossible, match="a message before it has been deleted"):
            again(reply)
    assert again(ask("three")).identical


def test_a_stranger_finds_nothing(ask: Ask, store: ConversationStore) -> None:
    for owner, message_id in (("eve", ask().id), ("ada", "unknown")):
        with pytest.raises(MessageNotFound):
            read_recording(store, owner, message_id)


def test_another_model_is_refused_by_its_digest(ask: Ask, store: ConversationStore) -> None:
    recording = read_recording(store, "ada", ask().id)
    check_model(recording, DIGEST)
    with pytest.raises(ReplayImpossible, match=r"written by m with the digest dddddddddddd…, but this model has eeee"):
        check_model(recording, "e" * 64)


# On the real model.


def test_replies_of_the_real_model_come_out_the_same(
    real_runner: WatchedRunner,
    default_checkpoint: Checkpoint,
    store: ConversationStore,
    open_manager: Open,
    chat: str,
) -> None:
    params = SamplingParams(temperature=1, top_p=1, max_tokens=25)
    replies = []
    with new_engine(real_runner, default_checkpoint) as engine:
        manager = open_manager(engine, default_checkpoint)
        for text in ("What is the capital of France?", "Name a colour, in one word."):
            manager.send("ada", chat, text, params).join()
            replies.append(store.path("ada", chat)[-1])
        if replies[0].finish_reason == "length":
            manager.continue_reply("ada", replies[0].id, params).join()
            replies.append(store.path("ada", chat)[-1])
    for n_draft in (0, 4):
        with new_engine(real_runner, default_checkpoint, n_draft=n_draft) as engine:
            for reply in replies:
                recording = read_recording(store, "ada", reply.id)
                comparison = replay(engine, default_checkpoint, recording, owner="ada")
                assert comparison == Comparison("tokens", reply.completion_tokens or 0)
