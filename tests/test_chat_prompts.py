"""Prompts are stored as what they add to what came before, and come back whole."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.context import ContextBuilder
from chat.prompts import join_prompt, n_common, split_prompt
from model.checkpoint.checkpoint import Checkpoint
from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.tables import Message

TOKENS = st.lists(st.integers(0, 3), max_size=6)  # few, so that texts begin alike by chance too


@dataclass
class Node:
    """A message of a tree, the path to it, and the prompt that it was written from."""

    message: Message
    above: list[Message]
    prompt: list[int] | None = None

    @property
    def path(self) -> list[Message]:
        return [*self.above, self.message]


def question() -> Message:
    return Message(role="user", content="?")


def reply(path: Sequence[Message], prompt: list[int] | None, token_ids: list[int] | None) -> Message:
    message = Message(role="assistant", content="!", token_ids=token_ids)
    if prompt is not None:
        message.prompt_shared, message.prompt_ids = split_prompt(path, prompt)
    return message


@dataclass
class Tree:
    """A conversation that grows at any of its messages."""

    nodes: list[Node] = field(default_factory=list)

    def add_question(self, above: list[Message]) -> None:
        self.nodes.append(Node(question(), above))

    def add_reply(self, above: list[Message], prompt: list[int] | None, token_ids: list[int] | None) -> None:
        self.nodes.append(Node(reply(above, prompt, token_ids), above, prompt))


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Questions and replies; prompts that go on, begin anew, lose their middle or are not stored; continued replies."""
    tree = Tree()
    for _ in range(draw(st.integers(1, 25))):
        parent = draw(st.none() | st.sampled_from(tree.nodes)) if tree.nodes else None
        above = parent.path if parent else []
        kind = draw(st.sampled_from(["question", "reply", "continued"]))
        before = next((node for node in reversed(tree.nodes) if node.message in above and node.prompt), None)
        known = [*(before.prompt or ()), *(before.message.token_ids or ())] if before else []
        cut = draw(st.integers(0, len(known)))
        prompt = [*known[:cut], *known[cut + draw(st.integers(0, 3)) :], *draw(TOKENS)]
        token_ids = draw(st.none() | TOKENS)
        if kind == "question":
            tree.add_question(above)
        elif kind == "reply" or parent is None or parent.prompt is None:
            tree.add_reply(above, draw(st.sampled_from([prompt, None])), token_ids)
        else:
            begun = parent.message.token_ids or draw(TOKENS)
            tree.add_reply(parent.above, [*parent.prompt, *begun], token_ids and [*begun, *token_ids])
    return tree


@given(trees())
def test_what_is_split_is_joined_again_in_any_tree(tree: Tree) -> None:
    assert [join_prompt(node.above, node.message) for node in tree.nodes] == [node.prompt for node in tree.nodes]


def test_a_prompt_keeps_what_it_adds_to_the_prompt_and_reply_before() -> None:
    first = reply([question()], [1, 2, 3], [4, 5])
    assert (first.prompt_shared, first.prompt_ids) == (0, [1, 2, 3])
    assert split_prompt([question(), first, question()], [1, 2, 3, 4, 5, 6, 7]) == (5, [6, 7])
    assert split_prompt([question(), first, question()], [1, 2, 9]) == (2, [9])


def test_a_reply_whose_tokens_are_not_stored_leaves_its_prompt_to_be_shared() -> None:
    first = reply([question()], [1, 2, 3], None)
    assert split_prompt([question(), first, question()], [1, 2, 3, 4, 5]) == (3, [4, 5])


def test_replies_without_a_prompt_are_passed_over() -> None:
    first, edited = reply([question()], [1, 2], [3]), reply([], None, [1, 1, 1])
    path = [question(), first, question(), edited, question()]
    assert split_prompt(path, [1, 2, 3, 4]) == (3, [4])
    assert join_prompt(path[:3], edited) is None


def test_an_empty_prompt_is_not_one_that_is_missing() -> None:
    assert join_prompt([], reply([], [], [])) == []


@pytest.mark.parametrize(("first", "second", "n"), [([], [1], 0), ([1, 2], [1, 2, 3], 2), ([1, 2], [1, 3], 1)])
def test_common_beginnings_are_counted(first: list[int], second: list[int], n: int) -> None:
    assert n_common(first, second) == n


def stored_tokens(n_turns: int) -> int:
    """How many tokens are stored of the prompts of a chat with ten in each question and reply."""
    path: list[Message] = []
    prompt: list[int] = []
    for _ in range(n_turns):
        path.append(question())
        prompt = [*prompt, *range(10)]
        path.append(reply(path, prompt, [*range(10)]))
        prompt = [*prompt, *range(10)]
    return sum(len(message.prompt_ids or ()) for message in path)


def test_what_is_stored_grows_with_the_length_of_a_chat_not_with_its_square() -> None:
    assert [stored_tokens(n_turns) for n_turns in (1, 10, 100)] == [10, 100, 1_000]


def test_so_it_does_in_a_chat_that_has_outgrown_the_context(tiny_checkpoint: Checkpoint) -> None:
    builder = ContextBuilder(tiny_checkpoint.chat_template, tiny_checkpoint.tokenizer, 200)
    path: list[Message] = []
    n_said = 0
    for number in range(100):
        path.append(Message(id=f"q{number}", role="user", content=f"{number:010}"))
        prompt = builder.build(path, system_prompt=None, max_new_tokens=20).token_ids
        answer = tiny_checkpoint.tokenizer.encode(f"{number:010}")
        path.append(reply(path, prompt, answer))
        path[-1].id, path[-1].content = f"a{number}", f"{number:010}"
        assert join_prompt(path[:-1], path[-1]) == prompt
        n_said += len(builder.build(path[-2:-1], system_prompt=None, max_new_tokens=20).token_ids) + len(answer)
    assert sum(len(message.prompt_ids or ()) for message in path) < 3 * n_said


@pytest.fixture
def chat(store: ConversationStore) -> str:
    return store.create("ada", channel="ui").id


def test_siblings_and_forks_keep_their_prompts(store: ConversationStore, branches: BranchStore, chat: str) -> None:
    def finish(message: Message, prompt: list[int], token_ids: list[int]) -> None:
        *path, _ = store.path("ada", chat, message.id)
        shared, prompt_ids = split_prompt(path, prompt)
        store.finish_reply(
            "ada",
            message.id,
            content="!",
            status="complete",
            finish_reason="stop",
            token_ids=token_ids,
            prompt_shared=shared,
            prompt_ids=prompt_ids,
        )

    ids = {"model": "m", "params": {}, "seed": 1}
    _, first = store.begin_turn("ada", chat, content="?", parent_id=None, **ids)  # type: ignore[arg-type]
    finish(first, [1, 2], [3])
    second = store.begin_reply("ada", chat, parent_id=str(first.parent_id), **ids)  # type: ignore[arg-type]
    finish(second, [1, 2], [4])
    _, after_first = store.begin_turn("ada", chat, content="?", parent_id=first.id, **ids)  # type: ignore[arg-type]
    finish(after_first, [1, 2, 3, 5], [6])
    _, after_second = store.begin_turn("ada", chat, content="?", parent_id=second.id, **ids)  # type: ignore[arg-type]
    finish(after_second, [1, 2, 4, 5], [6])
    for leaf, prompt in ((after_first, [1, 2, 3, 5]), (after_second, [1, 2, 4, 5])):
        *path, last = store.path("ada", chat, leaf.id)
        assert (last.prompt_shared, last.prompt_ids, join_prompt(path, last)) == (3, [5], prompt)
        *copied, copy = store.path("ada", branches.fork("ada", leaf.id).id)
        assert join_prompt(copied, copy) == prompt
