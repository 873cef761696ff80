"""Websites that show the chat: what their owners may say of them, and which pages may show it."""

import re
import secrets
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

import idna
from pydantic import AfterValidator, Field

from chat.errors import ChatError
from chat.given import CLEAN, ONE_LINE, Given
from chat.presets import find_preset, presets_of
from storage.presets import PresetStore
from storage.sites import SiteStore, SiteValues
from storage.tables import Site

MAX_SITES = 100  # of an owner
MAX_ORIGINS = 50  # of a site
MAX_SYSTEM_PROMPT = 100_000  # characters

DEFAULT_PORTS = {"http": 80, "https": 443}
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?:\*\.{_LABEL}\.)?{_LABEL}(?:\.{_LABEL})*")  # the star stands before two labels at least


class EmbedRefused(ChatError):
    """A page may not show the chat. The text says what its owner can do; visitors see nothing of it."""

    reason: str  # for the script on the page


class UnknownSite(EmbedRefused):
    """The key is no site's."""

    reason = "unknown_site"

    def __init__(self) -> None:
        super().__init__("There is no site with this key: copy the snippet anew.")


class SiteDisabled(EmbedRefused):
    """Its owner has switched the site off."""

    reason = "site_disabled"

    def __init__(self) -> None:
        super().__init__("This site is switched off.")


class OriginNotListed(EmbedRefused):
    """The site does not list the page's origin."""

    reason = "origin_not_listed"

    def __init__(self, origin: str) -> None:
        super().__init__(f"This site does not list the origin {origin!r}: add it to the site's origins.")


def parse_origin(text: str) -> str:
    """Return an origin as browsers write it: `https://shop.example`, or `https://*.shop.example` for all below.

    Raises ValueError for what is none, or no one's: `null`, a star alone, an address in brackets.
    """
    error = ValueError("expected scheme and host as in https://shop.example")
    try:
        parts = urlsplit(text)
        host, port = _host_of(parts), parts.port
    except ValueError:  # a port that is no number, a host that is no name
        raise error from None
    is_bare = parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in DEFAULT_PORTS or not is_bare or not _HOST.fullmatch(host):
        raise error
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, DEFAULT_PORTS[parts.scheme]) else "")


def _host_of(parts: SplitResult) -> str:
    """Return the host in lower case, a name beyond ASCII as the name system has it; raises ValueError."""
    star, host = "", parts.hostname or ""
    if host.startswith("*."):
        star, host = "*.", host[2:]
    # as browsers do it (UTS 46); with the codec of Python, of 2003, ß would be ss, which is somebody else's
    return star + idna.encode(host, uts46=True).decode()  # an IDNAError is a ValueError


def allows(site: Site, origin: str) -> bool:
    """Tell whether pages of an origin, spelled as browsers do, may show the chat of a site."""
    try:
        is_origin = parse_origin(origin) == origin
    except ValueError:
        return False
    return is_origin and any(_covers(listed, origin) for listed in site.origins)


def _covers(listed: str, origin: str) -> bool:
    scheme, star, rest = listed.partition("*")
    return origin == listed if not star else origin.startswith(scheme) and origin[len(scheme) :].endswith(rest)


Name = Annotated[str, Field(min_length=1, max_length=100, examples=["The shop"]), ONE_LINE]
Origin = Annotated[str, AfterValidator(parse_origin), Field(max_length=300, examples=["https://shop.example"])]
Messages = Annotated[int, Field(ge=1, le=100_000)]


class Appearance(Given):
    """How the chat looks; a page may say otherwise for itself."""

    title: Annotated[str, Field(max_length=60), ONE_LINE] = ""
    greeting: Annotated[str, Field(max_length=500), CLEAN] = ""  # stands there before the first message
    language: Literal["auto", "en", "de"] = "auto"  # the visitor's own
    theme: Literal["auto", "light", "dark"] = "auto"
    accent: Annotated[str, Field(pattern="^#[0-9A-Fa-f]{6}$")] = "#2563eb"
    position: Literal["right", "left"] = "right"


class SiteChange(Given):
    """What is to be of a site; what is left out stays, or is as shown in a new one."""

    name: Name = ""
    origins: Annotated[list[Origin], Field(max_length=MAX_ORIGINS)] = Field(
        [],
        description="Whose pages may show the chat, as `https://shop.example` or `https://*.shop.example`.",
    )
    enabled: bool = True
    appearance: Appearance = Appearance()
    preset: str | None = Field(None, description="Its system prompt counts if there is none here.")
    system_prompt: Annotated[str, Field(max_length=MAX_SYSTEM_PROMPT), CLEAN] | None = None
    messages_per_visitor: Messages = Field(20, description="In ten minutes.")
    messages_per_address: Messages = Field(60, description="In ten minutes, of all visitors that share an address.")
    tokens_per_day: Annotated[int, Field(ge=1, le=2**40)] | None = Field(
        200_000, description="Read and written, of all visitors together; null for as many as they like."
    )
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = Field(
        30, description="After its last change a conversation is erased, unless it is pinned; null keeps it."
    )


class NewSite(SiteChange):
    """A site to begin with."""

    name: Name = Field()


class Sites:
    """Keeps the sites of owners, whatever face they are managed from."""

    def __init__(self, store: SiteStore, presets: PresetStore) -> None:
        self._store = store
        self._presets = presets

    def create(self, owner_id: str, new: NewSite) -> Site:
        """Keep a new site; raises UnknownPreset, TooManySites."""
        return self._store.create(owner_id, new_key(), limit=MAX_SITES, **self._values(owner_id, new.model_dump()))

    def change(self, owner_id: str, site_id: str, change: SiteChange) -> Site:
        """Change what is named, of the appearance too; raises UnknownPreset, SiteNotFound."""
        return self._store.update(owner_id, site_id, **self._values(owner_id, change.model_dump(exclude_unset=True)))

    def rotate(self, owner_id: str, site_id: str) -> Site:
        """Give a site a new key, so that its old snippet and its visitors' tokens are worth nothing."""
        return self._store.rotate(owner_id, site_id, new_key())

    def _values(self, owner_id: str, values: dict[str, Any]) -> SiteValues:
        find_preset(values.get("preset"), presets_of(self._presets, owner_id))
        if "origins" in values:
            values["origins"] = list(dict.fromkeys(values["origins"]))
        return values  # type: ignore[return-value]  # a dump of what has exactly these fields


def new_key() -> str:
    """Return a key for a site: public, but not to be guessed."""
    return f"pub_{secrets.token_urlsafe(16)}"


def snippet_of(site: Site, url: str) -> str:
    """Return the line of HTML that shows the chat of a site on a page."""
    return f'<script src="{url}/widget.js" data-site="{site.key}" defer></script>'
