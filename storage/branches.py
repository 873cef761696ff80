"""The branches of a conversation: its messages are a tree, of which the active leaf's path is shown.

Nothing here happens while a reply of the conversation is being written: ConversationBusy then.
"""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session, load_only

from storage.database import Database
from storage.ledgers import inherit_entries, rename_in_ledger
from storage.queries import check_idle, find_conversation, find_message, path_to
from storage.search import index_messages, index_titles
from storage.tables import Conversation, Message, new_id, utc_now

_INHERITED = (
    *("owner_id", "channel", "site_id", "title", "title_source"),
    *("preset", "system_prompt", "recap", "params", "model"),
)
# Of a message, not its copy's:
_OWN = {"number", "id", "conversation_id", "parent_id", "seq", "origin", "origin_id", "idempotency_key"}
_COPIED = [column.key for column in Message.__table__.columns if column.key not in _OWN]


class BranchStore:
    """The branches of all owners' conversations; one object serves all threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def siblings(self, owner_id: str, path: Sequence[Message]) -> list[list[str]]:
        """Return, for each message of a path, the ids of all that stand in its place, itself included, oldest first."""
        if not path:
            return []
        conversation_id = path[0].conversation_id
        query = select(Message.parent_id, Message.id).where(Message.conversation_id == conversation_id)
        children: dict[str | None, list[str]] = defaultdict(list)
        with self._database.read() as session:
            find_conversation(session, owner_id, conversation_id)
            for parent_id, message_id in session.execute(query.order_by(Message.seq)):
                children[parent_id].append(message_id)
        return [children[message.parent_id] for message in path]

    def switch(self, owner_id: str, message_id: str) -> str:
        """Show the branch of a message, down to the newest leaf below it; returns that leaf's id."""
        with self._database.write() as session:
            message, conversation = find_message(session, owner_id, message_id)
            check_idle(session, conversation.id)
            leaf_id = session.scalars(_newest_first(_below(message.id))).first()
            assert leaf_id is not None, "a message is in its own branch"
            conversation.active_leaf_id = leaf_id
        return leaf_id

    def delete_branch(self, owner_id: str, message_id: str) -> None:
        """Delete a message with all that follows it, in all branches."""
        with self._database.write() as session:
            message, conversation = find_message(session, owner_id, message_id)
            check_idle(session, conversation.id)
            _leave(session, conversation, message, _below(message.id))
            # one statement, at whose end no parent may be missing
            session.execute(delete(Message).where(Message.id.in_(_below(message.id))))

    def delete_message(self, owner_id: str, message_id: str) -> None:
        """Delete one message; what follows it then follows the one before it.

        The prompts of later replies go too, since they say what it said; those replies cannot be replayed any more.
        Their ledgers stay whole, but for the deleted message.
        """
        with self._database.write() as session:
            message, conversation = find_message(session, owner_id, message_id)
            check_idle(session, conversation.id)
            _leave(session, conversation, message, select(Message.id).where(Message.id == message.id))
            _hand_down_ledger(session, message)
            later = update(Message).where(Message.id.in_(_below(message.id)))
            session.execute(later.values(prompt_shared=None, prompt_ids=None))
            session.execute(update(Message).where(Message.parent_id == message.id).values(parent_id=message.parent_id))
            session.execute(delete(Message).where(Message.id == message.id))

    def clear(self, owner_id: str, conversation_id: str) -> None:
        """Delete all messages of a conversation, in all branches."""
        with self._database.write() as session:
            conversation = find_conversation(session, owner_id, conversation_id)
            check_idle(session, conversation_id)
            conversation.active_leaf_id, conversation.updated_at = None, utc_now()
            session.flush()
            session.execute(delete(Message).where(Message.conversation_id == conversation_id))

    def fork(self, owner_id: str, message_id: str) -> Conversation:
        """Copy the path from the root to a message into a new conversation."""
        with self._database.write() as session:
            message, conversation = find_message(session, owner_id, message_id)
            check_idle(session, conversation.id)
            fork = Conversation(id=new_id(), **{name: getattr(conversation, name) for name in _INHERITED})
            session.add(fork)
            session.flush()
            copies: dict[str, str] = {}
            parent_id: str | None = None
            for seq, original in enumerate(session.scalars(path_to(conversation.id, message.id)).all(), start=1):
                copy = _copy(original, fork.id, parent_id, seq)
                copy.ledger = rename_in_ledger(original.ledger, copies)
                session.add(copy)
                session.flush()  # a parent first, then its child
                parent_id = copies[original.id] = copy.id
            fork.active_leaf_id = parent_id
            index_titles(session, Conversation.id == fork.id)
            index_messages(session, Message.conversation_id == fork.id)
        return fork

    def pin(self, owner_id: str, message_id: str, *, pinned: bool) -> None:
        """Have a message always be in the prompt, or no longer."""
        with self._database.write() as session:
            message, _ = find_message(session, owner_id, message_id)
            message.pinned = pinned


def _below(message_id: str) -> Select[str]:
    """Select the ids of a message and of all that follow it."""
    branch = select(Message.id).where(Message.id == message_id).cte(recursive=True)
    branch = branch.union_all(select(Message.id).join(branch, Message.parent_id == branch.c.id))
    return select(branch.c.id)


def _newest_first(ids: Select[str]) -> Select[str]:
    # the newest of a branch is a leaf, since a child is newer than its parent
    return select(Message.id).where(Message.id.in_(ids)).order_by(Message.seq.desc())


def _leave(session: Session, conversation: Conversation, message: Message, doomed: Select[str]) -> None:
    """Show another branch if the active leaf is among the messages that are about to be deleted."""
    conversation.updated_at = utc_now()
    is_doomed = select(Message.id).where(Message.id == conversation.active_leaf_id, Message.id.in_(doomed))
    if session.scalar(is_doomed) is not None:
        rest = select(Message.id).where(Message.conversation_id == conversation.id)
        if message.parent_id is not None:
            rest = _below(message.parent_id)
        conversation.active_leaf_id = session.scalars(_newest_first(rest).where(Message.id.not_in(doomed))).first()
    session.flush()


def _hand_down_ledger(session: Session, doomed: Message) -> None:
    """Have the nearest ledgers below a message take over what its own says, and none say anything of it."""
    below = select(Message).where(Message.id.in_(_below(doomed.id)), Message.id != doomed.id).order_by(Message.seq)
    orphaned = {doomed.id}  # it, and what is below it without a ledger between
    for message in session.scalars(below.options(load_only(Message.parent_id, Message.ledger))):
        is_orphan = message.parent_id in orphaned
        if message.ledger is not None:
            message.ledger = inherit_entries(message.ledger, doomed.ledger if is_orphan else None, doomed.id)
        elif is_orphan:
            orphaned.add(message.id)


def _copy(original: Message, conversation_id: str, parent_id: str | None, seq: int) -> Message:
    values = {name: getattr(original, name) for name in _COPIED}
    return Message(
        id=new_id(),
        conversation_id=conversation_id,
        parent_id=parent_id,
        seq=seq,
        origin="copied",
        origin_id=original.id,
        **values,
    )
