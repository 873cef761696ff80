"""Titles of conversations, made of what was written first. No model takes part."""

from collections.abc import Sequence

import regex

from chat.words import Word, terms, words

TITLE_CHARS = 40
MAX_READ = 2000  # characters of a text: what a conversation is about stands at its beginning
MAX_KEYWORDS = 5
MAX_BETWEEN = 2  # words of no weight between two keywords that make a phrase of them

_INVISIBLE = regex.compile(r"[\p{Cc}\p{Bidi_C}]")  # control characters, and those that turn the direction of a text


def make_title(text: str) -> str:
    """Return the beginning of a message as the title of its conversation: one line, cut at a word."""
    line = " ".join(_INVISIBLE.sub(" ", text).split())
    if len(line) <= TITLE_CHARS:
        return line
    before, space, _ = line[:TITLE_CHARS].rpartition(" ")
    return f"{before.rstrip('.,;:')}…" if space else _cut(line)


def keyword_title(question: str, answer: str) -> str | None:
    """Return the keywords of a first exchange as a title: one line of at most 40 characters, None if it has no words.

    They are the question's, where it has some, as they stand there; the answer tells which of them matter.
    """
    text, other = question[:MAX_READ], answer[:MAX_READ]
    found = list(words(text))
    if not found:
        text, other, found = other, text, list(words(other))
    if not found:
        return None
    return _cut(_spelled(text, found, _fill(text, found, _choose(text, found, terms(other)))))


def _choose(text: str, found: Sequence[Word], common: frozenset[str]) -> set[int]:
    """Return the places of the words that weigh most, as many as a title holds; of words that repeat, the first."""
    known: set[str] = set()
    weights = {}
    for i, word in enumerate(found):
        if word.text.casefold() not in known:
            known.add(word.text.casefold())
            weights[i] = _weight(word, common)
    heaviest = sorted(weights, key=lambda i: (-weights[i], i))
    strong = [i for i in heaviest if not found[i].is_weak]
    says_nothing = all(found[i].kind == "emoji" for i in strong)
    chosen: set[int] = set()
    for i in sorted(weights) if says_nothing else strong:
        if len(chosen) < MAX_KEYWORDS and len(_spelled(text, found, chosen | {i})) <= TITLE_CHARS:
            chosen.add(i)
    return chosen or {heaviest[0]}


def _weight(word: Word, common: frozenset[str]) -> float:
    """Return how much a word says: long ones say more than short ones, and most say those that the answer takes up."""
    if word.kind == "emoji":
        return 0
    return min(len(word.text), 8) + 4 * min(len(terms(word.text) & common), 3) + 4 * word.is_marked


def _fill(text: str, found: Sequence[Word], chosen: set[int]) -> set[int]:
    """Return the choice with the small words that make phrases of its neighbours, as far as they fit."""
    places = sorted(chosen)
    for left, right in zip(places, places[1:], strict=False):
        between = range(left + 1, right)
        as_written = text[found[left].end : found[right].start].split() == [found[i].text for i in between]
        if len(between) <= MAX_BETWEEN and as_written and all(found[i].is_weak for i in between):
            filled = chosen.union(between)
            chosen = filled if len(_spelled(text, found, filled)) <= TITLE_CHARS else chosen
    return chosen


def _spelled(text: str, found: Sequence[Word], chosen: set[int]) -> str:
    """Return the words in their order; those that touch in the text still touch."""
    title, end = "", 0
    for word in (found[i] for i in sorted(chosen)):
        title += f" {word.text}" if title and word.start > end else word.text
        end = word.end
    return title


def _cut(title: str) -> str:
    """Return a title that is one long word cut, but in no character that is made of several."""
    if len(title) <= TITLE_CHARS:
        return title
    cut = ""
    for character in regex.findall(r"\X", title):
        if len(cut) + len(character) >= TITLE_CHARS:
            break
        cut += character
    return f"{cut or title[: TITLE_CHARS - 1]}…"
