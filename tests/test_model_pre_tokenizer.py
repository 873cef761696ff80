"""The cutting of texts against the pre-tokenizers and normalizers of the `tokenizers` library."""

import time
from functools import cache
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_families import random_texts
from tokenizers import Regex, normalizers, pre_tokenizers

from model.errors import CheckpointError
from model.pre_tokenizer import GPT2, LLAMA3, PRE_TOKENIZERS, QWEN2, TEKKEN, Behavior, NormalForm, PreTokenizer, Split

# As `tokenizers` calls them in Python
BEHAVIORS = {
    "Isolated": "isolated",
    "Removed": "removed",
    "Contiguous": "contiguous",
    "MergedWithPrevious": "merged_with_previous",
    "MergedWithNext": "merged_with_next",
}

PATTERNS = [
    *(split.pattern for split in (GPT2, LLAMA3, QWEN2, TEKKEN)),
    r"\p{N}",
    r"\p{N}{1,3}",
    r"\s+",
    r"[^\s\d]+",
    r"[\p{^L}\S]{2,}",
    r"\P{Lu}\p{Lu}+?",
    r"(?<=[\r\n])\s*\S",
    r"(?<!a)(?:the|The) ?",
    r"(?>\s+)\S",
    r"'(?i:[sdmt]|ll|ve|re)",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"\p{Han}+|\p{Hiragana}++",
    r"[a&-]|[.\-\[\]^]+|\$",
    r"(a|b)(?!\w)".replace(r"\w", r"\p{L}"),
    r".{3}",
]


@cache
def oracle(pattern: str, behavior: Behavior, invert: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), BEHAVIORS[behavior], invert=invert)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("behavior", get_args(Behavior))
@pytest.mark.parametrize("invert", [False, True])
def test_split_cuts_as_the_oracle_does(pattern: str, behavior: Behavior, invert: bool) -> None:
    split = Split(pattern, behavior, invert)
    for text in random_texts(seed=8, n=100):
        pieces = [piece for piece, _ in oracle(pattern, behavior, invert).pre_tokenize_str(text)]
        assert split.cut([text]) == pieces, repr(text)


@pytest.mark.parametrize("form", get_args(NormalForm))
def test_text_is_normalized_as_the_oracle_does(form: NormalForm) -> None:
    normalizer = getattr(normalizers, form)()
    for text in random_texts(seed=9, n=1_000):
        assert PreTokenizer((), (form,)).normalize(text) == normalizer.normalize_str(text)


def test_later_splits_see_each_piece_alone() -> None:
    pre_tokenizer = PreTokenizer((Split("-"), Split(r"\s+(?!\S)|\S+|\s+")))
    assert pre_tokenizer.cut("a  b  -c") == ["a", " ", " ", "b", "  ", "-", "c"]


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_tiktoken_cuts_alone_for_all_pre_tokenizers_of_gguf_files(name: str) -> None:
    assert PRE_TOKENIZERS[name].cut("a  b 1") == ["a  b 1"]
    assert PRE_TOKENIZERS[name].tiktoken_pattern.endswith(r"|\s+")


@settings(deadline=None)
@given(text=st.text())
def test_no_split_loses_text_but_one_that_removes(text: str) -> None:
    assert "".join(PreTokenizer((Split(r"\p{L}+", "MergedWithNext"), Split(r"\s", "Contiguous"))).cut(text)) == text


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("^a", r"'\^a'"),
        ("a$", r"'\$'"),
        (r"a\bc", r"'\\\\bc'"),
        (r"a\w", r"'\\\\w'"),
        (r"\h", r"'\\\\h'"),
        ("[[:alpha:]]", r"'\[\[:alpha:\]\]'"),
        ("[a&&b]", r"'\[a&&b\]'"),
        (r"\p{Alphabetic}", r"'\\\\p{Alphabetic}'"),
        ("(?i:ss)", r"'\(\?i:ss\)'"),
        ("(?i)a", r"'\(\?i\)a'"),
        ("(?P<x>a)", r"'\(\?P<x>a\)'"),
        ("a{2}+", r"'\{2}\+'"),
        ("a{2}?", r"'\{2}\?'"),
        ("a{,2}", r"'\{,2}'"),
    ],
)
def test_pattern_that_engines_may_read_in_two_ways_is_refused(pattern: str, found: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^pattern '.*': expected what all engines agree on, found {found}$"):
        Split(pattern)


@pytest.mark.parametrize("pattern", ["(a", "a)", "a**", "[b-a]", "a{3,2}", "(" * 2000 + "a" + ")" * 2000])
def test_pattern_that_is_no_regular_expression_is_refused(pattern: str) -> None:
    with pytest.raises(CheckpointError, match=r"^pattern '.{1,81}': expected a regular expression, found .{1,100}$"):
        Split(pattern)


@pytest.mark.parametrize("pattern", ["", "a*", "a|", "(?!a)"])
def test_pattern_that_matches_nothing_at_all_is_refused(pattern: str) -> None:
    with pytest.raises(CheckpointError, match=r": expected one that needs a character, found a match of none$"):
        Split(pattern)


def test_endless_pattern_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^pattern: expected at most 10,000 characters, found 20,000$"):
        Split("a" * 20_000)


@pytest.mark.parametrize("texts", [["a" * 40], ["a" * 22] * 1_000], ids=["one", "many"])
def test_pattern_that_takes_forever_ends_in_an_error(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    monkeypatch.setattr("model.pre_tokenizer.SECONDS", 0.1)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=r"^pattern '.*': expected a text cut within 0.1 s, found it still"):
        Split(r"(?:a|aa)+b").cut(texts)
    assert time.process_time() - start < 2


def test_many_digits_are_joined_in_little_time() -> None:
    assert Split(r"\p{N}", "Contiguous").cut(["1" * 300_000 + "a"]) == ["1" * 300_000, "a"]
