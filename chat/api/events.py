"""GET /events: what has changed, and the reply that is being written, as it grows: the stream that a page watches."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, ExitStack, aclosing, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.types import Send

from chat.api.errors import documented
from chat.api.identity import Owner
from chat.api.messages import read_message
from chat.api.schemas import ConversationModel, MessageModel
from chat.turn import Progress, Turn
from chat.workspace import Workspace
from storage.errors import ConversationNotFound, MessageNotFound, StorageError
from storage.tables import Conversation, Message, utc_now

News = Literal["model", "list", "conversation", "text", "close"]

PING_SECONDS = 15.0
PROGRESS_SECONDS = 0.25  # a place in the line changes without a word
UNSEEN = timedelta(seconds=10)  # at most, from the time that a row is stamped with until others see it
PAUSES: dict[News, float] = {"model": 0.25, "text": 0.05}  # after news, before more of the same kind
LIST_SECONDS = 0.25  # the list is told of later, and all changes until then together: the words of a reply come first

UNSTORED = "The end of the reply could not be stored."

logger = logging.getLogger(__name__)


class ModelReader(Protocol):
    """Tells what the model host does, and when that has changed."""

    def get(self) -> dict[str, Any]:
        """Return the status at this moment, as JSON."""

    def listening(self, listener: Callable[[], None]) -> AbstractContextManager[None]:
        """Call a listener at each change of the status; it must not wait for anything."""


class Place(NamedTuple):
    """How far a reader has come: so many code points of a message."""

    message_id: str
    offset: int


class EventStream(StreamingResponse):
    """A response whose events end with it, at once, however it ends."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        # X-Accel-Buffering keeps a proxy from holding events back.
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._events = events

    async def stream_response(self, send: Send) -> None:
        """Send what there is until there is no more, or nobody who reads it."""
        async with aclosing(self._events):
            await super().stream_response(send)


def event_routes(workspace: Workspace, model: ModelReader) -> APIRouter:
    """Return the route that tells of an owner's conversations and of the model."""
    routes = APIRouter(tags=["events"])

    @routes.get("/events", summary="Watch", status_code=200, response_class=EventStream, responses=documented())
    async def watch(
        owner: Owner,
        conversation_id: Annotated[str | None, Query(description="The conversation that is shown, if one is.")] = None,
        message_id: Annotated[str | None, Query(description="A reply that is here in part.")] = None,
        offset: Annotated[int, Query(ge=0, description="How many code points of it are here.")] = 0,
        list_version: Annotated[str | None, Query(description="Of the list that is here.")] = None,
        last_event_id: Annotated[str | None, Header(description="Both of them, as an event's id.")] = None,
    ) -> EventStream:
        """Stream server-sent events, until the reader goes.

        `conversation`, `gone`: what the conversation is now, or that it is no more. `text`: what is to be put after
        the text of a reply, of which there then are as many code points as the event's id ends with. `progress`: what
        goes on before its first words, null once there are some. `end`: the whole reply, stored. `list`: some
        conversation has changed since the list had another version. `model`: what the model does now.
        """
        place = _parse(last_event_id or "") or (Place(message_id, offset) if message_id else None)
        return EventStream(_Watcher(workspace, model, owner, conversation_id, place, list_version).events())

    return routes


def _parse(event_id: str) -> Place | None:
    """Return the place that an event's id names, if it is one."""
    message_id, _, offset = event_id.rpartition(":")
    is_number = offset.isascii() and offset.isdecimal() and len(offset) < 10
    return Place(message_id, int(offset)) if message_id and is_number else None


class _Wire:
    """Carries news from any thread to the one reader in the event loop. What has not been read yet is not queued:
    the reader looks up the state of things when it hears of a change.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._news: set[News] = set()
        self._free_at: dict[News, float] = {}

    def note(self, *news: News) -> None:
        """Pass news on, from any thread, at once."""
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._add, news)

    def _add(self, news: tuple[News, ...]) -> None:
        if "list" in news and "list" not in self._news:
            self._free_at["list"] = self._loop.time() + LIST_SECONDS
        self._news.update(news)
        self._arrived.set()

    async def take(self, seconds: float) -> set[News]:
        """Wait so long at most for news whose time has come, and return them."""
        until = self._loop.time() + seconds
        while not (due := self._due()) and self._loop.time() < until:
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min([until, *(self._free_at.get(kind, 0.0) for kind in self._news)])):
                    await self._arrived.wait()
        self._news -= due
        self._free_at.update({kind: self._loop.time() + PAUSES[kind] for kind in due & PAUSES.keys()})
        return due

    def _due(self) -> set[News]:
        return {kind for kind in self._news if self._free_at.get(kind, 0.0) <= self._loop.time()}


@dataclass(slots=True)
class _Followed:
    """A reply that is being written, and what has been told of it."""

    turn: Turn
    message_id: str
    n_told: int  # code points
    progress: Progress | None = None


class _View(NamedTuple):
    """A conversation at one moment. The last of its new replies is being written if there is a turn."""

    conversation: Conversation | None
    replies: list[Message]
    turn: Turn | None


class _Watcher:
    """One reader: what they watch, and what they have been told."""

    def __init__(
        self,
        workspace: Workspace,
        model: ModelReader,
        owner_id: str,
        conversation_id: str | None,
        place: Place | None,
        list_version: str | None,
    ) -> None:
        self._workspace = workspace
        self._model = model
        self._owner_id = owner_id
        self._conversation_id = conversation_id
        self._place = place
        self._list_version = list_version
        self._wire = _Wire()
        self._followed: _Followed | None = None
        self._hearing = ExitStack()  # of the turn that is followed
        self._since = utc_now() - UNSEEN  # replies that are younger are to be told

    async def events(self) -> AsyncGenerator[str, None]:
        """Yield events, several together, until the bus is closed or the database fails."""
        try:
            with (
                self._workspace.bus.listening(self._owner_id, self._hear),
                self._model.listening(lambda: self._wire.note("model")),
                self._hearing,
            ):
                yield "".join(await self._begin())
                while events := await self._next():
                    yield events
        except StorageError as error:  # readers come again
            logger.warning("a stream of events ended: %s", error)

    def _hear(self, conversation_id: str | None) -> None:
        if conversation_id is None:
            self._wire.note("close")
        elif conversation_id == self._conversation_id:
            self._wire.note("list", "conversation")
        else:
            self._wire.note("list")

    async def _begin(self) -> list[str]:
        events = [_event("model", self._model.get()), *self._list_events()]
        if self._conversation_id is None:
            return events
        seen = await run_in_threadpool(self._find_place)
        view = await run_in_threadpool(self._look)
        events.append(self._conversation_event(view))
        # Those that have ended by now are no news.
        self._since = max([self._since, *(reply.created_at for reply in view.replies)])
        view = view._replace(replies=view.replies[-1:] if view.turn else [])
        if seen:
            message_id, n_told = seen
            if view.turn and view.replies[-1].id == message_id:
                self._follow(view.turn, message_id, n_told)
            else:
                events += await self._ending(message_id, n_told)
        return events + await self._catch_up(view)

    async def _next(self) -> str:
        """Wait until there is something to tell, and return it; an empty text once Parley ends."""
        time = asyncio.get_running_loop().time
        ping_at = time() + PING_SECONDS
        while True:
            patience = ping_at - time()
            if self._followed and self._followed.progress:
                patience = min(patience, PROGRESS_SECONDS)
            news = await self._wire.take(patience)
            if "close" in news:
                return ""
            if events := await self._tell(news):
                return "".join(events)
            if time() >= ping_at:
                return ": ping\n\n"

    async def _tell(self, news: set[News]) -> list[str]:
        events = []
        if "model" in news:
            events.append(_event("model", self._model.get()))
        if "list" in news:
            events += self._list_events()
        if "conversation" in news:
            view = await run_in_threadpool(self._look)
            events += [self._conversation_event(view), *await self._catch_up(view)]
        else:
            events += await self._grow()
        return events

    def _list_events(self) -> list[str]:
        """Tell that the list has changed since the reader read it, if it has."""
        version = self._workspace.bus.version(self._owner_id)
        if version == self._list_version:
            return []
        self._list_version = version
        return [_event("list", {"version": version})]

    def _conversation_event(self, view: _View) -> str:
        if view.conversation is None:
            return _event("gone", {"id": self._conversation_id})
        return _event("conversation", ConversationModel.model_validate(view.conversation).model_dump(mode="json"))

    async def _catch_up(self, view: _View) -> list[str]:
        """Tell what is new of a conversation's replies."""
        events: list[str] = []
        if self._followed and self._followed.turn is not view.turn:
            events += await self._finish(self._followed)
        for reply in view.replies:
            self._since = max(self._since, reply.created_at)
            if view.turn is None or reply is not view.replies[-1]:
                events += await self._ending(reply.id, 0)
            elif self._followed is None:
                self._follow(view.turn, reply.id, 0)
        return events + await self._grow()

    def _follow(self, turn: Turn, message_id: str, n_told: int) -> None:
        self._hearing.enter_context(turn.listening(lambda: self._wire.note("text")))
        self._followed = _Followed(turn, message_id, n_told)

    async def _grow(self) -> list[str]:
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

    async def _finish(self, followed: _Followed) -> list[str]:
        self._hearing.close()
        self._followed = None
        events = []
        if followed.progress:
            followed.progress = None
            events.append(_progress(followed))
        return events + await self._ending(followed.message_id, followed.n_told, followed.turn.snapshot().error)

    async def _ending(self, message_id: str, n_told: int, error: str | None = None) -> list[str]:
        """Tell the rest of a reply that has ended, and its end; nothing if it is gone."""
        message = await run_in_threadpool(self._read_ended, message_id, error)
        if message is None:
            return []
        events = []
        if rest := message.content[n_told:]:
            events.append(_text(message_id, rest, len(message.content)))
        events.append(_event("end", message.model_dump(mode="json"), Place(message_id, len(message.content))))
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
            message = self._workspace.conversations.message(self._owner_id, message_id)
        except MessageNotFound:
            return None
        if message.conversation_id != self._conversation_id or message.role != "assistant":
            return None
        self._since = max(self._since, message.created_at)
        return Place(message_id, offset if offset <= len(message.content) else 0)

    def _look(self) -> _View:
        """Return the conversation that is watched, and its replies of which nothing has been told.

        Only a tip is ever being written, and as long as its turn runs it stays the tip: a tip that is read while a
        turn runs, before and after, is that turn's. One that says it is being written without a turn has begun just
        now, and has one the next time; or else its end could not be stored.
        """
        store, manager = self._workspace.conversations, self._workspace.manager
        assert self._conversation_id is not None, "a conversation is watched"
        forsaken: str | None = None
        while True:
            try:
                turn = manager.turn(self._owner_id, self._conversation_id)
                conversation = store.get(self._owner_id, self._conversation_id)
            except ConversationNotFound:
                return _View(None, [], None)
            replies = self._read_replies(conversation)
            is_written = bool(replies) and replies[-1].status == "streaming"
            if is_written and turn is not None and turn.running:
                return _View(conversation, replies, turn)
            if not is_written or (turn is None and replies[-1].id == forsaken):
                return _View(conversation, [reply for reply in replies if reply.created_at > self._since], None)
            forsaken = replies[-1].id

    def _read_replies(self, conversation: Conversation) -> list[Message]:
        """Return the replies of the shown branch that are younger than those told, and the one being written."""
        replies: list[Message] = []
        message_id = conversation.active_leaf_id
        with suppress(MessageNotFound):  # it has been deleted meanwhile
            while message_id is not None:
                message = self._workspace.conversations.message(self._owner_id, message_id)
                if message.created_at <= self._since and message.status != "streaming":
                    break
                if message.role == "assistant" and message.origin != "edited":
                    replies.insert(0, message)
                message_id = message.parent_id
        return replies

    def _read_ended(self, message_id: str, error: str | None) -> MessageModel | None:
        try:
            message = read_message(self._workspace, self._owner_id, message_id)
        except (MessageNotFound, ConversationNotFound):
            return None
        if message.status == "streaming":  # its end could not be stored
            return message.model_copy(update={"status": "error", "finish_reason": "error", "error": error or UNSTORED})
        return message


def _text(message_id: str, text: str, n_told: int) -> str:
    return _event("text", {"message_id": message_id, "text": text}, Place(message_id, n_told))


def _progress(followed: _Followed) -> str:
    progress = followed.progress and asdict(followed.progress)
    return _event("progress", {"message_id": followed.message_id, "progress": progress})


def _event(name: str, data: dict[str, Any], place: Place | None = None) -> str:
    """Return an event as it is sent; its JSON is ASCII, whatever the text is, and one line."""
    event_id = f"id: {place.message_id}:{place.offset}\n" if place else ""
    return f"event: {name}\n{event_id}data: {json.dumps(data)}\n\n"
