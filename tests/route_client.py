"""A client of some of the API's routes, behind the guard; a model they have not."""

from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from chat.api.errors import register_errors
from chat.api.guard import Guard
from chat.api.identity import current_identity
from chat.data_folder import LOCAL_OWNER
from chat.errors import ModelNotReady
from chat.identity import Identity
from chat.loaded_model import LoadedModel


def no_model() -> LoadedModel:
    raise ModelNotReady


def client_of(routes: APIRouter) -> TestClient:
    """Return a client of an application that has the guard and these routes under /api; it is the local owner's."""
    app = FastAPI()
    app.dependency_overrides[current_identity] = lambda: Identity(LOCAL_OWNER, None, is_admin=True)
    app.add_middleware(Guard)
    register_errors(app)
    app.include_router(routes, prefix="/api")
    return TestClient(app, raise_server_exceptions=False)
