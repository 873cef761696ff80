"""What a prompt has no room for, in a few of its own sentences. No model takes part."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import accumulate, groupby, pairwise
from math import fsum, log

import regex

from chat.words import terms
from model.chat_template import ChatMessage, Role

HEADING = "From earlier in this conversation:"
MAX_READ = 100_000  # characters, the newest: the model waits for the recap, and reading these takes some 60 ms
MAX_SENTENCE = 300  # characters; a longer one is cut, between two words if there are some
MIN_LENGTH = 20  # characters, added to the length by which a gain is divided: else single words would win
# What users say of themselves and their plans is said once; what the model answered, it can answer again.
SAID_BY_USER = 2.0

# A full stop ends a sentence only before white space and no small letter: 3.14, example.org, e.g. this
_END = regex.compile(
    r"(?<!\p{SB=AT})\p{SB=AT}++\p{SB=CL}*+(?=\s+[^\s\p{Ll}])"
    r"|(?<!\p{SB=ST})\p{SB=ST}++\p{SB=CL}*+(?=\s)"
    r"|[。！？｡]++\p{SB=CL}*+"
)
_PIECE = regex.compile(rf"\S(?:.{{0,{MAX_SENTENCE - 2}}}\S)?(?!\S)|\S.{{0,{MAX_SENTENCE - 1}}}")


@dataclass(frozen=True, slots=True)
class Recap:
    """A recap, and the places of the messages that it quotes; both empty if there is no room for a sentence."""

    text: str
    quoted: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Sentence:
    message: int  # the place of the message that it is from
    role: Role
    text: str
    terms: frozenset[str]


def make_recap(messages: Sequence[ChatMessage], max_tokens: int, count_tokens: Callable[[str], int]) -> Recap:
    """Return the sentences that say most of what the messages say, in their order, within a number of tokens.

    The same messages have the same recap. It is a maximum coverage: each term counts once, those that come again more,
    and the sentence that adds most for its length is taken next, the newer of equal ones (Lin and Bilmes,
    "Multi-document Summarization via Budgeted Maximization of Submodular Functions", 2010).
    """
    room = max_tokens - count_tokens(HEADING)
    if room <= 0:
        return Recap("", frozenset())
    sentences = [sentence for i in _recent(messages) for sentence in _sentences(i, messages[i])]
    chosen = _choose(sentences, room, count_tokens)
    while chosen and count_tokens(_spelled(sentences, chosen)) > max_tokens:  # more than the sum of its parts
        chosen.pop()
    return Recap(_spelled(sentences, chosen), frozenset(sentences[i].message for i in chosen))


def _choose(sentences: Sequence[_Sentence], room: int, count_tokens: Callable[[str], int]) -> list[int]:
    """Return the places of the sentences to take, the most telling first."""
    counts = Counter(term for sentence in sentences for term in sentence.terms)
    weights = {term: log(1 + count) for term, count in counts.items()}
    covered: set[str] = set()

    def gain(i: int) -> float:
        sentence = sentences[i]
        weight = fsum(weights[term] for term in sentence.terms - covered)
        return weight * (SAID_BY_USER if sentence.role == "user" else 1) / (len(sentence.text) + MIN_LENGTH)

    # Gains only fall as terms are covered, so that the best is known when its newest gain is still the largest
    heap = [(-gain(i), -i) for i in range(len(sentences))]
    heapify(heap)
    chosen = []
    while heap:
        i = -heappop(heap)[1]
        newest = (-gain(i), -i)
        if heap and newest > heap[0]:
            heappush(heap, newest)
        elif newest[0] < 0 and (size := count_tokens(_line(sentences[i].role, sentences[i].text))) <= room:
            chosen.append(i)
            covered |= sentences[i].terms
            room -= size
    return chosen


def _recent(messages: Sequence[ChatMessage]) -> range:
    """Return the places of the newest messages that are not too much to read, the last one in any case."""
    sizes = accumulate(len(message.content) for message in reversed(messages))
    n_read = max(1, sum(size <= MAX_READ for size in sizes))
    return range(max(0, len(messages) - n_read), len(messages))


def _sentences(place: int, message: ChatMessage) -> Iterator[_Sentence]:
    for line in message.content[:MAX_READ].splitlines():
        ends = [0, *(match.end() for match in _END.finditer(line)), len(line)]
        for start, end in pairwise(ends):
            for text in _PIECE.findall(" ".join(line[start:end].split())):
                yield _Sentence(place, message.role, text, terms(text))


def _spelled(sentences: Sequence[_Sentence], chosen: Sequence[int]) -> str:
    by_message = groupby((sentences[i] for i in sorted(chosen)), key=lambda sentence: sentence.message)
    lines = [_line(said[0].role, *(s.text for s in said)) for said in (list(group) for _, group in by_message)]
    return HEADING + "".join(lines) if lines else ""


def _line(role: Role, *texts: str) -> str:
    # Not as a transcript names roles: what was said must not look like the turns of the prompt
    return f"\n- {role.capitalize()}: {' '.join(texts)}"
