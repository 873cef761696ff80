"""A recap quotes the most telling sentences of what was dropped, within its limit, and the same ones each time."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.recap import HEADING, MAX_READ, MAX_SENTENCE, Recap, make_recap
from model.chat_template import ChatMessage

ROOT = Path(__file__).parent.parent
HISTORY = [
    ChatMessage("user", "Hi there! My name is Anna and I am allergic to peanuts."),
    ChatMessage("assistant", "Hello Anna! How can I help you today?"),
    ChatMessage("user", "I want to bake a cake for 12 people. It should be ready by Saturday."),
    ChatMessage("assistant", "Great! A lemon cake without peanuts serves 12 people."),
]
TEXTS = st.text("ab .\n!?。你é😀-\u2028", max_size=80) | st.text(max_size=80)
MESSAGES = st.lists(st.builds(ChatMessage, st.sampled_from(["user", "assistant"]), TEXTS), max_size=6)


def n_words(text: str) -> int:
    return len(text.split())


def lines(recap: Recap) -> list[str]:
    heading, *lines = recap.text.split("\n")
    assert heading == HEADING
    return lines


def said(*texts: str) -> list[ChatMessage]:
    return [ChatMessage("user", text) for text in texts]


def test_with_room_for_all_everything_that_tells_something_is_quoted_in_order() -> None:
    assert lines(make_recap(HISTORY, 1000, n_words)) == [
        "- User: My name is Anna and I am allergic to peanuts.",
        "- Assistant: Hello Anna! How can I help you today?",
        "- User: I want to bake a cake for 12 people. It should be ready by Saturday.",
        "- Assistant: Great! A lemon cake without peanuts serves 12 people.",
    ]


def test_with_little_room_the_most_telling_sentences_are_quoted() -> None:
    recap = make_recap(HISTORY, 30, n_words)
    assert lines(recap) == [
        "- User: My name is Anna and I am allergic to peanuts.",
        "- User: I want to bake a cake for 12 people.",
    ]
    assert recap.quoted == {0, 2}


def test_what_a_reply_says_again_is_quoted_from_the_user() -> None:
    history = [*said("Elephants live in Africa."), ChatMessage("assistant", "Elephants live in Africa.")]
    assert make_recap(history, 1000, n_words).quoted == {0}


def test_of_two_sentences_that_say_as_much_the_newer_is_quoted() -> None:
    assert make_recap(said("I like green tea.", "I like green tea."), 1000, n_words).quoted == {1}
    assert make_recap(said("I own a red car.", "I own a big cat."), 12, n_words).quoted == {1}


def test_what_has_been_quoted_does_not_count_again() -> None:
    texts = ["Elephants drink water today.", "Elephants drink water daily.", "Tigers hunt zebras there."]
    assert make_recap(said(*texts), len(HEADING) + 76, len).quoted == {1, 2}


def test_equal_sentences_are_equal_in_whatever_order_their_words_are_added_up() -> None:
    names = ["alpha", "bravo", "charlie", "delta", "foxtrot", "golf", "hotel", "india", "juliet", "kilo"]
    uneven = [" ".join(names[:n]) for n in range(1, 9)]  # so that each of them weighs something else
    texts = uneven + [f"{' '.join(names)} {i}" for i in range(100, 140)]
    assert make_recap(said(*texts), 18, n_words).quoted == {len(texts) - 1}


def test_sentences_without_a_telling_word_are_never_quoted() -> None:
    assert make_recap(said("How are you?", "And you?", "!!!"), 1000, n_words) == Recap("", frozenset())


@given(messages=MESSAGES, max_tokens=st.integers(-1, 100) | st.integers(1000, 10_000))
def test_a_recap_keeps_within_its_limit_whatever_is_counted(messages: list[ChatMessage], max_tokens: int) -> None:
    counts: list[Callable[[str], int]] = [len, n_words, lambda text: len(text.encode()), lambda text: len(text) ** 2]
    for count_tokens in counts:
        recap = make_recap(messages, max_tokens, count_tokens)
        assert not recap.text or count_tokens(recap.text) <= max_tokens


@given(messages=MESSAGES)
def test_each_line_names_a_role_and_quotes_its_message(messages: list[ChatMessage]) -> None:
    recap = make_recap(messages, 10_000, len)
    assert bool(recap.text) == bool(recap.quoted)
    for line, i in zip(lines(recap) if recap.text else [], sorted(recap.quoted), strict=True):
        role, quoted = line.removeprefix("- ").split(": ", 1)
        assert role == messages[i].role.capitalize()
        content = iter(messages[i].content)
        assert all(char in content for char in "".join(quoted.split())), "in the order in which it was said"


@pytest.mark.parametrize(
    ("sentence", "rest"),
    [
        ("Pi is 3.14 today.", " How are you?"),
        ("See example.org for elephants.", " How are you?"),
        ("He said (yes!) gladly.", " How are you?"),
        ("Elephants?!", " How are you?"),
        ("“Elephants.”", " How are you?"),
        ("Elephants", "\nHow are you?"),
        ("我住在北京。", "😀"),
        ("象が好きです！", "😀"),
        ("मुझे चाय पसंद है।", " 😀"),
        ("أحب الشاي؟", " 😀"),
    ],
)
def test_sentences_end_where_their_script_ends_them(sentence: str, rest: str) -> None:
    """Since what comes after the end says nothing, only the sentence itself is quoted."""
    assert lines(make_recap(said(sentence + rest), 1000, len)) == [f"- User: {sentence}"]


def test_a_sentence_without_end_is_cut_between_words() -> None:
    line = lines(make_recap(said("elephants like tea " * 40), 330 + len(HEADING), len))[0]
    assert line.endswith((" elephants", " like", " tea"))
    assert len(line.removeprefix("- User: ")) <= MAX_SENTENCE


def test_of_very_much_only_the_newest_is_read() -> None:
    texts = [f"Elephants number {i}. {'x' * (MAX_READ // 10)}" for i in range(20)]
    assert min(make_recap(said(*texts), 100_000, n_words).quoted) == 11


def test_a_recap_is_the_same_in_every_process() -> None:
    code = (
        "from chat.recap import make_recap; from model.chat_template import ChatMessage;"
        f"print(make_recap({HISTORY!r}, 200, len).text)"
    )
    told = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
        told.add(run.stdout)
    assert told == {f"{make_recap(HISTORY, 200, len).text}\n".encode()}
