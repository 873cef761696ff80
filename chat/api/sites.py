"""/sites: the websites on which an owner lets visitors chat."""

from collections.abc import Mapping
from datetime import datetime

from fastapi import APIRouter
from pydantic import Field

from chat.api.errors import documented
from chat.api.identity import Owner, Person
from chat.api.schemas import Id, Response
from chat.sites import Appearance, NewSite, SiteChange, Sites
from chat.visitors import identity_secret
from chat.workspace import Workspace
from storage.tables import Site


class SiteModel(Response):
    """A site, as its owner sees it."""

    id: Id
    name: str = Field(examples=["The shop"])
    key: str = Field(description="Public: it stands in the snippet.", examples=["pub_Zk3f9aQ1xT0bLr7cVw2Hng"])
    origins: list[str]
    enabled: bool
    appearance: Appearance
    preset: str | None
    system_prompt: str | None
    messages_per_visitor: int
    messages_per_address: int
    tokens_per_day: int | None
    retention_days: int | None
    created_at: datetime
    updated_at: datetime
    n_conversations: int


class SiteList(Response):
    """An owner's sites, the oldest first."""

    sites: list[SiteModel]


class IdentitySecret(Response):
    """The key with which a site's own server vouches for the users it knows."""

    secret: str = Field(description="In hex digits.", examples=["5f2c…"])


def site_routes(workspace: Workspace, secret: bytes) -> APIRouter:
    """Return the routes that manage an owner's sites."""
    routes = APIRouter(prefix="/sites", tags=["sites"])
    store, sites = workspace.sites, Sites(workspace.sites, workspace.presets)
    here = documented(404)

    def model(site: Site, counts: Mapping[str, int] | None = None) -> SiteModel:
        counts = store.n_conversations(site.owner_id) if counts is None else counts
        return SiteModel.model_validate({**vars(site), "n_conversations": counts.get(site.id, 0)})

    @routes.get("", summary="List the sites", responses=documented())
    def list_sites(owner: Owner) -> SiteList:
        """The oldest first."""
        counts = store.n_conversations(owner)
        return SiteList(sites=[model(site, counts) for site in store.of(owner)])

    @routes.post("", status_code=201, summary="Add a site", responses=documented(409))
    def add(owner: Owner, new: NewSite) -> SiteModel:
        """An owner may have 100."""
        return model(sites.create(owner, new))

    @routes.get("/{site_id}", summary="Read a site", responses=here)
    def read(owner: Owner, site_id: str) -> SiteModel:
        """With how many conversations were begun on it and are still kept."""
        return model(store.get(owner, site_id))

    @routes.patch("/{site_id}", summary="Change a site", responses=here)
    def change(owner: Owner, site_id: str, change: SiteChange) -> SiteModel:
        """What is left out stays, of the appearance too. It counts at once."""
        return model(sites.change(owner, site_id, change))

    @routes.delete("/{site_id}", status_code=204, summary="Delete a site", responses=here)
    def delete(owner: Owner, site_id: str) -> None:
        """Its conversations stay in the owner's list."""
        store.delete(owner, site_id)

    @routes.post("/{site_id}/rotate", summary="Give a site a new key", responses=here)
    def rotate(owner: Owner, site_id: str) -> SiteModel:
        """The old snippet, the visitors' tokens and the identity secret are worth nothing then."""
        return model(sites.rotate(owner, site_id))

    @routes.get("/{site_id}/identity-secret", summary="Read the key for vouching", responses=documented(403, 404))
    def read_secret(person: Person, site_id: str) -> IdentitySecret:
        """HMAC-SHA256 of a user's id with this key, in hex digits, is what a page gives the widget for its user."""
        return IdentitySecret(secret=identity_secret(secret, store.get(person.owner_id, site_id)))

    return routes
