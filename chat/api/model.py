"""The routes on the model in use: what it is, and which other one is to be loaded."""

import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from chat.api.errors import documented
from chat.api.identity import Admin, Owner
from chat.api.schemas import ModelName, Response
from chat.given import Given
from chat.model_host import ModelHost, State
from chat.params import to_json
from model.checkpoint.catalog import CATALOG, find


class ModelStatusModel(Response):
    """The model in use, and another one that is being loaded."""

    state: State
    name: str | None
    next: str | None = Field(description="The model that is being loaded.")
    label: str = Field(description="What is being done to it.", examples=["Loading smollm2-135m-instruct"])
    done: int
    total: int
    error: str | None = Field(description="Why the last one that was to be loaded is not here.")
    runner: str | None = Field(description="What computes: NativeRunner or TorchRunner.")
    n_ctx: int | None = Field(description="Tokens that a prompt and its reply may have together.")
    params: dict[str, Any] | None = Field(description="The model's own sampling parameters.")
    memory_bytes: int = Field(description="The most that the whole process has held so far.")


class ModelChoice(Given):
    """The model to load: a name of /api/models, or the path of a file or folder on the server."""

    name: str = Field(min_length=1, max_length=4096, examples=["smollm2-135m-instruct"])


class KnownModel(Response):
    """A model that is known by name."""

    name: ModelName
    parameters: int
    license: str = Field(examples=["Apache-2.0"])
    bytes: int
    here: bool = Field(description="Whether it has been downloaded.")


class KnownModels(Response):
    """All models that are known by name."""

    models: list[KnownModel]


class StatusReader:
    """Tells of a model host what pages show of it."""

    def __init__(self, host: ModelHost) -> None:
        self.listening = host.listening
        self._host = host

    def get(self) -> dict[str, Any]:
        """Return the status at this moment, as JSON."""
        return self.read().model_dump(mode="json")

    def read(self) -> ModelStatusModel:
        """Return the status at this moment."""
        status, model = self._host.look()
        return ModelStatusModel(
            **asdict(status),
            runner=type(model.engine.runner).__name__ if model else None,
            n_ctx=model.context_builder.n_ctx if model else None,
            params=to_json(asdict(model.sampling_params)) if model else None,
            memory_bytes=peak_memory(),
        )


def model_routes(host: ModelHost, folder: Path) -> APIRouter:
    """Return the routes on a host's model; downloaded ones are in a folder."""
    routes, reader = APIRouter(tags=["model"]), StatusReader(host)

    @routes.get("/model", summary="The model in use", responses=documented())
    def read_model(owner: Owner) -> ModelStatusModel:
        """What it is, what computes it, and what is being loaded behind it."""
        return reader.read()

    @routes.post("/model", status_code=202, summary="Load another model", responses=documented(403, 409))
    def load_model(admin: Admin, choice: ModelChoice) -> ModelStatusModel:
        """It is loaded behind the one in use, and takes its place once it is there."""
        host.load(choice.name)
        return reader.read()

    @routes.get("/models", summary="The models that are known by name", responses=documented())
    def list_models(owner: Owner) -> KnownModels:
        """Those of the catalog, and which of them are here."""
        known = [
            KnownModel(
                name=entry.name,
                parameters=entry.n_parameters,
                license=entry.license,
                bytes=entry.n_bytes,
                here=find(entry, folder) is not None,
            )
            for entry in CATALOG.values()
        ]
        return KnownModels(models=known)

    return routes


def peak_memory() -> int:
    """Return how many bytes this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
