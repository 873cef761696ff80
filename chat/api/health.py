"""GET /health: whether replies can be written."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from chat.model_host import ModelHost

RETRY_AFTER = {"Retry-After": "1"}


def health_routes(host: ModelHost) -> APIRouter:
    """Return the route for those who watch a server from outside."""
    routes = APIRouter()

    @routes.api_route("/health", methods=["GET", "HEAD"])
    async def read() -> JSONResponse:  # it waits for nothing, and asks neither the database nor a thread
        return health(host)

    return routes


def health(host: ModelHost) -> JSONResponse:
    """Tell whether replies can be written: `ok`, or with 503 `loading`, or `error` where waiting does not help."""
    status, model = host.look()
    if model and model.engine.healthy:
        return JSONResponse({"status": "ok"})
    is_loading = model is None and status.state == "loading"
    return JSONResponse({"status": "loading" if is_loading else "error"}, 503, RETRY_AFTER)
