"""What stands between the browser and every route, Gradio's included."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
MAX_BODY_BYTES = 8_000_000  # a message of a million characters fits, whatever the script

# Gradio's pages are full of inline scripts and styles, so those have to be allowed; other hosts need not be.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Pure ASGI middleware: refuses requests that this server has no use for, and sets the security headers.

    Refused are those of other web sites that would change something, bodies that are too large or of unknown
    length, and uploads.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = None if scope["method"] in SAFE_METHODS else _refuse(Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send_with_headers)


def _refuse(headers: Headers) -> PlainTextResponse | None:
    if not _is_own(headers):
        return PlainTextResponse("Requests from other web sites are refused.", status_code=403)
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return PlainTextResponse("A request must tell its Content-Length.", status_code=411)
    if int(length) > MAX_BODY_BYTES:
        text = f"A request may have {MAX_BODY_BYTES:,} bytes, this one has {int(length):,}."
        return PlainTextResponse(text, status_code=413)
    if headers.get("content-type", "").startswith("multipart/"):
        return PlainTextResponse("Nothing can be uploaded here.", status_code=415)
    return None


def _is_own(headers: Headers) -> bool:
    """Tell whether a request comes from our own page, or from a program that is no browser.

    Browsers say so in Sec-Fetch-Site; old ones at least name the origin.
    """
    if site := headers.get("sec-fetch-site"):
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.split("://")[-1] == headers.get("host")
