"""POST /v1/chat/completions: the reply to a conversation that the request tells."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import Field
from typing_extensions import TypedDict

from chat.api.errors import InvalidField
from chat.api.v1.logprobs import ChatLogprobs, chat_logprobs
from chat.api.v1.prompts import InputMessage, chat_messages
from chat.api.v1.reading import News
from chat.api.v1.replies import Prompt, Replies, blaming
from chat.api.v1.schemas import (
    CompletionUsage,
    FinishReason,
    GenerationRequest,
    Head,
    Timings,
    Unsupported,
    head,
    ignored,
    unsupported,
)
from chat.loaded_model import LoadedModel


class ChatCompletionRequest(GenerationRequest):
    """A conversation, and how the reply to its last message, the user's, is to be drawn."""

    messages: list[InputMessage] = Field(
        min_length=1,
        max_length=10_000,
        description="First those of system or developer, if there are any, then user and assistant.",
        examples=[[{"role": "user", "content": "Why is the sky blue?"}]],
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of max_tokens.")
    logprobs: bool | None = Field(None, description="Whether to tell how likely each token was.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="And so many of the likeliest at its place.")
    store: bool | None = Field(None, description="Accepted, and changes nothing: nothing of a request is stored.")
    parallel_tool_calls: bool | None = ignored()
    tool_choice: Literal["none", "auto"] | None = ignored()
    function_call: Literal["none", "auto"] | None = ignored()
    reasoning_effort: str | None = ignored()
    verbosity: str | None = ignored()
    prediction: dict[str, Any] | None = ignored()
    modalities: list[Literal["text"]] | None = ignored()
    tools: Unsupported = unsupported()
    functions: Unsupported = unsupported()
    audio: Unsupported = unsupported()
    web_search_options: Unsupported = unsupported()

    def prompt(self, model: LoadedModel) -> tuple[Prompt, tuple[str, ...]]:
        """Return the prompt, and what would begin the next turn; raises InvalidField."""
        messages = chat_messages(self.messages)
        with blaming("messages"):
            context = model.context_builder.build_whole(messages)
        return Prompt(context.token_ids, context.n_shared), context.stop

    def replies(self, model: LoadedModel, owner: str) -> Replies:
        """Have the replies begin; raises InvalidField, EngineBusy, EngineStopped."""
        prompt, stop = self.prompt(model)
        with blaming("messages"):
            params = self.sampling_params(
                model.sampling_params,
                max_tokens=self._max_tokens(),
                logprobs=self._n_logprobs(),
                stop=(*(self.stop or model.sampling_params.stop), *stop),
            )
            return Replies(model, owner, [prompt], params, self.n_choices)

    def _max_tokens(self) -> int | None:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            text = f"must be max_tokens, {self.max_tokens}, where both are given, got {self.max_completion_tokens}"
            raise InvalidField("max_completion_tokens", f"max_completion_tokens: {text}")
        return self.max_tokens or self.max_completion_tokens

    def _n_logprobs(self) -> int | None:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidField("top_logprobs", "top_logprobs: needs logprobs: true")
        return (self.top_logprobs or 0) if self.logprobs else None


class ReplyMessage(TypedDict):
    """A reply."""

    role: Literal["assistant"]
    content: Annotated[str, Field(examples=["Paris."])]
    refusal: None


class ChatChoice(TypedDict):
    """One of the replies."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletion(Head):
    """The replies to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: CompletionUsage
    timings: Timings | None


class Delta(TypedDict, total=False):
    """What is to be put after the reply so far."""

    role: Literal["assistant"]
    content: Annotated[str, Field(examples=["Paris."])]


class ChunkChoice(TypedDict):
    """What is new of one of the replies."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(Head):
    """An event of a stream."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: CompletionUsage | None
    timings: Timings | None


class ChatForm:
    """How replies are told as chat completions."""

    def __init__(self, request: ChatCompletionRequest, replies: Replies) -> None:
        self._request = request
        self._replies = replies
        self._head = head(f"chatcmpl-{uuid4().hex}", replies.model, replies.created)
        self._begun: set[int] = set()  # the choices of which something has been told

    def whole(self, replies: Sequence[News]) -> ChatCompletion:
        """Return the answer that has all of all replies."""
        choices: list[ChatChoice] = [
            {
                "index": reply.index,
                "message": {"role": "assistant", "content": reply.text, "refusal": None},
                "logprobs": self._logprobs(reply),
                "finish_reason": reply.finish_reason,
            }
            for reply in replies
        ]
        usage, timings = self._replies.usage(), self._replies.timings()
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage, "timings": timings}

    def chunk(self, news: News) -> ChatCompletionChunk:
        """Return the chunk that tells what is new of a reply."""
        choice: ChunkChoice = {
            "index": news.index,
            "delta": self._delta(news),
            "logprobs": self._logprobs(news) if news.pieces else None,
            "finish_reason": news.finish_reason,
        }
        return self._chunk([choice], None, None)

    def usage_chunk(self) -> ChatCompletionChunk:
        """Return the chunk that tells the usage."""
        return self._chunk([], self._replies.usage(), self._replies.timings())

    def _chunk(
        self, choices: list[ChunkChoice], usage: CompletionUsage | None, timings: Timings | None
    ) -> ChatCompletionChunk:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices, "usage": usage, "timings": timings}

    def _delta(self, news: News) -> Delta:
        if news.index not in self._begun:
            self._begun.add(news.index)
            return {"role": "assistant", "content": news.text}
        return {"content": news.text} if news.pieces else {}

    def _logprobs(self, news: News) -> ChatLogprobs | None:
        tokenizer = self._replies.model.context_builder.tokenizer
        return chat_logprobs(tokenizer, news.pieces) if self._request.logprobs else None
