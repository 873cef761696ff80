"""Server-sent events: how they are written, and how news come from other threads to the reader of a stream."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, suppress
from typing import Any, Literal, NamedTuple

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

News = Literal["model", "list", "conversation", "text", "close"]

PING = ": ping\n\n"
PING_SECONDS = 15.0
PROGRESS_SECONDS = 0.25  # a place in the line changes without a word
PAUSES: dict[News, float] = {"model": 0.25, "text": 0.05}  # after news, before more of the same kind
LIST_SECONDS = 0.25  # the list is told of later, and all changes until then together: the words of a reply come first


class Place(NamedTuple):
    """How far a reader has come: so many code points of a message."""

    message_id: str
    offset: int


class EventStream(StreamingResponse):
    """A response whose events end with it, at once, however it ends; it holds a slot as long as it lasts."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None], slot: AbstractContextManager[None]) -> None:
        # X-Accel-Buffering keeps a proxy from holding events back.
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._events = events
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, if there is a slot; raises what that raises, before anything is sent."""
        with self._slot:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send what there is until there is no more, or nobody who reads it."""
        async with aclosing(self._events):
            await super().stream_response(send)


def write_event(name: str, data: dict[str, Any], place: Place | None = None) -> str:
    """Return an event as it is sent; its JSON is ASCII, whatever the text is, and one line."""
    event_id = f"id: {place.message_id}:{place.offset}\n" if place else ""
    return f"event: {name}\n{event_id}data: {json.dumps(data)}\n\n"


def parse_place(event_id: str) -> Place | None:
    """Return the place that an event's id names, if it is one."""
    message_id, _, offset = event_id.rpartition(":")
    is_number = offset.isascii() and offset.isdecimal() and len(offset) < 10
    return Place(message_id, int(offset)) if message_id and is_number else None


class Wire:
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

    async def next(self, tell: Callable[[set[News]], Awaitable[list[str]]], is_impatient: Callable[[], bool]) -> str:
        """Wait until there is something to tell, and return it: a ping after a time, an empty text once Parley ends.

        An impatient reader has something to tell that no news announces.
        """
        ping_at = self._loop.time() + PING_SECONDS
        while True:
            patience = ping_at - self._loop.time()
            news = await self.take(min(patience, PROGRESS_SECONDS) if is_impatient() else patience)
            if "close" in news:
                return ""
            if events := await tell(news):
                return "".join(events)
            if self._loop.time() >= ping_at:
                return PING
