"""Replies are Markdown without HTML and without images; users' texts are shown as typed."""

import pytest

from chat.ui.bubbles import Bubble, escape_markdown, message_bubbles, reply_bubbles
from storage.tables import Message


def texts(bubbles: list[Bubble]) -> list[str]:
    return [part["text"] if part["type"] == "text" else part["value"] for b in bubbles for part in b["content"]]


@pytest.mark.parametrize(
    ("markdown", "escaped"),
    [
        ("a < b, <b>bold</b>", "a < b, &lt;b>bold&lt;/b>"),
        ("<!-- c --> <?php", "&lt;!-- c --> &lt;?php"),
        ("`<b>` and <b>", "`<b>` and &lt;b>"),
        ("``a ` <b>`` <b>", "``a ` <b>`` &lt;b>"),
        ("```html\n<b>\n```\n<b>", "```html\n<b>\n```\n&lt;b>"),
        ("~~~\n<b>\n~~~\n<b>", "~~~\n<b>\n~~~\n&lt;b>"),
        ("```\n<b>\nnot closed", "```\n<b>\nnot closed"),
        (r"\`<img src=x>\`", r"\`&lt;img src=x>\`"),
        ("text ``` <img> in the line", "text ``` &lt;img> in the line"),
        ("<http://a.example> <mailto:a@b.c>", "<http://a.example> <mailto:a@b.c>"),
        ("![x](http://a.example/x.png)", r"\![x](http://a.example/x.png)"),
        ("no ! here [x]", "no ! here [x]"),
    ],
)
def test_html_is_shown_and_images_are_links_outside_code(markdown: str, escaped: str) -> None:
    assert escape_markdown(markdown) == escaped


def test_a_users_text_is_escaped() -> None:
    message = Message(role="user", content="<script>&amp; *x*")
    assert texts(message_bubbles([message])) == ['<div class="typed">&lt;script&gt;&amp;amp; *x*</div>']


@pytest.mark.parametrize(
    ("text", "status", "finish_reason", "shown"),
    [
        ("Hi", "complete", "stop", ["Hi"]),
        ("Hi", "streaming", None, ["Hi"]),
        ("", "streaming", None, []),
        ("Hi", "stopped", "cancelled", ["Hi", "*Stopped.*"]),
        ("", "error", "error", ["*An error ended this reply.*"]),
        ("Hi", "complete", "length", ["Hi", "*The reply reached its limit of tokens.*"]),
        ("", "complete", "stop", ["*The model gave no answer.*"]),
    ],
)
def test_a_mark_tells_how_a_reply_ended(text, status, finish_reason, shown) -> None:
    assert texts(reply_bubbles(text, status, finish_reason)) == shown
