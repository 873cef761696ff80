"""What stands between the browser and every route, Gradio's included: what it refuses, and the headers of answers."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat.api.errors import FAULT_TEXT, refusal

SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
VISITORS = "/widget/api"
PROGRAMS = ("/api", "/v1", VISITORS, "/metrics")
"""What scripts call: there reading is the own page's alone too, for an export is work."""

MAX_BODY_BYTES = 8_000_000  # a message of a million characters fits, whatever the script
MAX_IMPORT_BYTES = 512_000_000  # a whole account at ChatGPT fits; the route keeps none of it in memory
MAX_STRANGER_BYTES = 64_000  # of those who need not log in
IMPORT = "/api/import"
LIMITS = {IMPORT: MAX_IMPORT_BYTES}  # of one path
LIMITS_BELOW = {"/login": MAX_STRANGER_BYTES, "/widget": MAX_STRANGER_BYTES}  # and of all below it

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
POWERS = (
    "accelerometer",
    "autoplay",
    "camera",
    "display-capture",
    "encrypted-media",
    "fullscreen",
    "geolocation",
    "gyroscope",
    "hid",
    "idle-detection",
    "magnetometer",
    "microphone",
    "midi",
    "payment",
    "picture-in-picture",
    "publickey-credentials-get",
    "screen-wake-lock",
    "serial",
    "usb",
    "xr-spatial-tracking",
)
"""What a page may use of a machine, and ours never do. Writing to the clipboard is none of these: it copies replies."""

HASHED = "/assets/"
"""Where Gradio's scripts and styles are: each under a name that has its hash, so that a browser may keep it for ever.
Everything else it has to ask for again, or it would mix the scripts of two versions."""

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(f"{power}=()" for power in POWERS),
    "Referrer-Policy": "same-origin",  # with none at all, old browsers would send our own forms as from nowhere
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer, unless its route says something else."""
HTTPS_HEADERS = {"Strict-Transport-Security": "max-age=31536000"}


class Guard:
    """Pure ASGI middleware: refuses requests that this server has no use for, and sets the security headers.

    Refused are those of other web sites that would change something, bodies that are too large or of unknown
    length, and uploads. What nobody expects is answered here too, so that this answer has the headers as well.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _add_headers(scope, message)
            await send(message)

        answer = _refuse(scope["method"], scope["path"], Headers(scope=scope)) or self._app
        try:
            await answer(scope, receive, send_with_headers)
        except Exception:
            if not started:
                await refusal(500, FAULT_TEXT)(scope, receive, send_with_headers)
            raise  # so that the server logs it with its traceback


def _add_headers(scope: Scope, message: Message) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in {**HEADERS, **(HTTPS_HEADERS if scope.get("scheme") == "https" else {})}.items():
        headers.setdefault(name, value)
    if _is_below(scope["path"], VISITORS):
        headers.setdefault("Cache-Control", "no-store")  # the next one at a shared computer may look for it
    is_hashed = scope["path"].startswith(HASHED)
    if message["status"] == 200 and (is_hashed or "cache-control" not in headers):
        headers["Cache-Control"] = "private, max-age=31536000, immutable" if is_hashed else "no-cache"


def _refuse(method: str, path: str, headers: Headers) -> Response | None:
    if (method not in SAFE_METHODS or _is_below(path, *PROGRAMS)) and not _is_own(headers):
        return refusal(403, "Requests from other web sites are refused.")
    # with both, the length is not that of the body
    length = "" if "transfer-encoding" in headers else headers.get("content-length", "0")
    if not length.isdecimal():
        # and nobody knows where the next request would begin
        return refusal(411, "A request must tell its Content-Length.", headers={"Connection": "close"})
    if int(length) > (limit := _limit(path)):
        return refusal(413, f"A request may have {limit:,} bytes, this one has {int(length):,}.")
    if headers.get("content-type", "").lower().startswith("multipart/"):
        return refusal(415, "Nothing can be uploaded here.")
    return None


def _limit(path: str) -> int:
    below = (limit for root, limit in LIMITS_BELOW.items() if _is_below(path, root))
    return LIMITS.get(path) or next(below, MAX_BODY_BYTES)


def _is_below(path: str, *roots: str) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def _is_own(headers: Headers) -> bool:
    """Tell whether a request comes from our own page, or from a program that is no browser.

    Browsers say so in Sec-Fetch-Site; old ones at least name the origin.
    """
    if site := headers.get("sec-fetch-site"):
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.split("://")[-1] == headers.get("host")
