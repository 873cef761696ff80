"""Markdown, plain text and CSV: what is read by people and spreadsheets."""

import csv
from contextlib import suppress
from io import StringIO
from typing import Any

import pytest
from archives import conversations
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import Unreadable
from chat.formats import csv as csv_format
from chat.formats import markdown, text
from chat.formats.archive import ArchivedConversation, check
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
<!-- id: "m0" · 2026-01-01T00:00:00.000000Z · complete -->

Hi

## Assistant
<!-- id: "m1" · 2026-01-01T00:00:01.000000Z · complete -->

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


def read_markdown(written: str) -> list[ArchivedConversation]:
    return list(markdown.read(StringIO(written, newline="\n"), []))


# Lines that look like what is written around texts, and what escapes them
LINES = st.sampled_from(
    ["## User", "<!-- id: x -->", "---", "```", "# A", "", "\\", "<!-- next conversation -->", "\r"]
)
HOSTILE = st.lists(LINES | st.text(max_size=5), max_size=6).map("\n".join) | st.lists(LINES, max_size=5).map("".join)


@given(several=st.lists(conversations(), min_size=1, max_size=3), data=st.data())
def test_what_markdown_shows_comes_back(several: list[ArchivedConversation], data: st.DataObject) -> None:
    for each in several:
        each["system_prompt"] = data.draw(st.none() | HOSTILE)
        for message in each["messages"]:
            message["content"] = data.draw(HOSTILE)
            message["model"] = data.draw(st.none() | HOSTILE) or None
    for each, read in zip(filter(shown_path, several), read_markdown("".join(markdown.write(several))), strict=True):
        values = ("id", "title", "created_at", "updated_at", "model", "system_prompt")
        assert [read[name] for name in values] == [each[name] for name in values]  # type: ignore[literal-required]
        shown = ("id", "role", "content", "created_at", "status", "model")
        assert [[message[name] for name in shown] for message in read["messages"]] == [  # type: ignore[literal-required]
            [message[name] for name in shown]  # type: ignore[literal-required]
            for message in shown_path(each)
        ]
        check(read, "read")


@pytest.mark.parametrize("message_id", ["a -->", " · complete", '"', "\n", "-->\n\n## User"])
def test_no_id_ends_the_comment_that_it_stands_in(message_id: str) -> None:
    written = conversation("Hi", active_leaf_id=message_id)
    written["messages"][0]["id"] = message_id
    [read] = read_markdown("".join(markdown.write([written])))
    assert [message["id"] for message in read["messages"]] == [message_id]


def test_an_older_file_with_bare_ids_is_read() -> None:
    written = "".join(markdown.write([conversation("Hi")])).replace('id: "m0"', "id: m0")
    assert [message["id"] for message in read_markdown(written)[0]["messages"]] == ["m0"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('title: "Hello"', "title: Hello", "conversation 1, title: expected JSON"),
        ("\n---\n", "\n", "conversation 1: expected a header between two lines ---"),
        ("complete", "done", "conversation 1: messages.0.status: input should be"),
        ('"m0"', '"m0', "conversation 1, message 1: expected JSON"),
        ("2026-01-01T00:00:00.000000Z · ", "", "conversation 1: messages.0.status: input should be"),
        ("2026-01-01T00:00:00.000000Z ·", "today ·", "conversation 1: messages.0.created_at: string should match"),
        ('updated_at: "2026', 'updated_at: "x', "conversation 1: updated_at: string should match"),
    ],
)
def test_markdown_that_was_changed_for_the_worse_is_refused_with_the_place(old: str, new: str, reason: str) -> None:
    written = "".join(markdown.write([conversation("Hi")]))
    assert old in written
    with pytest.raises(Unreadable) as refused:
        read_markdown(written.replace(old, new, 1))
    assert str(refused.value).startswith(reason)


WRITTEN = "".join(markdown.write([conversation("Hi", "Hello!", model="tiny"), conversation("Yes?")]))


@given(place=st.integers(0, len(WRITTEN)), n_gone=st.integers(0, 40), new=st.text(max_size=4))
def test_damaged_markdown_is_refused_or_says_something_else(place: int, n_gone: int, new: str) -> None:
    with suppress(Unreadable):
        for read in read_markdown(WRITTEN[:place] + new + WRITTEN[place + n_gone :]):
            check(read, "read")


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
    assert len(found) == len(messages)
    for row, message in zip(found, messages, strict=True):
        assert row["content"] in (message["content"], f"'{message['content']}")
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


def test_markdown_without_messages_is_left_out_and_reported() -> None:
    skipped: list[str] = []
    written = "".join(markdown.write([conversation(), conversation("Hi")]))
    assert len(list(markdown.read(StringIO(written, newline="\n"), skipped))) == 1
    assert skipped == ["Hello: left out, since it has no messages (1)"]
