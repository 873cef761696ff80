"""What stands between the browser and every route, Gradio's included."""

from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat.api.schemas import ErrorDetail, ErrorModel

SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
MAX_BODY_BYTES = 8_000_000  # a message of a million characters fits, whatever the script
MAX_IMPORT_BYTES = 512_000_000  # a whole account at ChatGPT fits; the route keeps none of it in memory
LIMITS = {"/api/import": MAX_IMPORT_BYTES}  # of other paths: MAX_BODY_BYTES

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

HASHED = "/assets/"
"""Where Gradio's scripts and styles are: each under a name that has its hash, so that a browser may keep it for ever.
Everything else it has to ask for again, or it would mix the scripts of two versions."""

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

        is_hashed = scope["path"].startswith(HASHED)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if message["status"] == 200 and (is_hashed or "cache-control" not in headers):
                    headers["Cache-Control"] = "private, max-age=31536000, immutable" if is_hashed else "no-cache"
            await send(message)

        refusal = None
        if scope["method"] not in SAFE_METHODS or scope["path"].startswith("/api/"):  # an export is work too
            refusal = _refuse(scope["path"], Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send_with_headers)


def _refuse(path: str, headers: Headers) -> Response | None:
    if not _is_own(headers):
        return _answer(path, 403, "Requests from other web sites are refused.")
    length = headers.get("content-length", "" if "transfer-encoding" in headers else "0")
    if not length.isdecimal():
        return _answer(path, 411, "A request must tell its Content-Length.")
    if int(length) > (limit := LIMITS.get(path, MAX_BODY_BYTES)):
        return _answer(path, 413, f"A request may have {limit:,} bytes, this one has {int(length):,}.")
    if headers.get("content-type", "").startswith("multipart/"):
        return _answer(path, 415, "Nothing can be uploaded here.")
    return None


def _answer(path: str, status: int, text: str) -> Response:
    if not path.startswith("/api/"):
        return PlainTextResponse(text, status)
    code = HTTPStatus(status).name.lower()
    error = ErrorDetail(message=text, type="invalid_request_error", param=None, code=code)
    return JSONResponse(ErrorModel(error=error).model_dump(), status)


def _is_own(headers: Headers) -> bool:
    """Tell whether a request comes from our own page, or from a program that is no browser.

    Browsers say so in Sec-Fetch-Site; old ones at least name the origin.
    """
    if site := headers.get("sec-fetch-site"):
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.split("://")[-1] == headers.get("host")
