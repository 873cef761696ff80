"""The answer to a request for replies: whole, or as a stream of server-sent events."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from chat.api.errors import detail_of
from chat.api.v1.reading import ClientGone, News, Reader, reading
from chat.api.v1.replies import Replies
from chat.api.v1.schemas import GenerationRequest
from chat.bus import Bus
from chat.errors import ChatError
from model.errors import ModelError

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"


class Form(Protocol):
    """How replies are told: as chat completions, or as completions."""

    def whole(self, replies: Sequence[News]) -> Mapping[str, Any]:
        """Return the answer that has all of all replies."""

    def chunk(self, news: News) -> Mapping[str, Any]:
        """Return the chunk that tells what is new of a reply."""

    def usage_chunk(self) -> Mapping[str, Any]:
        """Return the chunk that tells the usage, once all have ended."""


class ReplyResponse(Response):
    """An answer for which replies are written as long as its client waits for it, and no longer."""

    media_type = "text/event-stream"

    def __init__(self, request: GenerationRequest, replies: Replies, form: Form, bus: Bus, owner: str) -> None:
        self.status_code, self.background = 200, None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})  # the latter is for proxies
        self._replies = replies
        self._form = form
        self._bus = bus
        self._owner = owner
        self._stream = bool(request.stream)
        self._include_usage = request.include_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, until the client goes or Parley ends."""
        try:
            async with reading(self._replies.generations, receive, self._bus, self._owner) as reader:
                if self._stream:
                    await self._send_events(reader, send)
                else:
                    await JSONResponse(await self._read_whole(reader))(scope, receive, send)
        except ClientGone:
            pass  # whatever is sent, nobody reads it
        finally:
            self._replies.cancel()

    async def _read_whole(self, reader: Reader) -> Mapping[str, Any]:
        replies = [News(index, [], None) for index in range(len(self._replies.generations))]
        async for news in reader.news():
            for told in news:
                pieces = replies[told.index].pieces
                pieces.extend(told.pieces)
                replies[told.index] = News(told.index, pieces, told.finish_reason)
        return self._form.whole(replies)

    async def _send_events(self, reader: Reader, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for news in reader.news():
                events = b"".join(_event(self._form.chunk(told)) for told in news)
                await send({"type": "http.response.body", "body": events or PING, "more_body": True})
            end = (_event(self._form.usage_chunk()) if self._include_usage else b"") + DONE
        except (ChatError, ModelError) as error:
            end = _event({"error": detail_of(error)})
        await send({"type": "http.response.body", "body": end})


def _event(data: Mapping[str, Any]) -> bytes:
    """Return an event as it is sent; its JSON is ASCII, whatever the text is, and one line."""
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
