"""What the API takes and gives, as JSON; OpenAPI is made from these classes."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from chat.given import Given, Line, Text
from chat.ledger import Reason
from chat.text import MAX_CHARS
from storage.tables import Channel, FinishReason, Origin, Role, Status, TitleSource

MAX_TITLE = 200  # characters
MAX_COMMENT = 10_000
MAX_IDS = 500

_ID = "0c5d4f1ab6f94d2e8f3f1f0c9a7b6e5d"
_OTHER_ID = "7d1e2a90c4b84f6d9a3e5c8b1f0d2e4a"


def _whole(value: object) -> object:
    if isinstance(value, bool | float):  # which equal the numbers of a Literal
        raise ValueError("input should be a whole number")
    return value


Id = Annotated[str, Field(examples=[_ID])]
OtherId = Annotated[str, Field(examples=[_OTHER_ID])]
ModelName = Annotated[str, Field(examples=["smollm2-135m-instruct"])]
Title = Annotated[Line, Field(min_length=1, max_length=MAX_TITLE)]
SystemPrompt = Annotated[Text, Field(max_length=MAX_CHARS)]
Comment = Annotated[Text, Field(max_length=MAX_COMMENT)]
Rating = Annotated[Literal[-1, 1], BeforeValidator(_whole)]
Params = Annotated[
    dict[str, Any],
    Field(
        description="Sampling parameters, by their names; the others are those that the model's makers recommend.",
        examples=[{"temperature": 0.7, "max_tokens": 200}],
    ),
]


class Response(BaseModel):
    """What an answer says, read from rows and dataclasses too."""

    model_config = ConfigDict(from_attributes=True)


class ConversationModel(Response):
    """A conversation without its messages."""

    id: Id
    title: str | None
    title_source: TitleSource | None
    channel: Channel
    site_id: str | None = Field(description="Of a widget's: the site that it was begun on.")
    visitor_name: str | None = Field(description="As the site calls a visitor whom it has vouched for.")
    preset: str | None
    system_prompt: str | None
    recap: bool
    params: dict[str, Any] | None = Field(description="The sampling parameters of its last reply.")
    model: ModelName | None
    active_leaf_id: OtherId | None
    pinned: bool
    archived: bool
    created_at: datetime
    updated_at: datetime
    trashed_at: datetime | None


class ConversationPage(Response):
    """Some conversations of a list, and where the next page begins."""

    conversations: list[ConversationModel]
    next: str | None = Field(description="What `after` must be for the next page; null on the last.")


class FeedbackModel(Response):
    """What the owner thinks of a message or, if they have not said, the visitor of their site."""

    rating: Literal[-1, 1] | None = Field(examples=[1])
    comment: str | None = Field(examples=["Right, and short."])


class MessageModel(Response):
    """One message of the branch that is shown."""

    id: Id
    parent_id: OtherId | None
    role: Role
    content: str = Field(examples=["Sunlight is scattered by the air, blue more than red."])
    origin: Origin
    status: Status
    finish_reason: FinishReason | None
    error: str | None
    model: ModelName | None
    params: dict[str, Any] | None
    seed: int | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    ttft_ms: int | None
    duration_ms: int | None
    pinned: bool
    created_at: datetime
    siblings: list[str] = Field(default=[], description="All messages in its place, itself included, oldest first.")
    feedback: FeedbackModel | None = None


class ConversationPath(Response):
    """A conversation and the branch of it that is shown, root first."""

    conversation: ConversationModel
    messages: list[MessageModel]


class NewConversation(Given):
    """How a conversation begins."""

    system_prompt: SystemPrompt | None = Field(None, examples=["Answer in one sentence."])
    preset: str | None = Field(
        None, description="The name of a preset; its system prompt counts if none is given.", examples=["story"]
    )
    recap: bool = Field(False, description="Sum up in a prompt the turns that it has no room for.")


class ConversationChange(Given):
    """What is to be changed of a conversation; what is left out stays."""

    title: Title = Field("", examples=["A walk in Lisbon"])
    pinned: bool = False
    archived: bool = False
    trashed: bool = Field(False, description="Put it into the trash, or take it out again.")
    system_prompt: SystemPrompt | None = None
    recap: bool = False


class ConversationsChange(Given):
    """One change of several conversations: of all, or of none."""

    ids: list[Text] = Field(min_length=1, max_length=MAX_IDS, examples=[[_ID, _OTHER_ID]])
    change: ConversationChange = Field(examples=[{"archived": True}])


class Conversations(Response):
    """Conversations that have been changed, in the order in which they were named."""

    conversations: list[ConversationModel]


class NewMessage(Given):
    """A message to send, and how the reply to it is to be drawn."""

    content: str = Field(examples=["Why is the sky blue?"])
    params: Params = {}
    seen_leaf_id: str | None = Field(
        None,
        description="The last message that the sender has seen, null for none: if there is another one by now, "
        "nothing is sent. Left out, nothing is checked.",
    )
    idempotency_key: Annotated[Text, Field(min_length=1, max_length=200)] | None = Field(
        None, description="Of one's own for each message: the same request, sent again, adds nothing."
    )


class NewReply(Given):
    """How one more reply is to be drawn."""

    params: Params = {}


class TokenChoice(NewReply):
    """The place in a reply where another one is to branch off, and the token that it has there."""

    place: int = Field(ge=0, description="How many tokens of the reply are kept.", examples=[3])
    token_id: int = Field(ge=0, examples=[198])


class MessageEdit(NewReply):
    """Another version of a message; `params` are for the reply to it, if it is a user's."""

    content: str = Field(examples=["Why is the sky red in the evening?"])


class MessageChange(Given):
    """What is to be changed of a message itself."""

    pinned: bool = Field(description="Whether it is always in the prompt.", examples=[True])


class FeedbackChange(Given):
    """What the owner thinks of a message now; nothing if both are null."""

    rating: Rating | None = Field(None, examples=[1])
    comment: Comment | None = Field(None, examples=["Right, and short."])


class SentMessage(Response):
    """A message and the reply that is being written to it."""

    conversation_id: Id
    message_id: OtherId | None
    reply_id: OtherId | None
    messages: list[MessageModel] = Field(description="Both as they are now, or the one that there is.")


class LedgerEntryModel(Response):
    """What became of one message in the prompt."""

    message_id: str = Field(description="Empty for a message that has not been sent.", examples=[_ID])
    tokens: int = Field(examples=[12])
    included: bool = Field(examples=[True])
    reason: Reason = Field(examples=["fits"])
    start: int | None = Field(None, description="The place of its first token in the prompt.", examples=[31])
    cached: int | None = Field(None, description="How many of its tokens did not have to be computed.", examples=[12])


class LedgerModel(Response):
    """The account of a prompt: how many tokens it had room for, and which messages took it."""

    budget: int = Field(examples=[7936])
    messages: list[LedgerEntryModel]
    recap_tokens: int | None = None
    cached_tokens: int | None = Field(None, description="Of the prompt's first, those that were not computed.")


class ErrorDetail(Response):
    """What went wrong."""

    message: str = Field(description="One line, fit for a user.", examples=[f"There is no conversation {_ID}."])
    type: str = Field(examples=["not_found_error"])
    param: str | None = Field(description="The field that is wrong.", examples=[None])
    code: str = Field(examples=["conversation_not_found"])


class ErrorModel(Response):
    """An error, in the form that OpenAI's API gives them."""

    error: ErrorDetail
