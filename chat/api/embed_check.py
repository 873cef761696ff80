"""/sites/{site_id}/check: why a page does not show a site's chat."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Annotated

import httpx
from anyio import from_thread
from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from pydantic import Field

from chat.api.errors import documented
from chat.api.identity import current_identity
from chat.api.schemas import Response
from chat.embed.case import Level, Parley
from chat.embed.doctor import examine
from chat.embed.safe_fetch import MAX_URL, SECONDS, Fetched, fetch, parse_url
from chat.given import Given
from chat.identity import Identity
from chat.limits import LimitExceeded, RateLimiter
from chat.settings import Settings
from chat.workspace import Workspace

CHECKS_PER_MINUTE = 6  # of an owner, one at a time


class PageToCheck(Given):
    """A page that is to show the chat."""

    url: str = Field(max_length=MAX_URL, examples=["https://shop.example/contact"])


class FindingModel(Response):
    """One thing about the page."""

    code: str = Field(examples=["origin_not_listed"])
    level: Level = Field(description="`error` keeps the widget away, `warning` may.")
    text: str = Field(description="One line, fit for a user.", examples=["The page is there."])
    fix: str | None = Field(description="What to do, where something is to be done.")


class Findings(Response):
    """All there is to say of a page, the worst first; the last one, `verdict`, says whether the widget would load."""

    findings: list[FindingModel]


def check_routes(workspace: Workspace, settings: Settings) -> APIRouter:
    """Return the route that looks at a page."""
    routes = APIRouter(prefix="/sites", tags=["sites"])
    turns = _Turns()

    @routes.post(
        "/{site_id}/check", summary="Find out why a page does not show the chat", responses=documented(404, 429)
    )
    def check(
        request: HttpRequest,
        identity: Annotated[Identity, Depends(current_identity)],
        site_id: str,
        page: PageToCheck,
    ) -> Findings:
        """Parley fetches the page; one in its own network only for an administrator who is logged in."""
        sites = workspace.sites.of(identity.owner_id)
        wanted = workspace.sites.get(identity.owner_id, site_id)
        url = parse_url(page.url)
        parley = Parley(httpx.URL(str(request.base_url)), settings.hosts)
        is_trusted = identity.is_admin and identity.scopes is None

        def ask(url: httpx.URL) -> Fetched:
            return from_thread.run(partial(fetch, url, anywhere=is_trusted))

        with turns.take(identity.owner_id):
            return Findings.model_validate({"findings": examine(url, ask, sites, parley, wanted=wanted)})

    return routes


class _Turns:
    """Lets an owner have one page looked at at a time, and not too many in a minute."""

    def __init__(self) -> None:
        self._limiter, self._lock = RateLimiter(), Lock()
        self._busy: set[str] = set()

    @contextmanager
    def take(self, owner_id: str) -> Iterator[None]:
        """Hold an owner's turn; raises LimitExceeded."""
        with self._lock:
            if owner_id in self._busy:
                raise LimitExceeded("checks of pages: one at a time.", int(SECONDS))
            self._limiter.take("checks of pages", owner_id, CHECKS_PER_MINUTE, 60)
            self._busy.add(owner_id)
        try:
            yield
        finally:
            self._busy.discard(owner_id)
