"""The replies of one conversation, told to a reader as they grow."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from fastapi.concurrency import run_in_threadpool

from chat.api.event_stream import Place, Wire, write_event
from chat.turn import Progress, Turn
from chat.workspace import Workspace
from storage.errors import ConversationNotFound, MessageNotFound
from storage.tables import Conversation, Message, utc_now

UNSEEN = timedelta(seconds=10)  # at most, from the time that a row is stamped with until others see it
UNSTORED = "The end of the reply could not be stored."


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads a conversation, and what they see of it."""

    owner_id: str  # on whose behalf
    conversation_id: str
    find: Callable[[], Conversation]  # raises ConversationNotFound
    # a reply that has ended, with the error that it has if its end could not be stored; raises MessageNotFound
    read: Callable[[str, str], dict[str, Any]]


class View(NamedTuple):
    """A conversation at one moment, None if it is gone, and what is to be told of its replies."""

    conversation: Conversation | None
    events: list[str]


@dataclass(slots=True)
class _Followed:
    """A reply that is being written, and what has been told of it."""

    turn: Turn
    message_id: str
    n_told: int  # code points
    progress: Progress | None = None


class _Look(NamedTuple):
    """A conversation at one moment. The last of its new replies is being written if there is a turn."""

    conversation: Conversation | None
    replies: list[Message]
    turn: Turn | None


class Replies:
    """What one reader has been told of a conversation's replies, and what is new of them."""

    def __init__(self, workspace: Workspace, reader: Reader, place: Place | None, wire: Wire) -> None:
        self._workspace = workspace
        self._reader = reader
        self._place = place
        self._wire = wire
        self._followed: _Followed | None = None
        self._since = utc_now() - UNSEEN  # replies that are younger are to be told
        self.hearing = ExitStack()  # of the turn that is followed

    @property
    def are_awaited(self) -> bool:
        """Whether a reply is to come that has no words yet."""
        return self._followed is not None and self._followed.progress is not None

    async def begin(self) -> View:
        """Tell what the reader misses from the place on that it has come to."""
        seen = await run_in_threadpool(self._find_place)
        look = await run_in_threadpool(self._look)
        events: list[str] = []
        # Those that have ended by now are no news.
        self._since = max([self._since, *(reply.created_at for reply in look.replies)])
        look = look._replace(replies=look.replies[-1:] if look.turn else [])
        if seen and look.conversation:
            message_id, n_told = seen
            if look.turn and look.replies[-1].id == message_id:
                self._follow(look.turn, message_id, n_told)
            else:
                events += await self._ending(message_id, n_told)
        return View(look.conversation, events + await self._catch_up(look))

    async def look(self) -> View:
        """Tell what is new since the last time."""
        look = await run_in_threadpool(self._look)
        return View(look.conversation, await self._catch_up(look))

    async def grow(self) -> list[str]:
        """Tell what is new of the reply that is followed."""
        followed = self._followed
        if followed is None:
            return []
        snapshot = followed.turn.snapshot()
        if snapshot.status != "streaming":
            return await self._finish(followed)
        events = []
        if snapshot.progress != followed.progress:
            followed.progress = snapshot.progress
            events.append(_progress(followed))
        if text := snapshot.text[followed.n_told :]:
            followed.n_told += len(text)
            events.append(_text(followed.message_id, text, followed.n_told))
        return events

    async def _catch_up(self, look: _Look) -> list[str]:
        events: list[str] = []
        if self._followed and self._followed.turn is not look.turn:
            events += await self._finish(self._followed)
        for reply in look.replies:
            self._since = max(self._since, reply.created_at)
            if look.turn is None or reply is not look.replies[-1]:
                events += await self._ending(reply.id, 0)
            elif self._followed is None:
                self._follow(look.turn, reply.id, 0)
        return events + await self.grow()

    def _follow(self, turn: Turn, message_id: str, n_told: int) -> None:
        self.hearing.enter_context(turn.listening(lambda: self._wire.note("text")))
        self._followed = _Followed(turn, message_id, n_told)

    async def _finish(self, followed: _Followed) -> list[str]:
        self.hearing.close()
        self._followed = None
        events = []
        if followed.progress:
            followed.progress = None
            events.append(_progress(followed))
        return events + await self._ending(followed.message_id, followed.n_told, followed.turn.snapshot().error)

    async def _ending(self, message_id: str, n_told: int, error: str | None = None) -> list[str]:
        """Tell the rest of a reply that has ended, and its end; nothing if it is gone."""
        try:
            message = await run_in_threadpool(self._reader.read, message_id, error or UNSTORED)
        except (MessageNotFound, ConversationNotFound):
            return []
        events, content = [], message["content"]
        if rest := content[n_told:]:
            events.append(_text(message_id, rest, len(content)))
        events.append(write_event("end", message, Place(message_id, len(content))))
        return events

    # In a thread of the pool, since they read the database.

    def _find_place(self) -> Place | None:
        """Return the place that the reader has come to, if it is one in a reply of the conversation.

        No more can be there than what is stored; it may be more than what the turn shows by now.
        """
        if self._place is None:
            return None
        message_id, offset = self._place
        try:
            message = self._workspace.conversations.message(self._reader.owner_id, message_id)
        except MessageNotFound:
            return None
        if message.conversation_id != self._reader.conversation_id or message.role != "assistant":
            return None
        self._since = max(self._since, message.created_at)
        return Place(message_id, offset if offset <= len(message.content) else 0)

    def _look(self) -> _Look:
        """Return the conversation that is watched, and its replies of which nothing has been told.

        Only a tip is ever being written, and as long as its turn runs it stays the tip: a tip that is read while a
        turn runs, before and after, is that turn's. One that says it is being written without a turn has begun just
        now, and has one the next time; or else its end could not be stored.
        """
        owner_id, conversation_id = self._reader.owner_id, self._reader.conversation_id
        forsaken: str | None = None
        while True:
            try:
                turn = self._workspace.manager.turn(owner_id, conversation_id)
                conversation = self._reader.find()
            except ConversationNotFound:
                return _Look(None, [], None)
            replies = self._read_replies(conversation)
            is_written = bool(replies) and replies[-1].status == "streaming"
            if is_written and turn is not None and turn.running:
                return _Look(conversation, replies, turn)
            if not is_written or (turn is None and replies[-1].id == forsaken):
                return _Look(conversation, [reply for reply in replies if reply.created_at > self._since], None)
            forsaken = replies[-1].id

    def _read_replies(self, conversation: Conversation) -> list[Message]:
        """Return the replies of the shown branch that are younger than those told, and the one being written."""
        replies: list[Message] = []
        message_id = conversation.active_leaf_id
        with suppress(MessageNotFound):  # it has been deleted meanwhile
            while message_id is not None:
                message = self._workspace.conversations.message(self._reader.owner_id, message_id)
                if message.created_at <= self._since and message.status != "streaming":
                    break
                if message.role == "assistant" and message.origin != "edited":
                    replies.insert(0, message)
                message_id = message.parent_id
        return replies


def _text(message_id: str, text: str, n_told: int) -> str:
    return write_event("text", {"message_id": message_id, "text": text}, Place(message_id, n_told))


def _progress(followed: _Followed) -> str:
    progress = followed.progress and asdict(followed.progress)
    return write_event("progress", {"message_id": followed.message_id, "progress": progress})
