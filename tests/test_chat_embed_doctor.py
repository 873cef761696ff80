"""The embed doctor finds what keeps a widget from a page, as a real browser does, and says what to do."""

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import httpx
import pytest
from embedding_pages import FAR, KEY, Embedding, Web, meta, serve_pages, with_policy
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser

from chat.embed.case import MAX_QUOTE, Finding, Parley
from chat.embed.doctor import MAX_FINDINGS, examine
from chat.embed.safe_fetch import AddressRefused, Fetched, NotFetched, origin_of
from chat.embed.target import is_no_selector
from storage.tables import Site

OURS = "https://chat.example"
SHOP = "https://shop.example"
TAG = f'<script src="{OURS}/widget.js" data-site="{KEY}" defer></script>'
HTML = (("Content-Type", "text/html; charset=utf-8"),)

NOTHING_RUNS = meta("script-src 'none'")
NO_SELECTORS = ("##", "#", "#1", ".", "#a,", "> .a", "a >", "a b, , c", "#a.2", "a!", "<a>", "a:")
ODD_SELECTORS = ("#a\\#", "#\\31 2", ".-a", "[id='#1, '", ":is(#1, .2)", "/* # */ a", "#\xa0", "-a", "*", "a>b")

KEEPS_OUT = [
    Embedding(host=FAR, tls=True),
    with_policy("upgrade-insecure-requests", host=FAR),
    with_policy("sandbox"),
    with_policy("sandbox allow-scripts"),
    with_policy("script-src 'none'"),
    with_policy("script-src 'nonce-abc'", tag='nonce="def"'),
    with_policy("frame-src 'self'"),
    Embedding(before=meta("script-src 'self'")),
    Embedding(after=meta("frame-src 'self'")),
    Embedding(before=meta("img-src *, script-src 'none'")),
    Embedding(tag='type="module"'),
    Embedding(tag='type="text/plain"'),
    Embedding(tag="nomodule"),
    Embedding(tag="crossorigin"),
    Embedding(tag='integrity="sha256-AAAA"'),
    Embedding(tag='data-target="#nope"', after="<p id=Nope></p><template><p id=nope></p></template>"),
    Embedding(tag="data-target"),
    Embedding(tag='data-target=" "'),
    *(Embedding(tag=f'data-target="{selector}"') for selector in NO_SELECTORS),
]
LETS_IN = [
    Embedding([("Cross-Origin-Embedder-Policy", "require-corp")]),
    Embedding([("Cross-Origin-Embedder-Policy", "credentialless; report-to=x")]),
    Embedding(),
    Embedding(tls=True),
    Embedding(tls=True, host="localhost"),
    Embedding(host=FAR),
    Embedding([("Cross-Origin-Embedder-Policy", "unsafe-none")]),
    Embedding([("Cross-Origin-Embedder-Policy-Report-Only", "require-corp")]),
    Embedding([("Content-Security-Policy-Report-Only", "script-src 'none'; frame-src 'none'")]),
    Embedding([("Cross-Origin-Opener-Policy", "same-origin"), ("X-Frame-Options", "SAMEORIGIN")]),
    with_policy("upgrade-insecure-requests"),
    with_policy("upgrade-insecure-requests", tls=True),
    with_policy("sandbox allow-scripts allow-same-origin"),
    with_policy("script-src 'nonce-abc' 'strict-dynamic'; frame-src {parley}", tag='nonce="abc"'),
    Embedding(after=NOTHING_RUNS),
    Embedding(before=meta("sandbox")),
    Embedding(before=f"<div></div>{NOTHING_RUNS}"),
    Embedding(before=f"<noscript>{NOTHING_RUNS}</noscript>"),
    Embedding(before=f"<template>{NOTHING_RUNS}</template>"),
    Embedding(before=f"<!-- {NOTHING_RUNS} -->"),
    Embedding(tag='type="text/jscript"'),
    Embedding(tag='type=" Application/X-JavaScript "'),
    Embedding(tag="async referrerpolicy=no-referrer"),
    Embedding(tag='data-target=" #chat "', after="<div id=chat></div>"),
    Embedding(tag='data-target="#-ä✓"', after="<meta charset=utf-8><div id=-ä✓></div>"),
]


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serve_pages() as web:
        yield web


def new_site(*origins: str, key: str = KEY, name: str = "The shop", enabled: bool = True) -> Site:
    return Site(id=f"id-{name}", owner_id="local", name=name, key=key, origins=list(origins), enabled=enabled)


def answer(
    body: str | bytes, url: str = f"{SHOP}/contact", headers: tuple[tuple[str, str], ...] = HTML, **rest: int
) -> Fetched:
    encoded = body.encode() if isinstance(body, str) else body
    fetched = Fetched(httpx.URL(url), False, rest.get("status", 200), httpx.Headers(list(headers)), encoded, False)
    return fetched


def check(
    page: str | Fetched,
    *sites: Site,
    hosts: tuple[str, ...] | None = (),
    wanted: Site | None = None,
    ask: Callable[[httpx.URL], Fetched] | None = None,
) -> dict[str, Finding]:
    """Return the findings about a page of the shop's by their codes, without those that are well."""
    fetched = page if isinstance(page, Fetched) else answer(page)
    parley = Parley(httpx.URL(OURS), hosts)
    found = examine(fetched.url, ask or (lambda url: fetched), sites or [new_site(SHOP)], parley, wanted=wanted)
    assert found[-1].code == "verdict"
    levels = [finding.level for finding in found[:-1]]
    assert levels == sorted(levels, key=["error", "warning", "ok"].index)
    assert all("\n" not in f"{finding.text}{finding.fix}" for finding in found)
    return {finding.code: finding for finding in found if finding.level != "ok"}


@pytest.mark.browser
def test_its_verdicts_are_those_of_chromium(browser: Browser, web: Web) -> None:
    urls = web.serve([*KEEPS_OUT, *LETS_IN])
    site = new_site(web.plain.url, web.secure.url)

    def loads(url: str, embedding: Embedding) -> bool:
        page = httpx.get(url, verify=False)
        fetched = Fetched(page.url, False, page.status_code, page.headers, page.content, False)
        parley = Parley(httpx.URL(web.parley.url), hosts=("parley.test", "localhost"))
        return examine(page.url, lambda _: fetched, [site], parley)[-1].level == "ok"

    ours = {str(page): loads(url, page) for url, page in zip(urls, [*KEEPS_OUT, *LETS_IN], strict=True)}
    shown = [frame for _, frame in web.load(browser, urls)]
    assert dict(zip(ours, shown, strict=True)) == ours
    assert shown == [False] * len(KEEPS_OUT) + [True] * len(LETS_IN)


@pytest.mark.browser
def test_what_it_calls_no_selector_is_none_to_chromium(browser: Browser) -> None:
    short = ["".join(letters) for n in range(1, 5) for letters in product('#.a-1>,:[(\\ /*"&', repeat=n)]
    with browser.new_page() as page:
        refused = page.evaluate(
            """(selectors) => selectors.filter((selector) => {
              try { document.querySelector(selector); } catch { return true; }
              return false;
            })""",
            [*short, *NO_SELECTORS, *ODD_SELECTORS],
        )
    called = {selector for selector in (*short, *NO_SELECTORS, *ODD_SELECTORS) if is_no_selector(selector.strip(" "))}
    assert called - set(refused) == set()
    assert called >= set(NO_SELECTORS)
    assert not set(ODD_SELECTORS) & set(refused)


def test_all_is_well_with_a_page_that_shows_it() -> None:
    found = examine(httpx.URL(SHOP), lambda url: answer(TAG), [new_site(SHOP)], Parley(httpx.URL(OURS), ()))
    assert [(finding.code, finding.level) for finding in found] == [
        (code, "ok") for code in ("page_read", "site_on", "origin_listed", "verdict")
    ]
    assert found[-1].text == "The widget would load."


def test_all_reasons_are_told_at_once() -> None:
    page = answer(
        TAG.replace("defer", "type=module"), headers=(*HTML, ("Content-Security-Policy", "default-src 'self'"))
    )
    found = check(page, new_site(enabled=False))
    assert list(found) == [
        "tag_is_module",
        "site_disabled",
        "origin_not_listed",
        "policy_blocks_script",
        "policy_blocks_frame",
        "verdict",
    ]
    assert found["verdict"].text == "The widget would not load: 5 reasons above."


@pytest.mark.parametrize(
    ("origin", "listed", "text"),
    [
        ("http://shop.example", SHOP, f", but {SHOP}: the scheme counts."),
        ("https://www.shop.example", SHOP, f", but {SHOP}: with and without www. are two origins."),
        (SHOP, "https://www.shop.example", ", but https://www.shop.example: with and without www. are two origins."),
        ("https://shop.example:8443", SHOP, f", but {SHOP}: the port counts."),
        (
            SHOP,
            "https://*.shop.example",
            ", but https://*.shop.example: the star stands for names below, not for none.",
        ),
        ("https://other.example", SHOP, "."),
        (SHOP, None, ", nor any other."),
    ],
)
def test_an_origin_that_is_nearly_listed_is_told_apart(origin: str, listed: str | None, text: str) -> None:
    site = new_site(*([listed] if listed else []))
    finding = check(answer(TAG, f"{origin}/a/b?c"), site)["origin_not_listed"]
    assert finding.text == f"The site 'The shop' does not list the page's origin {origin}{text}"
    flags = f"--origin {shlex.quote(listed)} " if listed else ""
    command = f"parley site set {site.id} {flags}--origin {origin}"
    assert finding.fix == f"Add it to the pages that may show it, in the tab Sites or with: {command}"


def test_a_star_is_kept_from_the_shell() -> None:
    fix = check(answer(TAG), new_site("https://*.shop.example"))["origin_not_listed"].fix or ""
    assert fix.endswith(f"--origin 'https://*.shop.example' --origin {SHOP}")


def test_the_origin_is_that_of_the_page_where_redirects_end() -> None:
    fetched = replace(answer(TAG, "https://www.shop.example/"), is_redirected=True)
    found = examine(httpx.URL(SHOP), lambda url: fetched, [new_site(SHOP)], Parley(httpx.URL(OURS), ()))
    assert "origin_not_listed" in [finding.code for finding in found]
    assert "https://www.shop.example/ has been read: the page redirects there." in [finding.text for finding in found]


@pytest.mark.parametrize("address", ["http://[::1]:8000", "http://a_b.example"])
def test_an_origin_that_no_site_can_list_gets_another_advice(address: str) -> None:
    assert "parley site set" not in (check(answer(TAG, f"{address}/"))["origin_not_listed"].fix or "")


@pytest.mark.parametrize(
    ("html", "code"),
    [
        (TAG.replace(f' data-site="{KEY}"', ""), "no_key"),
        (TAG.replace(KEY, ""), "no_key"),
        (TAG.replace(KEY, "pub_other"), "unknown_site"),
        (TAG + TAG, "several_tags"),
        (TAG.replace("defer", 'data-target="#chat"'), "target_missing"),
        (TAG.replace("defer", 'data-target=" "'), "no_target"),
        (TAG.replace("defer", 'data-target="##"'), "no_target"),
        (TAG.replace("defer", 'data-target="main > .chat"'), "target_unchecked"),
        (TAG.replace("chat.example", "chat.other.example"), "wrong_host"),
        (TAG.replace("https://chat.example", ""), "wrong_host"),
        (f'<base href="https://cdn.example/x/">{TAG.replace("https://chat.example/", "")}', "wrong_host"),
        (TAG.replace(OURS, "http://chat.example"), "mixed_content"),
        (TAG.replace(OURS, "http://127.0.0.1:7860"), "parley_is_local"),
        (TAG.replace(OURS, "http://localhost:7860"), "parley_is_local"),
        (TAG.replace(OURS, "ftp://chat.example"), "no_web_address"),
        ("<p>No script.", "no_tag"),
        (f"<!-- {TAG} --><script src=app.js></script>", "no_tag"),
        (f"<template>{TAG}</template><script>1</script>", "no_tag"),
    ],
)
def test_what_is_wrong_with_a_tag_is_found(html: str, code: str) -> None:
    found = check(html)
    assert code in found
    assert found[code].fix


@pytest.mark.parametrize(
    "html",
    [
        TAG.replace("https:", ""),
        TAG.replace("defer", 'data-target="#chat"') + '<div id="chat">',
        TAG.upper().replace(KEY.upper(), KEY).replace("WIDGET.JS", "widget.js"),
        TAG.replace('"', ""),
        f'<script src="https://cdn.example/widget.js"></script>{TAG}',
        f"<script>if (a < b) document.write('<script>')</script>{TAG}",
    ],
)
def test_what_is_right_is_not_complained_about(html: str) -> None:
    assert check(html) == {}


def test_a_place_that_is_not_there_keeps_the_widget_away_unless_a_script_makes_it() -> None:
    found = check(TAG.replace("defer", 'data-target="#chat"'))
    assert found["verdict"].level == "error"
    assert found["verdict"].text.startswith("The widget would not load, unless a script of the page makes the place")


def test_a_missing_place_is_one_reason_among_others() -> None:
    found = check(TAG.replace("defer", 'nomodule data-target="#chat"'))
    assert found["verdict"].text == "The widget would not load: 2 reasons above."


def test_of_what_cannot_be_checked_the_verdict_says_so() -> None:
    found = check(TAG.replace("defer", 'data-target="main > .chat"'))
    assert (found["target_unchecked"].level, found["verdict"].level) == ("warning", "warning")
    assert found["verdict"].text == "The widget would load, if data-target matches something."


def test_a_tag_that_a_script_may_put_in_is_no_error() -> None:
    found = check("<script src=https://tags.example/t.js></script>")
    assert (found["no_tag"].level, found["verdict"].level) == ("warning", "warning")
    assert TAG in (found["no_tag"].fix or "")
    assert found["verdict"].text == "The widget would load, if something else on the page starts it."


def test_without_any_script_nothing_can_put_it_in() -> None:
    assert check("<p>Hello")["no_tag"].level == "error"


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ("script-src 'nonce-abc'", None),  # which it may have
        ("script-src 'strict-dynamic'", None),
        ("script-src https://tags.example", "policy_blocks_script"),
        ("frame-src 'self'", "policy_blocks_frame"),
    ],
)
def test_a_tag_that_is_put_in_has_to_be_let_in_too(policy: str, code: str | None) -> None:
    page = answer("<script></script>", headers=(*HTML, ("Content-Security-Policy", policy)))
    assert ({*check(page)} - {"no_tag", "verdict"}) == ({code} - {None})


@pytest.mark.parametrize(
    ("policy", "fix"),
    [
        ("default-src 'self'; frame-src *", f"Say there: script-src 'self' {OURS}"),
        ("script-src-elem 'none'", f"Say there: script-src-elem {OURS}"),
        ("script-src 'nonce-a'", 'Put the nonce of the page\'s other scripts into the tag too: <script nonce="…" …>.'),
        ("script-src 'strict-dynamic' 'sha256-a'", "Have a script that it lets in put the tag into the page"),
        ("frame-src https://a.example", f"Say there: frame-src https://a.example {OURS}"),
        ("default-src 'self'; script-src *", f"Say there: frame-src 'self' {OURS}"),
    ],
)
def test_the_directive_that_helps_is_named(policy: str, fix: str) -> None:
    found = check(answer(TAG, headers=(*HTML, ("Content-Security-Policy", policy))))
    [finding] = [finding for code, finding in found.items() if code.startswith("policy_blocks")]
    assert (finding.fix or "").startswith(fix)
    if fix.startswith("Say"):
        directive = fix.removeprefix("Say there: ")
        assert not check(answer(TAG, headers=(*HTML, ("Content-Security-Policy", directive))))


def test_a_policy_that_only_reports_is_told_as_such() -> None:
    found = check(answer(TAG, headers=(*HTML, ("Content-Security-Policy-Report-Only", "script-src 'self'"))))
    assert list(found) == ["policy_reports_script"]
    assert found["policy_reports_script"].level == "warning"
    assert "Content-Security-Policy-Report-Only does not let in" in found["policy_reports_script"].text


def test_the_key_of_another_site_of_the_owner_is_noticed() -> None:
    shop, blog = new_site(SHOP), new_site(SHOP, key="pub_blog", name="The blog")
    assert check(TAG, shop, blog, wanted=blog)["other_site"].fix == "To change that, set data-site to pub_blog."
    assert check(TAG, shop, blog, wanted=shop) == {}


@pytest.mark.parametrize("kind", ["application/pdf", "text/plain; charset=utf-8", "image/svg+xml"])
def test_what_is_no_html_is_no_page(kind: str) -> None:
    found = check(answer(TAG, headers=(("Content-Type", kind),)))
    assert list(found) == ["not_html", "verdict"]


def test_an_error_page_may_not_be_what_visitors_see() -> None:
    assert check(answer(TAG, status=403))["page_status"].level == "warning"


@pytest.mark.parametrize("error", [NotFetched("there is no host shop.example"), AddressRefused(httpx.URL(SHOP))])
def test_a_page_that_cannot_be_read_is_all_that_is_told(error: NotFetched) -> None:
    def ask(url: httpx.URL) -> Fetched:
        raise error

    found = check(answer(TAG), ask=ask)
    assert list(found) == ["page_unreachable", "verdict"]
    assert str(error) in found["page_unreachable"].text
    assert ("administrator" in (found["page_unreachable"].fix or "")) is isinstance(error, AddressRefused)


def test_of_the_page_only_short_quotes_are_shown() -> None:
    tag = f'<script src="{OURS}/widget.js" data-site="pub_\x1b[31m\u202e{"x" * 5_000}" type=module title="\r\n\x00">'
    page = answer(f"SECRET {tag}</script>", headers=(*HTML, ("Content-Security-Policy", f"script-src {'a ' * 5_000}")))
    for finding in examine(page.url, lambda url: page, [new_site(SHOP)], Parley(httpx.URL(OURS), ())):
        shown = f"{finding.text}{finding.fix}"
        assert "SECRET" not in shown
        assert shown.isprintable()
        assert len(shown) < 3 * MAX_QUOTE


def test_the_findings_have_an_end() -> None:
    policies = ",".join(f"script-src a{n}" for n in range(5_000))
    page = answer(TAG, headers=(*HTML, ("Content-Security-Policy", policies)))
    assert len(examine(page.url, lambda url: page, [new_site(SHOP)], Parley(httpx.URL(OURS), ()))) == MAX_FINDINGS + 1


@pytest.mark.parametrize(
    "part",
    [
        "<a b=c>",
        "<script src=x/widget.js></script>",
        meta("script-src a," * 50_000),
        meta("script-src " + "a " * 300_000),
    ],
)
def test_no_page_takes_long(part: str) -> None:
    page = answer(part * (1_000_000 // len(part)) + TAG)
    started = time.monotonic()
    assert len(examine(page.url, lambda url: page, [new_site(SHOP)], Parley(httpx.URL(OURS), ()))) > 1
    assert time.monotonic() - started < 20


@given(st.binary(max_size=300) | st.text("<>\"'=/!- scriptmeatbd\0é", max_size=300).map(str.encode))
def test_no_page_makes_it_fail(noise: bytes) -> None:
    for body in (noise, noise + TAG.encode(), TAG.encode()[:60] + noise):
        assert examine(httpx.URL(SHOP), lambda url, body=body: answer(body), [], Parley(httpx.URL(OURS), ()))[-1].text


@given(st.text("htps:/.[]@*1a\t\\%é ?#", max_size=40))
def test_no_src_makes_it_fail(src: str) -> None:
    html = TAG.replace(f"{OURS}/", src)
    assert examine(httpx.URL(SHOP), lambda url: answer(html), [new_site(SHOP)], Parley(httpx.URL(OURS), ()))[-1].text


# What Parley itself answers, where nothing else tells by which names it can be reached.


def asking(script: Fetched | None = None, frame: Fetched | None = None) -> Callable[[httpx.URL], Fetched]:
    """Return how the web answers: the page, and Parley, well if nothing else is said."""
    javascript = (("Content-Type", "text/javascript; charset=utf-8"),)
    ancestors = (*HTML, ("Content-Security-Policy", f"frame-ancestors 'self' {SHOP}"))

    def ask(url: httpx.URL) -> Fetched:
        if url == httpx.URL(f"{OURS}/widget.js"):
            return script or answer("", headers=javascript)
        if url == httpx.URL(f"{OURS}/widget/{KEY}?origin=https%3A%2F%2Fshop.example"):
            return frame or answer("", headers=ancestors)
        assert origin_of(url) == SHOP, f"{url} was asked for"
        return answer(TAG)

    return ask


def test_parley_is_asked_for_script_and_frame() -> None:
    page = answer(TAG)
    found = examine(page.url, asking(), [new_site(SHOP)], Parley(httpx.URL("http://127.0.0.1:7860"), None))
    assert [finding.code for finding in found if finding.level == "ok"][-2:] == ["parley_answers", "verdict"]


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "application/json"), (404, "text/html"), (200, "text/html"), (302, "text/javascript")]
)
def test_no_script_where_it_should_be_is_an_error(status: int, kind: str) -> None:
    script = answer("", headers=(("Content-Type", kind),), status=status)
    found = check(TAG, hosts=None, ask=asking(script=script))
    assert f"answers with the status {status} and {kind}, not with the script" in found["no_script"].text


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("unknown_site", "knows no site with this key."),
        ("site_disabled", "has this site switched off."),
        ("origin_not_listed", "does not find the page's origin listed."),
        ("", "refuses the frame with the status 403."),
    ],
)
def test_a_refused_frame_says_why(reason: str, text: str) -> None:
    frame = answer(f'<!doctype html><html lang="en" data-reason="{reason}">', status=403)
    found = check(TAG, hosts=None, ask=asking(frame=frame))
    assert found["frame_refused"].text == f"Parley at {OURS} {text}"


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Frame-Options", "SAMEORIGIN")],
        [("Content-Security-Policy", "frame-ancestors 'none'")],
        [("Content-Security-Policy", f"frame-ancestors {SHOP}"), ("Content-Security-Policy", "frame-ancestors 'self'")],
    ],
)
def test_a_frame_that_a_proxy_has_closed_is_found(headers: list[tuple[str, str]]) -> None:
    found = check(TAG, hosts=None, ask=asking(frame=answer("", headers=(*HTML, *headers))))
    assert "See whether a proxy before Parley" in (found["frame_forbidden"].fix or "")


def test_a_parley_that_does_not_answer_is_an_error() -> None:
    def ask(url: httpx.URL) -> Fetched:
        if url.host == "chat.example":
            raise NotFetched("https://chat.example cannot be connected to")
        return answer(TAG)

    assert "cannot be connected to" in check(TAG, hosts=None, ask=ask)["parley_unreachable"].text
