"""Stop strings: never shown, wherever the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.engine.stop_strings import StopStrings

WORDS = st.text("ab\n", min_size=1, max_size=4)


def show(pieces: list[str], *stop: str) -> tuple[list[str], bool]:
    """What is shown for each piece, and at the end; and whether a stop string was found."""
    strings, shown = StopStrings(stop), []
    for piece in pieces:
        shown.append(strings.add(piece))
        if strings.found:
            break
    return [*shown, strings.finish()], strings.found


def before_first(text: str, stop: list[str]) -> str:
    """The text before the stop string that is complete first; of those that end together, before the longest."""
    for end in range(len(text)):
        starts = [end + 1 - len(s) for s in stop if text[: end + 1].endswith(s)]
        if starts:
            return text[: min(starts)]
    return text


@given(pieces=st.lists(st.text("ab\n", max_size=5), max_size=10), stop=st.lists(WORDS, max_size=3))
def test_text_before_the_first_stop_string_is_shown_for_any_cut(pieces: list[str], stop: list[str]) -> None:
    text = "".join(pieces)
    shown, found = show(pieces, *stop)
    assert "".join(shown) == before_first(text, stop)
    assert found == any(s in text for s in stop)


@given(pieces=st.lists(st.text("ab\n", max_size=5), max_size=10), stop=WORDS)
def test_text_before_one_stop_string_is_what_split_gives(pieces: list[str], stop: str) -> None:
    shown, _ = show(pieces, stop)
    assert "".join(shown) == "".join(pieces).split(stop)[0]


@given(pieces=st.lists(st.text(), max_size=10))
def test_without_stop_strings_each_piece_passes_at_once(pieces: list[str]) -> None:
    assert show(pieces) == ([*pieces, ""], False)


@given(pieces=st.lists(st.text("abc", max_size=5), max_size=10))
def test_text_that_cannot_become_a_stop_string_passes_at_once(pieces: list[str]) -> None:
    assert show(pieces, "xyz", "zzz") == ([*pieces, ""], False)


def test_beginning_of_a_stop_string_is_held_back_until_the_end() -> None:
    assert show(["tea <", "/", "s"], "</s>") == (["tea ", "", "", "</s"], False)


def test_beginning_that_goes_on_otherwise_is_released() -> None:
    assert show(["a<", "/", "p>", "<<"], "</s>", "<<<") == (["a", "", "</p>", "", "<<"], False)


def test_stop_string_across_pieces_is_not_shown() -> None:
    assert show(["one", "\nUs", "er", ":", "never"], "\nUser:") == (["one", "", "", "", ""], True)


@pytest.mark.parametrize("pieces", [["abcd"], ["abc", "d"], ["a", "b", "c", "d"], ["ab", "cd"]])
def test_of_overlapping_stop_strings_the_first_complete_one_counts(pieces: list[str]) -> None:
    shown, found = show(pieces, "abcd", "bc")
    assert ("".join(shown), found) == ("a", True)


@pytest.mark.parametrize("pieces", [["xabc"], ["xab", "c"], ["x", "a", "b", "c"]])
def test_of_stop_strings_that_end_together_the_longest_counts(pieces: list[str]) -> None:
    shown, found = show(pieces, "bc", "abc")
    assert ("".join(shown), found) == ("x", True)
