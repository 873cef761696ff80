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

_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)", re.DOTALL)
_TAG = re.compile(r"<(?=[a-zA-Z/!?])")


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
    return [
        Bubble(role="assistant", content=[Markdown(type="text", text=escape_tags(part))])
        for part in (text, mark)
        if part
    ]


def escape_tags(markdown: str) -> str:
    """Return Markdown whose HTML tags are shown instead of rendered (and then dropped by the sanitizer).

    Code is left alone, as Markdown shows tags in it anyway.
    """
    parts = _CODE.split(markdown)  # text and code alternate
    return "".join(part if i % 2 else _TAG.sub("&lt;", part) for i, part in enumerate(parts))


def _literally(text: str) -> Literally:
    value = f'<div class="typed">{html.escape(text)}</div>'
    return Literally(type="component", component="html", value=value, constructor_args={}, props={})
