"""GET /events: what has changed, and the reply that is being written, as it grows: the stream that a page watches."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Header, Query

from chat.api.errors import documented
from chat.api.event_stream import EventStream, News, Place, Wire, parse_place, write_event
from chat.api.identity import Owner
from chat.api.messages import read_message
from chat.api.replies import Reader, Replies, View
from chat.api.schemas import ConversationModel
from chat.limits import OpenStreams
from chat.workspace import Workspace
from storage.errors import StorageError

MAX_STREAMS = 32  # of one owner, whose pages have one each

logger = logging.getLogger(__name__)


class ModelReader(Protocol):
    """Tells what the model host does, and when that has changed."""

    def get(self) -> dict[str, Any]:
        """Return the status at this moment, as JSON."""

    def listening(self, listener: Callable[[], None]) -> AbstractContextManager[None]:
        """Call a listener at each change of the status; it must not wait for anything."""


def event_routes(workspace: Workspace, model: ModelReader) -> APIRouter:
    """Return the route that tells of an owner's conversations and of the model."""
    routes = APIRouter(tags=["events"])
    streams = OpenStreams()

    @routes.get("/events", summary="Watch", status_code=200, response_class=EventStream, responses=documented(429))
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
        place = parse_place(last_event_id or "") or (Place(message_id, offset) if message_id else None)
        events = _Watcher(workspace, model, owner, conversation_id, place, list_version).events()
        return EventStream(events, streams.slot({owner: MAX_STREAMS}))

    return routes


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
        self._list_version = list_version
        self._wire = Wire()
        self._replies: Replies | None = None
        if conversation_id is not None:
            reader = _reader(workspace, owner_id, conversation_id)
            self._replies = Replies(workspace, reader, place, self._wire)

    async def events(self) -> AsyncGenerator[str, None]:
        """Yield events, several together, until the bus is closed or the database fails."""
        try:
            with (
                self._workspace.bus.listening(self._owner_id, self._hear),
                self._model.listening(lambda: self._wire.note("model")),
                self._replies.hearing if self._replies else nullcontext(),
            ):
                yield "".join(await self._begin())
                while events := await self._wire.next(self._tell, self._is_impatient):
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

    def _is_impatient(self) -> bool:
        return self._replies is not None and self._replies.are_awaited

    async def _begin(self) -> list[str]:
        events = [write_event("model", self._model.get()), *self._list_events()]
        return events + (self._view_events(await self._replies.begin()) if self._replies else [])

    async def _tell(self, news: set[News]) -> list[str]:
        events = []
        if "model" in news:
            events.append(write_event("model", self._model.get()))
        if "list" in news:
            events += self._list_events()
        if self._replies and "conversation" in news:
            events += self._view_events(await self._replies.look())
        elif self._replies:
            events += await self._replies.grow()
        return events

    def _list_events(self) -> list[str]:
        """Tell that the list has changed since the reader read it, if it has."""
        version = self._workspace.bus.version(self._owner_id)
        if version == self._list_version:
            return []
        self._list_version = version
        return [write_event("list", {"version": version})]

    def _view_events(self, view: View) -> list[str]:
        if view.conversation is None:
            return [write_event("gone", {"id": self._conversation_id}), *view.events]
        conversation = ConversationModel.model_validate(view.conversation)
        return [write_event("conversation", conversation.model_dump(mode="json")), *view.events]


def _reader(workspace: Workspace, owner_id: str, conversation_id: str) -> Reader:
    """Return an owner as a reader: of all that is stored."""

    def read(message_id: str, error: str) -> dict[str, Any]:
        message = read_message(workspace, owner_id, message_id)
        if message.status == "streaming":  # its end could not be stored
            message = message.model_copy(update={"status": "error", "finish_reason": "error", "error": error})
        return message.model_dump(mode="json")

    find = workspace.conversations.get
    return Reader(owner_id, conversation_id, lambda: find(owner_id, conversation_id), read)
