"""What is asked of the model, as its tokens. What a request says is ordinary text, and never a control token."""

import unicodedata
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from chat.api.errors import InvalidField
from chat.api.v1.replies import Prompt
from chat.api.v1.schemas import Unsupported, ignored, unsupported
from chat.given import Given, Text
from chat.loaded_model import LoadedModel
from chat.text import MAX_CHARS
from model.chat_template import ChatMessage, Role

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Zs"}


class TextPart(Given):
    """A part of a message; there are no other parts than text."""

    type: Literal["text"]
    text: Text = Field(examples=["Why is the sky blue?"])


def _as_parts(value: object) -> object:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Content = Annotated[list[TextPart], BeforeValidator(_as_parts, json_schema_input_type=str | list[TextPart])]


class InputMessage(Given):
    """One message of the conversation so far."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = Field(None, description="A text, or parts of type text; null is an empty one.")
    name: str | None = ignored()
    refusal: Unsupported = unsupported()
    audio: Unsupported = unsupported()
    annotations: Unsupported = unsupported()
    function_call: Unsupported = unsupported()
    tool_calls: Unsupported = unsupported()

    @property
    def text(self) -> str:
        """What it says: its parts, each on a line of its own."""
        return "\n".join(part.text for part in self.content or [])


def chat_messages(messages: Sequence[InputMessage]) -> list[ChatMessage]:
    """Return messages as a template takes them, without the empty ones of system and assistant.

    Raises InvalidField where the order of roles, or a content, breaks a rule.
    """
    if (n_chars := sum(len(message.text) for message in messages)) > MAX_CHARS:
        raise too_long("messages", n_chars)
    for number, message in enumerate(messages):
        _check_role(messages, number)
        if message.role == "user":
            _check_visible(f"messages.{number}.content", message.text)
    return [ChatMessage(_ROLES[message.role], message.text) for message in messages if _is_visible(message.text)]


def text_prompt(model: LoadedModel, text: str, param: str) -> Prompt:
    """Return the prompt that is a text, to be continued; raises InvalidField."""
    if len(text) > MAX_CHARS:
        raise too_long(param, len(text))
    _check_visible(param, text)
    beginning = [] if model.bos_id is None else [model.bos_id]
    return Prompt(beginning + model.context_builder.tokenizer.encode(text))


def too_long(param: str, n_chars: int, limit: int = MAX_CHARS) -> InvalidField:
    """Return the error of a text that nobody counts the tokens of."""
    text = f"{param}: must have at most {limit:,} characters, got {n_chars:,}"
    return InvalidField(param, text, "context_length_exceeded")


def _check_role(messages: Sequence[InputMessage], number: int) -> None:
    role, param = messages[number].role, f"messages.{number}.role"
    before = messages[number - 1].role if number else "system"
    if _ROLES[role] == "system" and _ROLES[before] != "system":
        raise InvalidField(param, f"{param}: must come before user and assistant, got {role!r}")
    if number == len(messages) - 1 and role != "user":
        raise InvalidField(param, f"{param}: must be 'user' in the last message, got {role!r}")


def _check_visible(param: str, text: str) -> None:
    if not _is_visible(text):
        raise InvalidField(param, f"{param}: must have a visible character")


def _is_visible(text: str) -> bool:
    return any(unicodedata.category(char) not in _INVISIBLE for char in text)
