"""Whether a page has the place for the chat that data-target names, as far as its HTML tells."""

import re
from collections.abc import Iterator

from chat.embed.case import Case, Finding, quote

_SPACE = "\t\n\f\r "
_NAME = r"(?:--|-?[A-Za-z_\u0080-\U0010ffff])[\w\u0080-\U0010ffff-]*"
_ID = re.compile(rf"#({_NAME})")
# An escape, a comment, or what begins with a bracket: anything may stand there.
_OPAQUE = re.compile(rf"\\(?:[0-9A-Fa-f]{{1,6}}[{_SPACE}]?|.?)|/\*.*?(?:\*/|\Z)|[(\[].*", re.DOTALL)
# What no selector begins with, has in it, or ends with.
_WRONG = re.compile(rf"[>+~,0-9]|.*?(?:[#.](?!{_NAME})|[!@$%^?;<={{}}]|,[{_SPACE}]*,|[>+~,:]\Z)", re.DOTALL)


def check_target(case: Case) -> Iterator[Finding]:
    """Look for the place: by its id, since what else a selector matches is not seen here."""
    given = case.tag.attributes.get("data-target") if case.tag else None
    if given is None:
        return
    selector = given.strip(_SPACE)
    name = _ID.fullmatch(selector)
    if not selector:
        text = "data-target is empty: it names no place for the chat."
        yield Finding("no_target", "error", text, 'Name one, as in data-target="#chat", or take it out.')
    elif is_no_selector(selector):
        text = f"data-target={quote(selector)} is no selector of CSS: browsers find no place for the chat by it."
        yield Finding("no_target", "error", text, 'Name a place by its id, as in data-target="#chat".')
    elif name is None:
        text = f"Whether data-target={quote(selector)} matches something cannot be checked here: only ids can."
        yield Finding("target_unchecked", "warning", text, 'Name the place by its id, as in data-target="#chat".')
    elif name[1] not in case.page.ids:
        text = f"Nothing in the page's HTML has the id {quote(name[1])} that data-target names, and no script was run."
        yield Finding("target_missing", "error", text, f'Put it there: <div id="{quote(name[1])}"></div>')


def is_no_selector(text: str) -> bool:
    """Tell whether a text is clearly no selector of CSS; of others that are none it is not told."""
    return _WRONG.match(_OPAQUE.sub("x", text)) is not None
