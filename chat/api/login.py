"""/login and /logout: pages and forms that work without scripts."""

import re
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from chat.accounts import Accounts, WrongPassword
from chat.api.addresses import address_of
from chat.api.cookies import clear_session, session_of, set_session
from chat.api.errors import refusal
from chat.limits import LimitExceeded
from chat.sessions import Sessions
from chat.ui.login_texts import LANGUAGES

PAGE = Template((Path(__file__).parent.parent / "ui" / "login.html").read_text())
FORM = "application/x-www-form-urlencoded"
MAX_FIELDS = 10

_OWN_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""A path on this server: browsers take two slashes, and backslashes for slashes, as the beginning of a host's name, and
leave out tabs and line ends."""


def login_routes(accounts: Accounts, sessions: Sessions) -> APIRouter:
    """Return the routes by which a browser gets a session, and gives it back."""
    routes = APIRouter()

    @routes.get("/login")
    def show(request: Request, next: str = "/") -> Response:
        """Show the form; there is nothing to log in to without accounts."""
        return _page(request, next) if accounts.exist else RedirectResponse(own_path(next), 303)

    @routes.post("/login")
    async def log_in(request: Request) -> Response:
        """Begin a session, and show what was asked for before; or show the form again, which says what is wrong."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            return refusal(415, f"Content-Type: expected {FORM}")
        try:
            form = parse_qs((await request.body()).decode(errors="replace"), max_num_fields=MAX_FIELDS)
        except ValueError:
            return refusal(400, f"The form has more than {MAX_FIELDS} fields.")
        name, password, next = (form.get(field, [""])[0] for field in ("name", "password", "next"))
        try:
            user = await run_in_threadpool(accounts.log_in, name, password, address_of(request.scope))
        except WrongPassword:
            return _page(request, next, name, "wrong", status=401)
        except LimitExceeded as error:
            page = _page(request, next, name, "wait", status=429, seconds=error.retry_after)
            page.headers["Retry-After"] = str(error.retry_after)
            return page
        answer = RedirectResponse(own_path(next), 303)
        set_session(answer.headers, request.scope, sessions.issue(user.id, user.session_epoch))
        return answer

    @routes.post("/logout")
    def log_out(request: Request) -> Response:
        """End the session, and have the browser forget what it keeps of the page: drafts are the owner's too."""
        token = session_of(request.scope)
        if session := sessions.read(token) if token else None:
            accounts.end_session(session)
        answer = RedirectResponse("/login", 303, {"Clear-Site-Data": '"storage"'})
        clear_session(answer.headers, request.scope)
        return answer

    return routes


def own_path(path: str) -> str:
    """Return a path if it can lead to no other server, and that of the page otherwise."""
    return path if _OWN_PATH.fullmatch(path) else "/"


def _page(
    request: Request, next: str, name: str = "", problem: str = "", *, status: int = 200, seconds: int = 0
) -> HTMLResponse:
    language = preferred(request.headers.get("accept-language", ""))
    texts = LANGUAGES[language]
    alert = f'<p class="problem" id="problem" role="alert">{texts[problem]}</p>' if problem else ""
    filled = PAGE.substitute(
        texts,
        language=language,
        alert=Template(alert).substitute(seconds=seconds),
        described='aria-describedby="problem" aria-invalid="true"' if problem == "wrong" else "",
        name_focus="" if name else "autofocus",
        password_focus="autofocus" if name else "",
        name_value=escape(name[:200]),
        next=escape(own_path(next)),
    )
    return HTMLResponse(filled, status, {"Cache-Control": "no-store"})


def preferred(accepted: str) -> str:
    """Return the one of our languages that an Accept-Language header likes best, English if it names none of them."""
    best, best_weight = "en", 0.0
    for part in accepted.split(","):
        tag, _, rest = part.partition(";")
        language = tag.strip().lower().partition("-")[0]
        weight = re.fullmatch(r"\s*q=([01](?:\.\d{0,3})?)\s*", rest)
        likes = float(weight[1]) if weight else 1.0
        if language in LANGUAGES and likes > best_weight:
            best, best_weight = language, likes
    return best
