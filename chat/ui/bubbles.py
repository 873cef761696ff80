"""Messages in the form that gr.Chatbot shows."""

import html
import re
from collections.abc import Sequence
from typing import Literal, TypedDict

from storage.tables import FinishReason, Message, Status

MARKS = {
    "stopped": "*Stopped.*",
    "interrupted": "*Interrupted: Parley was ended while it wrote this.*",
    "error": "*An error ended this reply.*",
}
LENGTH_MARK = "*The reply reached its limit of tokens.*"
EMPTY_MARK = "*The model gave no answer.*"

# Fenced blocks, closed or not, and spans between equal runs of backticks.
_CODE = re.compile(
    r"(^ {0,3}(?P<fence>`{3,}|~{3,})[^\n]*\n.*?(?:^ {0,3}(?P=fence)[`~]* *$|\Z)"
    r"|(?<![\\`])(?P<ticks>`+)(?!`)(?:(?!\n\n).)+?(?<!`)(?P=ticks)(?!`))",
    re.DOTALL | re.MULTILINE,
)
_TAG = re.compile(r"<(?!https?://|mailto:)(?=[a-zA-Z/!?])")
_IMAGE = re.compile(r"!\[")


class Markdown(TypedDict):
    """Text that is rendered as Markdown. As a plain string Gradio would strip its indentation."""

    type: Literal["text"]
    text: str


class Literally(TypedDict):
    """HTML, made here from escaped text, so that what a user typed is shown as typed."""

    type: Literal["component"]
    component: Literal["html"]
    value: str
    constructor_args: dict[str, str]
    props: dict[str, str]


class Bubble(TypedDict):
    """One message of gr.Chatbot."""

    role: str
    content: list[Markdown | Literally]


def message_bubbles(path: Sequence[Message]) -> list[Bubble]:
    """Return the bubbles of stored messages, root first."""
    bubbles: list[Bubble] = []
    for message in path:
        if message.role == "assistant":
            bubbles += reply_bubbles(message.content, message.status, message.finish_reason)
        else:
            bubbles.append(Bubble(role=message.role, content=[_literally(message.content)]))
    return bubbles


def reply_bubbles(text: str, status: Status, finish_reason: FinishReason | None = None) -> list[Bubble]:
    """Return a reply's bubble, with another that says how it ended if that was not by itself.

    The mark stands apart, since an unfinished block of code would swallow it.
    """
    mark = MARKS.get(status) or (LENGTH_MARK if finish_reason == "length" else None)
    if status == "complete" and not text:
        mark = EMPTY_MARK
    return [
        Bubble(role="assistant", content=[Markdown(type="text", text=escape_markdown(part))])
        for part in (text, mark)
        if part
    ]


def escape_markdown(markdown: str) -> str:
    """Return Markdown whose HTML is shown as text, and whose images are links: nothing is fetched unasked.

    Code is left alone, as Markdown shows what is in it anyway.
    """
    escaped, end = [], 0
    for code in _CODE.finditer(markdown):
        escaped += [_escape(markdown[end : code.start()]), code.group()]
        end = code.end()
    return "".join([*escaped, _escape(markdown[end:])])


def _escape(text: str) -> str:
    return _IMAGE.sub(r"\\![", _TAG.sub("&lt;", text))


def _literally(text: str) -> Literally:
    value = f'<div class="typed">{html.escape(text)}</div>'
    return Literally(type="component", component="html", value=value, constructor_args={}, props={})
