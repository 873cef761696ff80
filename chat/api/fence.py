"""What of this server is there at all: all of ours, and of Gradio's own routes only those that its page needs."""

from http import HTTPStatus

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat.api.errors import refusal
from chat.api.gate import READING

OURS = {
    "/health": ("GET",),
    "/metrics": ("GET",),
    "/login": ("GET", "POST"),
    "/logout": ("POST",),
    "/widget.js": READING,
}
"""With their methods: for any other one Starlette would go on to Gradio, which does not know the path."""
OUR_FOLDERS = ("/api/", "/v1/", "/widget/", "/page/")
PAGE = ("/", "/theme.css", "/favicon.ico", "/manifest.json", "/pwa_icon", "/robots.txt")
PAGE_FOLDERS = ("/assets/", "/static/", "/pwa_icon/")
"""Gradio's page asks for nothing else, since no form of it has a handler on the server."""


class Fence:
    """Pure ASGI middleware: Gradio's queue, functions, files, uploads and proxy answer nobody; they are not there.

    What Gradio refuses is told in the form of all errors.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer that there is no such thing."""
        path = scope.get("path", "")
        if scope["type"] != "http" or path.startswith(OUR_FOLDERS):
            await self._app(scope, receive, send)
            return
        is_page = path in PAGE or path.startswith(PAGE_FOLDERS)
        methods = READING if is_page else OURS.get(path)
        if methods is None:
            await _refusal(scope, 404)(scope, receive, send)
        elif scope["method"] not in methods:
            await _refusal(scope, 405, Allow=", ".join(methods))(scope, receive, send)
        elif is_page:
            await self._ask_gradio(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _ask_gradio(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_refused = False

        async def send_in_form(message: Message) -> None:
            nonlocal is_refused
            if message["type"] == "http.response.start" and message["status"] >= 400:
                is_refused = True
                await _refusal(scope, message["status"])(scope, receive, send)
            elif not is_refused:
                await send(message)

        await self._app(scope, receive, send_in_form)


def _refusal(scope: Scope, status: int, **headers: str) -> Response:
    text = f"{scope['method']} {scope['path'][:100]}: {HTTPStatus(status).phrase}"
    return refusal(status, text, headers=headers)
