"""The routes on messages: sending them, and all that can be done with one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

from fastapi import APIRouter, Response

from chat.api.errors import PARAMS, InvalidField, documented, shortened
from chat.api.identity import Owner
from chat.api.schemas import (
    ConversationModel,
    ConversationPath,
    FeedbackChange,
    FeedbackModel,
    LedgerEntryModel,
    LedgerModel,
    MessageChange,
    MessageEdit,
    MessageModel,
    NewMessage,
    NewReply,
    SentMessage,
    TokenChoice,
)
from chat.errors import AlreadySent
from chat.ledger import Ledger, cached_share
from chat.params import from_json
from chat.turn import Turn
from chat.workspace import Workspace
from model.sampling_params import SamplingParams
from storage.tables import Feedback, Message


def message_routes(workspace: Workspace) -> APIRouter:
    """Return the routes on the messages of a workspace."""
    router, handlers = APIRouter(tags=["messages"]), _Handlers(workspace)
    add = router.add_api_route
    here, now = documented(404), documented(404, 409)
    chat, path = "/conversations/{conversation_id}", "/messages/{message_id}"
    resent = {**now, 200: {"model": SentMessage, "description": "It was sent before, with the same key."}}
    edited = {**now, 200: {"model": SentMessage, "description": "A reply was edited: the version beside it."}}
    add(f"{chat}/messages", handlers.path, methods=["GET"], summary="Read the branch that is shown", responses=here)
    add(f"{chat}/messages", handlers.send, methods=["POST"], status_code=202, summary="Send", responses=resent)
    add(f"{chat}/preview", handlers.preview, methods=["POST"], summary="See what a prompt would hold", responses=here)
    add(f"{chat}/stop", handlers.stop, methods=["POST"], status_code=204, summary="Stop the reply", responses=here)
    add(f"{chat}/clear", handlers.clear, methods=["POST"], status_code=204, summary="Delete all", responses=now)
    add(f"{path}/ledger", handlers.ledger, methods=["GET"], summary="See what a prompt held", responses=here)
    add(
        f"{path}/regenerate",
        handlers.regenerate,
        methods=["POST"],
        status_code=202,
        summary="Reply anew",
        responses=now,
    )
    add(f"{path}/continue", handlers.go_on, methods=["POST"], status_code=202, summary="Go on", responses=now)
    add(
        f"{path}/branch", handlers.branch, methods=["POST"], status_code=202, summary="Branch at a token", responses=now
    )
    add(f"{path}/edit", handlers.edit, methods=["POST"], status_code=202, summary="Edit", responses=edited)
    add(f"{path}/switch", handlers.switch, methods=["POST"], summary="Show its branch", responses=now)
    add(f"{path}/fork", handlers.fork, methods=["POST"], status_code=201, summary="Begin a copy", responses=now)
    add(path, handlers.change, methods=["PATCH"], summary="Pin or unpin", responses=here)
    add(path, handlers.delete, methods=["DELETE"], summary="Delete", responses=now)
    add(f"{path}/feedback", handlers.rate, methods=["PUT"], summary="Rate", responses=here)
    return router


def read_path(workspace: Workspace, owner: str, conversation_id: str) -> ConversationPath:
    """Return the branch of a conversation that is shown; raises ConversationNotFound."""
    conversation = workspace.conversations.get(owner, conversation_id)
    # Read later, the path may have more than the conversation tells, never less: nobody sends after what is not shown.
    path = workspace.conversations.path(owner, conversation_id)
    siblings = workspace.branches.siblings(owner, path)
    feedback = workspace.feedback.of(owner, path)
    return ConversationPath(
        conversation=ConversationModel.model_validate(conversation),
        messages=[_model(message, ids, feedback.get(message.id)) for message, ids in zip(path, siblings, strict=True)],
    )


def read_message(workspace: Workspace, owner: str, message_id: str) -> MessageModel:
    """Return one message as `read_path` does; raises MessageNotFound."""
    message = workspace.conversations.message(owner, message_id)
    [siblings] = workspace.branches.siblings(owner, [message])
    return _model(message, siblings, workspace.feedback.of(owner, [message]).get(message_id))


@dataclass(frozen=True, slots=True)
class _Handlers:
    workspace: Workspace

    def path(self, owner: Owner, conversation_id: str) -> ConversationPath:
        """Read the messages of the branch that is shown, the first one first."""
        return read_path(self.workspace, owner, conversation_id)

    def send(self, owner: Owner, conversation_id: str, new: NewMessage, response: Response) -> SentMessage:
        """Store a message at the end of the branch that is shown, and start the reply to it.

        If the engine is busy or has stopped (503), the message is stored, and the reply to it ends as an error.
        """
        params = self._params(new.params)
        seen: str | EllipsisType | None = new.seen_leaf_id if "seen_leaf_id" in new.model_fields_set else ...
        try:
            turn = self.workspace.manager.send(
                owner, conversation_id, new.content, params, seen_leaf_id=seen, idempotency_key=new.idempotency_key
            )
        except AlreadySent as sent:
            response.status_code = 200
            return self._sent(owner, conversation_id, sent.message_id, sent.reply_id)
        return self._started(owner, turn)

    def preview(self, owner: Owner, conversation_id: str, new: NewMessage) -> LedgerModel:
        """Tell what the prompt would hold if a message were sent, without sending it."""
        params = self._params(new.params)
        return _ledger(self.workspace.manager.preview(owner, conversation_id, new.content, params))

    def stop(self, owner: Owner, conversation_id: str) -> None:
        """Stop the reply that is being written, if there is one; what has been shown of it stays."""
        self.workspace.manager.stop(owner, conversation_id)

    def clear(self, owner: Owner, conversation_id: str) -> None:
        """Delete all messages of a conversation, in all branches."""
        self.workspace.manager.clear(owner, conversation_id)
        self.workspace.bus.publish(owner, conversation_id)

    def ledger(self, owner: Owner, message_id: str) -> LedgerModel | None:
        """Tell what the prompt of a reply held, null if that is not known."""
        ledger = self.workspace.manager.ledger(owner, message_id)
        return ledger and _ledger(ledger)

    def regenerate(self, owner: Owner, message_id: str, new: NewReply) -> SentMessage:
        """Start one more reply beside another."""
        return self._started(owner, self.workspace.manager.regenerate(owner, message_id, self._params(new.params)))

    def go_on(self, owner: Owner, message_id: str, new: NewReply) -> SentMessage:
        """Start a longer version of a reply that was cut, beside it."""
        params = self._params(new.params)
        return self._started(owner, self.workspace.manager.continue_reply(owner, message_id, params))

    def branch(self, owner: Owner, message_id: str, new: TokenChoice) -> SentMessage:
        """Start a reply beside another that has its first tokens, and then another token."""
        params = self._params(new.params)
        turn = self.workspace.manager.branch_at(owner, message_id, new.place, new.token_id, params)
        return self._started(owner, turn)

    def edit(self, owner: Owner, message_id: str, new: MessageEdit, response: Response) -> SentMessage:
        """Put another version of a message beside it; a user's gets a reply, which is started."""
        if self.workspace.conversations.message(owner, message_id).role != "assistant":
            params = self._params(new.params)
            return self._started(owner, self.workspace.manager.edit(owner, message_id, new.content, params))
        edited = self.workspace.manager.edit_reply(owner, message_id, new.content)
        self.workspace.bus.publish(owner, edited.conversation_id)
        response.status_code = 200
        return self._sent(owner, edited.conversation_id, edited.parent_id, edited.id)

    def switch(self, owner: Owner, message_id: str) -> ConversationPath:
        """Show the branch of a message, down to the newest message below it."""
        self.workspace.manager.switch(owner, message_id)
        return self._changed(owner, self.workspace.conversations.message(owner, message_id).conversation_id)

    def fork(self, owner: Owner, message_id: str) -> ConversationModel:
        """Begin a conversation with a copy of the messages up to one."""
        fork = self.workspace.manager.fork(owner, message_id)
        self.workspace.bus.publish(owner, fork.id)
        return ConversationModel.model_validate(fork)

    def change(self, owner: Owner, message_id: str, change: MessageChange) -> MessageModel:
        """Have a message always be in the prompt, or no longer."""
        self.workspace.branches.pin(owner, message_id, pinned=change.pinned)
        return self._changed_message(owner, message_id)

    def delete(self, owner: Owner, message_id: str, branch: bool = False) -> ConversationPath:
        """Delete a message, with `branch` all that follows it too; else that follows the message before."""
        conversation_id = self.workspace.conversations.message(owner, message_id).conversation_id
        manager = self.workspace.manager
        (manager.delete_branch if branch else manager.delete_message)(owner, message_id)
        return self._changed(owner, conversation_id)

    def rate(self, owner: Owner, message_id: str, feedback: FeedbackChange) -> FeedbackModel:
        """Keep what the owner thinks of a message instead of what they thought before."""
        self.workspace.feedback.rate(owner, message_id, rating=feedback.rating, comment=feedback.comment)
        rated = self._changed_message(owner, message_id)
        return rated.feedback or FeedbackModel(rating=None, comment=None)

    def _params(self, given: Mapping[str, Any]) -> SamplingParams:
        """Return the model's own sampling parameters with those that are given; raises InvalidField, ValueError."""
        values = {name: _value(name, value) for name, value in given.items()}
        return replace(self.workspace.manager.model.sampling_params, **values)

    def _started(self, owner: str, turn: Turn) -> SentMessage:
        return self._sent(owner, turn.conversation_id, turn.message_id, turn.reply_id)

    def _sent(self, owner: str, conversation_id: str, message_id: str | None, reply_id: str | None) -> SentMessage:
        messages = [read_message(self.workspace, owner, one) for one in (message_id, reply_id) if one is not None]
        return SentMessage(conversation_id=conversation_id, message_id=message_id, reply_id=reply_id, messages=messages)

    def _changed(self, owner: str, conversation_id: str) -> ConversationPath:
        self.workspace.bus.publish(owner, conversation_id)
        return read_path(self.workspace, owner, conversation_id)

    def _changed_message(self, owner: str, message_id: str) -> MessageModel:
        conversation_id = self.workspace.conversations.message(owner, message_id).conversation_id
        self.workspace.bus.publish(owner, conversation_id)
        return read_message(self.workspace, owner, message_id)


def _value(name: str, value: Any) -> Any:
    """Return the value of a sampling parameter that JSON gives; raises InvalidField, ValueError."""
    if name not in PARAMS:
        raise InvalidField(f"params.{name}", f"params: must be some of {', '.join(PARAMS)}, got {shortened(name)}")
    try:
        json.dumps(value, ensure_ascii=False).encode()
        return from_json(name, value)
    except UnicodeEncodeError:
        rule = "text that UTF-8 can hold"
    except RecursionError:
        rule = "nested less deeply"
    except ValueError as error:
        if str(error).startswith(name):
            raise
        rule = "made of numbers with fewer digits"  # than Python reads
    raise InvalidField(f"params.{name}", f"{name} must be {rule}, got {shortened(value)}")


def _ledger(ledger: Ledger) -> LedgerModel:
    cached = ledger.get("cached_tokens")
    shares = [None if cached is None else cached_share(entry, cached) for entry in ledger["messages"]]
    entries = [
        LedgerEntryModel.model_validate({**entry, "cached": share})
        for entry, share in zip(ledger["messages"], shares, strict=True)
    ]
    return LedgerModel.model_validate({**ledger, "messages": entries})


def _model(message: Message, siblings: list[str], feedback: Feedback | None) -> MessageModel:
    model = MessageModel.model_validate(message)
    return model.model_copy(
        update={"siblings": siblings, "feedback": feedback and FeedbackModel.model_validate(feedback)}
    )
