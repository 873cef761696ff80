"""GET /search: what was said, found again."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from chat.api.errors import documented
from chat.api.filters import FilterFields
from chat.api.identity import Owner
from chat.api.schemas import Id, Response
from chat.workspace import Workspace
from storage.search import Filters
from storage.tables import Role

MAX_OFFSET = 100_000


class SearchQuery(FilterFields):
    """What is looked for, and where."""

    q: str = Field("", description='Words, a "phrase in quotes", or the beginning of a word with a *.')
    limit: int = Field(20, ge=1, le=100)
    offset: int = Field(0, ge=0, le=MAX_OFFSET)
    role: Role | None = None
    model: str | None = Field(None, description="Only replies of the model of this name.")
    pinned: bool | None = Field(None, description="Only in pinned conversations, or only in others.")
    archived: bool | None = Field(None, description="Only in archived conversations, or only in others.")


class HitModel(Response):
    """A message or, without a message's id and role, a title."""

    conversation_id: Id
    title: str | None
    message_id: str | None
    role: Role | None
    created_at: datetime
    snippet: list[tuple[str, bool]] = Field(description="Pieces of the text, and whether each is a match.")


class Hits(Response):
    """What was found: titles first, then messages, each the best first."""

    hits: list[HitModel]


def search_routes(workspace: Workspace) -> APIRouter:
    """Return the route that searches an owner's conversations."""
    routes = APIRouter(tags=["search"])

    @routes.get("/search", summary="Search titles and messages", responses=documented())
    def search(owner: Owner, query: Annotated[SearchQuery, Query()]) -> Hits:
        """Find what has all words of `q`, outside the trash. A text without words finds nothing."""
        filters = Filters(**query.model_dump(exclude={"q", "limit", "offset"}))
        found = workspace.search.search(owner, query.q, filters=filters, limit=query.limit, offset=query.offset)
        return Hits(hits=[HitModel.model_validate(hit) for hit in found])

    return routes
