"""Every query on conversations and messages.

Each method names the owner it acts for and sees only that owner's rows; each is one transaction.
Rows come back detached: plain values that no longer follow the database.
"""

from sqlalchemy import Select, Update, exists, func, select, update
from sqlalchemy.orm import Session

from storage.database import Database
from storage.errors import ConversationBusy, ConversationNotFound, MessageNotFound
from storage.tables import (
    Channel,
    Conversation,
    FinalStatus,
    FinishReason,
    JsonObject,
    Message,
    new_id,
    utc_now,
)


class ConversationStore:
    """The conversations of all owners; one object serves all threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        owner_id: str,
        *,
        channel: Channel,
        system_prompt: str | None = None,
        model: str | None = None,
    ) -> Conversation:
        """A new conversation without messages."""
        conversation = Conversation(
            owner_id=owner_id,
            channel=channel,
            system_prompt=system_prompt,
            model=model,
        )
        with self._database.write() as session:
            session.add(conversation)
        return conversation

    def get(self, owner_id: str, conversation_id: str) -> Conversation:
        """One conversation, without its messages."""
        with self._database.read() as session:
            return _conversation(session, owner_id, conversation_id)

    def recent(self, owner_id: str, *, limit: int = 100) -> list[Conversation]:
        """The conversations that are not archived, the last used first."""
        query = (
            select(Conversation)
            .where(Conversation.owner_id == owner_id, Conversation.archived.is_(False))
            .order_by(Conversation.updated_at.desc(), Conversation.id)
            .limit(limit)
        )
        with self._database.read() as session:
            return list(session.scalars(query))

    def path(self, owner_id: str, conversation_id: str, leaf_id: str | None = None) -> list[Message]:
        """The messages from the root down to `leaf_id`, by default to the active leaf."""
        with self._database.read() as session:
            conversation = _conversation(session, owner_id, conversation_id)
            if leaf_id is None:
                leaf_id = conversation.active_leaf_id
            if leaf_id is None:
                return []
            messages = list(session.scalars(_path(conversation_id, leaf_id)))
        if not messages:
            raise MessageNotFound(leaf_id)
        return messages

    def message(self, owner_id: str, message_id: str) -> Message:
        """One message."""
        query = (
            select(Message)
            .join(Conversation, Conversation.id == Message.conversation_id)
            .where(Message.id == message_id, Conversation.owner_id == owner_id)
        )
        with self._database.read() as session:
            message = session.scalar(query)
        if message is None:
            raise MessageNotFound(message_id)
        return message

    def begin_turn(
        self,
        owner_id: str,
        conversation_id: str,
        *,
        content: str,
        parent_id: str | None,
        model: str,
        params: JsonObject,
        seed: int | None,
        title: str | None = None,
    ) -> tuple[Message, Message]:
        """Store the user's message and an empty reply to it, which becomes the active leaf.

        Without a parent the message is a root. `title` counts only for a conversation that has none.
        """
        now = utc_now()
        with self._database.write() as session:
            conversation = _conversation(session, owner_id, conversation_id)
            if parent_id is not None:
                _check_parent(session, conversation_id, parent_id)
            seq = _next_seq(session, conversation_id)
            message = Message(
                id=new_id(),
                conversation_id=conversation_id,
                parent_id=parent_id,
                seq=seq,
                role="user",
                content=content,
                status="complete",
                created_at=now,
            )
            reply = Message(
                id=new_id(),
                conversation_id=conversation_id,
                parent_id=message.id,
                seq=seq + 1,
                role="assistant",
                content="",
                status="streaming",
                model=model,
                params=params,
                seed=seed,
                created_at=now,
            )
            session.add_all((message, reply))
            session.flush()  # the conversation can point at the reply only once it is there
            conversation.active_leaf_id = reply.id
            conversation.params = params
            conversation.updated_at = now
            if title is not None and conversation.title is None:
                conversation.title, conversation.title_source = title, "first_message"
        return message, reply

    def flush_reply(self, owner_id: str, message_id: str, *, content: str) -> None:
        """Keep the text so far; raises MessageNotFound for a reply that is no longer streaming."""
        self._update_streaming(owner_id, message_id, {"content": content})

    def finish_reply(
        self,
        owner_id: str,
        message_id: str,
        *,
        content: str,
        status: FinalStatus,
        finish_reason: FinishReason | None,
        token_ids: list[int] | None = None,
        ledger: JsonObject | None = None,
        prompt_tokens: int | None = None,
        cached_tokens: int | None = None,
        completion_tokens: int | None = None,
        ttft_ms: int | None = None,
        duration_ms: int | None = None,
    ) -> None:
        """Store the whole reply and how it ended; raises MessageNotFound for one that has ended before."""
        values: JsonObject = {
            "content": content,
            "status": status,
            "finish_reason": finish_reason,
            "token_ids": token_ids,
            "ledger": ledger,
            "prompt_tokens": prompt_tokens,
            "cached_tokens": cached_tokens,
            "completion_tokens": completion_tokens,
            "ttft_ms": ttft_ms,
            "duration_ms": duration_ms,
        }
        self._update_streaming(owner_id, message_id, values)

    def interrupt_streaming(self) -> int:
        """Mark every reply that is still streaming as interrupted, and count them.

        For the start, when nobody is writing: a crash spares no owner, so this alone acts for all of them.
        """
        stale = update(Message).where(Message.status == "streaming").values(status="interrupted")
        with self._database.write() as session:
            return _rowcount(session, stale)

    def _update_streaming(self, owner_id: str, message_id: str, values: JsonObject) -> None:
        own = exists().where(Conversation.id == Message.conversation_id, Conversation.owner_id == owner_id)
        reply = update(Message).where(Message.id == message_id, Message.status == "streaming", own)
        with self._database.write() as session:
            if not _rowcount(session, reply.values(values)):
                raise MessageNotFound(message_id)


def _conversation(session: Session, owner_id: str, conversation_id: str) -> Conversation:
    query = select(Conversation).where(Conversation.id == conversation_id, Conversation.owner_id == owner_id)
    conversation = session.scalar(query)
    if conversation is None:
        raise ConversationNotFound(conversation_id)
    return conversation


def _check_parent(session: Session, conversation_id: str, parent_id: str) -> None:
    query = select(Message.status).where(Message.id == parent_id, Message.conversation_id == conversation_id)
    status = session.scalar(query)
    if status is None:
        raise MessageNotFound(parent_id)
    if status == "streaming":
        raise ConversationBusy


def _next_seq(session: Session, conversation_id: str) -> int:
    newest = session.scalar(select(func.max(Message.seq)).where(Message.conversation_id == conversation_id))
    return (newest or 0) + 1


def _path(conversation_id: str, leaf_id: str) -> Select[Message]:
    leaf = select(Message.id, Message.parent_id).where(
        Message.id == leaf_id, Message.conversation_id == conversation_id
    )
    path = leaf.cte("path", recursive=True)
    parent = select(Message.id, Message.parent_id).join(path, Message.id == path.c.parent_id)
    path = path.union_all(parent)
    # A parent is always older than its children, so seq is the order from the root to the leaf.
    return select(Message).join(path, Message.id == path.c.id).order_by(Message.seq)


def _rowcount(session: Session, change: Update) -> int:
    return session.connection().execute(change).rowcount
