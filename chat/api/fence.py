"""What of this server is there at all: all of ours, and of Gradio's own routes only those that its page needs."""

from starlette.types import ASGIApp, Receive, Scope, Send

from chat.api.errors import refusal

OURS = ("/health", "/metrics", "/login", "/logout", "/widget.js")
OUR_FOLDERS = ("/api/", "/v1/", "/widget/", "/page/")
PAGE = ("/", "/theme.css", "/favicon.ico", "/manifest.json", "/pwa_icon", "/robots.txt")
PAGE_FOLDERS = ("/assets/", "/static/", "/pwa_icon/")
"""Gradio's page asks for nothing else, since no form of it has a handler on the server."""


class Fence:
    """Pure ASGI middleware: Gradio's queue, functions, files, uploads and proxy answer nobody; they are not there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer that there is no such thing."""
        path = scope.get("path", "")
        is_there = path in (*OURS, *PAGE) or path.startswith((*OUR_FOLDERS, *PAGE_FOLDERS))
        if scope["type"] != "http" or is_there:
            await self._app(scope, receive, send)
        else:
            await refusal(404, f"{scope['method']} {path[:100]}: Not Found")(scope, receive, send)
