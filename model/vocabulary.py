"""A checkpoint's vocabulary, and whether tiktoken merges as it says.

tiktoken takes a piece of text that is a token as it is; in any other it merges, again and again, the two neighbours
that make the token of the lowest id. A checkpoint lists merges instead: of all neighbours that are in the list, those
that come first there are merged, and others never are.
"""

from collections.abc import Container, Iterable, Sequence
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
        merges = _read_merges(self.merges, ids)
        places = _places(merges, self.tokens)
        never_made = {token for token, token_id in ids.items() if places[token_id] == len(merges)}
        if self.ignore_merges:
            _check_all_pairs_listed(never_made, frozenset(self.merges), ids)
            return ids
        _check_parts_come_first(merges, places, self.tokens)
        return {token: token_id for token, token_id in ids.items() if token not in never_made}


Merge = tuple[int, int, int]  # ids of the left and of the right token, and of what they make


def _read_merges(merges: Sequence[str], ids: dict[str, int]) -> list[Merge]:
    """Return the merges in ids; raises CheckpointError unless they make tokens whose ids do not fall."""
    read = []
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
        read.append((ids[left], ids[right], token_id))
    return read


def _places(merges: Sequence[Merge], tokens: Sequence[str]) -> list[int]:
    """Return by id where in the list a token is made when nothing but its own characters is merged.

    That is -1 for a single character, and len(merges) where they do not become it. A merge whose parts are made later
    in the list is not considered: see _check_parts_come_first.
    """
    n_tokens, nowhere = len(tokens), len(merges)
    place_of_pair = {left * n_tokens + right: n for n, (left, right, _) in enumerate(merges)}  # fast to look up
    places = [-1 if len(token) == 1 else nowhere for token in tokens]
    parts = [(0, 0)] * n_tokens

    def stay_neighbours(left: int, right: int) -> bool:
        """Whether nothing merges across the border of two tokens while each of them is made: goes back in time."""
        while places[left] >= 0 or places[right] >= 0:
            # Undo the later merge; of two of the same place the right one, since merging goes from left to right
            if places[left] > places[right]:
                limit = places[left]
                left = parts[left][1]
            else:
                limit = places[right] + 1
                right = parts[right][0]
            if place_of_pair.get(left * n_tokens + right, nowhere) < limit:
                return False
        return True

    for left, right, token_id in merges:
        parts_are_made = places[left] < nowhere and places[right] < nowhere
        if parts_are_made and places[token_id] == nowhere and stay_neighbours(left, right):
            places[token_id] = place_of_pair[left * n_tokens + right]
            parts[token_id] = left, right
    return places


def _check_all_pairs_listed(tokens: Iterable[str], merges: Container[str], ids: dict[str, int]) -> None:
    for token in tokens:
        for left, right in ((token[:i], token[i:]) for i in range(1, len(token))):
            if left in ids and right in ids and f"{left} {right}" not in merges:
                merge = shown(f"{left} {right}")
                raise CheckpointError(f"token {ids[token]} {shown(token)}: expected the merge {merge}, found none")


def _check_parts_come_first(merges: Sequence[Merge], places: Sequence[int], tokens: Sequence[str]) -> None:
    for n, (left, right, token_id) in enumerate(merges):
        for part in (left, right) if places[token_id] == len(merges) else ():
            if n < places[part] < len(merges):
                merge = shown(f"{tokens[left]} {tokens[right]}")
                raise CheckpointError(
                    f"merge {n} {merge}: expected only after that of {shown(tokens[part])}, found before"
                )


def shown(text: str) -> str:
    """Return a text for an error: in quotes, on one line, and not without end."""
    return repr(text if len(text) <= 80 else f"{text[:80]}…")
