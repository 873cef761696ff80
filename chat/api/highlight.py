"""POST /highlight: which parts of a code are keywords, texts, numbers and so on. It answers no markup."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, takewhile
from time import monotonic
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Generic, Keyword, Name, Number, Operator, String
from pygments.util import ClassNotFound

from chat.api.errors import documented
from chat.api.identity import Owner
from chat.api.schemas import Response
from chat.given import Given
from chat.text import MAX_CHARS

# Some languages have steps that take time by the square of what they look at, and nothing can end a step.
MAX_CODE = 20_000  # characters; longer code is plain, as is code with a longer line
MAX_LINE = 1_000
MAX_SECONDS = 1.0  # between the first step and the last; what comes after is plain

TokenClass = Literal["comment", "deleted", "heading", "inserted", "keyword", "name", "number", "operator", "string"]
Token = tuple[TokenClass | None, str]

_CLASSES: Mapping[object, TokenClass] = {  # the nearest of a type and its parents counts
    Comment: "comment",
    Comment.Preproc: "keyword",
    Generic.Deleted: "deleted",
    Generic.Heading: "heading",
    Generic.Inserted: "inserted",
    Generic.Subheading: "heading",
    Keyword: "keyword",
    Name.Attribute: "name",
    Name.Builtin: "name",
    Name.Class: "name",
    Name.Decorator: "name",
    Name.Exception: "name",
    Name.Function: "name",
    Name.Namespace: "name",
    Name.Tag: "name",
    Number: "number",
    Operator: "operator",
    Operator.Word: "keyword",
    String: "string",
}


class Code(Given):
    """A block of code, and in which language it claims to be."""

    code: str = Field(max_length=MAX_CHARS, examples=["print(1)"])
    language: str = Field(max_length=100, description="A name or short name.", examples=["python"])


class Part(Response):
    """A part of a code."""

    kind: TokenClass | None = Field(description="Null for plain text.")
    text: str = Field(examples=["print"])


class Parts(Response):
    """The parts of a code, which together are the code."""

    parts: list[Part]


def highlight_routes() -> APIRouter:
    """Return the route that tells the parts of a code."""
    routes = APIRouter(tags=["highlight"])

    @routes.post("/highlight", summary="Tell the parts of a code", responses=documented())
    def tell_parts(owner: Owner, body: Code) -> Parts:
        """Code in a language that is not known, longer code and longer lines than anybody reads are one plain part."""
        return Parts(parts=[Part(kind=kind, text=text) for kind, text in highlight(body.code, body.language)])

    return routes


def highlight(code: str, language: str) -> list[Token]:
    """Return the parts of a code, whose texts together are the code; one plain part if the language is not known."""
    lexer = _find_lexer(language)
    if lexer is None or len(code) > MAX_CODE or max(map(len, code.split("\n"))) > MAX_LINE:
        return _plain(code)
    lines = f"{code}\n"  # where the last line has no end, some languages look for it at each character
    # `get_tokens` would change the ends of lines; this one takes the text as it is.
    parts = ((_class_of(kind), text) for _, kind, text in lexer.get_tokens_unprocessed(lines) if text)
    tokens = list(_joined(_within(MAX_SECONDS, parts)))
    told = "".join(text for _, text in tokens)
    if not lines.startswith(told):
        return _plain(code)
    *tokens, (kind, last) = tokens + _plain(lines[len(told) :])
    return tokens if last == "\n" else [*tokens, (kind, last[:-1])]


def _plain(code: str) -> list[Token]:
    return [(None, code)] if code else []


def _find_lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language)
    except ClassNotFound:
        return None


def _class_of(kind: Any) -> TokenClass | None:
    return next((_CLASSES[parent] for parent in reversed(kind.split()) if parent in _CLASSES), None)


def _within(seconds: float, parts: Iterable[Token]) -> Iterator[Token]:
    """Yield parts until the time is over."""
    end = monotonic() + seconds
    return takewhile(lambda _: monotonic() < end, parts)


def _joined(parts: Iterable[Token]) -> Iterator[Token]:
    """Yield the parts with neighbours of one class joined."""
    for chosen, neighbours in groupby(parts, key=lambda part: part[0]):
        yield chosen, "".join(text for _, text in neighbours)
