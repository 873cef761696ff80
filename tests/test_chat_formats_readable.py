"""Markdown, plain text and CSV: what is read by people and spreadsheets."""

import csv
from io import StringIO
from typing import Any

import pytest
from archives import conversations
from hypothesis import given
from hypothesis import strategies as st

from chat.formats import csv as csv_format
from chat.formats import markdown, text
from chat.formats.archive import ArchivedConversation
from chat.formats.linear import shown_path


def conversation(*contents: str, **changes: Any) -> ArchivedConversation:
    """A conversation whose messages, from user and model in turn, follow each other."""
    messages = [
        {
            **dict.fromkeys(
                ("origin_id", "finish_reason", "error", "model", "params", "seed", "token_ids", "ledger", "feedback")
            ),
            **dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "ttft_ms", "duration_ms")),
            "id": f"m{number}",
            "parent_id": f"m{number - 1}" if number else None,
            "seq": number + 1,
            "role": "assistant" if number % 2 else "user",
            "content": content,
            "origin": "written",
            "status": "complete",
            "pinned": False,
            "created_at": f"2026-01-01T00:00:{number:02}.000000Z",
        }
        for number, content in enumerate(contents)
    ]
    fields = {
        **dict.fromkeys(("site_id", "title_source", "preset", "system_prompt", "params", "model")),
        "id": "c1",
        "channel": "ui",
        "title": "Hello",
        "active_leaf_id": messages[-1]["id"] if messages else None,
        "pinned": False,
        "archived": False,
        "created_at": "2026-01-01T00:00:00.000000Z",
        "updated_at": "2026-01-01T00:00:00.000000Z",
        "messages": messages,
        **changes,
    }
    return fields  # type: ignore[return-value]


def test_markdown_has_a_header_and_the_messages_under_headings() -> None:
    written = "".join(markdown.write([conversation("Hi", "**Hello!**", model="tiny")]))
    assert (
        written
        == """---
id: "c1"
title: "Hello"
created_at: "2026-01-01T00:00:00.000000Z"
updated_at: "2026-01-01T00:00:00.000000Z"
model: "tiny"
system_prompt: null
---

# Hello

## User
<!-- id: m0 · 2026-01-01T00:00:00.000000Z · complete -->

Hi

## Assistant
<!-- id: m1 · 2026-01-01T00:00:01.000000Z · complete -->

**Hello!**
"""
    )


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("## User", "\\## User"),
        ("\\## Assistant", "\\\\## Assistant"),
        ("<!-- id: x -->", "\\<!-- id: x -->"),
        ("<!-- next conversation -->", "\\<!-- next conversation -->"),
        ("## Users", "## Users"),
        ("text ## User", "text ## User"),
    ],
)
def test_no_line_of_a_message_passes_for_a_heading_or_a_separator(line: str, written: str) -> None:
    lines = "".join(markdown.write([conversation(f"a\n{line}\nb")])).splitlines()
    assert lines[-2] == written


@given(several=st.lists(conversations(), max_size=4))
def test_markdown_has_as_many_conversations_and_messages_as_are_shown(several: list[ArchivedConversation]) -> None:
    lines = "".join(markdown.write(several)).split("\n")
    assert lines.count(markdown.NEXT) == max(0, len(several) - 1)
    n_shown = sum(len(shown_path(each)) for each in several)
    assert sum(line in ("## User", "## Assistant", "## System") for line in lines) == n_shown


def test_text_has_titles_and_messages() -> None:
    assert "".join(text.write([conversation("Hi", "Hello!"), conversation("Yes?", title=None)])) == (
        "Hello\n2026-01-01T00:00:00.000000Z\n\n"
        "USER, 2026-01-01T00:00:00.000000Z\nHi\n\n"
        "ASSISTANT, 2026-01-01T00:00:01.000000Z\nHello!\n\n"
        f"{'=' * 72}\n\n"
        "Untitled\n2026-01-01T00:00:00.000000Z\n\n"
        "USER, 2026-01-01T00:00:00.000000Z\nYes?\n"
    )


def rows(written: str) -> list[dict[str, str]]:
    assert written.startswith("\ufeff")
    return list(csv.DictReader(StringIO(written[1:], newline="")))


@given(several=st.lists(conversations(), max_size=3))
def test_csv_has_a_row_for_each_message_with_its_text(several: list[ArchivedConversation]) -> None:
    found = rows("".join(csv_format.write(several)))
    messages = [message for each in several for message in each["messages"]]
    assert [row["content"].removeprefix("'") for row in found] == [
        message["content"].removeprefix("'") for message in messages
    ]
    assert [row["message_id"] for row in found] == [message["id"] for message in messages]
    shown = {(each["id"], message["id"]) for each in several for message in shown_path(each)}
    assert {(row["conversation_id"], row["message_id"]) for row in found if row["is_shown"] == "1"} <= shown


@pytest.mark.parametrize(
    "formula",
    [
        "=1+1",
        "+1",
        "-1",
        "@x",
        "\t=1",
        "\r=1",
        " =1",
        '"=1',
        "'=1",
        "\uff1d1",
        "\uff0b1",
        "\ufeff=1",
        "\n\n-1",
        "\u200b@x",
    ],
)
def test_what_a_spreadsheet_could_take_for_a_formula_begins_with_an_apostrophe(formula: str) -> None:
    [row] = rows("".join(csv_format.write([conversation(formula, title=formula)])))
    assert row["content"] == row["conversation_title"] == f"'{formula}"


def test_other_texts_stay_as_they_are() -> None:
    for harmless in ("1-1", "a=b", "", 'Hello, "you"', "two\nlines"):
        [row] = rows("".join(csv_format.write([conversation(harmless)])))
        assert row["content"] == harmless
