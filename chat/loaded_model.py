"""A model that is ready to write replies."""

from collections.abc import Sequence
from dataclasses import dataclass

from chat.context import Context, ContextBuilder
from chat.errors import PromptFailed
from chat.text import check_message
from model.engine.engine import Engine
from model.errors import CheckpointError
from model.sampling_params import SamplingParams
from storage.tables import Conversation, Message


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """An engine, and what makes prompts for it."""

    name: str
    digest: str  # of the files that it was read from
    engine: Engine
    context_builder: ContextBuilder
    sampling_params: SamplingParams  # those that its makers recommend
    bos_id: int | None = None  # begins every text that no chat template begins

    def check(self, text: str, params: SamplingParams, *, system_prompt: str | None) -> str:
        """Return a message as it would be sent; raises BlankMessage, MessageTooLong or PromptFailed."""
        text = check_message(text)
        try:
            self.context_builder.build_alone(text, system_prompt=system_prompt, max_new_tokens=params.max_tokens)
        except CheckpointError as error:
            raise PromptFailed(str(error)) from error
        return text

    def build(
        self,
        path: Sequence[Message],
        conversation: Conversation,
        params: SamplingParams,
        begun: Sequence[int] = (),
    ) -> Context:
        """Return the prompt for a path of a conversation, and the reply's beginning; raises MessageTooLong."""
        return self.context_builder.build(
            path,
            system_prompt=conversation.system_prompt,
            max_new_tokens=params.max_tokens,
            begun=begun,
            recap=conversation.recap,
        )
