"""What requests for replies have in common, and their answers, as OpenAI's API has them."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from chat.api.v1.sampling import SamplingFields
from chat.given import Given
from chat.loaded_model import LoadedModel
from model.checkpoint.catalog import DEFAULT_MODEL

MAX_CHOICES = 8
"""Replies to one request."""

FinishReason = Literal["stop", "length"]


def _nothing(value: object) -> None:
    if value not in (None, False, [], {}):
        raise ValueError("is not supported: leave it out")


Unsupported = Annotated[None, BeforeValidator(_nothing)]
"""A field that other servers know: null or empty, so that clients which always send it get an answer."""


def unsupported() -> Any:
    """Return what is said of a field that has to be empty."""
    return Field(None, description="Not supported: null, or empty.")


def ignored() -> Any:
    """Return what is said of a field that clients send and that means nothing here."""
    return Field(None, description="Accepted, and changes nothing.")


class StreamOptions(Given):
    """What a stream has beside the replies."""

    include_usage: bool | None = Field(None, description="Whether a last chunk, without choices, tells the usage.")
    include_obfuscation: bool | None = ignored()


class GenerationRequest(SamplingFields):
    """What requests for replies have in common."""

    model: str = Field(description="The name of the model in use, as /v1/models tells it.", examples=[DEFAULT_MODEL])
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="How many replies; 1 if it is left out.")
    stream: bool | None = Field(None, description="Whether to answer with server-sent events, as the reply grows.")
    stream_options: StreamOptions | None = Field(None, description="Without a stream it changes nothing.")
    user: str | None = ignored()
    metadata: dict[str, Any] | None = ignored()
    service_tier: str | None = ignored()
    prompt_cache_key: str | None = ignored()
    prompt_cache_retention: str | None = ignored()
    safety_identifier: str | None = ignored()

    @property
    def n_choices(self) -> int:
        """How many replies there are to each prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class PromptTokensDetails(TypedDict):
    """What the prompts consist of."""

    cached_tokens: int


class CompletionUsage(TypedDict):
    """What the replies have cost. A prompt counts once, however many replies it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Timings(TypedDict):
    """Where the time of a single reply went, as llama.cpp tells it; milliseconds."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float
    draft_n: int
    draft_n_accepted: int


class Head(TypedDict):
    """What all answers and chunks to one request begin with."""

    id: Annotated[str, Field(examples=["chatcmpl-3f9aQ1xT0bLr7cVw"])]
    created: int
    model: Annotated[str, Field(examples=["smollm2-135m-instruct"])]
    system_fingerprint: Annotated[str, Field(examples=["fp_5d4f1ab6f94d"])]


def head(id: str, model: LoadedModel, created: int) -> Head:
    """Return what all answers and chunks to one request begin with; `created` is in seconds since 1970."""
    return {"id": id, "created": created, "model": model.name, "system_fingerprint": f"fp_{model.digest[:12]}"}
