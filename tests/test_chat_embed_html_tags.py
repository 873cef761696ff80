"""The tags of a page are those that a real browser finds, and no page takes long."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser

from chat.embed.html_tags import read_tags

SEEN = ("script", "meta", "p", "base")
PAGES = [
    "<script src=a.js></script>",
    "<SCRIPT SRC='a.js' Data-Site=\"b\" ASYNC></SCRIPT>",
    "<script src = 'a.js'\n\tdefer\f></script >",
    "<script src=a.js/>",
    "<p/id=a/class='b'/>",
    "<p id=a id=b ID=c>",
    "<p id='a>b' title=\"it's\">",
    "<p title=a=b =c d==e>",
    "<p title='&lt;&amp;&quot;&#65;&#x42;' lang=\"a\nb\">",
    "<p title=>x</p>",
    "<p title",
    "<p title='a",
    "<p <p>",
    "< p><3 <p>",
    "</ p><p>",
    "</p id=a><p>",
    "<!-- <p id=a> --><p id=b>",
    "<!--><p id=a>--><p id=b>",
    "<!---><p id=a>--><p id=b>",
    "<!-- <p id=a> --!><p id=b>",
    "<!-- <p id=a> -- ><p id=b>",
    "<!-- <p id=a>",
    "<!doctype html><p>",
    "<!x <p id=a> <p id=b>",
    "<?php echo '<p id=a>' ?><p id=b>",
    "<![CDATA[<p id=a>]]><p id=b>",
    "<script>document.write('<p id=a>')</script><p id=b>",
    "<script>'</scripty>' <p id=a></script><p id=b>",
    "<script><p id=a>",
    "<style>a::after { content: '<p id=a>' }</style><p id=b>",
    "<title><p id=a></title><p id=b>",
    "<textarea><p id=a></textarea><p id=b>",
    "<iframe><p id=a></iframe><p id=b>",
    "<xmp><p id=a></xmp><p id=b>",
    "<p id=a><plaintext><p id=b>",
    "<meta http-equiv=Content-Security-Policy content=\"default-src 'self'; img-src *\">",
    "<base href=/x/><script src='b.js'></script>",
    "<p é=ü 中='文'>",
]


@pytest.mark.browser
def test_tags_are_those_that_chromium_finds(browser: Browser) -> None:
    page = browser.new_page()
    found = page.evaluate(
        """([pages, names]) => {
          const attributes = (element) => [...element.attributes].map(({ name, value }) => [name, value]);
          const read = (html) => [...new DOMParser().parseFromString(html, 'text/html').querySelectorAll(names.join())];
          return pages.map((html) => read(html).map((one) => [one.localName, Object.fromEntries(attributes(one))]));
        }""",
        [PAGES, SEEN],
    )
    page.close()
    ours = [[[tag.name, dict(tag.attributes)] for tag in read_tags(html) if tag.name in SEEN] for html in PAGES]
    assert dict(zip(PAGES, ours, strict=True)) == dict(zip(PAGES, found, strict=True))


def test_what_stands_for_browsers_without_scripts_is_not_there() -> None:
    assert [tag.name for tag in read_tags("<noscript><p></noscript><b>")] == ["noscript", "/noscript", "b"]


def test_a_tag_knows_how_it_is_written() -> None:
    [tag] = read_tags("a <P ID='b' > c")
    assert tag.text == "<P ID='b' >"


@given(st.text("<>/!-='\"& aspcritle\n\0", max_size=200) | st.text(max_size=200))
def test_any_text_is_read_to_its_end(html: str) -> None:
    assert all(tag.text in html for tag in read_tags(html))


@pytest.mark.parametrize(
    "part",
    [
        "<",
        "<a",
        "<a ",
        "</a ",
        "<!",
        "<!--",
        "<!-- -",
        "<?",
        "<a x='",
        "<a x=\"'",
        "<a =",
        "<script><!--",
        "<title>",
        "&#",
        "<a b=&c>",
    ],
)
def test_a_page_that_is_made_to_take_long_does_not(part: str) -> None:
    started = time.monotonic()
    for _ in read_tags(part * (1_000_000 // len(part))):
        pass
    assert time.monotonic() - started < 20
