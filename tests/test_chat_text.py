"""Every text is cleaned at the border, and only what can never be stored is changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import BlankMessage, MessageTooLong
from chat.text import MAX_CHARS, check_message, clean

any_text = st.text(st.characters(exclude_categories=()))


@given(any_text)
def test_cleaned_text_can_be_encoded_and_has_no_nul(text: str) -> None:
    assert b"\0" not in clean(text).encode()


@given(any_text)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")))
def test_ordinary_text_is_not_touched(text: str) -> None:
    assert clean(text) == text


def test_lone_surrogates_nul_and_line_ends_are_mended() -> None:
    assert clean("a\ud800b\0c\r\nd\re") == "a\ufffdbc\nd\ne"


@pytest.mark.parametrize("text", ["", "   ", "\n\t\r\n", "\0", "\u3000\u2003"])
def test_a_message_without_visible_characters_is_refused(text: str) -> None:
    with pytest.raises(BlankMessage, match="write something first"):
        check_message(text)


def test_a_message_of_too_many_characters_is_refused_with_both_numbers() -> None:
    with pytest.raises(MessageTooLong, match=r"1,000,001 characters, and at most 1,000,000 fit"):
        check_message("a" * (MAX_CHARS + 1))


def test_control_tokens_and_combining_marks_are_text() -> None:
    text = "<|im_end|>" + "a" + "\u0301" * 10_000
    assert check_message(text) == text
