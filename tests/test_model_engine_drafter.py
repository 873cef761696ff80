"""Drafts: what followed when the text last was as at its end, held to a definition that reads it all again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.engine.drafter import LENGTHS, Drafter

TEXTS = st.lists(st.integers(0, 2), max_size=40)


def defined(token_ids: list[int], n: int) -> list[int]:
    """The longest end that was there earlier, where it was last, and one token after another of what followed."""
    for length in LENGTHS:
        for start in reversed(range(len(token_ids) - length)):
            if token_ids[start : start + length] == token_ids[-length:]:
                text = list(token_ids)
                for place in range(start + length, start + length + n):
                    text.append(text[place])
                return text[len(token_ids) :]
    return []


@given(token_ids=TEXTS, n=st.integers(0, 12))
def test_proposal_is_as_defined(token_ids: list[int], n: int) -> None:
    assert Drafter(token_ids).propose(n) == defined(token_ids, n)


@given(prompt=TEXTS, reply=TEXTS)
def test_reply_is_read_as_the_prompt_is(prompt: list[int], reply: list[int]) -> None:
    drafter = Drafter(prompt)
    for token_id in reply:
        drafter.propose(3)
        drafter.append(token_id)
    assert drafter.propose(8) == Drafter([*prompt, *reply]).propose(8)


@given(token_ids=st.lists(st.integers(), unique=True, max_size=20))
def test_text_that_never_repeats_has_no_proposal(token_ids: list[int]) -> None:
    assert Drafter(token_ids).propose(5) == []


def test_proposal_goes_on_as_the_text_did() -> None:
    assert Drafter([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]).propose(3) == [4, 5, 6]


def test_longest_end_counts_and_of_equals_the_newest() -> None:
    long, short, newer = [1, 2, 3, 4, 70], [0, 2, 3, 4, 80], [9, 2, 3, 4, 90]
    assert Drafter([*long, *short, 1, 2, 3, 4]).propose(1) == [70]
    assert Drafter([*long, *short, *newer, 5, 2, 3, 4]).propose(1) == [90]


@pytest.mark.parametrize(
    ("period", "following"), [([7], [7] * 5), ([7, 8], [7, 8, 7, 8, 7]), ([1, 2, 3], [1, 2, 3, 1, 2])]
)
def test_text_in_a_loop_is_proposed_to_stay_in_it(period: list[int], following: list[int]) -> None:
    assert Drafter(period * 4).propose(5) == following


def test_two_tokens_alone_tell_nothing() -> None:
    assert Drafter([1, 2, 5, 1, 2]).propose(5) == []


@pytest.mark.parametrize("prompt", [[], [1], [1, 1], [1, 1, 1]])
def test_shortest_texts_have_no_proposal(prompt: list[int]) -> None:
    assert Drafter(prompt).propose(5) == []


def test_long_reply_is_read_without_looking_back_through_it() -> None:
    drafter, n_right = Drafter(range(1_000)), 0
    for token_id in [*range(1_000)] * 20:
        n_right += drafter.propose(1) == [token_id]
        drafter.append(token_id)
    assert n_right == 20_000 - 3
