"""Content-Security-Policy is read as a real browser reads it."""

from collections.abc import Iterator

import httpx
import pytest
from embedding_pages import KEY, Embedding, Web, serve_pages, with_policy
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser

from chat.embed.csp import FRAMES, SCRIPTS, allows_script, allows_url, governing, parse_policies

PAGE = httpx.URL("https://shop.example/")
SCRIPT = httpx.URL("https://chat.shop.example/widget.js")

POLICIES = [
    "default-src 'self'",
    "default-src *",
    "default-src http://127.0.0.1:*",
    "default-src 'none'; script-src {parley}; child-src {parley}",
    "script-src {parley}; frame-src {parley}",
    "script-src {parley}/widget.js; frame-src {parley}/widget/",
    "script-src {parley}/widget; frame-src {parley}/widget",
    "script-src {parley}/; frame-src {parley}/",
    "script-src {parley}/WIDGET.js",
    "script-src {parley}/%77idget.js",
    "script-src {parley}/widget.js?version=1",
    "script-src https:",
    "script-src http:",
    "script-src ws:",
    "script-src 127.0.0.1",
    "script-src 127.0.0.1:*",
    "script-src http://*",
    "script-src http://*:*",
    "script-src *:*",
    "script-src * 'none'",
    "script-src",
    "script-src {parley}, script-src 'none'",
    "script-src 'none'; script-src {parley}",
    "SCRIPT-SRC HTTP://127.0.0.1:*; FRAME-SRC 'NONE'",
    "script-src-elem {parley}; script-src 'none'",
    "script-src {parley}; script-src-elem 'none'",
    "script-src-attr 'none'",
    "script-src 'unsafe-inline' 'unsafe-eval'",
    "script-src 'nonce-abc'",
    "script-src 'nonce-abc' 'strict-dynamic' {parley}",
    "script-src 'strict-dynamic' {parley}",
    "script-src 'Strict-Dynamic' 'report-sample' *",
    "frame-src",
    "frame-src 'self'; child-src *",
    "child-src 'self'",
    "frame-src 'none', frame-src *",
    "worker-src 'none'; style-src 'none'; connect-src 'none'; img-src 'none'",
    "require-trusted-types-for 'script'; trusted-types 'none'",
]
WITH_NONCE = ["script-src 'nonce-abc'", "script-src 'nonce-abc' 'strict-dynamic'", "script-src 'nonce-ABC'"]
OF_LOCALHOST = [
    "script-src localhost:*",
    "script-src http://LocalHost:*",
    "script-src *.localhost:*",
    "frame-src *.a:*",
]


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serve_pages() as web:
        yield web


def read(policy: str, embedding: Embedding, web: Web) -> tuple[bool, bool]:
    """Return whether a page with a policy may run the script and, if it does, show the frame, as this code reads it."""
    origin = f"http://{embedding.host}:{web.parley.port}"
    script, frame = httpx.URL(f"{origin}/widget.js"), httpx.URL(f"{origin}/widget/{KEY}")
    page, nonce = httpx.URL(web.plain.url), embedding.tag.removeprefix("nonce=") or None
    runs = shows = True
    for parsed in parse_policies(policy.replace("{parley}", origin)):
        if name := governing(parsed, SCRIPTS):
            runs = runs and allows_script(parsed[name], script, page, nonce)
        if name := governing(parsed, FRAMES):
            shows = shows and allows_url(parsed[name], frame, page)
    return runs, runs and shows


@pytest.mark.browser
def test_policies_are_read_as_chromium_reads_them(browser: Browser, web: Web) -> None:
    cases = [
        *((policy, with_policy(policy)) for policy in POLICIES),
        *((policy, with_policy(policy, tag="nonce=abc")) for policy in WITH_NONCE),
        *((policy, with_policy(policy, host=host)) for policy in OF_LOCALHOST for host in ("localhost", "b.localhost")),
    ]
    found = web.load(browser, web.serve([embedding for _, embedding in cases]))
    ours = {f"{policy} {page.tag} {page.host}": read(policy, page, web) for policy, page in cases}
    assert dict(zip(ours, found, strict=True)) == ours
    assert {(True, True), (True, False), (False, False)} <= set(found)


@pytest.mark.parametrize(
    ("source", "is_allowed"),
    [
        ("https://chat.shop.example", True),
        ("http://chat.shop.example", True),  # what may come by http may come by https
        ("http://chat.shop.example:80", True),
        ("https://chat.shop.example:443", True),
        ("https://chat.shop.example:8443", False),
        ("chat.shop.example", True),
        ("*.shop.example", True),
        ("*.example", True),
        ("*.chat.shop.example", False),
        ("shop.example", False),
        ("https://*", True),
        ("http:", True),
        ("wss:", False),
        ("'self'", False),
        ("self", False),
        ("https://chat.shop.example@evil.example", False),
        ("chat.shop.example.", False),
        ("*chat.shop.example", False),
    ],
)
def test_sources_name_schemes_hosts_and_ports(source: str, is_allowed: bool) -> None:
    assert allows_url([source], SCRIPT, PAGE) is is_allowed


def test_the_page_itself_stands_for_its_https_too() -> None:
    assert allows_url(["'self'"], httpx.URL("https://shop.example/x"), httpx.URL("http://shop.example/"))
    assert not allows_url(["'self'"], httpx.URL("http://shop.example/x"), PAGE)
    assert not allows_url(["'self'"], httpx.URL("https://shop.example:8443/x"), PAGE)


@given(st.text(max_size=60), st.text(max_size=20))
def test_no_header_makes_it_fail(header: str, nonce: str) -> None:
    sources = [sources for policy in parse_policies(header) for sources in policy.values()]
    assert {allows_script(each, SCRIPT, PAGE, nonce) for each in sources} <= {True, False}


@given(
    st.from_regex(r"([a-z]{1,6}:(//)?)?(\*\.?)?[a-z0-9.*-]{0,12}(:[0-9*]{0,7})?(/[a-z%0-9/?#;]{0,12})?", fullmatch=True)
)
def test_no_source_makes_it_fail(source: str) -> None:
    assert allows_url([source], SCRIPT, PAGE) in (True, False)


def test_long_sources_take_no_long_time() -> None:
    for source in (
        "a" * 1_000_000,
        "a." * 500_000,
        "*." * 500_000,
        "a-" * 500_000 + ":",
        "https://" + "a.b" * 300_000 + ":x",
    ):
        assert not allows_url([source], SCRIPT, PAGE)
