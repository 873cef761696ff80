"""Who may come in: the middleware that finds out who asks, before any route does."""

import time
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat.accounts import KEY_PREFIX, Accounts
from chat.api.cookies import session_of, set_session
from chat.api.errors import refusal
from chat.identity import Identity
from chat.sessions import Session, Sessions
from storage.errors import StorageError
from storage.tables import Scope as KeyScope

READING = ("GET", "HEAD")
PUBLIC = ("/health", "/login", "/widget.js", "/manifest.json", "/pwa_icon")
PUBLIC_FOLDERS = ("/assets/", "/page/", "/pwa_icon/", "/widget/")
"""Files that are the same for all, and the widget, whose visitors have tokens of their own."""

PROXY_HEADERS = ("forwarded", "via", "x-real-ip")
PROXY_PREFIXES = ("x-forwarded-", "cf-")
PASSED_ON = (
    "This came through a proxy, and there are no accounts, so that anybody could read everything: "
    "add one first, with `parley user add NAME`."
)

LOOK_AGAIN_AFTER = 30  # seconds of an answer that goes on: who asked may have been locked out meanwhile
LATE = 1.0  # seconds after which a body that ends is a reason to look again, too
PRIVATE = ("text/html", "application/json")
"""What a browser must not keep of an account's, or its back button would show it after a logout."""


class Gate:
    """Pure ASGI middleware: puts the identity of who asks into the scope, and turns strangers away.

    What is not exactly public is private. A stranger's browser is sent to the login, a program gets an error.
    """

    def __init__(self, app: ASGIApp, accounts: Accounts, sessions: Sessions) -> None:
        self._app = app
        self._accounts = accounts
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http" or _is_public(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
        else:
            await self._let_in(scope, receive, send)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        bearer = _bearer(Headers(scope=scope))
        token = session_of(scope) if bearer is None else None
        session = self._sessions.read(token) if token else None
        try:
            identity = await run_in_threadpool(self._find, bearer, session)
        except StorageError as error:
            await refusal(503, str(error), "database_unusable")(scope, receive, send)
            return
        if identity is None:
            await _turn_away(scope, bearer)(scope, receive, send)
        elif identity.name is None and _is_passed_on(scope):
            await refusal(403, PASSED_ON, "account_needed")(scope, receive, send)
        elif missing := _missing_scope(identity, scope["method"], scope["path"]):
            await missing(scope, receive, send)
        else:
            scope["identity"] = identity

            async def is_still() -> bool:
                return await run_in_threadpool(self._is_still, identity, bearer, session)

            visit = _Visit(scope, receive, send, is_still, _turn_away(scope, bearer))
            await self._app(scope, visit.receive, self._fit(scope, visit.send, identity, session))

    def _find(self, bearer: str | None, session: Session | None) -> Identity | None:
        """Return who asks; in a thread, since it reads the database."""
        if bearer is not None and bearer.startswith(KEY_PREFIX):
            return self._accounts.of_key(bearer)
        return self._accounts.of_session(session)

    def _is_still(self, identity: Identity, bearer: str | None, session: Session | None) -> bool:
        try:
            return self._find(bearer, session) == identity
        except StorageError:  # whose text the next request gets
            return False

    def _fit(self, scope: Scope, send: Send, identity: Identity, session: Session | None) -> Send:
        """Return what sends an answer as it is fit for an account."""
        if session is None or identity.name is None:
            return send

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._mark(message, scope, session)
            await send(message)

        return send_marked

    def _mark(self, start: Message, scope: Scope, session: Session) -> None:
        headers = MutableHeaders(scope=start)
        if headers.get("content-type", "").startswith(PRIVATE):
            headers.setdefault("Cache-Control", "no-store")
        if session.is_old and "set-cookie" not in headers:
            set_session(headers, scope, self._sessions.renew(session))


class _Visit:
    """A request that has been let in, which ends early if whoever sent it is locked out meanwhile."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, is_still: Callable[[], Awaitable[bool]], turn_away: Response
    ) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._is_still = is_still  # who was let in
        self._turn_away = turn_away
        self._looked_at = time.monotonic()
        self._is_answered = self._is_over = False

    async def receive(self) -> Message:
        """Receive for the application, for which the end of a body that comes late from a stranger is a disconnect."""
        message = await self._receive()
        is_end = message["type"] == "http.request" and not message.get("more_body")
        if is_end and not self._is_answered and not await self._is_let_in(LATE):
            self._is_over = True
            await self._turn_away(self._scope, self._receive, self._send)
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """Send for the application, whose answer ends when its reader is locked out."""
        if message["type"] == "http.response.start":
            self._is_answered = True
        elif message.get("more_body") and not self._is_over and not await self._is_let_in(LOOK_AGAIN_AFTER):
            self._is_over = True
            await self._send({"type": "http.response.body"})  # the end, and for who writes it a disconnect
        if not self._is_over:
            await self._send(message)

    async def _is_let_in(self, seconds: float) -> bool:
        """Tell, if the last look is so long ago, whether the identity is still that of who asks."""
        if time.monotonic() <= self._looked_at + seconds:
            return True
        self._looked_at = time.monotonic()
        return await self._is_still()


def _is_public(method: str, path: str) -> bool:
    if path.startswith(PUBLIC_FOLDERS):
        return True
    return path in PUBLIC and (method in READING or (method, path) == ("POST", "/login"))


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _turn_away(scope: Scope, bearer: str | None) -> Response:
    challenge = {"WWW-Authenticate": "Bearer"}
    if bearer is not None:
        return refusal(401, "This API key is unknown, or has been revoked.", "invalid_api_key", headers=challenge)
    if not _is_navigation(scope):
        return refusal(401, "Log in, or send an API key as a bearer token.", "login_required", headers=challenge)
    query = scope["query_string"].decode("latin-1")
    asked = quote(scope["path"]) + (f"?{query}" if query else "")
    wanted = f"?next={quote(asked, safe='/')}" if scope["method"] == "GET" and asked != "/" else ""
    return RedirectResponse(f"/login{wanted}", 303)


def _is_navigation(scope: Scope) -> bool:
    """Tell whether a browser asks for a page to show; old ones do not say so, but what they take."""
    headers = Headers(scope=scope)
    mode = headers.get("sec-fetch-mode")
    return mode == "navigate" if mode else "text/html" in headers.get("accept", "")


def _is_passed_on(scope: Scope) -> bool:
    """Tell whether a request came through a proxy: then this machine's user may be anybody.

    Proxies that say nothing of themselves often speak HTTP/1.0, or name Parley otherwise than the browser did.
    """
    headers = Headers(scope=scope)
    is_told = any(name in PROXY_HEADERS or name.startswith(PROXY_PREFIXES) for name in headers)
    origin = headers.get("origin")
    is_renamed = origin is not None and origin.partition("://")[2] != headers.get("host")
    return is_told or is_renamed or scope.get("http_version") == "1.0"


def _missing_scope(identity: Identity, method: str, path: str) -> Response | None:
    """Return the refusal to a program whose key is for other things than this."""
    if identity.scopes is None:
        return None
    needed = _scope_for(method, path)
    if needed is None:
        return refusal(403, "An API key is for /api, /v1 and /metrics: this needs a login.", "login_required")
    if needed in identity.scopes or (needed == "read" and "write" in identity.scopes):
        return None
    return refusal(403, f"This needs an API key with the scope {needed}.", "insufficient_scope")


def _scope_for(method: str, path: str) -> KeyScope | None:
    if path.startswith("/v1/"):
        return "completions"
    if path.startswith("/api/"):
        return "read" if method in READING else "write"
    return "metrics" if path == "/metrics" else None
