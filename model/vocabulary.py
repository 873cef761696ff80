"""A checkpoint's vocabulary, and whether tiktoken merges as it says.

tiktoken takes a piece of text that is a token as it is; in any other it merges, again and again, the two neighbours
that make the token of the lowest id. A checkpoint lists merges instead: of all neighbours that are in the list, those
that come first there are merged, and others never are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from model.errors import CheckpointError
from model.pre_tokenizer import PRE_TOKENIZERS, PreTokenizer


class TokenKind(IntEnum):
    """What a token is for, by GGUF's numbers (tokenizer.ggml.token_type)."""

    ORDINARY = 1
    CONTROL = 3  # stands for no text
    USER_DEFINED = 4  # stands for the text that is its name, such as <think>, though no text becomes it
    UNUSED = 5


_GGUF_KINDS = {kind.value: kind for kind in TokenKind} | {2: TokenKind.CONTROL}  # 2: the unknown token

MAX_TOKEN = 1_000  # characters; a run of 512 blanks is among the longest known

# Pre-tokenizers of vocabularies that were made for tiktoken: a piece that is a token is taken as it is
_IGNORING_MERGES = frozenset({"llama-bpe", "llama3", "llama-v3", "smaug-bpe", "tekken"})


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens, and what checkpoints say about how text becomes them.

    Raises CheckpointError for a token that comes twice or has no character or too many, and for broken Unicode.
    """

    tokens: Sequence[str]  # by id; ordinary ones in GPT-2's byte alphabet, the others as they are written
    kinds: Sequence[TokenKind]
    merges: Sequence[str]  # "left right"
    pre_tokenizer: PreTokenizer
    ignore_merges: bool  # a piece that is a token is taken as it is, whether or not merges lead to it

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for i, token in enumerate(self.tokens):
            if not token or token in seen:
                raise CheckpointError(f"token {i}: expected a text that no other token has, found {shown(token)}")
            if len(token) > MAX_TOKEN:
                raise CheckpointError(f"token {i}: expected at most {MAX_TOKEN:,} characters, found {len(token):,}")
            seen.add(token)
        try:
            "".join(self.tokens).encode()
        except UnicodeEncodeError as error:
            raise CheckpointError(f"tokens: expected Unicode, found {error.object[error.start]!r}") from None

    @classmethod
    def from_gguf(cls, pre: str, tokens: Sequence[str], types: Sequence[int], merges: Sequence[str]) -> "Vocabulary":
        """Take over the lists of a GGUF file, where their names begin with tokenizer.ggml.

        Raises CheckpointError, also for an unknown pre-tokenizer or type of token.
        """
        if pre not in PRE_TOKENIZERS:
            raise CheckpointError(f"pre-tokenizer: expected one of {', '.join(PRE_TOKENIZERS)}, found {shown(pre)}")
        if len(types) != len(tokens):
            raise CheckpointError(f"token types: expected {len(tokens):,}, one for each token, found {len(types):,}")
        try:
            kinds = [_GGUF_KINDS[number] for number in types]
        except KeyError as error:
            raise CheckpointError(f"token type: expected a number from 1 to 5, found {error}") from None
        return cls(tokens, kinds, merges, PRE_TOKENIZERS[pre], ignore_merges=pre in _IGNORING_MERGES)

    def ids(self, *kinds: TokenKind) -> dict[str, int]:
        """Return the ids of the tokens of some kinds, by their texts."""
        return {token: i for i, (token, kind) in enumerate(zip(self.tokens, self.kinds, strict=True)) if kind in kinds}

    def mergeable_ids(self) -> dict[str, int]:
        """Return the ids of the tokens that text can become: given these, tiktoken merges as the list says.

        It does if ids do not fall along the list, and if neighbours that are not in the list never make a token. Where
        merging a token's own characters leads to it, they cannot: inside a longer text those characters go through
        the same merges, in the same order, so that no other two neighbours are ever left of them. A token that its own
        characters do not lead to is never made, and is left out here; but where it is taken if it is a whole piece,
        tiktoken makes it inside pieces, too, so then all its pairs have to be in the list.

        Raises CheckpointError when tiktoken would merge otherwise.
        """
        ids = self.ids(TokenKind.ORDINARY)
        pairs = _read_merges(self.merges, ids)
        reached = _reached(pairs)
        unreached = [token for token in ids if len(token) > 1 and token not in reached]
        if self.ignore_merges:
            _check_all_pairs_listed(unreached, pairs, ids)
            return ids
        _check_parts_come_first(pairs, reached)
        return {token: i for token, i in ids.items() if len(token) == 1 or token in reached}


Pair = tuple[str, str]


def _read_merges(merges: Sequence[str], ids: dict[str, int]) -> list[Pair]:
    """Return the two parts of each merge; raises CheckpointError unless they make tokens whose ids do not fall."""
    pairs = []
    last_id = 0
    for n, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        token_id = ids.get(left + right, -1)
        if token_id < last_id or left not in ids or right not in ids:
            strangers = [token for token in (left, right, left + right) if token not in ids]
            found = f"no such token {shown(strangers[0])}" if strangers else f"id {token_id}"
            expected = f"two ordinary tokens that make one of an id from {last_id} on"
            raise CheckpointError(f"merge {n} {shown(merge)}: expected {expected}, found {found}")
        last_id = token_id
        pairs.append((left, right))
    return pairs


Made = tuple[int, str, str]  # how a token is made: by which merge of the list, from which two

_CHARACTER: Made = (-1, "", "")  # not made, but there from the beginning


def _reached(pairs: Sequence[Pair]) -> dict[str, Made]:
    """Return the tokens that merging their own characters leads to.

    Left out are those of which a part comes later in the list than the token: see _check_parts_come_first.
    """
    places = {pair: n for n, pair in enumerate(pairs)}
    nowhere = len(pairs)
    reached: dict[str, Made] = {}

    def stay_neighbours(left: str, right: str) -> bool:
        """Whether nothing merges across the border of two tokens while each of them is made: goes back in time."""
        left_place, _, left_end = reached.get(left, _CHARACTER)
        right_place, right_start, _ = reached.get(right, _CHARACTER)
        while True:
            # Undo the later merge; of two of the same place the right one, since merging goes from left to right
            if left_place > right_place:
                left = left_end
                if places.get((left, right), nowhere) < left_place:
                    return False
                left_place, _, left_end = reached.get(left, _CHARACTER)
            elif right_place >= 0:
                right = right_start
                if places.get((left, right), nowhere) <= right_place:
                    return False
                right_place, right_start, _ = reached.get(right, _CHARACTER)
            else:
                return True

    for left, right in pairs:
        parts_are_made = (len(left) == 1 or left in reached) and (len(right) == 1 or right in reached)
        if parts_are_made and left + right not in reached and stay_neighbours(left, right):
            reached[left + right] = places[left, right], left, right
    return reached


def _check_all_pairs_listed(tokens: Iterable[str], pairs: Sequence[Pair], ids: dict[str, int]) -> None:
    listed = frozenset(pairs)
    for token in tokens:
        for pair in ((token[:i], token[i:]) for i in range(1, len(token))):
            if pair[0] in ids and pair[1] in ids and pair not in listed:
                merge = shown(" ".join(pair))
                raise CheckpointError(f"token {ids[token]} {shown(token)}: expected the merge {merge}, found none")


def _check_parts_come_first(pairs: Sequence[Pair], reached: dict[str, Made]) -> None:
    for n, pair in enumerate(pairs):
        if "".join(pair) not in reached:
            for part in pair:
                if reached.get(part, _CHARACTER)[0] > n:
                    merge = shown(" ".join(pair))
                    raise CheckpointError(f"merge {n} {merge}: expected only after that of {shown(part)}, found before")


def shown(text: str) -> str:
    """Return a text for an error: in quotes, on one line, and not without end."""
    return repr(text if len(text) <= 80 else f"{text[:80]}…")
