"""Ratings, edits and regenerations become preference pairs, in the layouts of OpenAI and TRL."""

import json
from typing import Any

import pytest
from archives import conversations
from hypothesis import given

from chat.formats import preferences_openai, preferences_trl
from chat.formats.archive import ArchivedConversation, from_tree
from storage.archive import ArchiveStore, Selection
from storage.conversations import ConversationStore
from storage.database import Database
from storage.feedback import FeedbackStore


class Chat:
    """A conversation with a question and two replies, the second one shown."""

    def __init__(self, database: Database) -> None:
        self.database, self.store = database, ConversationStore(database)
        self.id = self.store.create("ada", channel="ui", system_prompt="Be brief.", model="tiny").id
        self.question, reply = self.store.begin_turn(
            "ada", self.id, content="Hi", parent_id=None, model="tiny", params={}, seed=1
        )
        self.store.finish_reply("ada", reply.id, content="first", status="complete", finish_reason="stop")
        self.first, self.second = reply.id, self.answer("second")

    def answer(self, content: str) -> str:
        reply = self.store.begin_reply("ada", self.id, parent_id=self.question.id, model="tiny", params={}, seed=2)
        self.store.finish_reply("ada", reply.id, content=content, status="complete", finish_reason="stop")
        return reply.id

    def edit(self, reply_id: str, content: str) -> str:
        return self.store.add_edited_reply("ada", reply_id, content=content).id

    def rate(self, reply_id: str, rating: int) -> None:
        FeedbackStore(self.database).rate("ada", reply_id, rating=rating, comment=None)

    def archived(self) -> ArchivedConversation:
        [tree] = ArchiveStore(self.database).trees("ada", Selection())
        return from_tree(tree)

    def pairs(self) -> set[tuple[str, str]]:
        lines = [json.loads(line) for line in preferences_trl.write([self.archived()])]
        return {(line["chosen"][0]["content"], line["rejected"][0]["content"]) for line in lines}


@pytest.fixture
def chat(database: Database) -> Chat:
    return Chat(database)


def test_replies_without_ratings_make_no_pair(chat: Chat) -> None:
    assert chat.pairs() == set()


def test_a_good_reply_is_preferred_to_bad_and_unrated_ones(chat: Chat) -> None:
    third = chat.answer("third")
    chat.rate(chat.first, 1)
    chat.rate(third, -1)
    assert chat.pairs() == {("first", "second"), ("first", "third")}


@pytest.mark.parametrize("rating", [1, -1])
def test_replies_rated_alike_make_no_pair(chat: Chat, rating: int) -> None:
    chat.rate(chat.first, rating)
    chat.rate(chat.second, rating)
    assert chat.pairs() == set()


def test_the_shown_reply_is_preferred_to_a_bad_one(chat: Chat) -> None:
    chat.answer("third")
    chat.rate(chat.first, -1)
    assert chat.pairs() == {("third", "first")}


def test_a_bad_reply_makes_no_pair_while_it_is_shown(chat: Chat) -> None:
    chat.rate(chat.second, -1)
    assert chat.pairs() == set()


def test_an_edit_is_preferred_to_what_it_edits_alone(chat: Chat) -> None:
    chat.edit(chat.first, "edited")
    assert chat.pairs() == {("edited", "first")}


def test_an_edit_is_preferred_to_what_it_edits_even_if_that_was_good(chat: Chat) -> None:
    chat.edit(chat.first, "edited")
    chat.rate(chat.first, 1)
    assert chat.pairs() == {("edited", "first"), ("first", "second")}


def test_a_bad_edit_is_not_preferred(chat: Chat) -> None:
    edit = chat.edit(chat.first, "edited")
    chat.rate(edit, -1)
    assert chat.pairs() == set()
    chat.rate(chat.first, 1)
    assert chat.pairs() == {("first", "edited"), ("first", "second")}


def test_the_same_text_and_no_text_make_no_pair(chat: Chat) -> None:
    chat.answer("first")
    chat.answer(" ")
    chat.rate(chat.first, 1)
    assert chat.pairs() == {("first", "second")}


def test_replies_to_different_questions_make_no_pair(chat: Chat) -> None:
    chat.store.begin_turn("ada", chat.id, content="Ho", parent_id=None, model="tiny", params={}, seed=1)
    chat.rate(chat.first, 1)
    chat.rate(chat.second, 1)
    assert chat.pairs() == set()


PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
BETTER, WORSE = [{"role": "assistant", "content": "first"}], [{"role": "assistant", "content": "second"}]


def test_the_layouts_are_those_of_openai_and_trl(chat: Chat) -> None:
    chat.rate(chat.first, 1)
    [line] = preferences_openai.write([chat.archived()])
    assert json.loads(line) == {
        "input": {"messages": PROMPT, "tools": [], "parallel_tool_calls": True},
        "preferred_output": BETTER,
        "non_preferred_output": WORSE,
    }
    [line] = preferences_trl.write([chat.archived()])
    assert json.loads(line) == {"prompt": PROMPT, "chosen": BETTER, "rejected": WORSE}


@given(conversation=conversations())
def test_no_pair_comes_with_its_opposite_or_without_a_question(conversation: ArchivedConversation) -> None:
    for message in conversation["messages"]:
        message["content"] = message["id"]
    lines: list[dict[str, Any]] = [json.loads(line) for line in preferences_trl.write([conversation])]
    assert all(line["prompt"][-1]["role"] == "user" for line in lines)
    pairs = {(line["chosen"][0]["content"], line["rejected"][0]["content"]) for line in lines}
    assert len(pairs) == len(lines)
    assert not pairs & {(worse, better) for better, worse in pairs}
