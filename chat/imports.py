"""Conversations come in: each once, a file as a whole or not at all, and with a report."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from chat.formats.archive import ArchivedConversation, digest, from_tree, spell_time, to_tree
from chat.formats.foreign import UNKNOWN_TIME
from storage.archive import ArchiveStore, Import, Row
from storage.tables import utc_now


@dataclass(slots=True)
class ImportReport:
    """What became of a file."""

    conversations: int = 0  # that were added
    messages: int = 0
    branches: int = 0  # messages that stand beside another
    skipped: list[str] = field(default_factory=list)  # a line for whatever was not added, and why


class Importer:
    """Takes conversations in for their owners."""

    def __init__(self, archive: ArchiveStore) -> None:
        self._archive = archive

    def run(
        self, owner_id: str, conversations: Iterable[ArchivedConversation], skipped: list[str] | None = None
    ) -> ImportReport:
        """Add those that the owner does not have yet; raises Unreadable, and has added nothing then.

        `skipped` is the list that their reader tells what it leaves out.
        """
        report = ImportReport(skipped=[] if skipped is None else skipped)
        with self._archive.importing(owner_id) as importing:
            for conversation in conversations:
                _take(importing, conversation, report)
        return report


def _dated(conversation: ArchivedConversation) -> ArchivedConversation:
    """Return a conversation whose file tells no time as one of now."""
    now = spell_time(utc_now())

    def dated(times: dict[str, Any]) -> dict[str, Any]:
        return {name: now if value == UNKNOWN_TIME else value for name, value in times.items()}

    messages = [dated(dict(message)) for message in conversation["messages"]]
    return {**dated(dict(conversation)), "messages": messages}  # type: ignore[typeddict-item]


def _unchanged(importing: Import, conversation_id: str, known_by: str) -> Row | None:
    """Return the row of the owner's conversation of an id, if it still says what a digest stands for."""
    tree = importing.tree(conversation_id)
    return tree.conversation if tree and digest(from_tree(tree)) == known_by else None


def _take(importing: Import, conversation: ArchivedConversation, report: ImportReport) -> None:
    title, known_by = conversation["title"] or "Untitled", digest(conversation)
    existing = importing.imported(known_by) or _unchanged(importing, conversation["id"], known_by)
    if existing is not None:
        report.skipped.append(f"{title}: it is {'in the trash' if existing['trashed_at'] else 'here already'}")
        return
    importing.add(to_tree(_dated(conversation)), known_by)
    report.conversations += 1
    report.messages += len(conversation["messages"])
    parents = Counter(message["parent_id"] for message in conversation["messages"])
    report.branches += sum(n_children - 1 for n_children in parents.values())
