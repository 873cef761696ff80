"""What the embed doctor looks at, and what it finds."""

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal, TypeAlias

import httpx

from chat.embed.page import EmbeddingPage, WidgetTag
from storage.tables import Site

Level: TypeAlias = Literal["error", "warning", "ok"]

MAX_QUOTE = 200  # characters of a page


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a page: whether it keeps the chat away, and what to do then."""

    code: str
    level: Level
    text: str
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Parley:
    """Where Parley is."""

    url: httpx.URL  # for pages that do not name it themselves
    hosts: Collection[str] | None  # names that it answers to; None: it is asked under the one that the page has


@dataclass(frozen=True, slots=True)
class Case:
    """A page, what it is to show, and from where."""

    page: EmbeddingPage
    tag: WidgetTag | None
    site: Site | None  # that the page has the key of or, if it has no tag, that is meant
    wanted: Site | None  # that was asked about
    parley: Parley

    @property
    def server(self) -> httpx.URL:
        """Where the page's browser looks for Parley."""
        return self.tag.url.join("/") if self.tag else self.parley.url.join("/")


def quote(text: str) -> str:
    """Return what a page says as a line that can be shown: not long, and without characters that are not seen."""
    seen = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in text[:1_000])
    line = " ".join(seen.split())
    return line if len(line) <= MAX_QUOTE else f"{line[: MAX_QUOTE - 1]}…"


def is_address(host: str) -> bool:
    """Tell whether a host is an IP address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_local(url: httpx.URL) -> bool:
    """Tell whether an address is the reader's own machine, which browsers trust without https."""
    host = url.host.removesuffix(".")
    return host == "localhost" or host.endswith(".localhost") or (is_address(host) and ip_address(host).is_loopback)
