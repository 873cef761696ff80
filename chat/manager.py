"""The dialogue: a message in, a reply being written out, everything kept."""

import secrets
import threading
from dataclasses import asdict, replace

from chat.context import Context, ContextBuilder
from chat.errors import PromptFailed
from chat.text import check_message
from chat.turn import Ending, Turn
from model.engine.engine import Engine
from model.engine.generation import Generation
from model.errors import CheckpointError, ModelError
from model.sampling_params import SamplingParams
from storage.conversations import ConversationStore
from storage.tables import Channel, Conversation, Message

TITLE_CHARS = 40


class DialogueManager:
    """Sends messages to the model on behalf of their owners, and knows which replies are being written."""

    def __init__(
        self,
        store: ConversationStore,
        engine: Engine,
        context_builder: ContextBuilder,
        *,
        model_name: str,
        sampling_params: SamplingParams,
    ) -> None:
        """Chat with one model; `sampling_params` are those that its makers recommend."""
        self.model_name = model_name
        self.sampling_params = sampling_params
        self._store = store
        self._engine = engine
        self._context_builder = context_builder
        # Held while a message is sent: between the row of a reply and its Turn nobody else may look.
        self._lock = threading.RLock()
        self._turns: dict[str, Turn] = {}  # by conversation; ended ones are dropped now and then

    def start(self, owner_id: str, *, channel: Channel, system_prompt: str | None = None) -> Conversation:
        """Begin a conversation, still without messages."""
        return self._store.create(owner_id, channel=channel, system_prompt=system_prompt, model=self.model_name)

    def check(self, text: str, params: SamplingParams, *, system_prompt: str | None = None) -> str:
        """Return a message as it would be sent; raises BlankMessage, MessageTooLong or PromptFailed."""
        text = check_message(text)
        try:
            self._context_builder.build_alone(text, system_prompt=system_prompt, max_new_tokens=params.max_tokens)
        except CheckpointError as error:
            raise PromptFailed(str(error)) from error
        return text

    def send(self, owner_id: str, conversation_id: str, text: str, params: SamplingParams) -> Turn:
        """Store a message after the conversation's tip and start the reply to it.

        Raises BlankMessage, MessageTooLong, PromptFailed, ConversationNotFound, ConversationBusy: nothing has been
        stored then.
        Whatever goes wrong later (ModelError: the engine is busy or has stopped, the template fails; ValueError:
        parameters that do not suit the model) leaves the message stored and its reply marked as error.
        """
        with self._lock:
            conversation = self._store.get(owner_id, conversation_id)
            text = self.check(text, params, system_prompt=conversation.system_prompt)
            params = replace(params, seed=secrets.randbits(32) if params.seed is None else params.seed)
            self._release_tip(owner_id, conversation)
            _, reply = self._store.begin_turn(
                owner_id,
                conversation_id,
                content=text,
                parent_id=conversation.active_leaf_id,
                model=self.model_name,
                params=asdict(params),
                seed=params.seed,
                title=make_title(text),
            )
            return self._begin(owner_id, conversation, reply, params)

    def turn(self, owner_id: str, conversation_id: str) -> Turn | None:
        """Return the reply that is being written in a conversation, if there is one."""
        self._store.get(owner_id, conversation_id)
        with self._lock:
            turn = self._turns.get(conversation_id)
        return turn if turn is not None and turn.running else None

    def stop(self, owner_id: str, conversation_id: str) -> None:
        """Stop the reply that is being written in a conversation, if there is one."""
        if turn := self.turn(owner_id, conversation_id):
            turn.stop()

    def close(self) -> None:
        """End all replies as interrupted, with what has been written of them."""
        self._engine.close()
        with self._lock:
            turns = list(self._turns.values())
        for turn in turns:
            turn.join()

    def _begin(self, owner_id: str, conversation: Conversation, reply: Message, params: SamplingParams) -> Turn:
        path = self._store.path(owner_id, conversation.id, reply.parent_id)
        try:
            context = self._context_builder.build(
                path, system_prompt=conversation.system_prompt, max_new_tokens=params.max_tokens
            )
            generation = self._engine.submit(
                context.token_ids, context.params(params), owner=owner_id, n_shared=context.n_shared
            )
        except (ModelError, ValueError):  # the last for parameters that do not suit this model
            self._store.finish_reply(owner_id, reply.id, content="", status="error", finish_reason="error")
            raise
        turn = Turn(
            generation,
            flush=lambda text: self._store.flush_reply(owner_id, reply.id, content=text),
            finish=lambda ending: self._keep(owner_id, reply.id, context, generation, ending),
        )
        self._turns = {key: turn for key, turn in self._turns.items() if turn.running}
        self._turns[reply.conversation_id] = turn
        return turn

    def _keep(self, owner_id: str, reply_id: str, context: Context, generation: Generation, ending: Ending) -> None:
        usage = generation.usage
        assert usage is not None, "a finished generation has its usage"
        self._store.finish_reply(
            owner_id,
            reply_id,
            content=ending.text,
            status=ending.status,
            finish_reason=ending.finish_reason,
            token_ids=self._context_builder.reply_token_ids(ending.text, ending.token_ids),
            ledger=dict(context.ledger),
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=len(ending.token_ids),
            ttft_ms=None if usage.ttft_ms is None else round(usage.ttft_ms),
            duration_ms=round(usage.duration_ms),
        )

    def _release_tip(self, owner_id: str, conversation: Conversation) -> None:
        """Mark a tip that says it is streaming as error when nobody writes it: its end could not be stored."""
        if conversation.active_leaf_id is None or self.turn(owner_id, conversation.id):
            return
        tip = self._store.message(owner_id, conversation.active_leaf_id)
        if tip.status == "streaming":
            self._store.finish_reply(owner_id, tip.id, content=tip.content, status="error", finish_reason="error")


def make_title(text: str) -> str:
    """Return the beginning of a message as the title of its conversation: one line, cut at a word."""
    line = " ".join(text.split())
    if len(line) <= TITLE_CHARS:
        return line
    cut = line[:TITLE_CHARS].rsplit(" ", 1)[0]
    return f"{cut.rstrip('.,;:')}…"
