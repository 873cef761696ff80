"""The accounts of prompts are stored as what they say anew, and come back whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat.context import ContextBuilder
from chat.errors import MessageTooLong
from chat.ledger import Ledger, LedgerEntry, cached_share, join_ledger, split_ledger
from model.checkpoint.checkpoint import Checkpoint
from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.tables import JsonObject, Message

N_CTX = 400
LEFT_OUT = [LedgerEntry(message_id="", tokens=3, included=False, reason=reason) for reason in ("dropped", "recapped")]
INCLUDED = [LedgerEntry(message_id="", tokens=3, included=True, reason="fits", start=start) for start in (0, 5)]
ENTRIES = st.sampled_from([*LEFT_OUT, *INCLUDED])  # few, so that they stay the same by chance too


@dataclass
class Node:
    """A message of a tree, the path to it, and the whole account of its prompt."""

    message: Message
    above: list[Message]
    ledger: Ledger | None = None


@st.composite
def trees(draw: st.DrawFn) -> list[Node]:
    """Messages at any place of a tree; each ledger says anything, and some are stored whole, as they once were."""
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, 20))):
        parent = draw(st.none() | st.sampled_from(nodes)) if nodes else None
        above = [*parent.above, parent.message] if parent else []
        node = Node(Message(id=str(number), role="assistant", content="!"), above)
        if draw(st.booleans()):
            said = [LedgerEntry(**{**draw(ENTRIES), "message_id": message.id}) for message in above]
            node.ledger = Ledger(budget=9, messages=said, cached_tokens=4)
            node.message.ledger = dict(draw(st.sampled_from([node.ledger, split_ledger(above, node.ledger)])))
        nodes.append(node)
    return nodes


@given(trees())
def test_what_is_split_is_joined_again_in_any_tree(nodes: list[Node]) -> None:
    assert [join_ledger(node.above, node.message) for node in nodes] == [node.ledger for node in nodes]


def build(builder: ContextBuilder, path: Sequence[Message], *, recap: bool, max_new_tokens: int = 50) -> Ledger:
    return builder.build(path, system_prompt="Be brief.", max_new_tokens=max_new_tokens, recap=recap).ledger


@dataclass
class Chat:
    """A conversation as the program has it: each reply keeps what is new of the account of its prompt."""

    builder: ContextBuilder
    recap: bool
    path: list[Message] = field(default_factory=list)
    whole: dict[str, Ledger] = field(default_factory=dict)

    def ask(self, size: int, max_new_tokens: int = 50) -> None:
        question = Message(id=f"q{len(self.path)}", role="user", content="Anna said 42. " + "u" * size, pinned=False)
        ledger = build(self.builder, [*self.path, question], recap=self.recap, max_new_tokens=max_new_tokens)
        self.path.append(question)
        reply = Message(id=f"a{len(self.path)}", role="assistant", content="a" * (size // 5 * 5), pinned=False)
        reply.ledger = dict(split_ledger(self.path, ledger))
        self.path.append(reply)
        self.whole[reply.id] = ledger


@pytest.fixture(scope="module")
def builder(tiny_checkpoint: Checkpoint) -> ContextBuilder:
    return ContextBuilder(tiny_checkpoint.chat_template, tiny_checkpoint.tokenizer, N_CTX)


@settings(deadline=None)
@given(
    asked=st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from([50, 100, 150]), st.none() | st.integers(0, 20)), max_size=15
    ),
    recap=st.booleans(),
)
def test_so_it_is_through_cuts_pins_recaps_and_other_budgets(
    builder: ContextBuilder, asked: list[tuple[int, int, int | None]], recap: bool
) -> None:
    chat = Chat(builder, recap)
    for size, max_new_tokens, toggled in asked:
        if toggled is not None and toggled < len(chat.path):
            chat.path[toggled].pinned = not chat.path[toggled].pinned
        try:
            chat.ask(size, max_new_tokens)
        except MessageTooLong:  # too much is pinned
            break
    for number, message in enumerate(chat.path):
        assert join_ledger(chat.path[:number], message) == chat.whole.get(message.id)


def n_entries(builder: ContextBuilder, n_turns: int, *, recap: bool) -> int:
    chat = Chat(builder, recap)
    for number in range(n_turns):
        chat.ask(10 + number * 7 % 20)
    assert {entry["included"] for entry in chat.whole[chat.path[-1].id]["messages"]} == {True, False}
    ledgers = [list(message.ledger["messages"]) for message in chat.path if message.ledger]  # type: ignore[call-overload]
    return sum(map(len, ledgers))


@pytest.mark.parametrize("recap", [False, True])
def test_a_chat_that_has_outgrown_the_context_stores_as_much_per_turn_however_long_it_is(
    builder: ContextBuilder, recap: bool
) -> None:
    stored = [n_entries(builder, n_turns, recap=recap) for n_turns in (25, 50, 75, 100)]
    added = [after - before for before, after in pairwise(stored)]
    assert max(added) < 1.2 * min(added)
    assert max(added) < 8 * 25  # of a turn: two that are its own, and each again with the few cuts that move it


def reply(entries: Sequence[Mapping[str, object]], **values: object) -> Message:
    ledger: JsonObject = {"budget": 9, "messages": [*entries]}
    return Message(id="a", role="assistant", content="!", ledger=ledger, **values)


def question() -> Message:
    return Message(id="q", role="user", content="?")


def test_the_whole_ledger_is_in_the_order_of_the_path() -> None:
    entries = [{**INCLUDED[0], "message_id": name} for name in ("a", "q")]
    ledger = join_ledger([question(), Message(id="a", role="assistant", content="!")], reply(entries))
    assert ledger is not None
    assert [entry["message_id"] for entry in ledger["messages"]] == ["q", "a"]


def test_a_ledger_of_an_earlier_version_has_its_reply_s_cached_tokens() -> None:
    entry = {"message_id": "q", "tokens": 5, "included": True, "reason": "fits", "start": 1, "cached": 2}
    ledger = join_ledger([question()], reply([entry], cached_tokens=3))
    del entry["cached"]
    assert ledger == {"budget": 9, "messages": [entry], "cached_tokens": 3}


@pytest.mark.parametrize(
    "ledger", [{}, {"kept": [1]}, {"budget": 9}, {"budget": "much", "messages": 1}, {"messages": [None, {"tokens": 1}]}]
)
def test_what_somebody_else_wrote_for_a_ledger_is_passed_over(ledger: JsonObject) -> None:
    foreign = Message(id="f", role="assistant", content="!", ledger=ledger)
    whole = Ledger(budget=9, messages=[LedgerEntry(**{**LEFT_OUT[0], "message_id": name}) for name in ("q", "f")])
    assert split_ledger([question(), foreign], whole) == whole
    kept = reply([*whole["messages"]])
    assert join_ledger([question(), foreign], kept) == whole
    if "budget" not in ledger:
        assert join_ledger([question()], foreign) is None


def test_an_entry_of_a_wrong_type_makes_it_no_ledger() -> None:
    assert join_ledger([question()], reply([{**INCLUDED[0], "message_id": "q", "tokens": "many"}])) is None


def test_what_was_cached_is_shared_out_to_the_messages_from_the_first_on(builder: ContextBuilder) -> None:
    chat = Chat(builder, recap=False)
    for _ in range(2):
        chat.ask(5)
    entries = chat.whole[chat.path[-1].id]["messages"]
    sizes, start = [entry["tokens"] for entry in entries], entries[1]["start"]
    for cached_tokens, shares in [(0, [0, 0, 0]), (start + 2, [sizes[0], 2, 0]), (N_CTX, sizes)]:
        assert [cached_share(entry, cached_tokens) for entry in entries] == shares
    assert cached_share(LEFT_OUT[0], N_CTX) == 0


class StoredTree:
    """A conversation in a database, with a whole ledger to compare for each reply that keeps one."""

    def __init__(self, store: ConversationStore) -> None:
        self.chat = store.create("ada", channel="ui").id
        self.whole: dict[str, Ledger | None] = {}  # by message, oldest first
        self._store = store

    def ask(self, parent_id: str | None, *, start: int | None) -> None:
        """Store a question and a reply whose ledger, if it keeps one, has all messages at the same place."""
        ids = {"model": "m", "params": {}, "seed": 1}
        message, reply = self._store.begin_turn("ada", self.chat, content="?", parent_id=parent_id, **ids)  # type: ignore[arg-type]
        path = self._store.path("ada", self.chat, message.id, ledgers=True)
        whole = None
        if start is not None:
            entry = {**INCLUDED[0], "start": start}
            whole = Ledger(budget=9, messages=[LedgerEntry(**{**entry, "message_id": above.id}) for above in path])
        self._store.finish_reply(
            "ada",
            reply.id,
            content="!",
            status="complete",
            finish_reason="stop",
            ledger=dict(split_ledger(path, whole)) if whole else None,
        )
        self.whole.update({message.id: None, reply.id: whole})

    def read(self, message_id: str) -> Ledger | None:
        *path, message = self._store.path("ada", self.chat, message_id, ledgers=True)
        return join_ledger(path, message)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.lists(st.tuples(st.integers(0, 30), st.sampled_from([None, 0, 1])), min_size=1, max_size=8),
    deleted=st.lists(st.integers(0, 30), max_size=4),
)
def test_ledgers_stay_whole_but_for_the_messages_that_are_deleted(
    store: ConversationStore, branches: BranchStore, asked: list[tuple[int, int | None]], deleted: list[int]
) -> None:
    tree = StoredTree(store)
    for place, start in asked:
        tree.ask([*tree.whole, None][place % (len(tree.whole) + 1)], start=start)
    for place in deleted:
        gone = [*tree.whole][place % len(tree.whole)]
        branches.delete_message("ada", gone)
        del tree.whole[gone]
        for ledger in filter(None, tree.whole.values()):
            ledger["messages"] = [entry for entry in ledger["messages"] if entry["message_id"] != gone]
        for message_id, whole in tree.whole.items():
            assert tree.read(message_id) == whole
            assert gone not in str(store.message("ada", message_id).ledger)
        if not tree.whole:
            return
        copy = branches.fork("ada", [*tree.whole][-1]).id
        names = {message.origin_id: message.id for message in store.path("ada", copy)}
        *path, leaf = store.path("ada", copy, ledgers=True)
        whole = tree.whole[str(leaf.origin_id)]
        said = [{**entry, "message_id": names[entry["message_id"]]} for entry in whole["messages"]] if whole else None
        joined = join_ledger(path, leaf)
        assert (joined and joined["messages"]) == said


def test_a_deleted_reply_leaves_each_branch_what_its_ledger_said(
    store: ConversationStore, branches: BranchStore
) -> None:
    tree = StoredTree(store)
    tree.ask(None, start=0)
    first = [*tree.whole][1]
    for _ in range(2):
        tree.ask(first, start=0)
    _, _, _, left, _, right = tree.whole
    branches.delete_message("ada", first)
    for message_id in (left, right):
        ledger = tree.read(message_id)
        assert ledger is not None
        assert len(ledger["messages"]) == 2


def test_what_a_deleted_reply_said_does_not_replace_what_later_ones_say(
    store: ConversationStore, branches: BranchStore
) -> None:
    tree = StoredTree(store)
    for start in (0, 1, 1):
        tree.ask(next(reversed(tree.whole), None), start=start)
    branches.delete_message("ada", [*tree.whole][1])
    ledger = tree.read([*tree.whole][-1])
    assert ledger is not None
    assert [entry["start"] for entry in ledger["messages"]] == [1] * 4
