"""Errors of the API, all in one form: what went wrong, in one line, and which field is to blame."""

import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from http import HTTPStatus
from reprlib import Repr
from typing import Any, TypeAlias

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from chat.accounts import BadName, BadScopes, NoAccount, NotRemovable, OldPasswordNeeded, WrongPassword
from chat.api.schemas import ErrorModel
from chat.embed.safe_fetch import InvalidUrl
from chat.errors import (
    BlankMessage,
    ChatError,
    KeyTaken,
    MessageTooLong,
    ModelNotFound,
    ModelNotReady,
    NotPossible,
    ReplyFailed,
    ShuttingDown,
    UnknownFormat,
    UnknownPreset,
)
from chat.limits import LimitExceeded
from chat.passwords import BadPassword
from chat.sites import EmbedRefused
from chat.text import clean
from chat.visitors import NoVisitor, WrongHash
from model.errors import EngineBusy, EngineStopped, ModelError, PromptTooLong
from model.sampling_params import SamplingParams
from storage.accounts import KeyNotFound, LastAdmin, NameTaken, TooManyKeys, UserNotFound
from storage.backup import BackupExists
from storage.erasure import ErasureUnfinished
from storage.errors import (
    ConversationBusy,
    ConversationMoved,
    ConversationNotFound,
    MessageNotFound,
    OwnerGone,
    StorageError,
)
from storage.presets import PresetNotFound
from storage.sites import SiteNotFound, TooManySites

Kind: TypeAlias = tuple[int, str]  # the status, and the type

INVALID: Kind = (400, "invalid_request_error")
UNAUTHORIZED: Kind = (401, "authentication_error")
FORBIDDEN: Kind = (403, "permission_error")
NOT_FOUND: Kind = (404, "not_found_error")
CONFLICT: Kind = (409, "conflict_error")
LIMITED: Kind = (429, "rate_limit_error")
OVERLOADED: Kind = (503, "overloaded_error")
UNAVAILABLE: Kind = (503, "unavailable_error")
FAULT: Kind = (500, "server_error")

# An error is of the kind of the nearest class above it, and so is its field.
_KINDS: Mapping[type[Exception], Kind] = {
    ChatError: INVALID,
    LimitExceeded: LIMITED,
    NoVisitor: UNAUTHORIZED,
    EmbedRefused: FORBIDDEN,
    WrongPassword: FORBIDDEN,
    NoAccount: CONFLICT,
    NotRemovable: CONFLICT,
    OldPasswordNeeded: CONFLICT,
    WrongHash: FORBIDDEN,
    NotPossible: CONFLICT,
    ModelNotReady: UNAVAILABLE,
    ModelNotFound: (404, "invalid_request_error"),  # as OpenAI has it
    ReplyFailed: FAULT,
    ShuttingDown: UNAVAILABLE,
    ModelError: INVALID,
    EngineBusy: OVERLOADED,
    EngineStopped: UNAVAILABLE,
    StorageError: UNAVAILABLE,
    OwnerGone: UNAUTHORIZED,
    ConversationNotFound: NOT_FOUND,
    MessageNotFound: NOT_FOUND,
    PresetNotFound: NOT_FOUND,
    SiteNotFound: NOT_FOUND,
    UserNotFound: NOT_FOUND,
    KeyNotFound: NOT_FOUND,
    NameTaken: CONFLICT,
    LastAdmin: CONFLICT,
    TooManyKeys: CONFLICT,
    TooManySites: CONFLICT,
    ConversationBusy: CONFLICT,
    ConversationMoved: CONFLICT,
    ErasureUnfinished: CONFLICT,
    BackupExists: CONFLICT,
}
_PARAMS: Mapping[type[Exception], str] = {
    BlankMessage: "content",
    MessageTooLong: "content",
    PromptTooLong: "content",
    KeyTaken: "idempotency_key",
    ModelNotFound: "model",
    UnknownPreset: "preset",
    WrongHash: "user.hash",
    UnknownFormat: "format",
    BadName: "name",
    BadPassword: "password",
    OldPasswordNeeded: "password",
    BadScopes: "scopes",
    InvalidUrl: "url",
    NameTaken: "name",
    WrongPassword: "old",
}
_DESCRIPTIONS = {
    401: "Nobody is known by what the request bears.",
    403: "Not for who asks; the code says why.",
    404: "There is no such thing, or it is somebody else's.",
    409: "It cannot be done now, or not with this; the code says why.",
    429: "It is too much in a time: try again after Retry-After seconds.",
}
_TYPES = dict((UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, LIMITED, UNAVAILABLE, FAULT))  # by status
_RULES = {"model_attributes_type": "input should be an object"}  # where pydantic tells of Python's

PARAMS = tuple(field.name for field in fields(SamplingParams))

FAULT_TEXT = "Parley has a fault; its log says more."
MAX_TEXT = 500  # characters of an error: what it quotes may be long

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60  # characters


class InvalidField(Exception):
    """A field of a request breaks a rule that its schema does not know; the text is one line, fit for a user."""

    def __init__(self, param: str, text: str, code: str = "invalid_field") -> None:
        super().__init__(text)
        self.param = param
        self.code = code


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route as OpenAPI names them: those of all routes, and some with a status of their own."""
    return {
        400: {"model": ErrorModel, "description": "A field breaks a rule; param names it."},
        **{status: {"model": ErrorModel, "description": _DESCRIPTIONS[status]} for status in statuses},
        503: {"model": ErrorModel, "description": "Try again later, after Retry-After seconds if that is there."},
        "default": {"model": ErrorModel, "description": "Any other error."},
    }


def register_errors(app: FastAPI) -> None:
    """Have an application answer with errors of this form, whatever goes wrong in it."""
    for expected in (ChatError, ModelError, StorageError):
        app.add_exception_handler(expected, _expected)
    app.add_exception_handler(InvalidField, _invalid_field)
    app.add_exception_handler(ValueError, _invalid_param)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _fault)


async def _expected(request: Request, error: Exception) -> JSONResponse:
    headers = {}
    if isinstance(error, EngineBusy | LimitExceeded):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, ModelNotReady | EngineStopped | ShuttingDown):
        headers["Retry-After"] = "1"
    if isinstance(error, NoVisitor | OwnerGone):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": detail_of(error)}, _kind_of(error)[0], headers)


def detail_of(error: Exception) -> dict[str, str | None]:
    """Return what the answer to an expected error says; in mid-stream there is no status to go with it."""
    param = next((_PARAMS[above] for above in type(error).__mro__ if above in _PARAMS), None)
    code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
    return _detail(_kind_of(error), str(error), code, param)


def _kind_of(error: Exception) -> Kind:
    return next(_KINDS[above] for above in type(error).__mro__ if above in _KINDS)


async def _invalid_field(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, InvalidField), "it is registered for these"
    return _answer(INVALID, str(error), error.code, param=error.param)


async def _invalid_param(request: Request, error: Exception) -> JSONResponse:
    """Answer to a ValueError of sampling parameters, whose text begins with one's name; any other is a fault."""
    name = re.match(r"[\w.]*", str(error))[0]  # type: ignore[index]  # it matches everything
    if name.partition(".")[0] not in PARAMS:
        raise error
    return _answer(INVALID, str(error), "invalid_field", param=f"params.{name}")


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    """Answer to a request that does not suit its schema: with the first field that is wrong, its rule and its value."""
    assert isinstance(error, RequestValidationError), "it is registered for these"
    first = error.errors()[0]
    kind, place = first["type"], first["loc"]
    if kind == "json_invalid":
        return _answer(
            INVALID, f"The body must be JSON: {first['ctx']['error']} at character {place[1]}", "invalid_json"
        )
    param = ".".join(map(str, place[1:])) or str(place[0])
    rule = _RULES.get(kind, first["msg"].removeprefix("Value error, "))
    text = f"{param}: {rule[:1].lower()}{rule[1:]}"
    return _answer(
        INVALID, text if kind == "missing" else f"{text}, got {shortened(first['input'])}", "invalid_field", param=param
    )


async def _refused(request: Request, error: Exception) -> JSONResponse:
    """Answer to what no route takes: an unknown path, another method, a body that cannot be read."""
    assert isinstance(error, HTTPException), "it is registered for these"
    if rule := _json_rule(error.__cause__):
        return _answer(INVALID, f"The body must be JSON: {rule}", "invalid_json")
    kind = (error.status_code, _TYPES.get(error.status_code, INVALID[1]))
    text = f"{request.method} {request.url.path[:100]}: {error.detail}"
    return _answer(kind, text, HTTPStatus(error.status_code).name.lower(), headers=error.headers)


def _json_rule(cause: BaseException | None) -> str | None:
    """Return what is wrong with a body by what its reading raised; FastAPI itself only says that it was not read."""
    match cause:
        case UnicodeDecodeError():
            return f"expected {cause.encoding.upper()}, got {cause.object[cause.start]:#04x} at byte {cause.start}"
        case RecursionError():
            return "it is nested too deeply"
        case ValueError():  # the only other one: Python reads no longer ones
            return f"a whole number has more than {sys.get_int_max_str_digits():,} digits"
    return None


async def _fault(request: Request, error: Exception) -> JSONResponse:
    """Answer to what nobody expects. Starlette raises it again, so that the server logs it with its traceback."""
    return _answer(FAULT, FAULT_TEXT, "internal_server_error")


def refusal(
    status: int,
    text: str,
    code: str | None = None,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an answer of this form for middleware, which no handler of errors stands behind."""
    type_ = _TYPES.get(status, INVALID[1])
    return _answer((status, type_), text, code or HTTPStatus(status).name.lower(), param=param, headers=headers)


def shortened(value: object) -> str:
    """Return a value as an error quotes it, whatever it is and however large."""
    return _SHORT.repr(value)


def _answer(
    kind: Kind, text: str, code: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": _detail(kind, text, code, param)}, kind[0], headers)


def _detail(kind: Kind, text: str, code: str, param: str | None) -> dict[str, str | None]:
    # What is quoted may be anything, half a surrogate pair too
    return {"message": _cut(text), "type": kind[1], "param": param and _cut(param), "code": code}


def _cut(text: str) -> str:
    """Return a text as one line, which it may not be if it quotes a file's name."""
    return " ".join(clean(text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…").splitlines())
