"""What users think of messages: owners, and the visitors of their sites."""

from collections.abc import Sequence

from sqlalchemy import delete, select

from storage.conversations import Visitor
from storage.database import Database
from storage.queries import find_message, may_rate, rater
from storage.tables import Conversation, Feedback, Message, utc_now


class FeedbackStore:
    """One rating and comment for each message and user; one object serves all threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rate(
        self,
        owner_id: str,
        message_id: str,
        *,
        rating: int | None,
        comment: str | None = None,
        visitor: Visitor | None = None,
    ) -> None:
        """Keep what an owner, or their visitor, thinks of a message instead of what they thought before.

        Nothing is kept if both are None. The rating is 1 or -1. Raises ValueError, MessageNotFound.
        """
        if rating not in (None, 1, -1):
            raise ValueError(f"rating must be 1 or -1, got {rating!r}")
        user_id = rater(visitor.id) if visitor else owner_id
        with self._database.write() as session:
            find_message(session, owner_id, message_id)
            if rating is None and not comment:
                own = (Feedback.message_id == message_id, Feedback.user_id == user_id)
                session.execute(delete(Feedback).where(*own))
                return
            feedback = session.get(Feedback, (message_id, user_id))
            if feedback is None:
                feedback = Feedback(message_id=message_id, user_id=user_id)
                session.add(feedback)
            feedback.rating, feedback.comment, feedback.updated_at = rating, comment or None, utc_now()

    def of(self, owner_id: str, path: Sequence[Message]) -> dict[str, Feedback]:
        """Return what an owner thinks of the messages of a conversation's path, or else its visitor, by their ids."""
        if not path:
            return {}
        query = (
            select(Feedback)
            .join(Message, Message.id == Feedback.message_id)
            .join(Conversation, Conversation.id == Message.conversation_id)
            .where(Conversation.owner_id == owner_id, may_rate(owner_id))
            .where(Message.conversation_id == path[0].conversation_id)
            .order_by(Feedback.user_id == owner_id)  # the last one counts
        )
        shown = {message.id for message in path}
        with self._database.read() as session:
            found = session.scalars(query).all()
        return {feedback.message_id: feedback for feedback in found if feedback.message_id in shown}

    def of_visitor(self, visitor: Visitor, messages: Sequence[Message]) -> dict[str, int | None]:
        """Return how a visitor has rated messages that they may see, by their ids."""
        rated = Feedback.message_id.in_([message.id for message in messages])
        query = select(Feedback.message_id, Feedback.rating).where(Feedback.user_id == rater(visitor.id), rated)
        with self._database.read() as session:
            return dict(session.execute(query).all())
