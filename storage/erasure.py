"""Erasing conversations for good: rows, search index, free space and WAL; at their owner's word or by a rule."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import LargeBinary, Select, cast, delete, exists, func, select, text
from sqlalchemy.orm import Session

from storage.accounts import check_other_admin, find_user
from storage.backup import copies_of
from storage.database import Database
from storage.errors import StorageError
from storage.queries import check_idle, find_conversation
from storage.tables import ApiKey, Channel, Conversation, Message, Site, StoredPreset, utc_now

MARK = text("PRAGMA user_version = 1")
"""Until `finish` is done, whatever happens before."""


class ErasureUnfinished(StorageError):
    """The rows are gone, but not yet all their traces in the file; the next start or erasure goes on."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"The conversations are deleted, but {path}-wal may still hold their text, since another program is "
            "reading the database: close it, and start Parley anew or erase again."
        )


@dataclass(frozen=True, slots=True)
class Copy:
    """A file that an erasure does not reach."""

    path: Path
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was erased, and which copies there are that may still have it."""

    conversation_ids: tuple[str, ...]
    n_messages: int
    n_bytes: int  # of the messages' text
    erased_at: datetime
    copies: tuple[Copy, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Which conversations have been kept for long enough: those that pass all that is set, the trash included.

    Pinned ones never do; a pinned message keeps nothing, as it says what the model must see.
    """

    unchanged_since: datetime
    channel: Channel | None = None
    archived: bool | None = None
    site_id: str | None = None


class ErasureStore:
    """Erases conversations of all owners, each for its own; one object serves all threads.

    When a method returns, no byte of their text is in the database's files. This takes 4 s for each 100 MB, during
    which nothing can be written, and as much memory as the file is large. Raises ErasureUnfinished.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def erase(self, owner_id: str, conversation_ids: Iterable[str]) -> Receipt:
        """Erase conversations, or none: raises ConversationNotFound, ConversationBusy."""
        with self._database.write() as session:
            receipt = self._delete(session, owner_id, conversation_ids)
        self.finish()
        return receipt

    def empty_trash(self, owner_id: str) -> Receipt:
        """Erase all that is in the trash; raises ConversationBusy."""
        with self._database.write() as session:
            trash = select(Conversation.id).where(
                Conversation.owner_id == owner_id, Conversation.trashed_at.is_not(None)
            )
            receipt = self._delete(session, owner_id, session.scalars(trash).all())
        self.finish()
        return receipt

    def expired(self, owner_id: str, rule: Rule) -> list[Conversation]:
        """Return what `erase_expired` would erase, the oldest first."""
        with self._database.read() as session:
            return list(session.scalars(_expired(owner_id, rule)))

    def erase_expired(self, owner_id: str, *rules: Rule) -> Receipt:
        """Erase what any of some rules says."""
        with self._database.write() as session:
            ids = [conversation.id for rule in rules for conversation in session.scalars(_expired(owner_id, rule))]
            receipt = self._delete(session, owner_id, ids)
        self.finish()
        return receipt

    def busy(self, owner_id: str) -> list[str]:
        """Return the ids of an owner's conversations in which a reply is being written."""
        query = (
            select(Conversation.id)
            .join(Message, Message.conversation_id == Conversation.id)
            .where(Conversation.owner_id == owner_id, Message.status == "streaming")
        )
        with self._database.read() as session:
            return list(session.scalars(query))

    def erase_owner(self, owner_id: str) -> Receipt:
        """Erase an account with all that is its owner's; raises UserNotFound, LastAdmin, ConversationBusy."""
        with self._database.write() as session:
            user = find_user(session, owner_id)
            check_other_admin(session, user)
            receipt = self._delete_all(session, owner_id)
            for table in (StoredPreset, ApiKey, Site):
                session.execute(delete(table).where(table.owner_id == owner_id))
            session.delete(user)
            session.execute(MARK)
        self.finish()
        return receipt

    def erase_all(self, owner_id: str) -> Receipt:
        """Erase all conversations of an owner; raises ConversationBusy."""
        with self._database.write() as session:
            receipt = self._delete_all(session, owner_id)
        self.finish()
        return receipt

    def finish(self) -> None:
        """Remove the traces of what is deleted, if that is still to be done: for the start, after a crash."""
        with self._database.write() as session:
            if not session.scalar(text("PRAGMA user_version")):
                return
            for table in session.scalars(text("SELECT name FROM sqlite_master WHERE sql LIKE '%USING fts5%'")).all():
                # Its secure-delete leaves words where one page of the index ends and the next begins.
                session.execute(text(f"INSERT INTO {table}({table}) VALUES ('rebuild')"))
        with self._database.write() as session:
            connection = session.connection()
            connection.exec_driver_sql("COMMIT")  # what follows works in no transaction
            # secure_delete leaves pieces of rows in pages from which they once were moved to others.
            connection.exec_driver_sql("VACUUM")
            if connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar():
                raise ErasureUnfinished(self._database.path)
            connection.exec_driver_sql("PRAGMA user_version = 0")

    def _delete_all(self, session: Session, owner_id: str) -> Receipt:
        owned = select(Conversation.id).where(Conversation.owner_id == owner_id)
        return self._delete(session, owner_id, session.scalars(owned).all())

    def _delete(self, session: Session, owner_id: str, conversation_ids: Iterable[str]) -> Receipt:
        erased, n_messages, n_bytes = tuple(dict.fromkeys(conversation_ids)), 0, 0
        size = func.coalesce(func.sum(func.length(cast(Message.content, LargeBinary))), 0)
        for conversation_id in erased:
            find_conversation(session, owner_id, conversation_id)
            check_idle(session, conversation_id)
            query = select(func.count(), size).where(Message.conversation_id == conversation_id)
            count, length = session.execute(query).one()
            n_messages, n_bytes = n_messages + count, n_bytes + length
            session.execute(delete(Conversation).where(Conversation.id == conversation_id))
        if erased:
            session.execute(MARK)
        copies = tuple(Copy(path, _changed_at(path)) for path in copies_of(self._database.path))
        return Receipt(erased, n_messages, n_bytes, utc_now(), copies)


def _expired(owner_id: str, rule: Rule) -> Select[Conversation]:
    being_written = exists().where(Message.conversation_id == Conversation.id, Message.status == "streaming")
    query = select(Conversation).where(
        Conversation.owner_id == owner_id,
        Conversation.updated_at < rule.unchanged_since,
        Conversation.pinned.is_(False),
        ~being_written,
    )
    if rule.channel is not None:
        query = query.where(Conversation.channel == rule.channel)
    if rule.archived is not None:
        query = query.where(Conversation.archived.is_(rule.archived))
    if rule.site_id is not None:
        query = query.where(Conversation.site_id == rule.site_id)
    return query.order_by(Conversation.updated_at, Conversation.id)


def _changed_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
