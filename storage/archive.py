"""Whole conversations, as they leave and come back: every message of the tree, with what its owner thinks of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, exists, insert, select, update
from sqlalchemy.orm import Session

from storage.database import Database
from storage.ledgers import rename_in_ledger
from storage.queries import check_owner, may_rate
from storage.search import index_messages, index_titles
from storage.tables import Base, Channel, Conversation, Feedback, Message, new_id

BATCH = 20  # conversations that are read at once: more take longer, and more memory
N_IDS = 500  # that are looked up at once

Row = Mapping[str, Any]  # the columns of a table


@dataclass(frozen=True, slots=True)
class Tree:
    """A conversation with all its messages, in the order in which they came, and the feedback on them."""

    conversation: Row
    messages: Sequence[Row]
    feedback: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which conversations of an owner: those that pass all that is set; none of them is in the trash."""

    ids: Sequence[str] | None = None
    channel: Channel | None = None
    site_id: str | None = None
    since: datetime | None = None  # by their last change
    until: datetime | None = None
    rating: int | None = None  # with a message that is rated so
    found: Sequence[str] | None = None  # those that a search found


class ArchiveStore:
    """The whole conversations of all owners; one object serves all threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ids(self, owner_id: str, selection: Selection) -> list[str]:
        """Return the ids of the selected conversations, the oldest first."""
        query = select(Conversation.id).where(Conversation.number.in_(_numbers(owner_id, selection)))
        with self._database.read() as session:
            return list(session.scalars(query.order_by(Conversation.created_at, Conversation.id)))

    def trees(self, owner_id: str, selection: Selection) -> Iterator[Tree]:
        """Yield the selected conversations, the oldest first, as they all were at one moment."""
        with self._database.read() as session:
            numbers = session.scalars(_numbers(owner_id, selection)).all()
            for start in range(0, len(numbers), BATCH):
                yield from _read(session, owner_id, numbers[start : start + BATCH])

    @contextmanager
    def importing(self, owner_id: str) -> Iterator["Import"]:
        """Take conversations in under an owner: all that are added until the end, or none after an exception.

        Raises OwnerGone.
        """
        with self._database.write() as session:
            check_owner(session, owner_id)
            yield Import(session, owner_id)


class Import:
    """One transaction that takes conversations in."""

    def __init__(self, session: Session, owner_id: str) -> None:
        self._session = session
        self._owner_id = owner_id

    def imported(self, digest: str) -> Row | None:
        """Return the row of the owner's conversation that was imported with a digest, if there is one."""
        own = (Conversation.owner_id == self._owner_id, Conversation.import_digest == digest)
        row = self._session.execute(select(Conversation.__table__).where(*own)).mappings().first()
        return None if row is None else dict(row)

    def tree(self, conversation_id: str) -> Tree | None:
        """Return the owner's conversation of an id, wherever it is kept, if there is one."""
        own = (Conversation.id == conversation_id, Conversation.owner_id == self._owner_id)
        numbers = self._session.scalars(select(Conversation.number).where(*own)).all()
        return next(_read(self._session, self._owner_id, numbers), None)

    def add(self, tree: Tree, digest: str) -> None:
        """Store a conversation, with the digest it is known by from then on.

        Its ids stay if nobody has them yet; else it and its messages get new ones.
        """
        _add(self._session, self._owner_id, _with_free_ids(self._session, tree), digest)


def _numbers(owner_id: str, selection: Selection) -> Select[int]:
    """Select the numbers of the selected conversations, the oldest first."""
    query = select(Conversation.number).where(Conversation.owner_id == owner_id, Conversation.trashed_at.is_(None))
    if selection.ids is not None:
        query = query.where(Conversation.id.in_(selection.ids))
    if selection.found is not None:
        query = query.where(Conversation.id.in_(selection.found))
    if selection.channel is not None:
        query = query.where(Conversation.channel == selection.channel)
    if selection.site_id is not None:
        query = query.where(Conversation.site_id == selection.site_id)
    if selection.since is not None:
        query = query.where(Conversation.updated_at >= selection.since)
    if selection.until is not None:
        query = query.where(Conversation.updated_at < selection.until)
    if selection.rating is not None:
        rated = exists().where(
            Message.conversation_id == Conversation.id,
            Feedback.message_id == Message.id,
            may_rate(owner_id),
            Feedback.rating == selection.rating,
        )
        query = query.where(rated)
    return query.order_by(Conversation.created_at, Conversation.id)


def _read(session: Session, owner_id: str, numbers: Sequence[int]) -> Iterator[Tree]:
    conversations, messages, feedback = Conversation.__table__, Message.__table__, Feedback.__table__
    chosen = conversations.c.number.in_(numbers)
    by_conversation: dict[str, list[Row]] = {}
    for row in session.execute(
        select(messages)
        .join(conversations, conversations.c.id == messages.c.conversation_id)
        .where(chosen)
        .order_by(messages.c.conversation_id, messages.c.seq)
    ).mappings():
        by_conversation.setdefault(row["conversation_id"], []).append(dict(row))
    opinions: dict[str, list[Row]] = {}
    for row in session.execute(
        select(feedback, messages.c.conversation_id)
        .join(messages, messages.c.id == feedback.c.message_id)
        .join(conversations, conversations.c.id == messages.c.conversation_id)
        .where(chosen, may_rate(owner_id))
        .order_by(messages.c.seq, feedback.c.user_id == owner_id)  # of two on a message, the last one counts
    ).mappings():
        opinions.setdefault(row["conversation_id"], []).append(dict(row))
    found = session.execute(select(conversations).where(chosen)).mappings().all()
    for conversation in sorted(found, key=lambda row: (row["created_at"], row["id"])):
        conversation_id = conversation["id"]
        yield Tree(dict(conversation), by_conversation.get(conversation_id, []), opinions.get(conversation_id, []))


def _with_free_ids(session: Session, tree: Tree) -> Tree:
    """Return a tree whose ids nobody has: its own, if they are free."""
    old = [tree.conversation["id"], *(message["id"] for message in tree.messages)]
    taken = any(
        session.scalar(select(exists().where(table.id.in_(old[start : start + N_IDS]))))
        for table in (Conversation, Message)
        for start in range(0, len(old), N_IDS)
    )
    if not taken:
        return tree
    ids = {old_id: new_id() for old_id in old}
    fields = ("id", "conversation_id", "parent_id", "origin_id", "active_leaf_id", "message_id")

    def renamed(row: Row) -> Row:
        return {name: ids.get(value) if name in fields and value else value for name, value in row.items()}

    messages = [{**renamed(row), "ledger": rename_in_ledger(row["ledger"], ids)} for row in tree.messages]
    return Tree(renamed(tree.conversation), messages, [*map(renamed, tree.feedback)])


def _add(session: Session, owner_id: str, tree: Tree, digest: str) -> None:
    own = {"owner_id": owner_id, "import_digest": digest, "active_leaf_id": None}
    _insert(session, Conversation, [{**tree.conversation, **own}])
    _insert(session, Message, tree.messages)
    _insert(session, Feedback, [{**row, "user_id": owner_id} for row in tree.feedback])
    if tree.conversation["active_leaf_id"]:
        own_row = update(Conversation).where(Conversation.id == tree.conversation["id"])
        session.execute(own_row.values(active_leaf_id=tree.conversation["active_leaf_id"]))
    index_titles(session, Conversation.id == tree.conversation["id"])
    index_messages(session, Message.conversation_id == tree.conversation["id"])


def _insert(session: Session, table: type[Base], rows: Sequence[Row]) -> None:
    columns = set(table.__mapper__.columns.keys()) - {"number"}
    if rows:
        values = [{name: value for name, value in row.items() if name in columns} for row in rows]
        session.connection().execute(insert(table), values)
