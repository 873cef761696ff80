"""What the widget sends and gets, as JSON: no more of a conversation than its visitor sees."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from chat.api.schemas import Id, Rating, Response
from chat.given import Given, Text
from storage.tables import Conversation, Message, Role, Status

MAX_USER_ID = 200  # characters
MAX_TOKEN = 2000
MAX_ORIGIN = 300

Key = Annotated[Text, Field(min_length=1, max_length=200)]


class VouchedUserModel(Given):
    """A visitor whom the site knows, and its word for it."""

    id: Annotated[Text, Field(min_length=1, max_length=MAX_USER_ID, examples=["ada@shop.example"])]
    hash: str = Field(
        max_length=200, description="HMAC-SHA256 of the id in hex digits, with the site's identity secret as the key."
    )


class NewSession(Given):
    """Who shows the chat to whom."""

    site: Annotated[str, Field(max_length=100)] = Field(examples=["pub_3kTMd0MFUyK0Rk2hN1Vd7Q"])
    origin: Annotated[str, Field(max_length=MAX_ORIGIN)] = Field(examples=["https://shop.example"])
    token: Annotated[str, Field(max_length=MAX_TOKEN)] | None = Field(
        None, description="That of an earlier session, whose visitor it is still; one that is not valid is a new one."
    )
    user: VouchedUserModel | None = None


class SessionModel(Response):
    """A visitor's token."""

    token: str = Field(description="The bearer of all other requests, for 30 days.", examples=["vis_eyJ2Ijoi…"])


class VisitorConversation(Response):
    """A conversation in a visitor's list."""

    id: Id
    title: str | None = Field(description="Made of what was said; null if the owner has given it one of their own.")
    created_at: datetime
    updated_at: datetime


class VisitorConversations(Response):
    """A visitor's conversations, the last used first."""

    conversations: list[VisitorConversation]


class VisitorMessage(Response):
    """A message as its visitor sees it."""

    id: Id
    role: Role
    content: str = Field(examples=["From nine to six."])
    status: Status
    rating: Literal[-1, 1] | None = Field(description="The visitor's own.")
    created_at: datetime


class VisitorPath(Response):
    """A conversation and what was said in it."""

    conversation: VisitorConversation
    messages: list[VisitorMessage]


class NewVisitorMessage(Given):
    """What a visitor says."""

    conversation_id: Annotated[Text, Field(max_length=100)] | None = Field(description="Null begins one.")
    content: str = Field(examples=["When do you open?"])
    idempotency_key: Key = Field(
        description="Of one's own for each message: the same request, sent again, adds nothing."
    )


class SentByVisitor(Response):
    """A visitor's message and the reply that is being written to it."""

    conversation_id: str = Field(examples=["0c5d4f1ab6f94d2e8f3f1f0c9a7b6e5d"])
    messages: list[VisitorMessage]


class RatingChange(Given):
    """What a visitor thinks of a reply now."""

    rating: Rating | None = Field(examples=[1])


def visitor_conversation(conversation: Conversation) -> VisitorConversation:
    """Return what a visitor sees of a conversation: how its owner calls it is the owner's."""
    model = VisitorConversation.model_validate(conversation)
    return model if conversation.title_source != "user" else model.model_copy(update={"title": None})


def visitor_message(message: Message, rating: int | None) -> VisitorMessage:
    """Return what a visitor sees of a message."""
    seen = {name: getattr(message, name) for name in VisitorMessage.model_fields if name != "rating"}
    return VisitorMessage.model_validate({**seen, "rating": rating})
