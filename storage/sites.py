"""The sites of owners, and what the visitors of a site may see: each query names the owner, or the site and visitor."""

from collections.abc import Mapping
from datetime import datetime
from typing import TypedDict, Unpack

from sqlalchemy import ColumnElement, Select, and_, func, select
from sqlalchemy.orm import Session

from storage.conversations import Visitor
from storage.database import Database
from storage.errors import ConversationNotFound, MessageNotFound, StorageError
from storage.queries import check_owner
from storage.tables import Conversation, JsonObject, Message, Site, utc_now


class SiteNotFound(StorageError):
    """The owner has no such site; the text does not tell whether somebody else has."""

    def __init__(self, site_id: str) -> None:
        super().__init__(f"There is no site {site_id}.")


class TooManySites(StorageError):
    """The owner has as many sites as one may have."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"There are {limit:,} sites already, and no more are possible: delete one first.")


class SiteValues(TypedDict, total=False):
    """What an owner says of a site."""

    name: str
    origins: list[str]
    enabled: bool
    appearance: JsonObject
    preset: str | None
    system_prompt: str | None
    messages_per_visitor: int
    messages_per_address: int
    tokens_per_day: int | None
    retention_days: int | None


class SiteStore:
    """The sites of all owners; one object serves all threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # For owners.

    def of(self, owner_id: str) -> list[Site]:
        """Return an owner's sites, the oldest first."""
        with self._database.read() as session:
            return list(session.scalars(_sites(owner_id)))

    def get(self, owner_id: str, site_id: str) -> Site:
        """Return an owner's site; raises SiteNotFound."""
        with self._database.read() as session:
            return _find(session, owner_id, site_id)

    def create(self, owner_id: str, key: str, *, limit: int, **values: Unpack[SiteValues]) -> Site:
        """Keep a new site, all of whose values are given.

        Raises OwnerGone, and TooManySites for an owner who has `limit` of them.
        """
        site = Site(owner_id=owner_id, key=key, **values)
        with self._database.write() as session:
            check_owner(session, owner_id)
            n_sites = session.scalar(select(func.count()).select_from(Site).where(Site.owner_id == owner_id))
            if n_sites is not None and n_sites >= limit:
                raise TooManySites(limit)
            session.add(site)
        return site

    def update(self, owner_id: str, site_id: str, **changes: Unpack[SiteValues]) -> Site:
        """Change a site, of its appearance only what is named; raises SiteNotFound."""
        with self._database.write() as session:
            site = _find(session, owner_id, site_id)
            for name, value in changes.items():
                setattr(site, name, {**site.appearance, **value} if isinstance(value, dict) else value)
            site.updated_at = utc_now()
        return site

    def rotate(self, owner_id: str, site_id: str, key: str) -> Site:
        """Put another key in the place of a site's; raises SiteNotFound."""
        with self._database.write() as session:
            site = _find(session, owner_id, site_id)
            site.key, site.updated_at = key, utc_now()
        return site

    def delete(self, owner_id: str, site_id: str) -> None:
        """Delete a site, of which the conversations stay; raises SiteNotFound."""
        with self._database.write() as session:
            session.delete(_find(session, owner_id, site_id))

    def n_conversations(self, owner_id: str) -> Mapping[str, int]:
        """Return how many conversations there are of each of an owner's sites that has some."""
        query = (
            select(Site.id, func.count())
            .join(Conversation, and_(Conversation.site_id == Site.id, Conversation.owner_id == Site.owner_id))
            .where(Site.owner_id == owner_id)
            .group_by(Site.id)
        )
        with self._database.read() as session:
            return dict(session.execute(query).all())

    # For those who come with a key, and for visitors, who have been found by their token.

    def with_key(self, key: str) -> Site | None:
        """Return the site of a key, if there is one, on or off."""
        with self._database.read() as session:
            return session.scalar(select(Site).where(Site.key == key))

    def n_tokens(self, site_id: str, since: datetime) -> int:
        """Return how many tokens were read and written for the visitors of a site from a time on."""
        tokens = func.coalesce(Message.prompt_tokens, 0) + func.coalesce(Message.completion_tokens, 0)
        query = (
            select(func.coalesce(func.sum(tokens), 0))
            .join(Conversation, Conversation.id == Message.conversation_id)
            # a conversation is as young as its last message; of the others none is read
            .where(*_begun_on(site_id), Conversation.updated_at >= since, Message.created_at >= since)
        )
        with self._database.read() as session:
            return session.scalar(query) or 0

    def conversations(self, visitor: Visitor, *, limit: int) -> list[Conversation]:
        """Return a visitor's conversations that their owner keeps, the last used first."""
        query = select(Conversation).where(*_seen_by(visitor)).order_by(Conversation.updated_at.desc())
        with self._database.read() as session:
            return list(session.scalars(query.limit(limit)))

    def conversation(self, visitor: Visitor, conversation_id: str) -> Conversation:
        """Return one of a visitor's conversations; raises ConversationNotFound, also for one in the trash."""
        query = select(Conversation).where(Conversation.id == conversation_id, *_seen_by(visitor))
        with self._database.read() as session:
            conversation = session.scalar(query)
        if conversation is None:
            raise ConversationNotFound(conversation_id)
        return conversation

    def message(self, visitor: Visitor, message_id: str) -> Message:
        """Return a message of one of a visitor's conversations; raises MessageNotFound."""
        with self._database.read() as session:
            message = session.scalar(_messages(visitor).where(Message.id == message_id))
        if message is None:
            raise MessageNotFound(message_id)
        return message

    def sent(self, visitor: Visitor, idempotency_key: str) -> Message | None:
        """Return the message that a visitor has sent with a key, if they have."""
        with self._database.read() as session:
            return session.scalars(_messages(visitor).where(Message.idempotency_key == idempotency_key)).first()

    def in_flight(self, visitor: Visitor) -> list[str]:
        """Return the conversations of a visitor that have a reply which is still to end."""
        query = _messages(visitor).where(Message.status == "streaming").with_only_columns(Message.conversation_id)
        with self._database.read() as session:
            return list(session.scalars(query))

    # For the daily round, which acts for all owners.

    def retaining(self) -> list[Site]:
        """Return the sites whose conversations are kept only for a time."""
        with self._database.read() as session:
            return list(session.scalars(select(Site).where(Site.retention_days.is_not(None))))


def _sites(owner_id: str) -> Select[Site]:
    return select(Site).where(Site.owner_id == owner_id).order_by(Site.created_at, Site.id)


def _find(session: Session, owner_id: str, site_id: str) -> Site:
    site = session.scalar(select(Site).where(Site.id == site_id, Site.owner_id == owner_id))
    if site is None:
        raise SiteNotFound(site_id)
    return site


def _begun_on(site_id: str) -> tuple[ColumnElement[bool], ...]:
    """What the conversations of a site have in common: others may import one that says it is of this site."""
    owner_id = select(Site.owner_id).where(Site.id == site_id).scalar_subquery()
    return Conversation.site_id == site_id, Conversation.owner_id == owner_id


def _seen_by(visitor: Visitor) -> tuple[ColumnElement[bool], ...]:
    own = (Conversation.visitor_id == visitor.id, Conversation.trashed_at.is_(None))
    return (*_begun_on(visitor.site_id), *own)


def _messages(visitor: Visitor) -> Select[Message]:
    return select(Message).join(Conversation, Conversation.id == Message.conversation_id).where(*_seen_by(visitor))
