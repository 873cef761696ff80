"""A field of a query that no route knows is refused, as one of a body is: it may be a name mistyped."""

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel

from chat.api.errors import InvalidField


async def refuse_unknown_queries(request: Request) -> None:
    """Raise InvalidField for the first field of a query that its route does not know."""
    if not request.query_params:
        return
    route = request.scope["route"]
    assert isinstance(route, APIRoute), "only they have dependencies"
    known = list(query_fields(route.dependant))
    for name in request.query_params:
        if name not in known:
            expected = f"one of {', '.join(known)}" if known else "no query"
            raise InvalidField(name[:100], f"{name[:100]}: expected {expected}")


def query_fields(dependant: Dependant) -> Iterator[str]:
    """Yield the names of what a handler, or whatever it depends on, takes from a query."""
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (rule.alias or name for name, rule in kind.model_fields.items())
        else:
            yield field.alias
    for below in dependant.dependencies:
        yield from query_fields(below)
