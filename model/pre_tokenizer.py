"""How a text is cut into pieces before merging: no token reaches over a cut.

A checkpoint declares a list of splits. The first cuts the text, each later one cuts every piece on its own, as if
there were nothing around it. tiktoken's own engine does this for the lists of the usual families, in one pattern;
any other list is done here with the package `regex`, which knows a newer Unicode than the engines of tiktoken and
`tokenizers` do: around characters younger than Unicode 16 its cuts may differ from theirs.
"""

import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import regex

from model.errors import CheckpointError

Behavior = Literal["Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"]
NormalForm = Literal["NFC", "NFD"]  # the others have changed with Unicode, and `tokenizers` stays at Unicode 9

SECONDS = 10  # of the processor, for one split of one text: the patterns are a stranger's
MAX_PATTERN = 10_000  # characters

# By the behavior, whether a stretch of text joins the one before it, given whether each of the two is a match
_JOINS: dict[Behavior, Callable[[bool, bool], bool]] = {
    "Isolated": lambda before, now: False,
    "Removed": lambda before, now: False,
    "Contiguous": lambda before, now: before == now,
    "MergedWithPrevious": lambda before, now: now and not before,
    "MergedWithNext": lambda before, now: before and not now,
}

# What means the same to `regex` and to Oniguruma, the engine of `tokenizers`. Left out, among others: ^ $ \b \w, sets
# inside sets, and case-insensitive groups other than the English contractions.
_ESCAPE = r"\\(?:[rntfvsSdD]|[^\w\s]|[pP]\{\^?(?:[LMNPSZC][a-z]?|Han|Hiragana|Katakana|Hangul)\})"
_SET = rf"\[\^?(?:{_ESCAPE}|&(?!&)|[^\[\]\\&])+\]"
_ENDING = r"'?(?:[sdmt]|ll|ve|re|\[sdmt\])"
_CONTRACTIONS = rf"\(\?i:{_ENDING}(?:\|{_ENDING})*\)"
_GROUP = r"\((?:\?(?::|[=!>]|<[=!])|(?!\?))|\)"
_REPEAT = r"[?*+][?+]?|\{\d+(?:,\d*)?\}(?![?+])"
_COMMON = regex.compile(rf"(?:{_ESCAPE}|{_SET}|{_CONTRACTIONS}|{_GROUP}|{_REPEAT}|[^\\\[\](){{}}^$?*+])*+")


@dataclass(frozen=True, slots=True)
class Split:
    """Cuts a text where a regular expression matches. The behaviors and their names are those of `tokenizers`.

    Raises CheckpointError for a pattern that is none, that matches without a character, or that engines might read
    in two ways.
    """

    pattern: str
    behavior: Behavior = "Isolated"
    invert: bool = False  # what lies between the matches counts as a match, and the matches do not

    def __post_init__(self) -> None:
        if len(self.pattern) > MAX_PATTERN:
            raise CheckpointError(f"pattern: expected at most {MAX_PATTERN:,} characters, found {len(self.pattern):,}")
        common = _COMMON.match(self.pattern)
        assert common is not None, "the expression matches the empty text at least"
        if common.end() < len(self.pattern):
            found = self.pattern[common.end() :]
            raise _refusal(self.pattern, "what all engines agree on", f"{found[:20]!r}")
        if _compile(self.pattern).match(""):
            raise _refusal(self.pattern, "one that needs a character", "a match of none")

    def cut(self, texts: Iterable[str]) -> list[str]:
        """Return the pieces of the texts, each cut on its own. None is empty.

        Raises CheckpointError when that takes longer than ten seconds.
        """
        deadline = time.process_time() + SECONDS
        pieces = []
        for text in texts:
            spans: list[tuple[int, int]] = []
            before = False
            for start, end, now in self._stretches(text):
                if spans and _JOINS[self.behavior](before, now):
                    spans[-1] = spans[-1][0], end
                elif not (now and self.behavior == "Removed"):
                    spans.append((start, end))
                before = now
            pieces += [text[start:end] for start, end in spans if end > start]
            if time.process_time() > deadline:
                raise self._too_slow()
        return pieces

    def _stretches(self, text: str) -> Iterator[tuple[int, int, bool]]:
        """Yield begin and end of each stretch of the text, and whether it counts as a match."""
        end = 0
        try:
            for match in _compile(self.pattern).finditer(text, timeout=SECONDS):
                if match.start() > end:
                    yield end, match.start(), self.invert
                yield *match.span(), not self.invert
                end = match.end()
        except TimeoutError:
            raise self._too_slow() from None
        if end < len(text):
            yield end, len(text), self.invert

    def _too_slow(self) -> CheckpointError:
        return _refusal(self.pattern, f"a text cut within {SECONDS} s", "it still being cut")


@lru_cache
def _compile(pattern: str) -> "regex.Pattern[str]":
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError) as error:
        raise _refusal(pattern, "a regular expression", str(error)) from None


def _refusal(pattern: str, expected: str, found: str) -> CheckpointError:
    shown = repr(pattern if len(pattern) <= 80 else f"{pattern[:80]}…")
    return CheckpointError(f"pattern {shown}: expected {expected}, found {found}")


# Each digit alone, before anything else sees it
DIGITS = Split(r"\p{N}")
GPT2 = Split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
LLAMA3 = Split(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = Split(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = Split(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# tiktoken drops what no alternative matches, so its patterns have to cover every text; these do. The \s{256} changes
# nothing but the number of steps: tiktoken's engine notes each one that it may take back, and panics at a million.
_LEAPS = r"(?:\s{256}(?=\s\s))*+"
_WHOLE_PIECES = r"(?s:.+)"
_TIKTOKEN_PATTERNS: dict[tuple[Split, ...], str] = {
    (split,): split.pattern.replace(r"\s+(?!\S)", rf"{_LEAPS}\s+(?!\S)") for split in (GPT2, LLAMA3, QWEN2, TEKKEN)
} | {
    # The digits are cut off first, so white space in front of one is at the end of a piece: hence the look-ahead
    (DIGITS, GPT2): rf"\p{{N}}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?[^\s\p{{L}}\p{{N}}]+"
    rf"|{_LEAPS}\s+(?![^\s\p{{N}}])|\s+"
}


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """All that happens to a text before merging: it is brought into Unicode's normal forms, then cut."""

    splits: tuple[Split, ...]
    normal_forms: tuple[NormalForm, ...] = ()

    @property
    def tiktoken_pattern(self) -> str:
        """The expression with which tiktoken cuts what `cut` has left: all there is to cut, or nothing more."""
        return _TIKTOKEN_PATTERNS.get(self.splits, _WHOLE_PIECES)

    def normalize(self, text: str) -> str:
        """Return the text in the normal forms, one after the other.

        Combining marks younger than Unicode 9 are put in order, as Python's Unicode has it; `tokenizers` leaves them.
        """
        for form in self.normal_forms:
            text = unicodedata.normalize(form, text)
        return text

    def cut(self, text: str) -> list[str]:
        """Return the pieces that tiktoken has to be given one by one."""
        if self.splits in _TIKTOKEN_PATTERNS:
            return [text]
        pieces = [text]
        for split in self.splits:
            pieces = split.cut(pieces)
        return pieces


# By the name that GGUF files give it (tokenizer.ggml.pre), as the makers' own tokenizer.json declares it
_LLAMA3 = PreTokenizer((LLAMA3,))
PRE_TOKENIZERS = {
    "gpt-2": PreTokenizer((GPT2,)),
    "smollm": PreTokenizer((DIGITS, GPT2)),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "smaug-bpe": _LLAMA3,  # SmolLM3 among others: Llama 3's, where no BOS comes first
    "qwen2": PreTokenizer((QWEN2,), ("NFC",)),
    "tekken": PreTokenizer((TEKKEN,)),
}
