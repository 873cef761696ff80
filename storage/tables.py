"""The tables, one mapped class each; storage/migrations brings a file to exactly this schema."""

from datetime import UTC, datetime
from typing import Literal, get_args
from uuid import uuid4

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Channel = Literal["ui", "widget", "api", "import", "terminal"]
TitleSource = Literal["first_message", "keywords", "user", "import"]
Role = Literal["system", "user", "assistant"]
Origin = Literal["written", "edited", "continued", "copied", "imported"]
FinalStatus = Literal["complete", "stopped", "interrupted", "error"]
Status = Literal["streaming", FinalStatus]
FinishReason = Literal["stop", "length", "cancelled", "error"]
Scope = Literal["completions", "read", "write", "metrics"]
JsonObject = dict[str, object]


def new_id() -> str:
    """A fresh primary key: random, so that it tells nothing about when or how many."""
    return uuid4().hex


def utc_now() -> datetime:
    """The time to stamp a row with."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A datetime with a zone, stored as naive UTC: SQLite keeps no zone, and so its texts sort by time."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        assert value is None or value.tzinfo, f"a stored time must name its zone, got {value}"
        return value and value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Names every constraint, since a migration can only alter what has a name."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {
        str: Text,
        datetime: UtcDateTime,
        JsonObject: JSON(none_as_null=True),
        list[int]: JSON(none_as_null=True),
        list[str]: JSON,
    }


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class Conversation(Base):
    """One conversation: its settings, and the tip of the branch that is shown."""

    __tablename__ = "conversations"

    number: Mapped[int] = mapped_column(primary_key=True)  # for tables of SQLite that know rows by whole numbers
    id: Mapped[str] = mapped_column(unique=True, default=new_id)
    owner_id: Mapped[str]
    channel: Mapped[Channel] = mapped_column(Text)
    site_id: Mapped[str | None]  # of a widget's: the site that it was begun on, and by whom
    visitor_id: Mapped[str | None]
    visitor_name: Mapped[str | None]  # as the site calls a visitor whom it has vouched for
    title: Mapped[str | None]
    title_source: Mapped[TitleSource | None] = mapped_column(Text)
    preset: Mapped[str | None]  # the name of the one that it began with
    system_prompt: Mapped[str | None]
    recap: Mapped[bool] = mapped_column(default=False, server_default=false())  # of turns that a prompt has no room for
    params: Mapped[JsonObject | None]
    model: Mapped[str | None]
    # use_alter: the two tables point at each other, and only one of them can be created second.
    active_leaf_id: Mapped[str | None] = mapped_column(ForeignKey("messages.id", use_alter=True), index=True)
    pinned: Mapped[bool] = mapped_column(default=False)
    archived: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)
    trashed_at: Mapped[datetime | None]  # when it was put into the trash, if it is there
    import_digest: Mapped[str | None]  # of what it said when it was imported, if it was

    __table_args__ = (
        _one_of("channel", get_args(Channel)),
        _one_of("title_source", get_args(TitleSource)),
        Index(None, "owner_id", "archived", "trashed_at", "pinned", "updated_at"),  # the list, in its order
        Index(None, "owner_id", "import_digest", unique=True),  # the same file imported twice adds nothing
        Index(None, "site_id", "visitor_id", "updated_at"),
    )


class Message(Base):
    """One node of a conversation's tree. Its content never changes once the status is not streaming."""

    __tablename__ = "messages"

    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True, default=new_id)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"))
    # Without this index, origin_id's and active_leaf_id's, each deleted message would scan a table for references.
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("messages.id"), index=True)
    seq: Mapped[int]
    role: Mapped[Role] = mapped_column(Text)
    content: Mapped[str]
    origin: Mapped[Origin] = mapped_column(Text, default="written")
    # the message that it was made from, if it was and that one is still there
    origin_id: Mapped[str | None] = mapped_column(ForeignKey("messages.id", ondelete="SET NULL"), index=True)
    status: Mapped[Status] = mapped_column(Text)
    finish_reason: Mapped[FinishReason | None] = mapped_column(Text)
    error: Mapped[str | None]  # one line, of a reply whose status is error
    idempotency_key: Mapped[str | None]  # of the request that a message came with: the same request adds it once
    model: Mapped[str | None]
    model_digest: Mapped[str | None]  # of the files that the model was read from
    params: Mapped[JsonObject | None]
    seed: Mapped[int | None] = mapped_column(BigInteger)
    token_ids: Mapped[list[int] | None]
    # The prompt: so many of the first tokens of the prompt and reply that come before on the path, and then these.
    prompt_shared: Mapped[int | None]
    prompt_ids: Mapped[list[int] | None]
    ledger: Mapped[JsonObject | None]  # of its prompt: the entries that differ from those above on the path
    prompt_tokens: Mapped[int | None]
    cached_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    ttft_ms: Mapped[int | None]
    duration_ms: Mapped[int | None]
    pinned: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

    __table_args__ = (
        _one_of("role", get_args(Role)),
        _one_of("origin", get_args(Origin)),
        _one_of("status", get_args(Status)),
        _one_of("finish_reason", get_args(FinishReason)),
        UniqueConstraint("conversation_id", "seq"),
        Index(None, "conversation_id", "idempotency_key", unique=True),
        Index(None, "created_at", "role", "model"),  # what searches filter by
    )


class Feedback(Base):
    """What a user thinks of a message."""

    __tablename__ = "feedback"

    message_id: Mapped[str] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    rating: Mapped[int | None]  # 1 good, -1 bad
    comment: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)

    __table_args__ = (CheckConstraint("rating IN (-1, 1)", name="rating"),)


class StoredPreset(Base):
    """A way to begin a conversation, of an owner's own."""

    __tablename__ = "presets"

    owner_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    system_prompt: Mapped[str | None]
    params: Mapped[JsonObject]  # sampling parameters; the others are the model's own
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class User(Base):
    """An account. Its id is the owner_id of all that is theirs; the first one takes over what was the local owner's."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]  # argon2id
    is_admin: Mapped[bool]
    session_epoch: Mapped[int] = mapped_column(default=0)  # sessions of another one have ended
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class EndedSession(Base):
    """A session that somebody has logged out of, kept for as long as its token would be good otherwise."""

    __tablename__ = "ended_sessions"

    id: Mapped[str] = mapped_column(primary_key=True)
    ended_at: Mapped[datetime] = mapped_column(default=utc_now)


class ApiKey(Base):
    """A key with which a program acts for an owner. Only the digest of it is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    owner_id: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    prefix: Mapped[str]  # its first characters, by which its owner knows it
    digest: Mapped[str] = mapped_column(unique=True)  # SHA-256: the key has 256 random bits
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Site(Base):
    """A website whose visitors chat in a widget, on behalf of the site's owner."""

    __tablename__ = "sites"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    owner_id: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    key: Mapped[str] = mapped_column(unique=True)  # public: it stands in the page
    origins: Mapped[list[str]]  # that may show the widget; none: nobody may
    enabled: Mapped[bool] = mapped_column(default=True)
    appearance: Mapped[JsonObject]  # title, greeting, language, theme, accent, position
    preset: Mapped[str | None]
    system_prompt: Mapped[str | None]
    messages_per_visitor: Mapped[int]  # in ten minutes
    messages_per_address: Mapped[int]  # in ten minutes, of all visitors with one address
    tokens_per_day: Mapped[int | None]  # of all visitors together; None: as many as they like
    retention_days: Mapped[int | None]  # after the last change of a conversation; None: kept
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)
