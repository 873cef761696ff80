"""The cookie that a browser shows its session with."""

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import Scope

from chat.sessions import LIFE


def session_of(scope: Scope) -> str | None:
    """Return the token that a request's cookie has."""
    return HTTPConnection(scope).cookies.get(_name(scope))


def set_session(headers: MutableHeaders, scope: Scope, token: str) -> None:
    """Have a browser keep the token of a session."""
    headers.append("Set-Cookie", _cookie(scope, token, int(LIFE.total_seconds())))


def clear_session(headers: MutableHeaders, scope: Scope) -> None:
    """Have a browser forget its session."""
    headers.append("Set-Cookie", _cookie(scope, "", 0))


def _name(scope: Scope) -> str:
    """Return a name under which a browser takes the cookie from this host alone, where it can: over https."""
    return "__Host-parley_session" if _is_secure(scope) else "parley_session"


def _cookie(scope: Scope, token: str, seconds: int) -> str:
    secure = "; Secure" if _is_secure(scope) else ""
    return f"{_name(scope)}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"


def _is_secure(scope: Scope) -> bool:
    return bool(scope["scheme"] == "https")
