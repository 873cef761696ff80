"""A client of some of the API's routes, behind the guard; a model they have not."""

from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from chat.api.errors import register_errors
from chat.api.guard import Guard
from chat.errors import ModelNotReady
from chat.loaded_model import LoadedModel


def no_model() -> LoadedModel:
    raise ModelNotReady


def client_of(routes: APIRouter) -> TestClient:
    """Return a client of an application that has the guard and these routes under /api."""
    app = FastAPI()
    app.add_middleware(Guard)
    register_errors(app)
    app.include_router(routes, prefix="/api")
    return TestClient(app, raise_server_exceptions=False)
