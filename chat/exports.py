"""What is exported, in which form and under which name: for the command line and the API alike."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from chat.errors import ChatError, NothingSelected
from chat.formats.archive import ArchivedConversation, from_tree
from chat.formats.chain import write as write_chain
from chat.formats.table import find_format
from chat.formats.zip_file import Write, slug, write_zip
from chat.redaction import Counts, redact
from storage.archive import ArchiveStore, Selection
from storage.errors import ConversationNotFound
from storage.search import N_RANKED, Filters, SearchStore
from storage.tables import Channel, utc_now


class InvalidExport(ChatError):
    """A field of what is asked for cannot be; the text begins with its name."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


def choose(
    ids: Sequence[str] | None,
    everything: bool,
    *,
    channel: Channel | None,
    site_id: str | None,
    since: datetime | None,
    until: datetime | None,
    rating: int | None,
) -> Selection:
    """Return what is to be exported; raises InvalidExport if nothing says what."""
    is_filtered = any(value is not None for value in (channel, site_id, since, until, rating))
    if not (ids or everything or is_filtered):
        raise InvalidExport("ids", "expected those of conversations, or all, or a filter that selects some, got none")
    return Selection(ids=ids or None, channel=channel, site_id=site_id, since=since, until=until, rating=rating)


def narrow(selection: Selection, search: SearchStore, owner_id: str, query: str) -> Selection:
    """Return those of a selection that a search finds; raises InvalidExport for one that finds too many messages."""
    hits = search.search(owner_id, query, filters=Filters(channel=selection.channel), limit=2 * N_RANKED)
    n_messages = sum(hit.message_id is not None for hit in hits)
    if max(n_messages, len(hits) - n_messages) >= N_RANKED:
        reason = f"expected words that fewer than {N_RANKED:,} messages have, since no more are found"
        raise InvalidExport("query", f"{reason}; add some, or a channel")
    return replace(selection, found=sorted({hit.conversation_id for hit in hits}))


def find_write(format_name: str, *, chained: bool, zipped: bool) -> Write:
    """Return the function that gives a file's content; raises UnknownFormat, InvalidExport."""
    chosen = find_format(format_name)
    if chained:
        if zipped or format_name != "parley":
            reason = "expected the format parley and no zip file, since a chain is of one file's lines"
            raise InvalidExport("chain", reason)
        return write_chain
    return partial(write_zip, write=chosen.write, suffix=chosen.suffix) if zipped else chosen.write


def find_selected(archive: ArchiveStore, owner_id: str, selection: Selection) -> list[str]:
    """Return the ids of the selected conversations; raises ConversationNotFound, NothingSelected."""
    ids = archive.ids(owner_id, selection)
    for missing in set(selection.ids or ()) - set(ids):
        raise ConversationNotFound(missing)
    if not ids:
        raise NothingSelected
    return ids


def read_selected(
    archive: ArchiveStore, owner_id: str, selection: Selection, redacted: Counts | None
) -> Iterator[ArchivedConversation]:
    """Yield the selected conversations; redacted, if what that takes out is to be counted."""
    for tree in archive.trees(owner_id, selection):
        conversation = from_tree(tree)
        yield conversation if redacted is None else redact(conversation, redacted)


def name_file(titles: Sequence[str | None], suffix: str) -> str:
    """Return a file's name that any system takes: by the title of its only conversation, or by today's date."""
    stem = slug(titles[0] or "") if len(titles) == 1 else f"parley-{utc_now():%Y-%m-%d}"
    return (stem or "Untitled") + suffix
