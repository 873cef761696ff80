"""The Markdown renderer of the page, in a real browser, against markdown-it-py.

A tree is compared as nested lists: a text, or [tag, attributes, children].
"""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.browser

STATIC = Path(__file__).parent.parent / "chat" / "ui" / "static"
ORIGIN = "http://127.0.0.1:9"  # nothing listens there: page.route answers
HELPERS = """
import { renderMarkdown, MarkdownStream } from "/markdown.js";

const tree = (node) => {
  if (node.nodeType === Node.TEXT_NODE) return node.data;
  const attributes = node.attributes ? Object.fromEntries([...node.attributes].map((a) => [a.name, a.value])) : {};
  return [node.nodeName.toLowerCase(), attributes, [...node.childNodes].map(tree)];
};
const render = (text) => tree(renderMarkdown(text, document))[2];
const stream = (texts) => {
  const element = document.createElement("div");
  const markdown = new MarkdownStream(element);
  return texts.map((text) => {
    const before = [...element.childNodes];
    markdown.update(text);
    const kept = before.findIndex((node, i) => element.childNodes[i] !== node);
    return { tree: tree(element)[2], kept: kept < 0 ? before.length : kept, settled: markdown.count };
  });
};
const show = (text) => document.body.replaceChildren(renderMarkdown(text, document));
const seconds = (text) => {
  const start = performance.now();
  renderMarkdown(text, document);
  return (performance.now() - start) / 1000;
};
const streamSeconds = (text, step) => {
  const markdown = new MarkdownStream(document.body);
  const start = performance.now();
  for (let end = step; end <= text.length; end += step) markdown.update(text.slice(0, end));
  const stop = performance.now();
  document.body.replaceChildren();
  return (stop - start) / 1000;
};
Object.assign(window, { render, stream, show, seconds, streamSeconds, ready: true });
"""

Tree = list[Any]


class Markdown:
    """The renderer in one page, and what the page asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        page.route("**/*", self._answer)
        page.goto(ORIGIN)
        page.wait_for_function("window.ready")

    def _answer(self, route: Route) -> None:
        path = route.request.url.removeprefix(ORIGIN)
        if path == "/":
            route.fulfill(content_type="text/html", body="<!doctype html><script type=module src=/helpers.js></script>")
        elif path == "/helpers.js":
            route.fulfill(content_type="text/javascript", body=HELPERS)
        elif path.startswith("/markdown"):
            route.fulfill(content_type="text/javascript", body=(STATIC / path[1:]).read_text())
        else:
            self.requests.append(route.request.url)
            route.abort()

    def render(self, texts: list[str]) -> list[Tree]:
        trees: list[Tree] = self.page.evaluate("(texts) => texts.map(render)", texts)
        return trees

    def one(self, text: str) -> Tree:
        return self.render([text])[0]

    def stream(self, texts: list[str]) -> list[dict[str, Any]]:
        """Update one stream with each text; for each: the tree, how many first nodes stayed, how many are settled."""
        states: list[dict[str, Any]] = self.page.evaluate("(texts) => stream(texts)", texts)
        return states

    def show(self, text: str) -> None:
        """Put a text in the page, where an image would load, and lay it out."""
        self.page.evaluate("(text) => { show(text); document.body.getBoundingClientRect(); }", text)

    def seconds(self, text: str) -> float:
        taken: float = self.page.evaluate("(text) => seconds(text)", text)
        return taken


@pytest.fixture(scope="module")
def markdown(browser: Browser) -> Iterator[Markdown]:
    page = browser.new_page()
    markdown = Markdown(page)
    yield markdown
    page.close()


def is_safe(url: str) -> bool:
    return url.lower().startswith(("http://", "https://", "mailto:"))


def new_oracle() -> MarkdownIt:
    oracle = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    oracle.disable(["reference", "html_block", "html_inline"])
    oracle.validateLink = is_safe  # type: ignore[method-assign]
    oracle.normalizeLink = lambda url: url  # type: ignore[method-assign]
    return oracle


class TreeParser(HTMLParser):
    """The tree of the HTML that markdown-it-py writes."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[Tree] = [["root", {}, []]]
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        node: Tree = [tag, dict(attributes), []]
        self.stack[-1][2].append(node)
        if tag not in ("br", "hr", "img"):
            self.stack.append(node)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("br", "hr", "img"):
            assert self.stack.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.stack[-1][2].append(data)


ORACLE = new_oracle()
BLOCKS = {"root", "p", "ul", "ol", "li", "blockquote", "pre", "table", "thead", "tbody", "tr", "th", "td", "hr"}
BLOCKS |= {"h1", "h2", "h3", "h4", "h5", "h6"}
LANGUAGE = re.compile(r"language-[A-Za-z0-9+#._-]{1,30}")
KEPT_ATTRIBUTES = {"href", "start", "class", "align"}


def normalise(children: Tree, inside: str = "root") -> Tree:
    """Drop what may differ: white space around blocks and lines, attributes with no meaning, links shown as typed."""
    found: Tree = []
    for child in children:
        if not isinstance(child, str):
            child = normalise_element(*child)
        if isinstance(child, list) and child[2] == [child[1].get("href")]:
            child = child[2][0]  # a bare address, which the oracle leaves alone
        if isinstance(child, str) and found and isinstance(found[-1], str):
            child = found.pop() + child
        found.append(child)
    if inside == "code":
        return found
    for i, child in enumerate(found):
        if isinstance(child, str):
            before, after = (found[i - 1][0] if i else inside), (found[i + 1][0] if found[i + 1 :] else inside)
            child = child.replace(" \n", "\n")
            child = child.lstrip(" \n") if before in BLOCKS | {"br"} else child
            found[i] = child.rstrip(" \n") if after in BLOCKS else child
    return [child for child in found if child != ""]


def normalise_element(tag: str, attributes: dict[str, str], children: Tree) -> Tree:
    if "style" in attributes:
        attributes = {"align": attributes["style"].removeprefix("text-align:")}
    kept = {name: value for name, value in attributes.items() if name in KEPT_ATTRIBUTES}
    if not LANGUAGE.fullmatch(kept.get("class", "")):
        kept.pop("class", None)
    return ["del" if tag == "s" else tag, kept, normalise(children, tag)]


def expected(text: str) -> Tree:
    html = ORACLE.render(text.removesuffix("\n") + "\n")  # it ends an open fence's last line only if the text does
    return normalise(TreeParser(html).stack[0][2])


CORPUS = [
    "plain text",
    "two\nlines",
    "hard  \nbreak",
    "hard\\\nbreak",
    "trailing  ",
    "# one\n## two\n###### six\n####### seven",
    "# closed ##\n#\n## #\n# a#\n#hash",
    "Title\n=====\n\nSub\n---",
    "two\nlines\n===",
    "a\n\nb\n\n\nc",
    "---\n***\n_ _ _\n--",
    "- a\n- b\n- c",
    "- a\n\n- b",
    "- a\n\n  b\n- c",
    "* a\n* b\n+ c\n- d",
    "- a\n  - b\n    - c\n  - d\n- e",
    "1. a\n2. b\n3. c",
    "7) a\n8) b",
    "0. a",
    "1234567890. not a list",
    "a\n- b",
    "a\n1. b",
    "a\n2. b",
    "a\n-\nb",
    "-\n\n  a",
    "- \n  a",
    "-    five\n\n     b",
    "-     code\n\n  b",
    "- a\n\n\n\n  b\n\nc",
    "- a\n```\nb\n```",
    "- ```py\n  a\n\n\n  b\n  ```\n- c",
    "- a\n  > b\n  >\n- c",
    "10. a\n\n    b\n\n    ```\n    c\n    ```",
    "- a\nlazy\n- b",
    "- # heading\n- ---\n- > quote",
    "- - - a",
    "1. - 2. a",
    "> a\n> b\n\n> c",
    "> a\nlazy",
    "> > a\n> b\nc",
    "> - a\n> - b\n>\n> c",
    "> ```\n> a\nb",
    ">     code\n    no code",
    "> a\n---",
    ">\n>\n> a\n>",
    ">a\n>\n>b",
    "```\na\n```",
    "```python title=x\nprint('*a*')\n\n  b\n```",
    "~~~ js\n```\n~~~",
    "````\n```\n````",
    "``` a`b\nc",
    "```\nopen",
    "```\n```",
    "  ```\n  a\n b\n   c\n  ```",
    "```\na\n    ```\n``` x\n```",
    "a\n```\nb\n```\nc",
    "    code\n      more\n\n\n    code\n\nnot",
    "a\n    not code",
    "\tcode\n\t\tmore",
    "-\ta\n\n\tb",
    "```make\nall:\n\tcc\n```",
    "- ```\n  all:\n  \tcc\n  ```",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "a | b\n:- | -:\n1 | 2 | 3\n1\n\nafter",
    "|a|b|c|d|\n|:-|:-:|-:|-|\n|`x\\|y`|**b**|[l](http://a.b)|\\||",
    "intro\n| a |\n|---|\n| b |\n> quote",
    "| a | b |\n|---|\n| 1 | 2 |",
    "> | a | b |\n> |---|---|\n> | 1 | 2 |\nout",
    "- | a |\n  |---|\n  | b |",
    "`a` ``b`c`` ` d ` `` ` `` `\u00a0` `e\nf`",
    "`a ``b",
    "\\`a` `b\\`",
    "*a* **b** ***c*** _d_ __e__",
    "a*b*c a_b_c a__b__c",
    "**a*b**c* *a**b*c**",
    "*a **b* c**",
    "****a**** *****b*****",
    "*(*a*)* _(_b_)_ **a.**b",
    "a * b * c ** d**",
    "**bold\nlines** *em `code*` x*",
    "*foo**bar***  ***foo** bar* **foo*bar**baz*",
    "~~gone~~ ~~*both*~~ a~b ~~ c ~~",
    "**~~a** b~~",
    "\\*a\\* \\# \\a \\\\ \\<b\\>",
    "&amp; &lt; &gt; &quot; &copy; &hellip; &mdash; &ndash; &nbsp; &#65; &#x42; &#0; &nope; &#99999999;",
    "[a](http://b.c) [a](<http://b.c/d>) [a](http://b.c 'title') [a](http://b.c (title))",
    '[a *b* `c`](https://d.e/f_(g)_h "t")',
    "[a](http://b\\)c) [a](http://b&amp;c) [a]( http://b\n  'x' )",
    "[a](http://b c) [a](http://b 'x) [a] (http://b) [a](http://b(c)",
    "[a [b](http://c) d](http://e)",
    "[a] [] [b][c] [d]: http://e ]x[",
    "*[a*](http://b) [*a](http://b)*",
    "`[a`](http://b) [a`](http://b)`",
    "<http://a.b/c?d=e> <mailto:a@b.c> <a@b.c> <a b> < http://a.b>",
    "<b>no</b> <!-- no --> <br/> a < b > c & d",
    "<div>\n*a*\n</div>",
    "emoji 😀*a*😀 **«a»**b 中**文**字",
    "a\r\nb\r\n\r\nc",
    "",
    "\n\n  \n",
]

# No bare addresses, which the oracle leaves alone: in angle brackets they are links for both, whatever precedes them.
ATOMS = [
    "a",
    "b c",
    "word",
    "7",
    "*",
    "**",
    "_",
    "__",
    "***",
    "~~",
    "`",
    "``",
    "[x](<http://y.z>)",
    "[",
    "](<http://u>)",
]
ATOMS += [" ", "\n", "  \n", "\\", "\\*", "&amp;", "<http://a.b>", ".", "(", "é", "😀", "<b>", "x_y", "!"]
INLINE = st.lists(st.sampled_from(ATOMS), min_size=1, max_size=9).map("".join)
STARTS = ["", "", "", "- ", "* ", "1. ", "2. ", "3) ", "> ", ">", "# ", "## ", "  ", "    ", "\t", "   - ", "-", "10. "]
STARTS += ["- - ", "> - ", "- > "]
LINES = ["```", "~~~", "```py", "---", "===", "***", "", "", "", "|a|b|", "|-|-|", "|:-|-:|", "1|2", "text", "text"]
LINE = st.tuples(st.lists(st.sampled_from(STARTS), max_size=3).map("".join), st.one_of(INLINE, st.sampled_from(LINES)))
# Where markdown-it leaves the specification: a table whose header is some other block, a mark of a block that is
# indented too far, white space after a backslash that ends a line or before a line in a code span. Where we do:
# an empty address, an image, and four tildes.
ODD = re.compile(
    r"[#`~].*\||^[ \t]*([-*+>]|\d+[.)]).*\|.*\n[ \t]*[|:-]|(    |\t)[ \t]*([-*+>#`~|=_]|\d+[.)])|(    |\t).*>"
    r"|\\ +\n|(?<!`)``?(?!`)[^`]*\n[ \t]|[^\s`>.)-]`+[^`]*\n[ \t]|~~~~|\(\)|!\[",
    re.MULTILINE,
)
TEXT = st.lists(LINE.map("".join), max_size=9).map("\n".join)


def rendered(markdown: Markdown, texts: list[str]) -> dict[str, Tree]:
    return dict(zip(texts, map(normalise, markdown.render(texts)), strict=True))


def test_snippets_render_as_markdown_it_renders_them(markdown: Markdown) -> None:
    assert rendered(markdown, CORPUS) == {text: expected(text) for text in CORPUS}


@given(texts=st.lists(TEXT, min_size=15, max_size=25))
@settings(max_examples=15, deadline=None, derandomize=True)  # the list of oddities may not be whole
def test_composed_markdown_renders_as_markdown_it_renders_it(markdown: Markdown, texts: list[str]) -> None:
    plain = [text for text in texts if not ODD.search(text)]
    assert rendered(markdown, plain) == {text: expected(text) for text in plain}


def paragraph(*children: str | Tree) -> Tree:
    return [["p", {"dir": "auto"}, list(children)]]


def link(href: str, *children: str | Tree) -> Tree:
    return ["a", {"href": href, "target": "_blank", "rel": "noopener noreferrer nofollow ugc"}, list(children)]


def test_an_image_becomes_a_link_to_its_address(markdown: Markdown) -> None:
    assert markdown.one("![a *b* `c`](http://d.e/f.png)") == paragraph(link("http://d.e/f.png", "a b c"))
    assert markdown.one("![a](data:image/png;base64,AA)") == paragraph("![a](data:image/png;base64,AA)")


def test_an_image_in_a_link_is_the_links_text(markdown: Markdown) -> None:
    assert markdown.one("[![a](http://b/c.png) d](http://e)") == paragraph(link("http://e", "a d"))


def test_raw_html_is_shown_as_text(markdown: Markdown) -> None:
    text = '<b onclick="x">a</b> <script>alert(1)</script> <!-- c -->'
    assert markdown.one(text) == paragraph(text)


@pytest.mark.parametrize(
    ("text", "address", "after"),
    [
        ("https://a.b/c_d_e", "https://a.b/c_d_e", ""),
        ("https://a.b/c.", "https://a.b/c", "."),
        ("https://a.b/c_(d)?!", "https://a.b/c_(d)", "?!"),
        ("https://a.b/c)).", "https://a.b/c", "))."),
        ("HTTP://a.b/c<d>", "HTTP://a.b/c", "<d>"),
        ("https://a.b\\", "https://a.b", "\\"),
    ],
)
def test_a_bare_address_is_a_link_without_what_follows(markdown: Markdown, text: str, address: str, after: str) -> None:
    assert markdown.one(text) == paragraph(link(address, address), *([after] if after else []))


def test_a_bare_address_stands_in_emphasis_and_in_links(markdown: Markdown) -> None:
    assert markdown.one("**https://a.b**") == paragraph(["strong", {}, [link("https://a.b", "https://a.b")]])
    assert markdown.one("[see https://a.b](https://c.d)") == paragraph(link("https://c.d", "see https://a.b"))


@pytest.mark.parametrize("text", ["https://", "xhttps://a.b", "ftp://a.b", "www.a.b", "https:// a"])
def test_what_is_no_address_is_text(markdown: Markdown, text: str) -> None:
    assert markdown.one(text) == paragraph(text)


@pytest.mark.parametrize("math", ["$a_1 * b_1 * c$", r"\(a*b*c\)", "$$\n*x*\n$$", "$x^*$ and $y^*$"])
def test_math_stays_as_it_was_written(markdown: Markdown, math: str) -> None:
    assert markdown.one(math) == paragraph(math)


def test_prices_are_no_math(markdown: Markdown) -> None:
    assert markdown.one("$5 *or* $6") == paragraph("$5 ", ["em", {}, ["or"]], " $6")


def test_a_task_list_has_checkboxes_that_nobody_can_change(markdown: Markdown) -> None:
    box = {"type": "checkbox", "disabled": ""}
    assert markdown.one("- [ ] a\n- [x] b\n- [y] c") == [
        [
            "ul",
            {},
            [
                ["li", {"dir": "auto"}, [["input", box, []], " ", "a"]],
                ["li", {"dir": "auto"}, [["input", {**box, "checked": ""}, []], " ", "b"]],
                ["li", {"dir": "auto"}, ["[y] c"]],
            ],
        ]
    ]


def test_every_block_of_text_finds_its_own_direction(markdown: Markdown) -> None:
    for tag, attributes, _ in elements(markdown.one("# a\n\nb\n\n- c\n\n| d |\n|---|\n| e |")):
        assert (attributes.get("dir") == "auto") == (tag in {"h1", "p", "li", "th", "td"}), tag


@pytest.mark.parametrize("info", ["a b", "x" * 31, "ä", 'x"onload=', "&lt;"])
def test_the_class_of_code_is_a_plain_word(markdown: Markdown, info: str) -> None:
    assert markdown.one(f"```{info}\nx\n```") == [
        ["pre", {}, [["code", {"class": "language-a"} if info == "a b" else {}, ["x\n"]]]]
    ]


def elements(tree: Tree) -> Iterator[Tree]:
    for child in tree:
        if not isinstance(child, str):
            yield child
            yield from elements(child[2])


ALLOWED = {
    "a": {"href", "target", "rel"},
    "blockquote": set(),
    "br": set(),
    "code": {"class"},
    "del": set(),
    "em": set(),
    "hr": set(),
    "input": {"type", "disabled", "checked"},
    "li": {"dir"},
    "ol": {"start"},
    "p": {"dir"},
    "pre": set(),
    "strong": set(),
    "table": set(),
    "tbody": set(),
    "td": {"dir", "align"},
    "th": {"dir", "align"},
    "thead": set(),
    "tr": set(),
    "ul": set(),
} | {f"h{level}": {"dir"} for level in range(1, 7)}


def assert_harmless(tree: Tree) -> None:
    for tag, attributes, _ in elements(tree):
        assert tag in ALLOWED
        assert attributes.keys() <= ALLOWED[tag]
        assert is_safe(attributes.get("href", "http://"))
        assert not re.search(r"[\x00-\x1f]", attributes.get("href", ""))


SCHEMES = ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\tscript:alert(1)", "java\nscript:alert(1)"]
SCHEMES += ["\x01javascript:alert(1)", " javascript:alert(1)", "javascript&colon;alert(1)", "javascript&#58;alert(1)"]
SCHEMES += ["&#106;avascript:alert(1)", "&#x6A;avascript:alert(1)", "java&#10;script:alert(1)", "\\javascript:alert(1)"]
SCHEMES += ["java&#0;script:alert(1)", "vbscript:x", "data:text/html,<script>alert(1)</script>", "file:///etc/passwd"]
SCHEMES += [
    "data:image/svg+xml;base64,AA",
    "//evil.example",
    "/path",
    "#x",
    "http:evil",
    "blob:http://a",
    "javascript://%0a",
]
SCHEMES += [
    "http\u017f://a",
    "view-source:http://a",
    "ms-word:ofe|u|http://a",
    "htt\u0000ps://a",
    "feed:javascript:x",
    "",
]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_address_of_another_scheme_is_no_link(markdown: Markdown, scheme: str) -> None:
    forms = [f"[a]({scheme})", f"[a](<{scheme}>)", f"![a]({scheme})", f"<{scheme}>", f'[a]({scheme} "t")']
    forms += [f"[![a]({scheme})]({scheme})", f"| [a]({scheme}) |\n|---|"]
    for tree in markdown.render(forms):
        assert_harmless(tree)
        assert all(tag != "a" or attributes["href"] == "http://a" for tag, attributes, _ in elements(tree))


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><animate onbegin=alert(1)>",
    "<iframe src=javascript:alert(1)>",
    "<a href='javascript:alert(1)' style='position:fixed'>x</a>",
    "<style>@import 'http://evil.example'</style>",
    "<math><mi//xlink:href='data:x,<script>alert(4)</script>'>",
    "<!--><img src=x onerror=alert(1)>-->",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "![x](http://evil.example/pixel.png)",
    '![x](http://evil.example/p.png "t" onerror=alert(1))',
    '[x](http://a.b/"onmouseover="alert(1))',
    "[x](http://a.b/'><img src=x onerror=alert(1)>)",
    '[x](http://a.b "\\"onclick=alert(1)")',
    '<http://a.b/"onclick=alert(1)>',
    "<http://a.b/><img/src=x>",
    'https://a.b/"><svg/onload=alert(1)>',
    '```"><img src=x onerror=alert(1)>\nx\n```',
    "```js onload=alert(1)\n</code></pre><script>alert(1)</script>\n```",
    "| <img src=x onerror=alert(1)> | `</td><script>` |\n|:-:|-|\n| <b> | [x](javascript:x) |",
    "$\\href{javascript:alert(1)}{x}$ \\(\\url{javascript:alert(1)}\\) $$\\includegraphics{http://evil.example/x}$$",
    "[x]: http://evil.example/x.css\n![x][x]",
    "- [x] <input onfocus=alert(1) autofocus>",
    "<a@b.c'onclick=x> <x\"@b.c>",
    "[a](http://b.c/\x00\x01) <http://a\x01b> http://a.b/\x02c",
]


def test_attacks_leave_only_harmless_elements_and_fetch_nothing(markdown: Markdown) -> None:
    for tree in markdown.render(ATTACKS):
        assert_harmless(tree)
    for attack in ATTACKS:
        markdown.show(attack)
    assert markdown.requests == []


PIECES = ATOMS + STARTS + LINES + SCHEMES + ["![", "](", "<", ">", "&#", ";", '"', "'", "http://", "\x00", "\u202e"]


@given(texts=st.lists(st.lists(st.sampled_from(PIECES), max_size=15).map("".join), min_size=20, max_size=40))
@settings(max_examples=10, deadline=None)
def test_no_text_makes_anything_but_harmless_elements(markdown: Markdown, texts: list[str]) -> None:
    for tree in markdown.render(texts):
        assert_harmless(tree)


def backticks(total: int) -> str:
    runs, length = [], 1
    while total > 0:
        runs.append("`" * length + "a")
        total -= length + 1
        length += 1
    return "".join(runs)


HOSTILE = {
    "brackets": "[" * 100_000,
    "images": "![" * 100_000,
    "closers": "[" * 50_000 + "]" * 50_000,
    "links": "[a](" * 50_000,
    "nested links": "[a](http://b) " * 14_000,
    "nested images": "![a" * 20_000 + "](http://b)" * 12_000,
    "angles": "[a](<b" * 33_000,
    "titles": '[a](b "' * 28_000,
    "mixed titles": "[a](b \"[a](b '[a](b (" * 9_500,
    "spaces in a target": "[a](b" + " " * 200_000,
    "stars": "*" * 100_000,
    "stars around": "*" * 100_000 + "a" + "*" * 100_000,
    "openers": "*a _b " * 33_000,
    "nested emphasis": "*a **b " * 10_000 + "c** d*" * 10_000,
    "bold in words": "a**b" * 50_000,
    "threes": "a***b**c*" * 22_000,
    "tildes": "~~a " * 50_000,
    "quotes": "> " * 10_000,
    "nested quotes": "> " * 100_000,
    "lines of quotes": ("> " * 100 + "\n") * 1_000,
    "ticks": backticks(200_000),
    "escaped mathematics": "\\(" * 100_000,
    "dollars": "$a " * 66_000,
    "angle openers": "<http://a" * 22_000,
    "entities": "&#" * 100_000,
    "addresses": "http://a.b/(" * 16_000,
    "closing parentheses": "http://a" + ")" * 200_000,
    "table": "|a" * 100 + "|\n" + "|-" * 100 + "|\n" + ("|b" * 100 + "|\n") * 100,
    "wide table": "|a" * 5_000 + "|\n" + "|-" * 5_000 + "|\n" + "|\n" * 80_000,
    "rows that are no table": "|-" * 50_000 + "\n" + "|-" * 49_999,
    "nested lists": "".join("  " * i + "- a\n" for i in range(440)),
    "list in a line": "- " * 100_000,
    "numbers": "1. " * 66_000,
    "empty lines in a list": "- " * 30 + "a" + "\n" * 100_000,
    "hashes": "# " + "#" * 200_000 + "a",
    "spaces": "a" + " " * 200_000 + "b",
    "spaces before lines": (" " * 1_000 + "\n") * 200,
    "rules": "- " * 100_000 + "a",
    "fences": "`" * 100_000 + "\n" + "`" * 99_999,
    "short lines": "a\n" * 100_000,
    "headings": "#\n" * 50_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_renders_in_two_seconds(markdown: Markdown, name: str) -> None:
    assert len(HOSTILE[name]) <= 400_000
    assert any(markdown.seconds(HOSTILE[name]) < 2 for _ in range(3))  # others may hold the processor


def depth(tree: Tree) -> int:
    return max((1 + depth(child[2]) for child in tree if not isinstance(child, str)), default=0)


@pytest.mark.parametrize("text", ["> " * 100 + "a", "- " * 100 + "a", "*a **b " * 50 + "c** d*" * 50])
def test_nesting_ends_at_a_depth_and_keeps_its_marks(markdown: Markdown, text: str) -> None:
    markdown.show(text)
    tree = markdown.one(text)
    assert 20 < depth(tree) < 70
    assert text.strip()[-10:] in json.dumps(tree)


def test_a_finished_stream_equals_the_whole_and_keeps_its_blocks(markdown: Markdown) -> None:
    text = "# a\n\nb *c*\n\n- d\n- e\n\n```py\nf\n```\n\n| g |\n|---|\n| h |\n\nend"
    states = markdown.stream([text[:end] for end in range(len(text) + 1)])
    assert states[-1]["tree"] == markdown.one(text)
    settled = [state["settled"] for state in states]
    assert settled == sorted(settled)
    assert settled[-1] == 5
    assert all(after["kept"] >= before["settled"] for before, after in pairwise(states))


TEXT_AND_CUTS = st.tuples(
    st.lists(st.one_of(TEXT, st.sampled_from(CORPUS)), max_size=5).map("\n\n".join),
    st.lists(st.floats(0, 1), max_size=10),
)


@given(cases=st.lists(TEXT_AND_CUTS, min_size=4, max_size=8))
@settings(max_examples=8, deadline=None)
def test_streamed_text_equals_the_whole_at_every_cut(markdown: Markdown, cases: list[tuple[str, list[float]]]) -> None:
    for text, cuts in cases:
        texts = [text[: round(cut * len(text))] for cut in sorted(cuts)] + [text]
        states = markdown.stream(texts)
        assert [state["tree"] for state in states] == markdown.render(texts)
        assert all(after["kept"] >= before["settled"] for before, after in pairwise(states))


def test_a_stream_may_start_over(markdown: Markdown) -> None:
    texts = ["a\n\nb\n\nc", "a\n\nother", "", "x\n\ny", "x"]
    assert [state["tree"] for state in markdown.stream(texts)] == markdown.render(texts)


def test_a_long_reply_streams_in_linear_time(markdown: Markdown) -> None:
    text = "A paragraph of *some* words with `code`.\n\n- an item\n- another\n\n" * 600
    taken: float = markdown.page.evaluate("(text) => streamSeconds(text, 20)", text)
    assert taken < 4  # 2,000 updates, whatever came before each
