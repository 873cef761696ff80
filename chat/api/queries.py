"""A field of a query that no route knows is refused, as one of a body is: it may be a name mistyped."""

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute

from chat.api.errors import InvalidField


async def refuse_unknown_queries(request: Request) -> None:
    """Raise InvalidField for the first field of a query that the description of its route does not name."""
    if not request.query_params:
        return
    app, route = request.app, request.scope["route"]
    assert isinstance(app, FastAPI), "only they have dependencies"
    assert isinstance(route, APIRoute), "only they have dependencies"
    operation = app.openapi()["paths"][route.path_format][request.method.lower()]
    known = [place["name"] for place in operation.get("parameters", []) if place["in"] == "query"]
    for name in request.query_params:
        if name not in known:
            expected = f"one of {', '.join(known)}" if known else "no query"
            raise InvalidField(name[:100], f"{name[:100]}: expected {expected}")
