"""What of a web page decides whether it shows the chat: its script tags, its policies, its ids."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import httpx

from chat.embed.csp import Policy, parse_policies
from chat.embed.html_tags import Tag, read_tags
from chat.embed.safe_fetch import Fetched, origin_of

LOADER = "/widget.js"
MAX_TAGS = 20  # of the widget's; one is enough
MAX_POLICIES = 100

_IGNORED_IN_META = {"frame-ancestors", "report-uri", "sandbox"}
_IN_HEAD = re.compile("html|head|/?(base|link|meta|noscript|script|style|title)")  # any other tag ends the head


@dataclass(frozen=True, slots=True)
class WidgetTag:
    """A script tag that loads the widget."""

    attributes: Mapping[str, str]
    url: httpx.URL  # of the script
    text: str  # as the page has it
    at: int  # how many tags come before it


@dataclass(frozen=True, slots=True)
class PagePolicy:
    """A Content-Security-Policy of the page."""

    policy: Policy
    at: int = -1  # how many tags come before it; a header's is there first
    is_enforced: bool = True  # not only reported


@dataclass(slots=True)
class EmbeddingPage:
    """A page that is to show the chat."""

    url: httpx.URL
    policies: list[PagePolicy] = field(default_factory=list)
    widget_tags: list[WidgetTag] = field(default_factory=list)  # what scripts put in is not seen
    ids: set[str] = field(default_factory=set)
    n_scripts: int = 0

    @property
    def origin(self) -> str:
        """The page's origin, as browsers write it."""
        return origin_of(self.url)


def read_page(fetched: Fetched) -> EmbeddingPage:
    """Return what counts of a page that was fetched."""
    page = EmbeddingPage(fetched.url)
    for header, is_enforced in (("content-security-policy", True), ("content-security-policy-report-only", False)):
        for value in fetched.headers.get_list(header):
            page.policies += [PagePolicy(policy, is_enforced=is_enforced) for policy in parse_policies(value)]
    base, is_head = fetched.url, True
    for at, tag in enumerate(_live_tags(fetched.text)):
        is_head = is_head and _IN_HEAD.fullmatch(tag.name) is not None
        if "id" in tag.attributes:
            page.ids.add(tag.attributes["id"])
        if tag.name == "base" and base is fetched.url:
            base = _join(base, tag.attributes.get("href", "")) or base
        elif tag.name == "meta" and is_head:
            page.policies += _meta_policies(tag, at)
        elif tag.name == "script":
            page.n_scripts += 1
            if len(page.widget_tags) < MAX_TAGS:
                page.widget_tags += _widget_tags(tag, at, base)
    page.policies = page.policies[:MAX_POLICIES]
    with_key = [tag for tag in page.widget_tags if "data-site" in tag.attributes]
    page.widget_tags = with_key or page.widget_tags  # others have a widget.js too
    return page


def _live_tags(html: str) -> Iterator[Tag]:
    """Yield the tags of a page that are not in a template, which is there only to be copied."""
    depth = 0
    for tag in read_tags(html):
        if tag.name == "template":
            depth += 1
        elif tag.name == "/template":
            depth = max(depth - 1, 0)
        elif not depth:
            yield tag


def _meta_policies(tag: Tag, at: int) -> list[PagePolicy]:
    if tag.attributes.get("http-equiv", "").lower() != "content-security-policy":
        return []
    found = parse_policies(tag.attributes.get("content", ""))
    return [PagePolicy({name: policy[name] for name in policy.keys() - _IGNORED_IN_META}, at) for policy in found]


def _widget_tags(tag: Tag, at: int, base: httpx.URL) -> list[WidgetTag]:
    src = tag.attributes.get("src", "")
    if "widget.js" not in src:  # most pages have many scripts
        return []
    url = _join(base, src)
    return [WidgetTag(tag.attributes, url, tag.text, at)] if url and url.path.endswith(LOADER) else []


def _join(base: httpx.URL, text: str) -> httpx.URL | None:
    """Return the address that a browser reads in an attribute; None if it reads none."""
    try:
        url = base.join(text.strip().translate({9: None, 10: None, 13: None}))
        return url if text and url.raw_host else None
    except (httpx.InvalidURL, ValueError):
        return None
