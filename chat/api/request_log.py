"""What is told of each request: an id in its answer, a line in the log, and a number in the metrics."""

import json
import logging
import re
import time
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat.api.metrics import Metrics

ID_HEADER = "X-Request-Id"
GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
PLAIN = re.compile(r"[!#-<>-~]+")  # neither a space nor a quote nor an equals sign
MAX_PATH = 200  # characters

logger = logging.getLogger("parley.requests")


class RequestLog:
    """Pure ASGI middleware, in front of all others: logs each request at the end of its answer, in logfmt.

    Nothing of a body, a query, a key, a cookie or an address is in the log.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note what becomes of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, begun = _id_of(Headers(scope=scope)), time.perf_counter()
        status, n_bytes = 0, 0  # no status: the client has left before there was one

        async def send_noting(message: Message) -> None:
            nonlocal status, n_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[ID_HEADER] = request_id
            n_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        finally:
            self._metrics.count_request(scope["path"], status)
            ms = round(1000 * (time.perf_counter() - begun))
            _log(scope, id=request_id, status=status, ms=ms, bytes=n_bytes)


def log_unread(status: int, n_bytes: int) -> str:
    """Log the answer to a request that could not, or was not to be, read; return an id for it."""
    request_id = uuid4().hex
    _log({"method": "-", "path": "-"}, id=request_id, status=status, ms=0, bytes=n_bytes)
    return request_id


def _id_of(headers: Headers) -> str:
    given = headers.get(ID_HEADER, "")
    return given if GIVEN_ID.fullmatch(given) else uuid4().hex


def _log(scope: Scope, *, id: str, status: int, ms: int, bytes: int) -> None:
    level = logging.WARNING if status >= 500 else logging.INFO
    logger.log(level, "%s", _line(scope, id=id, status=status, ms=ms, bytes=bytes))


def _line(scope: Scope, **noted: object) -> str:
    identity = scope.get("identity")
    path = scope["path"] if len(scope["path"]) <= MAX_PATH else f"{scope['path'][:MAX_PATH]}…"
    fields = {"method": scope["method"], "path": path, **noted, "owner": identity.owner_id if identity else "-"}
    return " ".join(f"{name}={_quoted(str(value))}" for name, value in fields.items())


def _quoted(value: str) -> str:
    return value if PLAIN.fullmatch(value) else json.dumps(value)
