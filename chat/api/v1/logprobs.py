"""How likely the tokens of a reply were, in both forms that OpenAI's API has for it."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from model.engine.generation import Piece
from model.tokenizer import StreamingDetokenizer, Tokenizer


class TopLogprob(TypedDict):
    """A token that might stand at a place. A control token has no bytes."""

    token: Annotated[str, Field(examples=[" Paris"])]
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of a reply, and the likeliest ones at its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """The tokens of a chat completion, or of what is new of it."""

    content: list[TokenLogprob]
    refusal: None


class CompletionLogprobs(TypedDict):
    """The tokens of a completion, or of what is new of it; offsets are in characters, from its beginning."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


def chat_logprobs(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> ChatLogprobs:
    """Return the tokens of pieces, as chat completions have them."""
    content: list[TokenLogprob] = []
    for logprob in (logprob for piece in pieces for logprob in piece.logprobs):
        top = [_top_logprob(tokenizer, token_id, value) for token_id, value in logprob.most_likely]
        content.append({**_top_logprob(tokenizer, logprob.token_id, logprob.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


class Offsets:
    """Counts the characters of a completion token by token; one inside a character begins where that one begins."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._detokenizer = StreamingDetokenizer(tokenizer)
        self._next = 0

    def add(self, token_id: int) -> int:
        """Return where the text of the next token begins."""
        start = self._next
        self._next += len(self._detokenizer.add(token_id))
        return start


def completion_logprobs(tokenizer: Tokenizer, pieces: Sequence[Piece], offsets: Offsets) -> CompletionLogprobs:
    """Return the tokens of pieces, as completions have them."""
    told = [logprob for piece in pieces for logprob in piece.logprobs]
    return {
        "tokens": [token_text(tokenizer, logprob.token_id) for logprob in told],
        "token_logprobs": [logprob.logprob for logprob in told],
        "top_logprobs": [
            {token_text(tokenizer, token_id): value for token_id, value in logprob.most_likely} for logprob in told
        ],
        "text_offset": [offsets.add(logprob.token_id) for logprob in told],
    }


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """Return what a token is called: its text, its bytes if they are no text by themselves, or a control token's name.

    No two tokens of a vocabulary have the same one.
    """
    token = tokenizer.token_bytes(token_id)
    try:
        return token.decode() or tokenizer.vocabulary.tokens[token_id]
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _top_logprob(tokenizer: Tokenizer, token_id: int, logprob: float) -> TopLogprob:
    token = tokenizer.token_bytes(token_id)
    return {
        "token": token_text(tokenizer, token_id),
        "logprob": logprob,
        "bytes": list(token) if token else None,
    }
