"""What a visitor hears of a conversation: replies as they grow, and that it is gone; nothing of what is the owner's."""

import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from fastapi.concurrency import run_in_threadpool

from chat.api.event_stream import PING, News, Place, Wire, write_event
from chat.api.replies import Reader, Replies, View
from chat.api.visitor_schemas import visitor_message
from chat.visitors import NoVisitor, VisitorSession
from chat.workspace import Workspace
from storage.errors import StorageError
from storage.tables import Conversation

CHECK_SECONDS = 2.0  # for which a visitor who was let in is not looked at again

logger = logging.getLogger(__name__)


class VisitorWatcher:
    """One visitor who watches one of their conversations."""

    def __init__(
        self,
        workspace: Workspace,
        session: VisitorSession,
        conversation_id: str,
        place: Place | None,
        check: Callable[[], object],
    ) -> None:
        """Watch as long as a function does not raise NoVisitor."""
        self._workspace = workspace
        self._session = session
        self._conversation_id = conversation_id
        self._check = check
        self._wire = Wire()
        reader = Reader(session.site.owner_id, conversation_id, self._find, self._read)
        self._replies = Replies(workspace, reader, place, self._wire)
        self._is_gone = False

    async def events(self) -> AsyncGenerator[str, None]:
        """Yield events, several together, until there is nothing more that the visitor may hear."""
        try:
            with self._workspace.bus.listening(self._session.site.owner_id, self._hear), self._replies.hearing:
                yield "".join(self._view_events(await self._replies.begin())) or PING
                checked_at = time.monotonic()
                while not self._is_gone and (events := await self._wire.next(self._tell, self._is_impatient)):
                    if time.monotonic() > checked_at + CHECK_SECONDS:
                        await run_in_threadpool(self._check)
                        checked_at = time.monotonic()
                    yield events
        except NoVisitor:  # the site has been switched off meanwhile, or has another key
            return
        except StorageError as error:  # readers come again
            logger.warning("a visitor's stream of events ended: %s", error)

    def _hear(self, conversation_id: str | None) -> None:
        if conversation_id is None:
            self._wire.note("close")
        elif conversation_id == self._conversation_id:
            self._wire.note("conversation")

    def _is_impatient(self) -> bool:
        return self._replies.are_awaited

    async def _tell(self, news: set[News]) -> list[str]:
        if "conversation" in news:
            return self._view_events(await self._replies.look())
        return await self._replies.grow()

    def _view_events(self, view: View) -> list[str]:
        self._is_gone = view.conversation is None
        gone = [write_event("gone", {"id": self._conversation_id})] if self._is_gone else []
        return [*view.events, *gone]

    def _find(self) -> Conversation:
        return self._workspace.sites.conversation(self._session.visitor, self._conversation_id)

    def _read(self, message_id: str, error: str) -> dict[str, Any]:
        """Return a reply without its error, which may tell of the model."""
        message = self._workspace.sites.message(self._session.visitor, message_id)
        opinions = self._workspace.feedback.of_visitor(self._session.visitor, [message])
        seen = visitor_message(message, opinions.get(message_id))
        if seen.status == "streaming":  # its end could not be stored
            seen = seen.model_copy(update={"status": "error"})
        return seen.model_dump(mode="json")
