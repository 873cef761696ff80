"""The dialogue: a message in, a reply being written out, everything kept."""

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from types import EllipsisType

from chat.bus import Bus
from chat.context import Context
from chat.errors import AlreadySent, ChatError, KeyTaken, NotPossible
from chat.identity import engine_owner
from chat.ledger import Ledger, join_ledger, split_ledger
from chat.loaded_model import LoadedModel
from chat.prompts import split_prompt
from chat.text import check_message
from chat.titles import keyword_title, make_title
from chat.turn import Ending, Turn
from model.engine.generation import Generation, Piece
from model.errors import ModelError
from model.sampling_params import SamplingParams
from storage.branches import BranchStore
from storage.conversations import ConversationStore, Visitor
from storage.errors import ConversationBusy, ConversationMoved, StorageError
from storage.tables import Channel, Conversation, Message, Role, Status


class DialogueManager:
    """Sends messages to the model on behalf of their owners, and knows which replies are being written."""

    def __init__(
        self,
        store: ConversationStore,
        branches: BranchStore,
        model: Callable[[], LoadedModel],
        bus: Bus | None = None,
    ) -> None:
        """Chat with the model that a function returns, which raises ModelNotReady while there is none.

        Whoever listens on the bus hears of replies that begin and that have ended.
        """
        self._store = store
        self._branches = branches
        self._model = model
        self._bus = bus or Bus()
        # Held while a message is sent: between the row of a reply and its Turn nobody else may look.
        self._lock = threading.RLock()
        self._turns: dict[str, Turn] = {}  # by conversation; ended ones are dropped now and then

    @property
    def model(self) -> LoadedModel:
        """The model that would write the next reply; raises ModelNotReady."""
        return self._model()

    def start(
        self,
        owner_id: str,
        *,
        channel: Channel,
        system_prompt: str | None = None,
        preset: str | None = None,
        recap: bool = False,
        visitor: Visitor | None = None,
    ) -> Conversation:
        """Begin a conversation, still without messages; `preset` is the name of the one it begins with, if it does.

        With `recap`, prompts sum up the turns that they have no room for. Visitors of an owner's sites share no cache
        with the owner or each other.
        """
        return self._store.create(
            owner_id,
            channel=channel,
            system_prompt=system_prompt,
            preset=preset,
            recap=recap,
            visitor=visitor,
        )

    def check(self, text: str, params: SamplingParams, *, system_prompt: str | None = None) -> str:
        """Return a message as it would be sent; raises BlankMessage, MessageTooLong, PromptFailed or ModelNotReady."""
        return self._model().check(text, params, system_prompt=system_prompt)

    def preview(self, owner_id: str, conversation_id: str, text: str, params: SamplingParams) -> Ledger:
        """Return the account of the prompt that a message would make, without sending it; raises as `send` does."""
        conversation = self._store.get(owner_id, conversation_id)
        model = self._model()
        text = model.check(text, params, system_prompt=conversation.system_prompt)
        path = self._store.path(owner_id, conversation_id)
        message = Message(id="", role="user", content=text)
        return model.build([*path, message], conversation, params).ledger

    def ledger(self, owner_id: str, message_id: str) -> Ledger | None:
        """Return the account of the prompt of a reply, if one is kept; raises MessageNotFound."""
        message = self._store.message(owner_id, message_id)
        *path, reply = self._store.path(owner_id, message.conversation_id, message.id, ledgers=True)
        return join_ledger(path, reply)

    def send(
        self,
        owner_id: str,
        conversation_id: str,
        text: str,
        params: SamplingParams,
        *,
        seen_leaf_id: str | EllipsisType | None = ...,
        idempotency_key: str | None = None,
    ) -> Turn:
        """Store a message after the conversation's tip and start the reply to it.

        Who says which tip has been seen (None: no message yet) is told if it is another one by now, and who gives a key
        may send again without saying it twice. Raises AlreadySent for a key that has been used; BlankMessage,
        MessageTooLong, PromptFailed, ConversationNotFound, ConversationBusy, ConversationMoved: nothing has been
        stored then.
        Whatever goes wrong later (ModelError: the engine is busy or has stopped, the template fails; ValueError:
        parameters that do not suit the model) leaves the message stored and its reply marked as error.
        """
        with self._lock:
            conversation = self._store.get(owner_id, conversation_id)
            if idempotency_key is not None:
                self._check_new(owner_id, conversation, text, idempotency_key)
            if seen_leaf_id not in (..., conversation.active_leaf_id):
                raise ConversationMoved
            parent_id = conversation.active_leaf_id
            return self._send(
                owner_id, conversation, text, params, parent_id=parent_id, idempotency_key=idempotency_key
            )

    def edit(self, owner_id: str, message_id: str, text: str, params: SamplingParams) -> Turn:
        """Put another version of a user's message beside it, in a branch of its own, and start the reply to that.

        Raises MessageNotFound, NotPossible, and as `send` does.
        """
        with self._lock:
            message, conversation = self._find(owner_id, message_id, role="user", verb="edited and sent again")
            return self._send(owner_id, conversation, text, params, parent_id=message.parent_id, edits_id=message.id)

    def edit_reply(self, owner_id: str, message_id: str, text: str) -> Message:
        """Put a user's version of a reply beside it; raises BlankMessage, MessageNotFound, NotPossible."""
        with self._lock:
            reply, _ = self._find(owner_id, message_id, role="assistant", verb="edited as a reply")
            return self._store.add_edited_reply(owner_id, reply.id, content=check_message(text))

    def regenerate(self, owner_id: str, message_id: str, params: SamplingParams) -> Turn:
        """Start one more reply beside another; raises MessageNotFound, NotPossible, ConversationBusy, and ModelError
        or ValueError as `send` does.
        """
        with self._lock:
            reply, conversation = self._find(owner_id, message_id, role="assistant", verb="written anew")
            return self._reply(owner_id, conversation, _parent_id(reply), params)

    def branch_at(self, owner_id: str, message_id: str, place: int, token_id: int, params: SamplingParams) -> Turn:
        """Start a reply beside another that begins with so many of its tokens and then has another one.

        Raises as `regenerate` does.
        """
        with self._lock:
            reply, conversation = self._find(owner_id, message_id, role="assistant", verb="branched")
            token_ids = self._model().context_builder.beginning(reply)
            if place >= len(token_ids):
                raise NotPossible(f"place: expected less than the reply's {len(token_ids):,} tokens, got {place:,}")
            forced = (*token_ids[:place], token_id)
            params = replace(params, forced_token_ids=forced, max_tokens=max(params.max_tokens, len(forced)))
            return self._reply(owner_id, conversation, _parent_id(reply), params)

    def continue_reply(self, owner_id: str, message_id: str, params: SamplingParams) -> Turn:
        """Start a longer version of a reply that was cut, beside it; raises as `regenerate` does."""
        with self._lock:
            reply, conversation = self._find(owner_id, message_id, role="assistant", verb="continued")
            if not reply.content:
                raise NotPossible("The reply has no text that could be continued: have it written anew.")
            if reply.finish_reason == "stop":
                raise NotPossible("The reply ended by itself: there is nothing to continue.")
            return self._reply(owner_id, conversation, _parent_id(reply), params, continued=reply)

    def switch(self, owner_id: str, message_id: str) -> None:
        """Show the branch of a message; raises MessageNotFound, ConversationBusy."""
        with self._lock:
            self._find(owner_id, message_id)
            self._branches.switch(owner_id, message_id)

    def fork(self, owner_id: str, message_id: str) -> Conversation:
        """Begin a conversation with a copy of the path to a message; raises MessageNotFound, ConversationBusy."""
        with self._lock:
            self._find(owner_id, message_id)
            return self._branches.fork(owner_id, message_id)

    def delete_message(self, owner_id: str, message_id: str) -> None:
        """Delete one message; raises MessageNotFound, ConversationBusy."""
        with self._lock:
            self._find(owner_id, message_id)
            self._branches.delete_message(owner_id, message_id)

    def delete_branch(self, owner_id: str, message_id: str) -> None:
        """Delete a message and all that follows it; raises MessageNotFound, ConversationBusy."""
        with self._lock:
            self._find(owner_id, message_id)
            self._branches.delete_branch(owner_id, message_id)

    def clear(self, owner_id: str, conversation_id: str) -> None:
        """Delete all messages of a conversation; raises ConversationNotFound, ConversationBusy."""
        with self._lock:
            self._release_tip(owner_id, self._store.get(owner_id, conversation_id))
            self._branches.clear(owner_id, conversation_id)

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
        with self._lock:
            turns = list(self._turns.values())
        for turn in turns:
            turn.interrupt()
        for turn in turns:
            turn.join()

    def _find(
        self, owner_id: str, message_id: str, *, role: Role | None = None, verb: str = ""
    ) -> tuple[Message, Conversation]:
        """Return a message and its conversation, whose tip says that it is being written only if it is."""
        message = self._store.message(owner_id, message_id)
        if role and message.role != role:
            raise NotPossible(f"A message of the {message.role} cannot be {verb}.")
        conversation = self._store.get(owner_id, message.conversation_id)
        self._release_tip(owner_id, conversation)
        return message, conversation

    def _send(
        self,
        owner_id: str,
        conversation: Conversation,
        text: str,
        params: SamplingParams,
        *,
        parent_id: str | None,
        edits_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Turn:
        model = self._model()
        text = model.check(text, params, system_prompt=conversation.system_prompt)
        params = _seeded(params)
        self._check_idle(owner_id, conversation)
        _, reply = self._store.begin_turn(
            owner_id,
            conversation.id,
            content=text,
            parent_id=parent_id,
            model=model.name,
            model_digest=model.digest,
            params=asdict(params),
            seed=params.seed,
            title=make_title(text),
            edits_id=edits_id,
            idempotency_key=idempotency_key,
        )
        return self._begin(owner_id, conversation, model, reply, params)

    def _reply(
        self,
        owner_id: str,
        conversation: Conversation,
        parent_id: str,
        params: SamplingParams,
        *,
        continued: Message | None = None,
    ) -> Turn:
        model = self._model()
        params = _seeded(params)
        self._check_idle(owner_id, conversation)
        reply = self._store.begin_reply(
            owner_id,
            conversation.id,
            parent_id=parent_id,
            model=model.name,
            model_digest=model.digest,
            params=asdict(params),
            seed=params.seed,
            continues_id=continued.id if continued else None,
            content=continued.content if continued else "",
        )
        begun = Piece(continued.content, tuple(model.context_builder.beginning(continued))) if continued else None
        return self._begin(owner_id, conversation, model, reply, params, begun)

    def _begin(
        self,
        owner_id: str,
        conversation: Conversation,
        model: LoadedModel,
        reply: Message,
        params: SamplingParams,
        begun: Piece | None = None,
    ) -> Turn:
        try:
            path = self._store.path(owner_id, conversation.id, reply.parent_id, ledgers=True)
            context = model.build(path, conversation, params, begun.token_ids if begun else ())
            owner = engine_owner(owner_id, conversation.visitor_id)
            generation = model.engine.submit(
                context.token_ids, context.params(params), owner=owner, n_shared=context.n_shared
            )
        except (ChatError, ModelError, StorageError, ValueError) as error:  # the last: parameters, for this model
            self._store.finish_reply(
                owner_id, reply.id, content=reply.content, status="error", finish_reason="error", error=str(error)
            )
            self._bus.publish(owner_id, reply.conversation_id)
            raise
        turn = Turn(
            generation,
            reply,
            flush=lambda text: self._store.flush_reply(owner_id, reply.id, content=text),
            finish=lambda ending: self._keep(owner_id, model, reply, path, context, generation, ending, begun),
            begun=begun,
        )
        self._turns = {key: turn for key, turn in self._turns.items() if turn.running}
        self._turns[reply.conversation_id] = turn
        self._bus.publish(owner_id, reply.conversation_id)
        return turn

    def _keep(
        self,
        owner_id: str,
        model: LoadedModel,
        reply: Message,
        path: Sequence[Message],
        context: Context,
        generation: Generation,
        ending: Ending,
        begun: Piece | None,
    ) -> None:
        usage = generation.usage
        assert usage is not None, "a finished generation has its usage"
        prompt_shared, prompt_ids = split_prompt(path, context.token_ids)
        ledger: Ledger = {**context.ledger, "cached_tokens": usage.cached_tokens}
        self._store.finish_reply(
            owner_id,
            reply.id,
            content=ending.text,
            status=ending.status,
            finish_reason=ending.finish_reason,
            error=ending.error,
            token_ids=model.context_builder.reply_token_ids(ending.text, ending.token_ids),
            ledger=dict(split_ledger(path, ledger)),
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=len(ending.token_ids) - len(begun.token_ids if begun else ()),
            ttft_ms=None if usage.ttft_ms is None else round(usage.ttft_ms),
            duration_ms=round(usage.duration_ms),
            prompt_shared=prompt_shared,
            prompt_ids=prompt_ids,
            title=keyword_title(path[0].content, ending.text) if len(path) == 1 else None,
        )
        self._bus.publish(owner_id, reply.conversation_id)

    def _check_new(self, owner_id: str, conversation: Conversation, text: str, idempotency_key: str) -> None:
        if sent := self._store.find_sent(owner_id, conversation.id, idempotency_key):
            message, reply = sent
            if message.content != check_message(text):
                raise KeyTaken
            raise AlreadySent(message.id, reply.id if reply else None)

    def _check_idle(self, owner_id: str, conversation: Conversation) -> None:
        if self._release_tip(owner_id, conversation) == "streaming":
            raise ConversationBusy

    def _release_tip(self, owner_id: str, conversation: Conversation) -> Status | None:
        """Mark a tip that says it is streaming as error when nobody writes it: its end could not be stored.

        Returns what is stored of the tip in the end, not what its turn has told by now: it tells of an end later.
        """
        if conversation.active_leaf_id is None:
            return None
        turn = self.turn(owner_id, conversation.id)
        tip = self._store.message(owner_id, conversation.active_leaf_id)
        if tip.status != "streaming" or turn:
            return tip.status
        self._store.finish_reply(owner_id, tip.id, content=tip.content, status="error", finish_reason="error")
        return "error"


def _seeded(params: SamplingParams) -> SamplingParams:
    """Draw a seed, if none is asked for, so that the reply can be had again."""
    return replace(params, seed=secrets.randbits(32) if params.seed is None else params.seed)


def _parent_id(reply: Message) -> str:
    if reply.parent_id is None:
        raise NotPossible("The reply answers no message: there is nothing to write it anew from.")
    return reply.parent_id
