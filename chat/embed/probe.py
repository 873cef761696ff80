"""Whether Parley gives a page's browser the widget, found out by asking as the browser would."""

from collections.abc import Callable, Iterator
from typing import TypeAlias
from urllib.parse import quote as url_quote

import httpx

from chat.embed.case import Case, Finding, quote
from chat.embed.csp import allows_url, parse_policies
from chat.embed.html_tags import read_tags
from chat.embed.page import LOADER
from chat.embed.safe_fetch import Fetched, NotFetched, origin_of

Ask: TypeAlias = Callable[[httpx.URL], Fetched]  # raises NotFetched

_HOSTS_FIX = "Check its name; if it is this Parley's, start Parley with it among the setting `hosts`."
_REASONS = {
    "unknown_site": "knows no site with this key",
    "site_disabled": "has this site switched off",
    "origin_not_listed": "does not find the page's origin listed",
}


def check_parley(case: Case, ask: Ask) -> Iterator[Finding]:
    """Ask Parley for the script and for the frame of the page's site."""
    where = origin_of(case.server)
    try:
        script = ask(case.server.join(LOADER))
        if not _is_script(script):
            text = f"{where}{LOADER} answers with the status {script.status} and {_kind(script)}, not with the script."
            yield Finding("no_script", "error", text, _HOSTS_FIX)
            return
        key = case.tag.attributes.get("data-site") if case.tag else case.site and case.site.key
        if key:
            origin = url_quote(case.page.origin, safe="")
            yield from _check_frame(case, ask(case.server.join(f"/widget/{url_quote(key, safe='')}?origin={origin}")))
    except NotFetched as error:
        fix = "Start Parley there, or load the widget from where it is."
        yield Finding("parley_unreachable", "error", f"Parley does not answer: {error}.", fix)


def _is_script(fetched: Fetched) -> bool:
    return fetched.status == 200 and "javascript" in _kind(fetched)


def _kind(fetched: Fetched) -> str:
    return quote(fetched.headers.get("content-type", "no type").partition(";")[0])


def _check_frame(case: Case, frame: Fetched) -> Iterator[Finding]:
    where = origin_of(case.server)
    if frame.status != 200:
        document = next((tag for tag in read_tags(frame.text) if tag.name == "html"), None)
        reason = document.attributes.get("data-reason", "") if document else ""
        text = f"Parley at {where} {_REASONS.get(reason, f'refuses the frame with the status {frame.status}')}."
        fix = "If that is not what the sites here say, it is another Parley, or has other data: see --url and --data."
        yield Finding("frame_refused", "error", text, fix)
    elif not _may_frame(case, frame):
        text = f"The frame from {where} may not stand in pages of {quote(case.page.origin)}."
        fix = "See whether a proxy before Parley changes its Content-Security-Policy, or adds one or X-Frame-Options."
        yield Finding("frame_forbidden", "error", text, fix)
    else:
        yield Finding("parley_answers", "ok", f"Parley at {where} gives the page the script and the frame.")


def _may_frame(case: Case, frame: Fetched) -> bool:
    """Tell whether all that is sent with a frame lets the page have it; X-Frame-Options counts if nothing else does."""
    policies = [
        policy for value in frame.headers.get_list("content-security-policy") for policy in parse_policies(value)
    ]
    ancestors = [policy["frame-ancestors"] for policy in policies if "frame-ancestors" in policy]
    if not ancestors:
        return "x-frame-options" not in frame.headers or case.page.origin == origin_of(case.server)
    return all(allows_url(sources, case.page.url.join("/"), case.server) for sources in ancestors)
