"""Every query on conversations and messages.

Each method names the owner it acts for and sees only that owner's rows; each is one transaction.
Rows come back detached: plain values that no longer follow the database.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict, Unpack

from sqlalchemy import Select, Update, exists, select, update
from sqlalchemy.orm import Session, defer

from storage.database import Database
from storage.errors import MessageNotFound
from storage.lists import LAST_TRASHED, LAST_USED, Page, select_page
from storage.queries import (
    check_answerable,
    check_idle,
    check_owner,
    find_conversation,
    find_message,
    next_seq,
    path_to,
)
from storage.search import index_messages, index_titles
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


class ConversationChanges(TypedDict, total=False):
    """What a user may change of a conversation."""

    title: str
    pinned: bool
    archived: bool
    trashed: bool
    system_prompt: str | None
    recap: bool


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who chats on a site."""

    site_id: str
    id: str
    name: str | None = None  # as the site calls a visitor whom it has vouched for


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
        preset: str | None = None,
        recap: bool = False,
        model: str | None = None,
        visitor: Visitor | None = None,
    ) -> Conversation:
        """A new conversation without messages, of a visitor of one of the owner's sites if one is named.

        Raises OwnerGone, as `begin_turn` and `begin_reply` do.
        """
        conversation = Conversation(
            owner_id=owner_id,
            channel=channel,
            site_id=visitor and visitor.site_id,
            visitor_id=visitor and visitor.id,
            visitor_name=visitor and visitor.name,
            system_prompt=system_prompt,
            preset=preset,
            recap=recap,
            model=model,
        )
        with self._database.write() as session:
            check_owner(session, owner_id)
            session.add(conversation)
        return conversation

    def get(self, owner_id: str, conversation_id: str) -> Conversation:
        """One conversation, without its messages."""
        with self._database.read() as session:
            return find_conversation(session, owner_id, conversation_id)

    def update(self, owner_id: str, conversation_id: str, **changes: Unpack[ConversationChanges]) -> Conversation:
        """Change a conversation; a title is then the user's. What is in the trash already keeps its time there."""
        [conversation] = self.update_all(owner_id, [conversation_id], **changes)
        return conversation

    def update_all(
        self, owner_id: str, conversation_ids: Iterable[str], **changes: Unpack[ConversationChanges]
    ) -> list[Conversation]:
        """Change conversations as `update` does one, or none of them: raises ConversationNotFound."""
        with self._database.write() as session:
            ids = dict.fromkeys(conversation_ids)
            found = [find_conversation(session, owner_id, conversation_id) for conversation_id in ids]
            for conversation in found:
                _change(session, conversation, changes)
        return found

    def recent(self, owner_id: str, **page: Unpack[Page]) -> list[Conversation]:
        """The conversations that are neither archived nor in the trash, the pinned first, then the last used."""
        listed = (Conversation.archived.is_(False), Conversation.trashed_at.is_(None))
        return self._list(select_page(owner_id, listed, LAST_USED, **page))

    def archived(self, owner_id: str, **page: Unpack[Page]) -> list[Conversation]:
        """The archived conversations that are not in the trash, in the order of `recent`."""
        listed = (Conversation.archived.is_(True), Conversation.trashed_at.is_(None))
        return self._list(select_page(owner_id, listed, LAST_USED, **page))

    def trashed(self, owner_id: str, **page: Unpack[Page]) -> list[Conversation]:
        """The conversations in the trash, the last thrown away first."""
        return self._list(select_page(owner_id, (Conversation.trashed_at.is_not(None),), LAST_TRASHED, **page))

    def _list(self, query: Select[Conversation]) -> list[Conversation]:
        with self._database.read() as session:
            return list(session.scalars(query))

    def path(
        self, owner_id: str, conversation_id: str, leaf_id: str | None = None, *, ledgers: bool = False
    ) -> list[Message]:
        """The messages from the root down to `leaf_id`, by default to the active leaf; with their ledgers if asked for.

        Few need those, and whole ones, as earlier versions stored them, take far longer than the rest of a long path.
        """
        with self._database.read() as session:
            conversation = find_conversation(session, owner_id, conversation_id)
            if leaf_id is None:
                leaf_id = conversation.active_leaf_id
            if leaf_id is None:
                return []
            query = path_to(conversation_id, leaf_id)
            messages = list(session.scalars(query if ledgers else query.options(defer(Message.ledger))))
        if not messages:
            raise MessageNotFound(leaf_id)
        return messages

    def message(self, owner_id: str, message_id: str) -> Message:
        """One message."""
        with self._database.read() as session:
            return find_message(session, owner_id, message_id)[0]

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
        model_digest: str | None = None,
        title: str | None = None,
        edits_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[Message, Message]:
        """Store the user's message and an empty reply to it, which becomes the active leaf.

        Without a parent the message is a root. `title` counts only for a conversation that has none. `edits_id` is the
        message that this one is an edit of. An idempotency key is the message's own within its conversation.
        """
        with self._database.write() as session:
            check_owner(session, owner_id)
            conversation = find_conversation(session, owner_id, conversation_id)
            for message_id in filter(None, (parent_id, edits_id)):
                check_answerable(session, conversation_id, message_id)
            seq = next_seq(session, conversation_id)
            message = Message(
                id=new_id(),
                conversation_id=conversation_id,
                parent_id=parent_id,
                seq=seq,
                role="user",
                content=content,
                origin="edited" if edits_id else "written",
                origin_id=edits_id,
                status="complete",
                idempotency_key=idempotency_key,
            )
            reply = _new_reply(
                conversation, message.id, seq + 1, model=model, model_digest=model_digest, params=params, seed=seed
            )
            session.add(message)
            _add_leaf(session, conversation, reply)
            if title is not None and conversation.title is None:
                conversation.title, conversation.title_source = title, "first_message"
                index_titles(session, Conversation.id == conversation_id)
            index_messages(session, Message.id == message.id)
        return message, reply

    def begin_reply(
        self,
        owner_id: str,
        conversation_id: str,
        *,
        parent_id: str,
        model: str,
        params: JsonObject,
        seed: int | None,
        model_digest: str | None = None,
        continues_id: str | None = None,
        content: str = "",
    ) -> Message:
        """Store one more reply to a user's message, which becomes the active leaf.

        It begins with `content`, that of the reply that it continues, if it does.
        """
        with self._database.write() as session:
            check_owner(session, owner_id)
            conversation = find_conversation(session, owner_id, conversation_id)
            for message_id in filter(None, (parent_id, continues_id)):
                check_answerable(session, conversation_id, message_id)
            seq = next_seq(session, conversation_id)
            reply = _new_reply(
                conversation, parent_id, seq, model=model, model_digest=model_digest, params=params, seed=seed
            )
            reply.content = content
            if continues_id:
                reply.origin, reply.origin_id = "continued", continues_id
            _add_leaf(session, conversation, reply)
        return reply

    def add_edited_reply(self, owner_id: str, message_id: str, *, content: str) -> Message:
        """Store what a user made of a reply, beside it; it becomes the active leaf."""
        with self._database.write() as session:
            reply, conversation = find_message(session, owner_id, message_id)
            check_idle(session, conversation.id)
            edited = Message(
                id=new_id(),
                conversation_id=conversation.id,
                parent_id=reply.parent_id,
                seq=next_seq(session, conversation.id),
                role="assistant",
                content=content,
                origin="edited",
                origin_id=reply.id,
                status="complete",
                model=reply.model,
            )
            _add_leaf(session, conversation, edited)
            index_messages(session, Message.id == edited.id)
        return edited

    def flush_reply(self, owner_id: str, message_id: str, *, content: str) -> None:
        """Keep the text so far; raises MessageNotFound for a reply that is no longer streaming."""
        with self._database.write() as session:
            _update_streaming(session, owner_id, message_id, {"content": content})

    def finish_reply(
        self,
        owner_id: str,
        message_id: str,
        *,
        content: str,
        status: FinalStatus,
        finish_reason: FinishReason | None,
        error: str | None = None,
        token_ids: list[int] | None = None,
        ledger: JsonObject | None = None,
        prompt_tokens: int | None = None,
        cached_tokens: int | None = None,
        completion_tokens: int | None = None,
        ttft_ms: int | None = None,
        duration_ms: int | None = None,
        prompt_shared: int | None = None,
        prompt_ids: list[int] | None = None,
        title: str | None = None,
    ) -> None:
        """Store the whole reply and how it ended; raises MessageNotFound for one that has ended before.

        `title`, made of keywords, counts only for a conversation that has its first message's beginning for one.
        """
        values: JsonObject = {
            "content": content,
            "status": status,
            "finish_reason": finish_reason,
            "error": error,
            "token_ids": token_ids,
            "ledger": ledger,
            "prompt_tokens": prompt_tokens,
            "cached_tokens": cached_tokens,
            "completion_tokens": completion_tokens,
            "ttft_ms": ttft_ms,
            "duration_ms": duration_ms,
            "prompt_shared": prompt_shared,
            "prompt_ids": prompt_ids,
        }
        with self._database.write() as session:
            _update_streaming(session, owner_id, message_id, values)
            index_messages(session, Message.id == message_id)
            if title is not None:
                _retitle(session, find_message(session, owner_id, message_id)[1], title)

    def find_sent(
        self, owner_id: str, conversation_id: str, idempotency_key: str
    ) -> tuple[Message, Message | None] | None:
        """The message that came with a key, and the first reply to it that is still there, if the key has been used."""
        with self._database.read() as session:
            find_conversation(session, owner_id, conversation_id)
            keyed = (Message.conversation_id == conversation_id, Message.idempotency_key == idempotency_key)
            message = session.scalar(select(Message).where(*keyed))
            if message is None:
                return None
            replies = select(Message).where(Message.parent_id == message.id, Message.role == "assistant")
            return message, session.scalars(replies.order_by(Message.seq)).first()

    def interrupt_streaming(self) -> int:
        """Mark every reply that is still streaming as interrupted, and count them.

        For the start, when nobody is writing: a crash spares no owner, so this alone acts for all of them.
        """
        stale = update(Message).where(Message.status == "streaming").values(status="interrupted")
        with self._database.write() as session:
            index_messages(session, Message.status == "streaming")
            return _rowcount(session, stale)


def _change(session: Session, conversation: Conversation, changes: ConversationChanges) -> None:
    for name, value in changes.items():
        if name != "trashed":
            setattr(conversation, name, value)
    if "trashed" in changes:
        conversation.trashed_at = (conversation.trashed_at or utc_now()) if changes["trashed"] else None
    if "title" in changes:
        conversation.title_source = "user"
        index_titles(session, Conversation.id == conversation.id)


def _new_reply(
    conversation: Conversation,
    parent_id: str,
    seq: int,
    *,
    model: str,
    model_digest: str | None,
    params: JsonObject,
    seed: int | None,
) -> Message:
    conversation.params, conversation.model = params, model
    return Message(
        id=new_id(),
        conversation_id=conversation.id,
        parent_id=parent_id,
        seq=seq,
        role="assistant",
        content="",
        status="streaming",
        model=model,
        model_digest=model_digest,
        params=params,
        seed=seed,
    )


def _retitle(session: Session, conversation: Conversation, title: str) -> None:
    if conversation.title_source == "first_message":
        conversation.title, conversation.title_source = title, "keywords"
        session.flush()
        index_titles(session, Conversation.id == conversation.id)


def _add_leaf(session: Session, conversation: Conversation, leaf: Message) -> None:
    session.add(leaf)
    session.flush()  # the conversation can point at it only once it is there
    conversation.active_leaf_id = leaf.id
    conversation.updated_at = utc_now()


def _update_streaming(session: Session, owner_id: str, message_id: str, values: JsonObject) -> None:
    own = exists().where(Conversation.id == Message.conversation_id, Conversation.owner_id == owner_id)
    reply = update(Message).where(Message.id == message_id, Message.status == "streaming", own)
    if not _rowcount(session, reply.values(values)):
        raise MessageNotFound(message_id)


def _rowcount(session: Session, change: Update) -> int:
    return session.connection().execute(change).rowcount
