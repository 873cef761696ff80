"""Content-Security-Policy: what the policies of a page let it load, as CSP Level 3 has it and browsers do it."""

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias
from urllib.parse import unquote

from httpx import URL

from chat.sites import DEFAULT_PORTS

Policy: TypeAlias = Mapping[str, Sequence[str]]  # directive -> its sources, as they are written

SCRIPTS = ("script-src-elem", "script-src", "default-src")
"""The directives that can say which files run as scripts: the first of these that a policy has does."""

FRAMES = ("frame-src", "child-src", "default-src")

STRICT_DYNAMIC = "'strict-dynamic'"

_UPGRADES = {("http", "https")}  # a source with the first scheme stands for the second too

_SCHEME_SOURCE = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_HOST_SOURCE = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?"
    r"(?P<host>\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?)"
    r"(?::(?P<port>[0-9]{1,5}|\*))?"
    r"(?P<path>/[^?#]*)?(?:[?#].*)?",
    re.IGNORECASE,
)


def parse_policies(header: str) -> list[Policy]:
    """Return the policies of a header's value, which commas separate; of a directive given twice the first counts."""
    policies: list[Policy] = []
    for text in header.split(","):
        policy: dict[str, Sequence[str]] = {}
        for directive in text.split(";"):
            name, *sources = directive.split() or [""]
            if name:
                policy.setdefault(name.lower(), sources)
        if policy:
            policies.append(policy)
    return policies


def governing(policy: Policy, names: Sequence[str]) -> str | None:
    """Return the first of these directives that the policy has: it alone decides."""
    return next((name for name in names if name in policy), None)


def allows_script(sources: Sequence[str], url: URL, page: URL, nonce: str | None) -> bool:
    """Tell whether a page may run the file of a script tag that stands in its HTML.

    Hashes let no file in that has no `integrity`, and 'unsafe-inline' lets in no files at all.
    """
    if nonce and any(_is_nonce(source, nonce) for source in sources):
        return True
    return not has_strict_dynamic(sources) and allows_url(sources, url, page)


def has_strict_dynamic(sources: Sequence[str]) -> bool:
    """Tell whether only a nonce or a hash counts, whatever hosts are named beside it."""
    return any(source.lower() == STRICT_DYNAMIC for source in sources)


def has_nonce(sources: Sequence[str]) -> bool:
    """Tell whether a nonce lets scripts in."""
    return any(source.lower().startswith("'nonce-") for source in sources)


def allows_url(sources: Sequence[str], url: URL, page: URL) -> bool:
    """Tell whether an address on the web is one of these sources of a page."""
    return any(_matches(source, url, page) for source in sources)


def _is_nonce(source: str, nonce: str) -> bool:
    return source[:7].lower() == "'nonce-" and source[7:] == f"{nonce}'"


def _matches(source: str, url: URL, page: URL) -> bool:
    if source == "*":
        return url.scheme in DEFAULT_PORTS
    if source.lower() == "'self'":
        return _is_self(url, page)
    if scheme := _SCHEME_SOURCE.fullmatch(source):
        return _scheme_matches(scheme[1], url)
    parts = _HOST_SOURCE.fullmatch(source)
    return (
        parts is not None
        and _scheme_matches(parts["scheme"] or page.scheme, url)
        and _host_matches(parts["host"], url)
        and _port_matches(parts["port"], url)
        and _path_matches(parts["path"] or "", url.path)
    )


def _is_self(url: URL, page: URL) -> bool:
    same_port = url.port == page.port  # None for both schemes' own
    return url.raw_host == page.raw_host and same_port and _scheme_matches(page.scheme, url)


def _scheme_matches(scheme: str, url: URL) -> bool:
    return scheme.lower() == url.scheme or (scheme.lower(), url.scheme) in _UPGRADES


def _host_matches(pattern: str, url: URL) -> bool:
    host, pattern = url.raw_host.decode("ascii"), pattern.lower()
    return host.endswith(pattern[1:]) if pattern.startswith("*") else host == pattern


def _port_matches(port: str | None, url: URL) -> bool:
    own = DEFAULT_PORTS.get(url.scheme)
    if port is None:
        return url.port is None
    return port == "*" or int(port) == (url.port or own) or (int(port) == 80 and (url.port or own) == 443)


def _path_matches(path: str, asked: str) -> bool:
    """A path that ends in a slash stands for all below it, any other for itself; none stands for all."""
    path = unquote(path)
    return asked.startswith(path) if path.endswith("/") or not path else asked == path
