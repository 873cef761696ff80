"""How replies are read in the event loop, as long as somebody waits for them: no thread waits for anything."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from starlette.types import Receive

from chat.api.v1.schemas import FinishReason
from chat.bus import Bus
from chat.errors import ReplyFailed, ShuttingDown
from model.engine.generation import Generation, Piece
from model.errors import EngineBusy, EngineStopped

PING_SECONDS = 15.0
"""Proxies give up on a connection that is silent for long."""
PAUSE_SECONDS = 0.005
"""What comes within it is told together, or each token would cost the model's thread a change of threads."""


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class News:
    """What is new of one of the replies."""

    index: int
    pieces: list[Piece]
    finish_reason: FinishReason | None  # none while more is to come

    @property
    def text(self) -> str:
        """The text of the pieces."""
        return "".join(piece.text for piece in self.pieces)


class Reader:
    """Reads replies together, until they have ended or are interrupted."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        self._waiting = dict(enumerate(generations))
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._interruption: Exception | None = None
        for generation in generations:
            generation.listen(self._wake)

    def interrupt(self, error: Exception) -> None:
        """End the reading with an error; the first one counts. To be called in the event loop."""
        self._interruption = self._interruption or error
        self._arrived.set()

    async def news(self) -> AsyncIterator[list[News]]:
        """Yield what is new until all have ended, and an empty list where nothing is new for PING_SECONDS.

        Raises what it is interrupted with, and ReplyFailed, EngineBusy or EngineStopped when one of them fails.
        """
        while self._waiting:
            self._arrived.clear()
            if self._interruption:
                raise self._interruption
            if news := self._take():
                yield news
                await asyncio.sleep(PAUSE_SECONDS if self._waiting else 0)
            elif not await self._wait():
                yield []

    def _wake(self) -> None:
        if self._arrived.is_set():
            return  # what has come now is taken with what came before
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._arrived.set)

    def _take(self) -> list[News]:
        news = [News(index, *_take(generation)) for index, generation in self._waiting.items()]
        for told in news:
            if told.finish_reason:
                del self._waiting[told.index]
        return [told for told in news if told.pieces or told.finish_reason]

    async def _wait(self) -> bool:
        """Wait, and tell whether something has arrived."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PING_SECONDS):
                await self._arrived.wait()
        return self._arrived.is_set()


@asynccontextmanager
async def reading(generations: Sequence[Generation], receive: Receive, bus: Bus, owner: str) -> AsyncIterator[Reader]:
    """Read replies for a client; ClientGone or ShuttingDown interrupts it when that one goes, or Parley ends."""
    reader, loop = Reader(generations), asyncio.get_running_loop()

    def hear(conversation_id: str | None) -> None:
        if conversation_id is None:  # /v1 has no conversations; this is the end
            loop.call_soon_threadsafe(reader.interrupt, ShuttingDown())

    client = asyncio.ensure_future(_disconnect(receive))
    client.add_done_callback(lambda _: reader.interrupt(ClientGone()))
    try:
        with bus.listening(owner, hear):
            yield reader
    finally:
        client.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _take(generation: Generation) -> tuple[list[Piece], FinishReason | None]:
    pieces, ended = generation.take()
    match generation.finish_reason:
        case "stop" | "length" as reason if ended:
            return pieces, reason
        case "cancelled" if ended and not pieces:
            raise EngineStopped("The model was closed before the reply had ended: try again.")
        case "error" if ended and not pieces:
            raise _failure(generation)
    return pieces, None


def _failure(generation: Generation) -> Exception:
    usage, text = generation.usage, generation.error or ""
    if usage and usage.queue_ms == usage.duration_ms:  # its turn never came
        return EngineBusy(text)
    return ReplyFailed(text)
