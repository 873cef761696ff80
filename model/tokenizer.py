"""Text to token ids and back, through a tiktoken.Encoding made from a checkpoint's own vocabulary.

Byte-level BPE only (GPT-2's scheme). tiktoken merges by rank, so a token's id has to be its rank: that is checked
when a tokenizer is built.
"""

import codecs
from collections.abc import Sequence

import tiktoken

from model.errors import CheckpointError

# How a text is cut before merging, by the name that GGUF files give it (tokenizer.ggml.pre).
# smollm: each digit alone, the rest as GPT-2 cuts it. The digits go first in the original, so white space in front
# of one counts as the end of a text; that is the [^\s\p{N}] in the look-ahead. The \s{256} changes nothing but the
# number of steps: tiktoken's engine notes each one that it may take back, and panics at a million.
PATTERNS = {
    "smollm": r"\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|(?:\s{256}(?=\s\s))*+\s+(?![^\s\p{N}])|\s+",
}


def byte_alphabet() -> dict[str, int]:
    """Return GPT-2's printable stand-in for each of the 256 bytes, as character to byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class Tokenizer:
    """Encodes ordinary text only: nothing a user types can become a control token.

    Characters that the vocabulary has no bytes for (SmolLM2: six control characters and the unassigned planes
    4 to 11) are encoded as U+FFFD.
    """

    def __init__(self, pattern: str, ranks: dict[bytes, int], control_tokens: dict[str, int]) -> None:
        self.control_tokens = control_tokens
        self.n_vocab = len(ranks) + len(control_tokens)
        self._known_bytes = b"".join(token for token in ranks if len(token) == 1)
        self._bytes_of = {token_id: token for token, token_id in ranks.items()}
        self._encoding = tiktoken.Encoding(
            "checkpoint", pat_str=pattern, mergeable_ranks=ranks, special_tokens=control_tokens
        )

    @classmethod
    def from_bpe(
        cls, pre: str, tokens: Sequence[str], merges: Sequence[str], control_ids: frozenset[int]
    ) -> "Tokenizer":
        """Build a tokenizer from GPT-2's format: tokens by id in the byte alphabet, merges as "left right".

        Raises CheckpointError for an unknown pre-tokenizer or a vocabulary that merges in another order.
        """
        if pre not in PATTERNS:
            raise CheckpointError(f"pre-tokenizer: expected one of {', '.join(PATTERNS)}, found {pre!r}")
        control = {token: i for i, token in enumerate(tokens) if i in control_ids}
        ranks = {_to_bytes(token): i for i, token in enumerate(tokens) if i not in control_ids}
        _check_merges(tokens, merges, control_ids)
        if len(ranks) + len(control) != len(tokens):
            raise CheckpointError(f"vocabulary: expected {len(tokens):,} different tokens, found repeated ones")
        return cls(PATTERNS[pre], ranks, control)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; control tokens written in it are encoded as the characters they are."""
        return self._encoding.encode_ordinary(self.representable(text))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the ids; control tokens have none, broken UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for: none for a control token."""
        return self._bytes_of.get(token_id, b"")

    def representable(self, text: str) -> str:
        """Return the text with each character that the vocabulary cannot spell replaced by U+FFFD."""
        if self._can_spell(text):
            return text
        return "".join(char if self._can_spell(char) else "\ufffd" for char in text)

    def _can_spell(self, text: str) -> bool:
        try:
            return not text.encode().translate(None, delete=self._known_bytes)
        except UnicodeEncodeError:  # a lone surrogate
            return False


def _check_merges(tokens: Sequence[str], merges: Sequence[str], control_ids: frozenset[int]) -> None:
    """Raise unless the merges, in their order, make tokens of rising ids, and every token of several bytes."""
    ids = {token: i for i, token in enumerate(tokens)}
    last = -1
    for n, merge in enumerate(merges):
        merged = merge.replace(" ", "", 1)
        token_id = ids.get(merged, -1)
        if token_id <= last:
            raise CheckpointError(
                f"merge {n} makes {merged!r}: expected a token with an id above {last}, found {token_id}"
            )
        last = token_id
    made = {merge.replace(" ", "", 1) for merge in merges}
    for i, token in enumerate(tokens):
        if len(token) > 1 and token not in made and i not in control_ids:
            raise CheckpointError(f"token {i} {token!r}: expected a merge that makes it, found none")


_ALPHABET = byte_alphabet()


def _to_bytes(token: str) -> bytes:
    try:
        return bytes(_ALPHABET[char] for char in token)
    except KeyError as error:
        raise CheckpointError(f"token {token!r}: expected GPT-2's byte alphabet, found {error}") from None


class StreamingDetokenizer:
    """Gives the text of a growing list of ids piece by piece, never half a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_id: int) -> str:
        """Return the text that this token completes; empty in the middle of a character."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """Return what is left: U+FFFD if the last character is incomplete."""
        return self._decoder.decode(b"", final=True)
