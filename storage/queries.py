"""Queries that several stores share. Each names the owner it acts for, or a conversation that has been found so."""

from sqlalchemy import ColumnElement, Select, exists, func, literal, or_, select
from sqlalchemy.orm import Session

from storage.errors import ConversationBusy, ConversationNotFound, MessageNotFound, OwnerGone
from storage.tables import Conversation, Feedback, Message, User


def check_owner(session: Session, owner_id: str) -> None:
    """Check, before something is stored for an owner, that it is an account, if there are any; raises OwnerGone."""
    own = exists().where(User.id == owner_id)
    if session.scalar(select(exists(select(User.id)) & ~own)):
        raise OwnerGone


def find_conversation(session: Session, owner_id: str, conversation_id: str) -> Conversation:
    """Return an owner's conversation; raises ConversationNotFound."""
    query = select(Conversation).where(Conversation.id == conversation_id, Conversation.owner_id == owner_id)
    conversation = session.scalar(query)
    if conversation is None:
        raise ConversationNotFound(conversation_id)
    return conversation


def find_message(session: Session, owner_id: str, message_id: str) -> tuple[Message, Conversation]:
    """Return an owner's message and its conversation; raises MessageNotFound."""
    query = (
        select(Message, Conversation)
        .join(Conversation, Conversation.id == Message.conversation_id)
        .where(Message.id == message_id, Conversation.owner_id == owner_id)
    )
    found = session.execute(query).one_or_none()
    if found is None:
        raise MessageNotFound(message_id)
    message, conversation = found
    return message, conversation


def check_answerable(session: Session, conversation_id: str, message_id: str) -> None:
    """Check that something can follow a message; raises MessageNotFound, ConversationBusy if it is being written."""
    query = select(Message.status).where(Message.id == message_id, Message.conversation_id == conversation_id)
    status = session.scalar(query)
    if status is None:
        raise MessageNotFound(message_id)
    if status == "streaming":
        raise ConversationBusy


def check_idle(session: Session, conversation_id: str) -> None:
    """Check that no reply of a conversation is being written; raises ConversationBusy."""
    streaming = exists().where(Message.conversation_id == conversation_id, Message.status == "streaming")
    if session.scalar(select(streaming)):
        raise ConversationBusy


def next_seq(session: Session, conversation_id: str) -> int:
    """Return the place of the next message of a conversation."""
    newest = session.scalar(select(func.max(Message.seq)).where(Message.conversation_id == conversation_id))
    return (newest or 0) + 1


def path_to(conversation_id: str, leaf_id: str) -> Select[Message]:
    """Select the messages from the root down to one of a conversation."""
    leaf = select(Message.id, Message.parent_id).where(
        Message.id == leaf_id, Message.conversation_id == conversation_id
    )
    path = leaf.cte("path", recursive=True)
    parent = select(Message.id, Message.parent_id).join(path, Message.id == path.c.parent_id)
    path = path.union_all(parent)
    # A parent is always older than its children, so seq is the order from the root to the leaf.
    return select(Message).join(path, Message.id == path.c.id).order_by(Message.seq)


VISITOR = "visitor:"


def rater(visitor_id: str) -> str:
    """Return under which name a visitor's feedback is kept, which is no owner's."""
    return f"{VISITOR}{visitor_id}"


def may_rate(owner_id: str) -> ColumnElement[bool]:
    """Tell the feedback of a conversation's owner and visitor from any other's."""
    return or_(Feedback.user_id == owner_id, Feedback.user_id == literal(VISITOR) + Conversation.visitor_id)
