"""uvicorn as Parley uses it: deadlines, a short end with all that has been written, and no life without an engine."""

import asyncio
import logging
import os
import socket
from collections.abc import Iterable
from threading import Timer
from types import FrameType

import uvicorn
from fastapi import FastAPI

from chat.api.deadlines import MAX_HEAD_BYTES, SECONDS, DeadlineProtocol
from chat.bus import Bus
from chat.model_host import ModelHost
from chat.settings import Settings

SHUTDOWN_SECONDS = 3  # for answers that are on their way
LAST_SECONDS = 5.0  # and for all else, which may be a thread in the midst of a large import
LAST_WORDS_SECONDS = 2.0
"""In which /health and the streams tell of a dead engine, before the process ends with it."""

logger = logging.getLogger(__name__)


class WebServer(uvicorn.Server):
    """Serves an application until a signal ends it in order; a second one ends it at once.

    A dead engine ends it too: nothing in this process can bring one back, but whoever started it can start it anew.
    """

    def __init__(self, app: FastAPI, settings: Settings, host: ModelHost, buses: Iterable[Bus]) -> None:
        """Serve with the models of a host; who listens to the buses is told when the server ends."""
        super().__init__(
            uvicorn.Config(
                app,
                http=DeadlineProtocol,
                ws="none",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=bool(settings.proxies),
                forwarded_allow_ips=list(settings.proxies),
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                timeout_keep_alive=int(SECONDS["idle"]),
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        self._host = host
        self._buses = tuple(buses)
        self._dead_since: float | None = None

    def serve_on(self, listener: socket.socket) -> bool:
        """Serve on an open socket to the end; tell whether it was in order."""
        self.run(sockets=[listener])
        return self._dead_since is None

    async def on_tick(self, counter: int) -> bool:
        """Tell, some times a second, whether it is time to end."""
        _, model = self._host.look()
        now = asyncio.get_running_loop().time()
        if model is None or model.engine.healthy:
            self._dead_since = None
        elif self._dead_since is None:
            self._dead_since = now
            logger.error("The engine has stopped after an error, so Parley ends: start it anew.")
        elif now > self._dead_since + LAST_WORDS_SECONDS:
            _end_soon(exit_code=1)
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End all that is open."""
        for bus in self._buses:
            bus.close()  # so that streams of events end by themselves
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, or end at once: what readers have seen is stored already."""
        if self.should_exit:
            os._exit(128 + sig)
        _end_soon(exit_code=0)
        super().handle_exit(sig, frame)


def _end_soon(exit_code: int) -> None:
    """Have the process end before long, for threads that are at work cannot be broken off."""

    def end() -> None:
        logger.warning("The end took longer than %g s, so it is cut short.", LAST_SECONDS)
        os._exit(exit_code)  # the next start marks replies that have not ended

    timer = Timer(LAST_SECONDS, end)
    timer.daemon = True  # an end before that does not wait for it
    timer.start()
