"""The lists of an owner's conversations, in pages."""

from collections.abc import Iterable
from typing import TypedDict, Unpack

from sqlalchemy import ColumnElement, Select, select, tuple_

from storage.tables import Channel, Conversation

LAST_USED = ("pinned", "updated_at", "number")
LAST_TRASHED = ("trashed_at", "number")


class Page(TypedDict, total=False):
    """Which part of a list, and of which conversations in it."""

    limit: int  # 100, if it is left out
    after: Conversation | None  # the last one of the page before, as it was when that page was read
    channel: Channel | None
    site_id: str | None


def select_page(
    owner_id: str, listed: Iterable[ColumnElement[bool]], order: Iterable[str], **page: Unpack[Page]
) -> Select[Conversation]:
    """Select a page of an owner's conversations that are listed, those with the largest values first."""
    columns = [getattr(Conversation, name) for name in order]
    query = select(Conversation).where(Conversation.owner_id == owner_id, *listed)
    if after := page.get("after"):
        query = query.where(tuple_(*columns) < tuple(getattr(after, name) for name in order))
    if channel := page.get("channel"):
        query = query.where(Conversation.channel == channel)
    if site_id := page.get("site_id"):
        query = query.where(Conversation.site_id == site_id)
    return query.order_by(*(column.desc() for column in columns)).limit(page.get("limit", 100))
