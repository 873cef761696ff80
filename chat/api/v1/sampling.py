"""The fields of a request that say how its replies are drawn, under the names that OpenAI, vLLM and llama.cpp use."""

import json
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from chat.api.errors import PARAMS
from chat.given import Given, Text
from chat.params import from_json
from model.sampling_params import MAX_STOP, SamplingParams
from model.sampling_params import ResponseFormat as Form

# What a request calls otherwise, or means more by
_OWN = {"logprobs", "max_tokens", "response_format"}
_SHARED = {name for name in PARAMS if name not in _OWN}


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


TokenId = Annotated[int, Field(ge=0)]
BiasedId = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Stop = Annotated[
    list[Text],
    BeforeValidator(_listed, json_schema_input_type=str | list[str]),
    Field(max_length=MAX_STOP),
]


class TextFormat(Given):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Given):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Given):
    """A JSON Schema; its name and description change nothing, and it is always followed strictly."""

    json_schema: dict[str, Any] = Field(alias="schema", examples=[{"type": "object", "properties": {}}])
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Given):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class RegexFormat(Given):
    """A text that a regular expression matches as a whole: Parley's own."""

    type: Literal["regex"]
    regex: str = Field(min_length=1, examples=["(yes|no)"])


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat, Field(discriminator="type")]


class SamplingFields(Given):
    """How replies are drawn. What is left out, or null, is as the model's makers recommend; /api/model tells it."""

    temperature: float | None = Field(None, ge=0, le=100, description="0 always takes the likeliest token.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, description="0 is off.")
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100, description="1 is off.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    penalty_window: int | None = Field(None, ge=0, description="The penalties see so many last tokens; 0 is all.")
    logit_bias: dict[BiasedId, Bias] | None = Field(None, description="Token ids, and what is added to their logits.")
    banned_token_ids: list[TokenId] | None = Field(None, description="Tokens that the reply does not have.")
    forced_token_ids: list[TokenId] | None = Field(None, description="The reply begins with these tokens.")
    stop: Stop | None = Field(None, description="The reply ends before the first of these strings.", examples=["\n"])
    stop_token_ids: list[TokenId] | None = Field(None, description="The reply ends before one of these tokens.")
    min_tokens: int | None = Field(None, ge=0, description="The reply does not end before it has so many.")
    max_tokens: int | None = Field(None, ge=1, description="The reply ends after so many tokens.")
    seed: int | None = Field(
        None, ge=0, le=2**63 - 1, description="The same seed gives the same reply; of n replies, each the next seed."
    )
    response_format: ResponseFormat | None = Field(None, description="The form that the whole reply has.")

    def sampling_params(self, defaults: SamplingParams, **others: Any) -> SamplingParams:
        """Return the parameters that are asked for, in place of a model's own; raises ValueError."""
        asked = {name: from_json(name, value) for name, value in self.model_dump(include=_SHARED).items()}
        asked.update(others, response_format=_form(self.response_format))
        return replace(defaults, **{name: value for name, value in asked.items() if value is not None})


def _form(asked: ResponseFormat | None) -> Form | None:
    match asked:
        case JsonObjectFormat():
            return Form("json_object")
        case JsonSchemaFormat(json_schema=named):
            try:
                return Form("json_schema", json.dumps(named.json_schema))
            except RecursionError:
                raise ValueError("response_format: expected a schema of fewer levels") from None
        case RegexFormat(regex=source):
            return Form("regex", source)
    return None
