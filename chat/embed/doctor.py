"""The embed doctor: why a web page does not show the chat of a site, and what to do about it."""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

import httpx

from chat.embed.case import Case, Finding, Level, Parley, is_address, is_local, quote
from chat.embed.page import EmbeddingPage, read_page
from chat.embed.policies import check_policies, is_upgraded
from chat.embed.probe import Ask, check_parley
from chat.embed.safe_fetch import AddressRefused, Fetched, NotFetched, origin_of
from chat.embed.target import check_target
from chat.sites import allows, parse_origin, snippet_of
from storage.tables import Site

LEVELS: Sequence[Level] = ("error", "warning", "ok")
MAX_FINDINGS = 50  # a page may have any number of policies

_HTML = ("", "text/html", "application/xhtml+xml")
_SCRIPT_TYPE = re.compile(r"((text|application)/(x-)?(java|ecma)script|text/(jscript|livescript|javascript1\.[0-5]))?")


def examine(
    url: httpx.URL, ask: Ask, sites: Sequence[Site], parley: Parley, *, wanted: Site | None = None
) -> list[Finding]:
    """Return all there is to say of a page and an owner's sites, the worst first; the last one is the verdict.

    Of the sites one may be wanted on the page. Parley is asked too, if it is not known by which names it answers.
    """
    try:
        fetched = ask(url)
    except NotFetched as error:
        return _conclude([_not_fetched(error)])
    kind = fetched.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _HTML:
        text = f"There is no HTML but {quote(kind)}."
        return _conclude([Finding("not_html", "error", text, "Name the address of a web page.")])
    case = _open_case(read_page(fetched), sites, parley, wanted)
    findings = [*_check_answer(fetched), *(finding for check in CHECKS for finding in check(case))]
    if parley.hosts is None and not any(finding.code == "no_web_address" for finding in findings):
        findings += check_parley(case, ask)
    return _conclude(findings)


def _open_case(page: EmbeddingPage, sites: Sequence[Site], parley: Parley, wanted: Site | None) -> Case:
    """Find out which site a page shows: that of its key or, if it has no tag, the wanted or only one."""
    tag = page.widget_tags[0] if page.widget_tags else None
    if tag:
        site = next((site for site in sites if site.key == tag.attributes.get("data-site")), None)
    else:
        site = wanted or (sites[0] if len(sites) == 1 else None)
    return Case(page, tag, site, wanted, parley)


def _not_fetched(error: NotFetched) -> Finding:
    fix = "Check the address, and whether the page can be opened from where Parley runs."
    if isinstance(error, AddressRefused):
        fix = "Ask an administrator to check it, or run `parley site check` where Parley runs: only they look there."
    return Finding("page_unreachable", "error", f"The page cannot be read: {quote(str(error))}.", fix)


def _conclude(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings with the worst first, and after them whether the chat would be shown."""
    ranked = sorted(dict.fromkeys(findings), key=lambda finding: LEVELS.index(finding.level))[:MAX_FINDINGS]
    errors = [finding.code for finding in ranked if finding.level == "error"]
    if errors == ["target_missing"]:
        text = "The widget would not load, unless a script of the page makes the place that data-target names."
        verdict = Finding("verdict", "error", text)
    elif errors:
        reasons = "one reason" if len(errors) == 1 else f"{len(errors)} reasons"
        verdict = Finding("verdict", "error", f"The widget would not load: {reasons} above.")
    elif any(finding.code in ("no_tag", "tag_waits") for finding in ranked):
        verdict = Finding("verdict", "warning", "The widget would load, if something else on the page starts it.")
    elif any(finding.code == "target_unchecked" for finding in ranked):
        verdict = Finding("verdict", "warning", "The widget would load, if data-target matches something.")
    else:
        verdict = Finding("verdict", "ok", "The widget would load.")
    return [*ranked, verdict]


def _check_answer(fetched: Fetched) -> Iterator[Finding]:
    where = quote(str(fetched.url))
    if fetched.status >= 400:
        fix = "Check a page that visitors see without a login; servers may also turn away what is no browser."
        yield Finding("page_status", "warning", f"{where} answers with the status {fetched.status}.", fix)
    else:
        how = "has been read: the page redirects there" if fetched.is_redirected else "has been read"
        yield Finding("page_read", "ok", f"{where} {how}.")
    if fetched.is_cut:
        yield Finding("page_cut", "warning", "The page is very long: only its first 2 MB were read.")


def _check_tag(case: Case) -> Iterator[Finding]:
    tag = case.tag
    if tag is None:
        yield _no_tag(case)
        return
    attributes, kind = tag.attributes, tag.attributes.get("type", "").strip().lower()
    tags = f"the script tag {quote(tag.text)}"
    if len(case.page.widget_tags) > 1:
        text = f"There are {len(case.page.widget_tags)} script tags of the widget: only the first counts."
        yield Finding("several_tags", "warning", text, "Leave one of them.")
    if kind == "module":
        yield Finding("tag_is_module", "error", f"The browser runs {tags} as a module.", 'Take out type="module".')
    elif not _SCRIPT_TYPE.fullmatch(kind):
        text = f"The browser does not run {tags} before another script, for example of a consent banner, has it do so."
        yield Finding("tag_waits", "warning", text, f'Without such a script, take out type="{quote(kind)}".')
    if "nomodule" in attributes:
        yield Finding("tag_for_old", "error", f"Only very old browsers run {tags}.", "Take out nomodule.")
    for name in ("integrity", "crossorigin"):
        if name in attributes:
            text = f"The browser may not run {tags}: with {name} it needs a permission (CORS) that Parley gives nobody."
            yield Finding("tag_needs_cors", "error", text, f"Take out {name}.")


def _no_tag(case: Case) -> Finding:
    line = f": {snippet_of(case.site, origin_of(case.parley.url))}" if case.site else "."
    fix = f"Put the site's line into the page{line}"
    if case.page.n_scripts == 0:
        return Finding("no_tag", "error", "The page has no script tag at all, so none that loads the widget.", fix)
    text = "The page's HTML has no script tag that loads the widget. One of its scripts, a tag manager, may put it in."
    return Finding("no_tag", "warning", text, f"If none does: {fix[0].lower()}{fix[1:]}")


def _check_address(case: Case) -> Iterator[Finding]:
    server, parley = case.server, case.parley
    where, host = origin_of(server), server.host
    if server.scheme not in ("http", "https"):
        yield Finding("no_web_address", "error", f"The script tag loads from {quote(where)}.", "Name an https address.")
        return
    if parley.hosts is not None and host not in (parley.url.host, "localhost", *parley.hosts) and not is_address(host):
        text = f"The script tag loads from {quote(where)}, which is no name that this Parley answers to."
        fix = f"Load it from {origin_of(parley.url)}, or add the name to the setting `hosts`."
        yield Finding("wrong_host", "error", text, fix)
    if is_local(server) and not is_local(case.page.url):
        text = f"{where} is the machine of whoever reads the page, and Parley is not there."
        yield Finding("parley_is_local", "error", text, "Load the widget from a name that leads visitors to Parley.")
    elif server.scheme == "http" and not is_local(server):
        yield from _check_plain(case)


def _check_plain(case: Case) -> Iterator[Finding]:
    where, fix = origin_of(case.server), "Put Parley behind https, and load the widget from there."
    if case.page.url.scheme == "https":
        text = f"The page is https and Parley at {where} is not: browsers load no script from there (mixed content)."
        yield Finding("mixed_content", "error", text, fix)
    elif any(is_upgraded(entry) for entry in case.page.policies):
        text = f"The page's policy has browsers ask {where} by https (upgrade-insecure-requests), where Parley is not."
        yield Finding("upgraded", "error", text, fix)
    else:
        text = f"Parley at {where} is not https: what visitors write can be read on its way."
        yield Finding("parley_not_https", "warning", text, fix)


def _check_site(case: Case) -> Iterator[Finding]:
    site, key = case.site, case.tag.attributes.get("data-site") if case.tag else None
    if case.tag and not key:
        text = f"The script tag {quote(case.tag.text)} has no data-site: it does not say whose chat to show."
        yield Finding("no_key", "error", text, "Copy the site's line anew.")
    elif key and site is None:
        text = f"No site here has the key {quote(key)}: it is mistyped, of another Parley, or was replaced."
        yield Finding("unknown_site", "error", text, "Copy the site's line anew.")
    if site is None:
        return
    if case.wanted and case.wanted.id != site.id:
        text = f"The page has the key of your site {site.name!r}, not that of {case.wanted.name!r}."
        yield Finding("other_site", "warning", text, f"To change that, set data-site to {case.wanted.key}.")
    if not site.enabled:
        fix = f"Switch it on, in the tab Sites or with: parley site set {site.id} --enabled"
        yield Finding("site_disabled", "error", f"The site {site.name!r} is switched off.", fix)
    else:
        yield Finding("site_on", "ok", f"The site is {site.name!r}, and it is on.")


def _check_origin(case: Case) -> Iterator[Finding]:
    site, origin = case.site, case.page.origin
    if site is None:
        return
    if allows(site, origin):
        yield Finding("origin_listed", "ok", f"The site lists the page's origin {quote(origin)}.")
        return
    text = f"The site {site.name!r} does not list the page's origin {quote(origin)}{_near_miss(origin, site)}."
    try:
        known = parse_origin(origin) == origin
    except ValueError:
        known = False
    flags = " ".join(f"--origin {shlex.quote(listed)}" for listed in (*site.origins, origin))
    fix = f"Add it to the pages that may show it, in the tab Sites or with: parley site set {site.id} {flags}"
    if not known:
        fix = "Give the page a name: sites list only names."
    yield Finding("origin_not_listed", "error", text, fix)


def _near_miss(origin: str, site: Site) -> str:
    """Return how the page's origin differs from one that is listed, if it does so in one thing."""
    scheme, host, port = _split(origin)
    for listed in site.origins:
        other_scheme, other_host, other_port = _split(listed)
        differences = [
            name
            for name, is_other in (
                ("scheme", scheme != other_scheme),
                ("host", host != other_host),
                ("port", scheme == other_scheme and port != other_port),
            )
            if is_other
        ]
        if differences == ["host"] and host.removeprefix("www.") == other_host.removeprefix("www."):
            return f", but {listed}: with and without www. are two origins"
        if differences == ["host"] and other_host == f"*.{host}":
            return f", but {listed}: the star stands for names below, not for none"
        if differences in (["scheme"], ["port"]):
            return f", but {listed}: the {differences[0]} counts"
    return "" if site.origins else ", nor any other"


def _split(origin: str) -> tuple[str, str, int | None]:
    parts = urlsplit(origin)
    return parts.scheme, parts.hostname or "", parts.port


CHECKS: Sequence[Callable[[Case], Iterator[Finding]]] = (
    _check_tag,
    _check_address,
    _check_site,
    _check_origin,
    check_policies,
    check_target,
)
