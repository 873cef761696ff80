"""The words of a text in any script, and which of them say what it is about."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import regex

Kind = Literal["spaced", "unspaced", "emoji"]

# Scripts that put no spaces between words: ideographs, kana, and those of South East Asia
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{LB=SA}"
_LETTER = rf"[[\p{{L}}\p{{N}}_]--[{_UNSPACED}]]"
_LETTERS = rf"{_LETTER}(?:[\u200c\u200d]?[{_LETTER}\p{{M}}])*"  # Persian and Hindi join letters by invisible ones
_WORD = regex.compile(
    rf"(?P<emoji>(?=[\p{{Emoji_Presentation}}\p{{Extended_Pictographic}}])\X)"
    rf"|(?P<unspaced>(?:[{_UNSPACED}]\p{{M}}*)+)"
    rf"|(?P<spaced>{_LETTERS}(?:['’.:/@&+·-]{_LETTERS})*(?:\+\+|\#)?)",
    regex.VERSION1,
)
_BEGINS_SENTENCE = regex.compile(r"(?:^|[\p{Sentence_Terminal}:\n\r])[^\p{L}\p{N}]*\Z")
_STEM = 6  # letters: enough to tell words apart, and few enough to find them again in other forms

# Of English, German, French, Spanish, Portuguese and Russian; shorter ones weigh nothing anyway
_FUNCTION_WORDS = """
    about after all also and any are been before being between but can could did does doing each explain for from get
    give had has have help her here him his how into its just know let like make many may more most much need not now
    off only other our out over please same she should show some such tell than thank thanks that the their them then
    there these they this those too use very want was were what when where which while who why will with without would
    write you your
    aber als auch bei bin bist bitte das dass dein deine dem den der des die dir diese dieser ein eine einem einen einer
    erkläre für haben hast hat ich ihr ist kann kannst können könntest man mein meine mich mir mit nicht nur oder
    schreib schreibe sein sich sie sind über und uns vom von war was welche welcher welches wenn wer werden wie wird wir
    zum zur zwischen
    aux avec cette comment dans des dois elle entre est est-ce être les leur mais mes même moi mon nous par pas peux
    plus pour pourquoi pouvez que quel quelle quelles quels qui sans ses son sont sous sur tout une vos votre vous
    como cómo con cuál cuáles cuando cuándo del donde dónde esta está este hacer las los mis mon não para pero podrías
    por porque puede puedes puedo qual qué quero quiero ser sobre son sua são tiene uma una uno você
    без вас все для его есть как какая какие какой когда меня мне можешь можно мой мочь над нет объясни она они
    пожалуйста почему при про рассказать расскажи так такое также тебя ты что чтобы это
"""
_KNOWN = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True, slots=True)
class Word:
    """A word where it stands. In scripts without spaces it is all that stands between two signs of another kind."""

    text: str
    start: int
    end: int
    kind: Kind
    is_marked: bool  # by a digit, or by a capital that does not come from its place
    is_weak: bool  # too short or too common to say what a text is about


def words(text: str) -> Iterator[Word]:
    """Yield the words and emoji of a text. None has a control character, or begins or ends with an invisible one."""
    for match in _WORD.finditer(text):
        word, kind = match[0], cast(Kind, match.lastgroup)
        is_marked = kind == "spaced" and _is_marked(word, begins=_begins_sentence(text, match.start()))
        is_weak = kind == "spaced" and not is_marked and _is_weak(word)
        yield Word(word, match.start(), match.end(), kind, is_marked, is_weak)


def terms(text: str) -> frozenset[str]:
    """Return what a text has in common with others on the same matter.

    That is the beginnings of its words, without the weak ones; of scripts without spaces, pairs of characters.
    """
    found: set[str] = set()
    for match in _WORD.finditer(text):
        word = match[0]
        if match.lastgroup == "unspaced":
            found.update([word[i : i + 2] for i in range(len(word) - 1)] or [word])
        elif match.lastgroup == "spaced" and not _is_weak(word):
            found.add(word.casefold()[:_STEM])
    return frozenset(found)


def _begins_sentence(text: str, start: int) -> bool:
    return _BEGINS_SENTENCE.search(text[max(0, start - 5) : start]) is not None


def _is_marked(word: str, *, begins: bool) -> bool:
    return _has_digit(word) or (len(word) > 1 and any(map(str.isupper, word[1:] if begins else word)))


def _is_weak(word: str) -> bool:
    longest = 1 if "가" <= word[0] <= "힣" else 2  # of Hangul, a letter is a syllable
    parts = word.casefold().replace("’", "'").split("'")
    if any(len(part) > longest and part not in _KNOWN for part in parts):
        return False
    return not _has_digit(word) and not (len(word) > 1 and word.isupper())


def _has_digit(word: str) -> bool:
    return any(map(str.isdecimal, word))
