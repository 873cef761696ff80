"""The routes on conversations: their lists, one of them, and one change of many."""

from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from chat.api.errors import InvalidField, documented, shortened
from chat.api.identity import Owner
from chat.api.schemas import (
    ConversationChange,
    ConversationModel,
    ConversationPage,
    Conversations,
    ConversationsChange,
    NewConversation,
)
from chat.presets import find_preset, presets_of
from chat.workspace import Workspace
from storage.conversations import ConversationChanges, ConversationStore
from storage.lists import Page
from storage.tables import Channel, Conversation

Show = Literal["recent", "archived", "trashed"]

_LISTS = {
    "recent": ConversationStore.recent,
    "archived": ConversationStore.archived,
    "trashed": ConversationStore.trashed,
}

_Moment = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


class _Cursor(BaseModel):
    """The place of a conversation in its list, whatever becomes of it."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)

    pinned: bool
    updated_at: _Moment
    trashed_at: _Moment | None
    number: int = Field(ge=0, lt=2**63)


def conversation_routes(workspace: Workspace) -> APIRouter:
    """Return the routes on the conversations of a workspace."""
    router, handlers = APIRouter(tags=["conversations"]), _Handlers(workspace)
    add = router.add_api_route
    everywhere, here = documented(), documented(404)
    list_path, path = "/conversations", "/conversations/{conversation_id}"
    add(list_path, handlers.page, methods=["GET"], summary="List conversations", responses=everywhere)
    add(list_path, handlers.start, methods=["POST"], status_code=201, summary="Begin one", responses=everywhere)
    add(f"{list_path}/change", handlers.change_all, methods=["POST"], summary="Change several", responses=here)
    add(path, handlers.read, methods=["GET"], summary="Read one, without its messages", responses=here)
    add(path, handlers.change, methods=["PATCH"], summary="Change one", responses=here)
    add(path, handlers.erase, methods=["DELETE"], status_code=204, summary="Erase one", responses=documented(404, 409))
    return router


@dataclass(frozen=True, slots=True)
class _Handlers:
    workspace: Workspace

    def page(
        self,
        owner: Owner,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        after: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
        show: Show = "recent",
        channel: Annotated[Channel | None, Query(description="Only those that were begun there.")] = None,
        site_id: Annotated[str | None, Query(description="Only those of the visitors of a site.")] = None,
    ) -> ConversationPage:
        """List conversations, the pinned first, then the last used; in the trash, the last thrown away first.

        One that is used meanwhile goes to the top: who follows the pages finds each of the others once.
        """
        last = None if after is None else _place(after, show)
        page = Page(limit=limit + 1, after=last, channel=channel, site_id=site_id)
        found = _LISTS[show](self.workspace.conversations, owner, **page)
        shown = found[:limit]
        return ConversationPage(
            conversations=_models(shown),
            next=_cursor(shown[-1]) if len(found) > limit else None,
        )

    def start(self, owner: Owner, new: NewConversation) -> ConversationModel:
        """Begin a conversation, still without messages."""
        preset = find_preset(new.preset, presets_of(self.workspace.presets, owner))
        conversation = self.workspace.manager.start(
            owner,
            channel="ui",
            system_prompt=preset.system_prompt if new.system_prompt is None else new.system_prompt,
            preset=new.preset,
            recap=new.recap,
        )
        self.workspace.bus.publish(owner, conversation.id)
        return ConversationModel.model_validate(conversation)

    def read(self, owner: Owner, conversation_id: str) -> ConversationModel:
        """Read a conversation, without its messages."""
        return ConversationModel.model_validate(self.workspace.conversations.get(owner, conversation_id))

    def change(self, owner: Owner, conversation_id: str, change: ConversationChange) -> ConversationModel:
        """Change the fields of a conversation that are named; a title is the user's then."""
        [changed] = self._change(owner, [conversation_id], change)
        return changed

    def change_all(self, owner: Owner, change: ConversationsChange) -> Conversations:
        """Make one change of several conversations, or of none if one of them is not there."""
        return Conversations(conversations=self._change(owner, change.ids, change.change))

    def erase(self, owner: Owner, conversation_id: str) -> None:
        """Erase a conversation for good, from the database's files too."""
        try:
            self.workspace.erasure.erase(owner, [conversation_id])
        finally:  # its rows may be gone though their traces are not
            self.workspace.bus.publish(owner, conversation_id)

    def _change(self, owner: str, ids: list[str], change: ConversationChange) -> list[ConversationModel]:
        changes: ConversationChanges = change.model_dump(exclude_unset=True)  # type: ignore[assignment]
        changed = self.workspace.conversations.update_all(owner, ids, **changes)
        for conversation in changed:
            self.workspace.bus.publish(owner, conversation.id)
        return _models(changed)


def _models(conversations: list[Conversation]) -> list[ConversationModel]:
    return [ConversationModel.model_validate(conversation) for conversation in conversations]


def _cursor(last: Conversation) -> str:
    return urlsafe_b64encode(_Cursor.model_validate(last).model_dump_json().encode()).decode()


def _place(after: str, show: Show) -> Conversation:
    """Return what stands for the last conversation of the page before; raises InvalidField."""
    try:
        cursor = _Cursor.model_validate_json(b64decode(after, altchars=b"-_", validate=True))
    except (ValueError, OverflowError):  # no base64, no place, or a moment before the year 1
        cursor = None
    if cursor is None or (cursor.trashed_at is not None) != (show == "trashed"):
        raise InvalidField("after", f"after: must be the next of a page of this list, got {shortened(after)}")
    return Conversation(**cursor.model_dump())
