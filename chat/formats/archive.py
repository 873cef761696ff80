"""A conversation outside the database: what formats are made from, and what they are read into.

Times are ISO 8601 in UTC, with microseconds. `ArchivedConversation` is also the schema of Parley's own format.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from chat.errors import Unreadable
from storage.archive import Row, Tree
from storage.ledgers import rename_in_ledger
from storage.tables import Channel, FinalStatus, FinishReason, JsonObject, Origin, Role, TitleSource

VERSION = 3
"""Of the schema."""


def _check_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Id = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=0, lt=2**53)]  # whole in every reader of JSON, and with room for sums in the database
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"), AfterValidator(_check_time)]


@with_config(ConfigDict(extra="forbid", strict=True))
class ArchivedFeedback(TypedDict):
    """What the owner thinks of a message."""

    rating: Literal[-1, 1] | None
    comment: str | None
    created_at: Time
    updated_at: Time


@with_config(ConfigDict(extra="forbid", strict=True))
class ArchivedMessage(TypedDict):
    """One message, after its parent; the fields are those of the table `messages`.

    The ledger of a reply has only the entries on messages of which the ledgers above it on the path to the root say
    something else, or nothing: read from the root on, a later entry on a message replaces an earlier one.
    """

    id: Id
    parent_id: Id | None
    seq: Annotated[int, Field(ge=1, lt=2**31)]  # so that there are numbers left for the messages to come
    role: Role
    content: str
    origin: Origin
    origin_id: Id | None
    status: FinalStatus
    finish_reason: FinishReason | None
    error: str | None
    model: str | None
    model_digest: str | None
    params: JsonObject | None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None
    token_ids: list[Count] | None
    prompt_shared: Count | None
    prompt_ids: list[Count] | None
    ledger: JsonObject | None
    prompt_tokens: Count | None
    cached_tokens: Count | None
    completion_tokens: Count | None
    ttft_ms: Count | None
    duration_ms: Count | None
    pinned: bool
    created_at: Time
    feedback: ArchivedFeedback | None


@with_config(ConfigDict(extra="forbid", strict=True))
class ArchivedConversation(TypedDict):
    """One conversation with its messages; the other fields are those of the table `conversations`."""

    id: Id
    channel: Channel
    site_id: Id | None
    visitor_id: Id | None
    visitor_name: str | None
    title: str | None
    title_source: TitleSource | None
    preset: str | None
    system_prompt: str | None
    recap: bool
    params: JsonObject | None
    model: str | None
    active_leaf_id: Id | None
    pinned: bool
    archived: bool
    created_at: Time
    updated_at: Time
    messages: list[ArchivedMessage]


_ADAPTER = TypeAdapter(ArchivedConversation)

_TIMES = ("created_at", "updated_at")
_CONVERSATION = tuple(name for name in ArchivedConversation.__annotations__ if name != "messages")
_MESSAGE = tuple(name for name in ArchivedMessage.__annotations__ if name != "feedback")
_FEEDBACK = tuple(ArchivedFeedback.__annotations__)
# The fields that some earlier version of Parley's format lacks
LATER: Mapping[str, object] = {"recap": False, "visitor_id": None, "visitor_name": None}
LATER_IN_MESSAGES: Mapping[str, object] = {"model_digest": None, "prompt_shared": None, "prompt_ids": None}
_IDS = ("id", "parent_id", "origin_id", "active_leaf_id")


def archive_schema() -> dict[str, Any]:
    """Return the JSON Schema of a conversation."""
    return _ADAPTER.json_schema()


def check(value: object, place: str) -> ArchivedConversation:
    """Return what somebody else wrote as a conversation, if it is one and its messages are a tree.

    Raises Unreadable, which names the place and the field.
    """
    try:
        archived = _ADAPTER.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "conversation"
        rule = first["msg"][:1].lower() + first["msg"][1:]  # the rest may hold a pattern
        raise Unreadable(place, f"{where}: {rule}, got {_shortened(first['input'])}") from None
    _check_tree(archived, place)
    return archived


def _check_tree(archived: ArchivedConversation, place: str) -> None:
    seen: set[str] = set()
    last_seq = 0
    for number, message in enumerate(archived["messages"]):
        where = f"messages.{number}"
        if message["id"] in seen:
            raise Unreadable(place, f"{where}.id: expected one of its own, got {message['id']!r} again")
        for field, other in (("parent_id", message["parent_id"]), ("origin_id", message["origin_id"])):
            if other is not None and other not in seen:
                raise Unreadable(place, f"{where}.{field}: expected a message before this one, got {other!r}")
        if message["seq"] <= last_seq:
            raise Unreadable(place, f"{where}.seq: expected more than that of the message before, got {message['seq']}")
        last_seq = message["seq"]
        seen.add(message["id"])
    leaf_id = archived["active_leaf_id"]
    if (leaf_id is None) == bool(seen) or (leaf_id is not None and leaf_id not in seen):
        raise Unreadable(place, f"active_leaf_id: expected one of its messages, got {leaf_id!r}")


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def from_tree(tree: Tree) -> ArchivedConversation:
    """Return a stored conversation as it is archived; a reply that is being written counts as interrupted."""
    opinions = {row["message_id"]: _fields(row, _FEEDBACK) for row in tree.feedback}
    known = {row["id"] for row in tree.messages}
    messages = [{**_fields(row, _MESSAGE), "feedback": opinions.get(row["id"])} for row in tree.messages]
    for message in messages:
        if message["status"] not in get_args(FinalStatus):
            message["status"] = "interrupted"
        if message["origin_id"] not in known:  # what it was copied from is in another conversation
            message["origin_id"] = None
    return {**_fields(tree.conversation, _CONVERSATION), "messages": messages}  # type: ignore[typeddict-item]


def to_tree(archived: ArchivedConversation) -> Tree:
    """Return the rows to store for a conversation that `check` lets through."""
    conversation_id = archived["id"]
    messages = [{**_stored(message), "conversation_id": conversation_id} for message in archived["messages"]]
    feedback = [
        {**_stored(opinion), "message_id": message["id"]}
        for message in archived["messages"]
        if (opinion := message["feedback"])
    ]
    return Tree({**_stored(archived), "trashed_at": None}, messages, feedback)


def digest(archived: ArchivedConversation) -> str:
    """Return a SHA-256 of all that a conversation says, in hex: ids count only by the place of what they name.

    Fields that came later count only where they say something, so that what was imported before them stays known.
    """
    places = {message["id"]: place for place, message in enumerate(archived["messages"])}

    def placed(value: Mapping[str, Any], later: Mapping[str, object]) -> dict[str, Any]:
        return {
            name: places.get(item) if name in _IDS else rename_in_ledger(item, places) if name == "ledger" else item
            for name, item in value.items()
            if name not in later or item != later[name]
        }

    messages = [placed(message, LATER_IN_MESSAGES) for message in archived["messages"]]
    content = {**placed(archived, LATER), "messages": messages}
    spelled = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(spelled.encode()).hexdigest()


def _fields(row: Row, names: Sequence[str]) -> dict[str, Any]:
    return {name: spell_time(row[name]) if name in _TIMES else row[name] for name in names}


def _stored(archived: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: datetime.fromisoformat(value) if name in _TIMES else value
        for name, value in archived.items()
        if name not in ("messages", "feedback")
    }


def spell_time(time: datetime) -> str:
    """Return a time as it is archived."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
