"""What the page's document begins with, so that a browser has it before Gradio's scripts run."""

from html import escape

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat.identity import Identity


class Head:
    """Pure ASGI middleware: puts a text at the beginning of the head of the page at `/`, who it is for, and more
    for administrators.

    Gradio's own parameter for this adds it only once its scripts have started, which is too late for what they are to
    find, and later than need be for the rest.
    """

    def __init__(self, app: ASGIApp, head: str, admin_head: str) -> None:
        self._app = app
        self._head = head.encode()
        self._admin_head = admin_head.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and change the answer if it is the page."""
        if scope["type"] != "http" or scope["path"] != "/":
            await self._app(scope, receive, send)
            return
        start: Message = {}
        body = b""
        identity: Identity = scope["identity"]
        account = f'<meta name="parley-account" content="{escape(identity.name or "")}">'
        head = self._head + account.encode() + (self._admin_head if identity.is_admin else b"")

        async def collect(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                body = body.replace(b"<head>", b"<head>" + head, 1)
                MutableHeaders(scope=start)["Content-Length"] = str(len(body))
                await send(start)
                await send({"type": "http.response.body", "body": body})

        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await self._app({**scope, "headers": plain}, receive, collect)
