"""Who may come in: the middleware that finds out who asks, before any route does."""

from starlette.types import ASGIApp, Receive, Scope, Send

from chat.data_folder import LOCAL_OWNER
from chat.identity import Identity


class Gate:
    """Pure ASGI middleware: puts the identity of who asks into the scope, and turns strangers away."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "http":
            scope["identity"] = Identity(LOCAL_OWNER, None, is_admin=True)
        await self._app(scope, receive, send)
