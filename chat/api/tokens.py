"""The route on the tokens of a reply."""

from fastapi import APIRouter
from pydantic import Field

from chat.api.errors import documented
from chat.api.identity import Owner
from chat.api.schemas import ModelName, Response
from chat.token_view import view_tokens
from chat.workspace import Workspace


class AlternativeModel(Response):
    """A token that might stand at a place."""

    token_id: int
    text: str = Field(examples=[" blue"])
    probability: float


class ViewedTokenModel(AlternativeModel):
    """A token of a reply, and the likeliest ones at its place; the texts together are the reply's."""

    alternatives: list[AlternativeModel]


class TokenView(Response):
    """The tokens of a reply, as the model in use finds them after the reply's prompt."""

    model: ModelName
    tokens: list[ViewedTokenModel]


def token_routes(workspace: Workspace) -> APIRouter:
    """Return the routes on the tokens of a workspace's replies."""
    routes = APIRouter(tags=["messages"])

    @routes.get("/messages/{message_id}/tokens", summary="See how likely each was", responses=documented(404, 409))
    def read_tokens(owner: Owner, message_id: str) -> TokenView:
        """Measure the tokens of a reply by the model in use."""
        model = workspace.manager.model
        viewed = view_tokens(workspace.conversations, model, owner, message_id)
        return TokenView.model_validate({"model": model.name, "tokens": viewed}, from_attributes=True)

    return routes
