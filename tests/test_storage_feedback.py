"""What users think of messages is kept, one opinion each, and goes with the message."""

import pytest

from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.database import Database
from storage.errors import MessageNotFound
from storage.feedback import FeedbackStore
from storage.tables import Message


@pytest.fixture
def feedback(database: Database) -> FeedbackStore:
    return FeedbackStore(database)


@pytest.fixture
def path(store: ConversationStore) -> list[Message]:
    chat = store.create("ada", channel="ui").id
    _, reply = store.begin_turn("ada", chat, content="a", parent_id=None, model="m", params={}, seed=1)
    store.finish_reply("ada", reply.id, content="b", status="complete", finish_reason="stop")
    return store.path("ada", chat)


def test_a_rating_and_its_comment_are_kept(feedback: FeedbackStore, path: list[Message]) -> None:
    feedback.rate("ada", path[1].id, rating=-1, comment="Wrong.")
    [found] = feedback.of("ada", path).values()
    assert (found.message_id, found.rating, found.comment) == (path[1].id, -1, "Wrong.")


def test_a_later_opinion_takes_the_place_of_an_earlier(feedback: FeedbackStore, path: list[Message]) -> None:
    feedback.rate("ada", path[1].id, rating=-1, comment="Wrong.")
    feedback.rate("ada", path[1].id, rating=1)
    [found] = feedback.of("ada", path).values()
    assert (found.rating, found.comment) == (1, None)


def test_an_opinion_can_be_taken_back(feedback: FeedbackStore, path: list[Message]) -> None:
    feedback.rate("ada", path[1].id, rating=1)
    feedback.rate("ada", path[1].id, rating=None)
    assert feedback.of("ada", path) == {}


def test_an_opinion_goes_with_its_message(feedback: FeedbackStore, branches: BranchStore, path: list[Message]) -> None:
    feedback.rate("ada", path[1].id, rating=1)
    branches.delete_message("ada", path[1].id)
    assert feedback.of("ada", path) == {}


@pytest.mark.parametrize("rating", [0, 2, -2])
def test_only_good_and_bad_are_ratings(feedback: FeedbackStore, path: list[Message], rating: int) -> None:
    with pytest.raises(ValueError, match=f"^rating must be 1 or -1, got {rating}$"):
        feedback.rate("ada", path[1].id, rating=rating)


def test_nobody_rates_or_reads_what_is_another_s(feedback: FeedbackStore, path: list[Message]) -> None:
    feedback.rate("ada", path[1].id, rating=1)
    with pytest.raises(MessageNotFound):
        feedback.rate("eve", path[1].id, rating=-1)
    assert feedback.of("eve", path) == {}
    assert feedback.of("ada", []) == {}
