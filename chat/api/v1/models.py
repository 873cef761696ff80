"""GET /v1/models: the model in use, as OpenAI's API lists models."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from chat.errors import ModelNotFound
from chat.loaded_model import LoadedModel
from chat.model_host import ModelHost


class ModelMeta(TypedDict):
    """What llama.cpp tells of a model beside."""

    n_vocab: int
    n_ctx: int


class Model(TypedDict):
    """The model in use."""

    id: Annotated[str, Field(examples=["smollm2-135m-instruct"])]
    object: Literal["model"]
    created: int
    owned_by: Literal["parley"]
    meta: ModelMeta


class Models(TypedDict):
    """All models that can be asked: one."""

    object: Literal["list"]
    data: list[Model]


def describe(model: LoadedModel, created: int) -> Model:
    """Return a model as the API tells of it; `created` is in seconds since 1970."""
    builder = model.context_builder
    meta: ModelMeta = {"n_vocab": builder.tokenizer.n_vocab, "n_ctx": builder.n_ctx}
    return {"id": model.name, "object": "model", "created": created, "owned_by": "parley", "meta": meta}


def named_model(host: ModelHost, name: str) -> LoadedModel:
    """Return the model in use, if that is its name; raises ModelNotFound or ModelNotReady."""
    model = host.model()
    if name != model.name:
        raise ModelNotFound(name, model.name)
    return model
