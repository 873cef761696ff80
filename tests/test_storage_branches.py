"""The messages of a conversation are a tree: branches are shown, copied and deleted, and nothing else changes."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.errors import ConversationBusy, ConversationNotFound, MessageNotFound
from storage.tables import Conversation, Message

Ask = Callable[..., tuple[Message, Message]]


@pytest.fixture
def chat(store: ConversationStore) -> Conversation:
    return store.create("ada", channel="ui", system_prompt="Be brief.", model="tiny")


@pytest.fixture
def ask(store: ConversationStore, chat: Conversation) -> Ask:
    """A function that stores a question and its whole answer."""

    def ask(content: str, parent_id: str | None = None, edits_id: str | None = None) -> tuple[Message, Message]:
        message, reply = store.begin_turn(
            "ada",
            chat.id,
            content=content,
            parent_id=parent_id,
            model="tiny",
            params={"seed": 1},
            seed=1,
            edits_id=edits_id,
        )
        store.finish_reply(
            "ada", reply.id, content=f"{content}!", status="complete", finish_reason="stop", token_ids=[1, 2]
        )
        return message, reply

    return ask


@pytest.fixture
def shown(store: ConversationStore, chat: Conversation) -> Callable[[], list[str]]:
    """A function that returns the contents of the branch that is shown."""
    return lambda: [message.content for message in store.path("ada", chat.id)]


def again(store: ConversationStore, reply: Message, content: str) -> Message:
    """Store one more reply beside another."""
    assert reply.parent_id is not None
    anew = store.begin_reply("ada", reply.conversation_id, parent_id=reply.parent_id, model="tiny", params={}, seed=2)
    store.finish_reply("ada", anew.id, content=content, status="complete", finish_reason="stop")
    return anew


def test_another_reply_stands_beside_the_first_and_is_shown(
    store: ConversationStore, branches: BranchStore, ask: Ask, shown: Callable[[], list[str]], chat: Conversation
) -> None:
    message, reply = ask("a")
    anew = again(store, reply, "b!")
    assert shown() == ["a", "b!"]
    assert branches.siblings("ada", store.path("ada", chat.id)) == [[message.id], [reply.id, anew.id]]


def test_an_edited_message_begins_a_branch_and_knows_what_it_was(
    store: ConversationStore, branches: BranchStore, ask: Ask, shown: Callable[[], list[str]], chat: Conversation
) -> None:
    message, _ = ask("a")
    edited, _ = ask("b", None, message.id)
    assert shown() == ["b", "b!"]
    assert (edited.origin, edited.origin_id) == ("edited", message.id)
    assert branches.siblings("ada", store.path("ada", chat.id))[0] == [message.id, edited.id]


def test_an_edited_reply_stands_beside_the_model_s(
    store: ConversationStore, ask: Ask, shown: Callable[[], list[str]]
) -> None:
    _, reply = ask("a")
    edited = store.add_edited_reply("ada", reply.id, content="mine")
    assert shown() == ["a", "mine"]
    assert (edited.origin, edited.origin_id, edited.status, edited.parent_id) == (
        "edited",
        reply.id,
        "complete",
        reply.parent_id,
    )
    assert store.message("ada", reply.id).content == "a!"


def test_switching_shows_the_newest_leaf_of_a_branch(
    store: ConversationStore, branches: BranchStore, ask: Ask, shown: Callable[[], list[str]]
) -> None:
    message, reply = ask("a")
    ask("a2", reply.id)
    ask("a3", reply.id)
    ask("b", None, message.id)
    branches.switch("ada", message.id)
    assert shown() == ["a", "a!", "a3", "a3!"]


def test_a_deleted_branch_takes_all_that_follows_and_the_rest_is_shown(
    store: ConversationStore, branches: BranchStore, ask: Ask, shown: Callable[[], list[str]]
) -> None:
    message, reply = ask("a")
    below, _ = ask("a2", reply.id)
    anew = again(store, reply, "b!")
    branches.switch("ada", below.id)
    branches.delete_branch("ada", reply.id)
    assert shown() == ["a", "b!"]
    for gone in (reply.id, below.id):
        with pytest.raises(MessageNotFound):
            store.message("ada", gone)
    branches.delete_branch("ada", anew.id)
    assert shown() == ["a"]
    branches.delete_branch("ada", message.id)
    assert shown() == []


def test_deleting_a_branch_that_is_not_shown_changes_nothing_that_is(
    store: ConversationStore, branches: BranchStore, ask: Ask, shown: Callable[[], list[str]]
) -> None:
    _, reply = ask("a")
    again(store, reply, "b!")
    branches.delete_branch("ada", reply.id)
    assert shown() == ["a", "b!"]


def test_what_follows_a_deleted_message_follows_the_one_before_it(
    branches: BranchStore, ask: Ask, shown: Callable[[], list[str]]
) -> None:
    message, reply = ask("a")
    ask("b", reply.id)
    branches.delete_message("ada", reply.id)
    assert shown() == ["a", "b", "b!"]
    branches.delete_message("ada", message.id)
    assert shown() == ["b", "b!"]


def test_a_deleted_leaf_gives_way_to_what_is_beside_it(
    store: ConversationStore, branches: BranchStore, ask: Ask, shown: Callable[[], list[str]]
) -> None:
    _, reply = ask("a")
    branches.delete_message("ada", again(store, reply, "b!").id)
    assert shown() == ["a", "a!"]


def test_what_was_made_from_a_deleted_message_stays(store: ConversationStore, branches: BranchStore, ask: Ask) -> None:
    _, reply = ask("a")
    edited = store.add_edited_reply("ada", reply.id, content="mine")
    branches.delete_branch("ada", reply.id)
    assert store.message("ada", edited.id).origin_id is None


def test_a_cleared_conversation_has_no_messages_and_takes_new_ones(
    store: ConversationStore, branches: BranchStore, ask: Ask, shown: Callable[[], list[str]], chat: Conversation
) -> None:
    message, _ = ask("a")
    ask("b", None, message.id)
    branches.clear("ada", chat.id)
    assert shown() == []
    ask("c")
    assert shown() == ["c", "c!"]


def test_a_fork_is_a_conversation_of_its_own(
    store: ConversationStore, branches: BranchStore, ask: Ask, shown: Callable[[], list[str]], chat: Conversation
) -> None:
    _, reply = ask("a")
    second, _ = ask("b", reply.id)
    fork = branches.fork("ada", second.id)
    copies = store.path("ada", fork.id)
    assert [message.content for message in copies] == ["a", "a!", "b"]
    assert [message.origin for message in copies] == ["copied"] * 3
    assert copies[1].token_ids == [1, 2]
    assert fork.system_prompt == chat.system_prompt
    branches.clear("ada", chat.id)
    assert [message.content for message in store.path("ada", fork.id)] == ["a", "a!", "b"]


def test_a_pinned_message_says_so(store: ConversationStore, branches: BranchStore, ask: Ask) -> None:
    message, _ = ask("a")
    branches.pin("ada", message.id, pinned=True)
    assert store.message("ada", message.id).pinned
    branches.pin("ada", message.id, pinned=False)
    assert not store.message("ada", message.id).pinned


def test_nothing_happens_to_a_conversation_in_which_a_reply_is_being_written(
    store: ConversationStore, branches: BranchStore, ask: Ask, shown: Callable[[], list[str]], chat: Conversation
) -> None:
    message, reply = ask("a")
    store.begin_turn("ada", chat.id, content="b", parent_id=reply.id, model="tiny", params={}, seed=1)
    before = shown()
    for act in (branches.switch, branches.delete_branch, branches.delete_message, branches.fork):
        with pytest.raises(ConversationBusy):
            act("ada", message.id)
    with pytest.raises(ConversationBusy):
        branches.clear("ada", chat.id)
    with pytest.raises(ConversationBusy):
        store.add_edited_reply("ada", reply.id, content="mine")
    assert shown() == before


def test_another_owner_s_messages_are_not_there(
    store: ConversationStore, branches: BranchStore, ask: Ask, shown: Callable[[], list[str]], chat: Conversation
) -> None:
    message, reply = ask("a")
    path = store.path("ada", chat.id)
    for act in (branches.switch, branches.delete_branch, branches.delete_message, branches.fork):
        with pytest.raises(MessageNotFound):
            act("eve", message.id)
    with pytest.raises(MessageNotFound):
        branches.pin("eve", message.id, pinned=True)
    with pytest.raises(MessageNotFound):
        store.add_edited_reply("eve", reply.id, content="mine")
    for look in (lambda: branches.clear("eve", chat.id), lambda: branches.siblings("eve", path)):
        with pytest.raises(ConversationNotFound):
            look()
    assert shown() == ["a", "a!"]


# What may happen to a conversation: a kind, and which message it happens to.
Deed = tuple[str, int]
DEEDS = st.tuples(
    st.sampled_from(["ask", "edit", "again", "switch", "delete_branch", "delete_message"]), st.integers(0, 30)
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds=st.lists(DEEDS, max_size=25))
def test_a_tree_is_always_a_tree_and_shows_a_leaf(
    store: ConversationStore, branches: BranchStore, deeds: list[Deed]
) -> None:
    chat = store.create("ada", channel="ui")
    tree: dict[str, str | None] = {}  # parents, by the ids of messages, oldest first
    users: set[str] = set()

    def ask(parent_id: str | None, edits_id: str | None = None) -> None:
        pair = store.begin_turn(
            "ada", chat.id, content="x", parent_id=parent_id, model="m", params={}, seed=1, edits_id=edits_id
        )
        store.finish_reply("ada", pair[1].id, content="y", status="complete", finish_reason="stop")
        tree.update({message.id: message.parent_id for message in pair})
        users.add(pair[0].id)

    for kind, number in deeds:
        ids = list(tree)
        target = ids[number % len(ids)] if ids else None
        if kind == "ask" or target is None:
            ask(target)
        elif kind == "edit":
            ask(tree[target], target)
        elif kind == "again":
            if tree[target] is not None and target not in users:
                tree[again(store, store.message("ada", target), "z").id] = tree[target]
        elif kind == "switch":
            leaf_id = branches.switch("ada", target)
            assert leaf_id not in tree.values()
            assert target in {message.id for message in store.path("ada", chat.id)}
        elif kind == "delete_message":
            branches.delete_message("ada", target)
            tree.update({child: tree[target] for child, parent in tree.items() if parent == target})
            del tree[target]
        else:
            branches.delete_branch("ada", target)
            gone = {target}
            for message_id, parent_id in tree.items():  # a parent comes before its children
                if parent_id in gone:
                    gone.add(message_id)
            for message_id in gone:
                del tree[message_id]
        path = store.path("ada", chat.id)
        assert bool(path) == bool(tree)
        assert {message.id: message.parent_id for message in path}.items() <= tree.items()
        assert not path or path[-1].id not in tree.values()
        siblings = branches.siblings("ada", path)
        assert siblings == [
            [message_id for message_id, parent_id in tree.items() if parent_id == message.parent_id] for message in path
        ]
