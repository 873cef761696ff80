"""POST /v1/completions: texts that go on, without a chat template: OpenAI's older API."""

from collections.abc import Sequence
from typing import Annotated, Literal
from uuid import uuid4

from pydantic import BeforeValidator, Discriminator, Field, Tag
from typing_extensions import TypedDict

from chat.api.errors import InvalidField
from chat.api.v1.logprobs import CompletionLogprobs, Offsets, completion_logprobs
from chat.api.v1.prompts import text_prompt
from chat.api.v1.reading import News
from chat.api.v1.replies import Prompt, Replies, blaming
from chat.api.v1.sampling import TokenId
from chat.api.v1.schemas import (
    MAX_CHOICES,
    CompletionUsage,
    FinishReason,
    GenerationRequest,
    Head,
    Timings,
    Unsupported,
    head,
    unsupported,
)
from chat.given import Text
from chat.loaded_model import LoadedModel


def _kind(value: object) -> str:
    return "token_ids" if isinstance(value, list) else "text"


def _as_list(value: object) -> object:
    is_one = isinstance(value, str) or (isinstance(value, list) and value and not isinstance(value[0], str | list))
    return [value] if is_one else value


_Prompt = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[TokenId], Field(min_length=1), Tag("token_ids")],
    Discriminator(_kind),
]
_Prompts = Annotated[
    list[_Prompt],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
    Field(min_length=1, max_length=MAX_CHOICES),
]


class CompletionRequest(GenerationRequest):
    """Texts, and how they are to go on."""

    prompt: _Prompts = Field(
        description=f"A text, token ids, or a list of either; prompts times n are {MAX_CHOICES} at most.",
        examples=["Once upon a time"],
    )
    logprobs: int | None = Field(None, ge=0, le=20, description="Tell how likely each token was, and so many others.")
    echo: bool | None = Field(None, description="Whether the text begins with the prompt; not with logprobs.")
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES, description="As many as n: no others are drawn.")
    suffix: Unsupported = unsupported()

    def replies(self, model: LoadedModel, owner: str) -> Replies:
        """Have the replies begin; raises InvalidField, EngineBusy, EngineStopped."""
        self._check()
        prompts = [_prompt(model, prompt, f"prompt.{number}") for number, prompt in enumerate(self.prompt)]
        with blaming("prompt"):
            params = self.sampling_params(model.sampling_params, max_tokens=self.max_tokens, logprobs=self.logprobs)
            return Replies(model, owner, prompts, params, self.n_choices)

    def _check(self) -> None:
        if (n := len(self.prompt) * self.n_choices) > MAX_CHOICES:
            raise InvalidField("n", f"n: prompts times n must be at most {MAX_CHOICES}, got {n}")
        if self.best_of not in (None, self.n_choices):
            raise InvalidField("best_of", f"best_of: must be n, {self.n_choices}, got {self.best_of}")
        if self.echo and self.logprobs is not None:
            raise InvalidField("echo", "echo: is not supported together with logprobs")


def _prompt(model: LoadedModel, prompt: str | list[int], param: str) -> Prompt:
    if isinstance(prompt, str):
        return text_prompt(model, prompt, param)
    if (largest := max(prompt)) >= (n_vocab := model.context_builder.tokenizer.n_vocab):
        raise InvalidField(param, f"{param}: token ids must be at most {n_vocab - 1}, got {largest}")
    return Prompt(prompt)


class CompletionChoice(TypedDict):
    """How one of the texts goes on, or what is new of that."""

    index: int
    text: Annotated[str, Field(examples=[" there was a fox."])]
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(Head):
    """How texts go on; a stream has many of these, each with what is new."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: CompletionUsage | None
    timings: Timings | None


class CompletionForm:
    """How replies are told as completions."""

    def __init__(self, request: CompletionRequest, replies: Replies) -> None:
        self._request = request
        self._replies = replies
        self._tokenizer = replies.model.context_builder.tokenizer
        self._head = head(f"cmpl-{uuid4().hex}", replies.model, replies.created)
        self._offsets = [Offsets(self._tokenizer) for _ in replies.generations]
        self._echoed: set[int] = set()  # the choices that have been told their prompts

    def whole(self, replies: Sequence[News]) -> Completion:
        """Return the answer that has all of all replies."""
        choices = [self._choice(reply) for reply in replies]
        return self._completion(choices, self._replies.usage(), self._replies.timings())

    def chunk(self, news: News) -> Completion:
        """Return the chunk that tells what is new of a reply."""
        return self._completion([self._choice(news)], None, None)

    def usage_chunk(self) -> Completion:
        """Return the chunk that tells the usage."""
        return self._completion([], self._replies.usage(), self._replies.timings())

    def _completion(
        self, choices: list[CompletionChoice], usage: CompletionUsage | None, timings: Timings | None
    ) -> Completion:
        return {**self._head, "object": "text_completion", "choices": choices, "usage": usage, "timings": timings}

    def _choice(self, news: News) -> CompletionChoice:
        logprobs = None
        if self._request.logprobs is not None and news.pieces:
            logprobs = completion_logprobs(self._tokenizer, news.pieces, self._offsets[news.index])
        text = self._echo(news.index) + news.text
        return {"index": news.index, "text": text, "logprobs": logprobs, "finish_reason": news.finish_reason}

    def _echo(self, index: int) -> str:
        if not self._request.echo or index in self._echoed:
            return ""
        self._echoed.add(index)
        prompt = self._request.prompt[index // self._request.n_choices]
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)
