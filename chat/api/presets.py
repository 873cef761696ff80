"""/presets: ways to begin a conversation, an owner's own among them."""

import json
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import AfterValidator, Field

from chat.api.errors import documented
from chat.api.identity import Owner
from chat.api.schemas import Params, Response
from chat.given import Given
from chat.params import to_json
from chat.presets import Preset, new_preset, presets_of, save_preset
from chat.workspace import Workspace


def _check_json(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what Python's parser takes, and no other: half a surrogate pair, and numbers that are none."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise ValueError("expected JSON, which has no NaN, no Infinity and no half of a surrogate pair") from None
    return value


class PresetModel(Response):
    """A system prompt, and the sampling parameters that suit it; the others are the model's own."""

    name: str = Field(examples=["translate"])
    own: bool = Field(description="Whether it is the owner's, and not a built-in one.")
    system_prompt: str | None
    params: dict[str, Any] = Field(examples=[{"temperature": 0}])


class Presets(Response):
    """All that an owner can name, the built-in ones first."""

    presets: list[PresetModel]


class PresetChange(Given):
    """What a preset is to be."""

    system_prompt: str | None = None
    params: Annotated[Params, AfterValidator(_check_json)] = {}


def preset_routes(workspace: Workspace) -> APIRouter:
    """Return the routes that list, keep and delete an owner's presets."""
    routes = APIRouter(prefix="/presets", tags=["presets"])

    @routes.get("", summary="List the presets", responses=documented())
    def list_presets(owner: Owner) -> Presets:
        """An own preset stands in the place of the built-in one of its name."""
        return Presets(presets=[_model(preset) for preset in presets_of(workspace.presets, owner)])

    # A name may have slashes.
    @routes.put("/{name:path}", summary="Keep a preset of one's own", responses=documented())
    def save(owner: Owner, name: str, change: PresetChange) -> PresetModel:
        """It takes the place of the own preset that has its name."""
        preset = new_preset(name, change.system_prompt, change.params)
        save_preset(workspace.presets, owner, preset)
        return _model(preset)

    @routes.delete(
        "/{name:path}",
        status_code=204,
        summary="Delete a preset of one's own",
        responses=documented(404),
    )
    def delete(owner: Owner, name: str) -> None:
        """A built-in preset of its name is there again."""
        workspace.presets.delete(owner, name)

    return routes


def _model(preset: Preset) -> PresetModel:
    return PresetModel(
        name=preset.name, own=preset.is_own, system_prompt=preset.system_prompt, params=to_json(preset.params)
    )
