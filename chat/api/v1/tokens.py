"""What texts are as tokens: /v1/tokenize and /v1/detokenize, as llama.cpp has them, and counting a prompt."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from chat.api.errors import InvalidField
from chat.api.v1.logprobs import token_text
from chat.api.v1.prompts import too_long
from chat.api.v1.sampling import TokenId
from chat.api.v1.schemas import Unsupported, unsupported
from chat.given import Given, Text
from chat.loaded_model import LoadedModel
from chat.text import MAX_CHARS

MAX_TOKENS = 1_000_000
MAX_PIECES = 50_000  # characters of a text whose tokens are told one by one: each takes a kilobyte


class TokenizeRequest(Given):
    """A text; it is ordinary text all through, whatever tokens it names."""

    content: Text = Field(examples=["Why is the sky blue?"])
    add_special: bool = Field(
        False, description="Whether the token that begins a text, if there is one, goes before it."
    )
    with_pieces: bool = Field(False, description="Whether to tell the text of each token.")
    parse_special: Unsupported = unsupported()


class TokenPiece(TypedDict):
    """A token, and its text: its bytes if they are no text by themselves."""

    id: int
    piece: str | list[int]


class Tokens(TypedDict):
    """The tokens of a text."""

    tokens: Annotated[list[int] | list[TokenPiece], Field(examples=[[19556, 905]])]


class DetokenizeRequest(Given):
    """Tokens of the model's vocabulary."""

    tokens: Annotated[list[TokenId], Field(max_length=MAX_TOKENS)] = Field(examples=[[19556, 905]])


class Detokenized(TypedDict):
    """The text of tokens: control tokens have none, bytes that are no text become U+FFFD."""

    content: Annotated[str, Field(examples=["Why is the sky blue?"])]


class InputTokens(TypedDict):
    """How many tokens a prompt has."""

    object: Literal["response.input_tokens"]
    input_tokens: Annotated[int, Field(examples=[36])]


def tokenize(model: LoadedModel, request: TokenizeRequest) -> Tokens:
    """Return the tokens of a text; raises InvalidField."""
    limit = MAX_PIECES if request.with_pieces else MAX_CHARS
    if len(request.content) > limit:
        raise too_long("content", len(request.content), limit)
    tokenizer = model.context_builder.tokenizer
    token_ids = [model.bos_id] if request.add_special and model.bos_id is not None else []
    token_ids += tokenizer.encode(request.content)
    if not request.with_pieces:
        return {"tokens": token_ids}
    pieces: list[TokenPiece] = [{"id": token_id, "piece": _piece(model, token_id)} for token_id in token_ids]
    return {"tokens": pieces}


def detokenize(model: LoadedModel, request: DetokenizeRequest) -> Detokenized:
    """Return the text of tokens; raises InvalidField."""
    tokenizer = model.context_builder.tokenizer
    if (largest := max(request.tokens, default=0)) >= tokenizer.n_vocab:
        raise InvalidField("tokens", f"tokens: must be at most {tokenizer.n_vocab - 1}, got {largest}")
    return {"content": tokenizer.decode(request.tokens)}


def _piece(model: LoadedModel, token_id: int) -> str | list[int]:
    token = model.context_builder.tokenizer.token_bytes(token_id)
    try:
        return token.decode() or token_text(model.context_builder.tokenizer, token_id)
    except UnicodeDecodeError:
        return list(token)
