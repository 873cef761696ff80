"""The tags of an HTML page, read in one pass whatever the page does.

Python's html.parser takes time that grows with the square of the length of a page that was written to that end:
57 s for 100 KB of `<a `.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import unescape

_SPACE = r"[\t\n\f\r ]"
_GAP = re.compile(r"[\t\n\f\r /]*")
_TAG_NAME = re.compile(r"/?[a-zA-Z][^\t\n\f\r />]*")
_NAME = re.compile(r"[^\t\n\f\r />][^\t\n\f\r />=]*")
_EQUALS = re.compile(rf"{_SPACE}*={_SPACE}*")
_UNQUOTED = re.compile(r"[^\t\n\f\r >]*")
_COMMENT_END = re.compile(r"--!?>")

# What stands in these is text, tags too; in <noscript> it is for browsers that run no scripts.
_TEXT_ELEMENTS = ("iframe", "noembed", "noframes", "noscript", "script", "style", "textarea", "title", "xmp")
_TEXT_ENDS = {name: re.compile(rf"</{name}(?=[\t\n\f\r />])", re.IGNORECASE) for name in _TEXT_ELEMENTS}


@dataclass(frozen=True, slots=True)
class Tag:
    """A start tag, or an end tag if its name begins with a slash. Names are in lower case."""

    name: str
    attributes: Mapping[str, str]
    text: str  # as the page has it


def read_tags(html: str) -> Iterator[Tag]:
    """Yield the tags of a page in their order, without those in comments, in <noscript> and in scripts."""
    at = html.find("<")
    while at >= 0:
        if name := _TAG_NAME.match(html, at + 1):
            read = _read_attributes(html, name.end())
            if read is None:
                return
            attributes, end = read
            tag = Tag(name[0].lower(), attributes, html[at:end])
            yield tag
            end = _text_end(html, tag.name, end)
        else:
            end = _markup_end(html, at)
        at = html.find("<", end) if end >= 0 else -1


def _text_end(html: str, name: str, at: int) -> int:
    """Return where tags may come again after a start tag; -1 if none can."""
    if name == "plaintext":
        return -1
    if name not in _TEXT_ENDS:
        return at
    found = _TEXT_ENDS[name].search(html, at)
    return found.start() if found else -1


def _markup_end(html: str, at: int) -> int:
    """Return where the comment, declaration or plain `<` ends that is there; -1 if nothing ends it."""
    if html.startswith("<!--", at):
        found = _COMMENT_END.search(html, at + 2)  # `<!-->` is a comment too
        return found.end() if found else -1
    if html.startswith(("<!", "<?", "</"), at):
        return html.find(">", at)
    return at + 1


def _read_attributes(html: str, at: int) -> tuple[dict[str, str], int] | None:
    """Return a tag's attributes and its end; None if it has none. Of an attribute given twice the first counts."""
    attributes: dict[str, str] = {}
    while True:
        at = _end(_GAP, html, at)
        if html.startswith(">", at):
            return attributes, at + 1
        name = _NAME.match(html, at)
        if name is None:
            return None
        value, at = "", name.end()
        if equals := _EQUALS.match(html, at):
            quote = html[equals.end() : equals.end() + 1]
            start = equals.end() + (quote in ("'", '"'))
            at = html.find(quote, start) if start > equals.end() else _end(_UNQUOTED, html, start)
            if at < 0:
                return None
            value, at = html[start:at], at + (start > equals.end())
        attributes.setdefault(name[0].lower(), unescape(value))


def _end(pattern: re.Pattern[str], html: str, at: int) -> int:
    match = pattern.match(html, at)
    assert match is not None, "it matches nothing too"
    return match.end()
