"""The API that OpenAI's clients speak, as an application of its own. It stores nothing."""

import time
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from chat.api.errors import InvalidField, documented, register_errors
from chat.api.identity import Owner
from chat.api.v1.chat_completions import ChatCompletion, ChatCompletionRequest, ChatForm
from chat.api.v1.completions import Completion, CompletionForm, CompletionRequest
from chat.api.v1.models import Model, Models, describe, named_model
from chat.api.v1.response import ReplyResponse
from chat.api.v1.tokens import (
    Detokenized,
    DetokenizeRequest,
    InputTokens,
    TokenizeRequest,
    Tokens,
    detokenize,
    tokenize,
)
from chat.bus import Bus
from chat.model_host import ModelHost

DESCRIPTION = """What OpenAI's clients and those of llama.cpp ask for, on the model in use.

Fields that change nothing here are named as such; any other field that is unknown is an error."""

NO_EMBEDDINGS = (
    "model: gives no embeddings: it was made to write, and what it has in their place finds less than a search for "
    "words. Use a model that was made for them."
)


def create_v1(host: ModelHost, bus: Bus) -> FastAPI:
    """Return the API over a host's model; its answers end when the bus is closed."""
    v1 = FastAPI(title="Parley, as OpenAI's API", description=DESCRIPTION, docs_url=None, redoc_url=None)
    register_errors(v1)
    handlers, add = _Handlers(host, bus, int(time.time())), v1.add_api_route
    chat, texts = _replying(ChatCompletion), _replying(Completion)
    add("/models", handlers.models, methods=["GET"], summary="List models", responses=documented())
    add("/models/{model:path}", handlers.model, methods=["GET"], summary="Read a model", responses=documented(404))
    add("/chat/completions", handlers.chat, methods=["POST"], summary="Answer a conversation", **chat)
    add("/completions", handlers.complete, methods=["POST"], summary="Continue texts", **texts)
    counted = "/chat/completions/input_tokens"
    add(counted, handlers.count, methods=["POST"], summary="Count a prompt's tokens", responses=documented(404))
    add("/embeddings", handlers.embed, methods=["POST"], summary="Refused: there are none", responses=documented())
    add("/tokenize", handlers.tokenize, methods=["POST"], summary="Encode a text", responses=documented())
    add("/detokenize", handlers.detokenize, methods=["POST"], summary="Decode tokens", responses=documented())
    return v1


def _replying(answer: Any) -> dict[str, Any]:
    """Return what OpenAPI is told of a route that answers whole or with a stream."""
    stream = {"schema": {"type": "string"}, "example": 'data: {"id": "cmpl-5", "choices": []}\n\ndata: [DONE]\n\n'}
    good = {"model": answer, "content": {"text/event-stream": stream}}
    return {"response_model": None, "responses": {200: good, **documented(404)}}


@dataclass(frozen=True, slots=True)
class _Handlers:
    host: ModelHost
    bus: Bus
    created: int

    def models(self, owner: Owner) -> Models:
        """List the models that can be asked: the one in use."""
        return {"object": "list", "data": [describe(self.host.model(), self.created)]}

    def model(self, owner: Owner, model: str) -> Model:
        """Read what a model is."""
        return describe(named_model(self.host, model), self.created)

    def chat(self, owner: Owner, request: ChatCompletionRequest) -> ReplyResponse:
        """Answer the last message of a conversation. Whoever breaks the connection ends the reply."""
        replies = request.replies(named_model(self.host, request.model), owner)
        return ReplyResponse(request, replies, ChatForm(request, replies), self.bus, owner)

    def complete(self, owner: Owner, request: CompletionRequest) -> ReplyResponse:
        """Continue texts, without a chat template. Whoever breaks the connection ends it."""
        replies = request.replies(named_model(self.host, request.model), owner)
        return ReplyResponse(request, replies, CompletionForm(request, replies), self.bus, owner)

    def count(self, owner: Owner, request: ChatCompletionRequest) -> InputTokens:
        """Count the tokens of the prompt that a chat completion would have."""
        prompt, _ = request.prompt(named_model(self.host, request.model))
        return {"object": "response.input_tokens", "input_tokens": len(prompt.token_ids)}

    def embed(self, owner: Owner) -> None:
        """Refuse: measured, the vectors of a model that writes text find less than a search for words."""
        raise InvalidField("model", NO_EMBEDDINGS, "embeddings_not_supported")

    def tokenize(self, owner: Owner, request: TokenizeRequest) -> Tokens:
        """Encode a text as the model reads it."""
        return tokenize(self.host.model(), request)

    def detokenize(self, owner: Owner, request: DetokenizeRequest) -> Detokenized:
        """Decode tokens of the model's vocabulary."""
        return detokenize(self.host.model(), request)
