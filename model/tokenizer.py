"""Text to token ids and back, through a tiktoken.Encoding made from a checkpoint's own vocabulary.

Byte-level BPE only (GPT-2's scheme).
"""

import codecs
from collections.abc import Iterable

import tiktoken

from model.errors import CheckpointError
from model.vocabulary import TokenKind, Vocabulary, shown


def byte_alphabet() -> dict[str, int]:
    """Return GPT-2's printable stand-in for each of the 256 bytes, as character to byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class Tokenizer:
    """Encodes ordinary text only: nothing a user types can become a token of another kind.

    Characters that the vocabulary has no bytes for (SmolLM2: six control characters and the unassigned planes
    4 to 11) are encoded as U+FFFD.

    Raises CheckpointError for a vocabulary that is not in GPT-2's byte alphabet, or that tiktoken would merge otherwise
    than the checkpoint says.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.n_vocab = len(vocabulary.tokens)
        # Those that a chat template's own text may contain
        self.control_tokens = vocabulary.ids(TokenKind.CONTROL, TokenKind.USER_DEFINED)
        bytes_of = {token: _to_bytes(token) for token in vocabulary.ids(TokenKind.ORDINARY)}
        ranks = {bytes_of[token]: token_id for token, token_id in vocabulary.mergeable_ids().items()}
        self._known_bytes = b"".join(token for token in ranks if len(token) == 1)
        if not self._can_spell("\ufffd"):
            raise CheckpointError("tokens: expected one for each byte of U+FFFD, found none for some")
        self._bytes_of = [bytes_of.get(token, b"") for token in vocabulary.tokens]
        for token, token_id in vocabulary.ids(TokenKind.USER_DEFINED).items():
            self._bytes_of[token_id] = token.encode()
        self._encoding = tiktoken.Encoding(
            "checkpoint",
            pat_str=vocabulary.pre_tokenizer.tiktoken_pattern,
            mergeable_ranks=ranks,
            special_tokens={},  # tiktoken need not know them
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; other tokens written in it are encoded as the characters they are."""
        pre_tokenizer = self.vocabulary.pre_tokenizer
        text = self.representable(pre_tokenizer.normalize(text))
        token_ids: list[int] = []
        for piece in pre_tokenizer.cut(text):
            token_ids += self._encoding.encode_ordinary(piece)
        return token_ids

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of the ids; control tokens have none, broken UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for: none for a control token, or an id that is no token."""
        return self._bytes_of[token_id] if 0 <= token_id < self.n_vocab else b""

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


_ALPHABET = byte_alphabet()


def _to_bytes(token: str) -> bytes:
    try:
        return bytes(map(_ALPHABET.__getitem__, token))
    except KeyError as error:
        raise CheckpointError(f"token {shown(token)}: expected GPT-2's byte alphabet, found {error}") from None


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
