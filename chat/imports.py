"""Conversations come in: each once, a file as a whole or not at all, and with a report."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from chat.formats.archive import ArchivedConversation, digest, from_tree, to_tree
from storage.archive import ArchiveStore, Import


@dataclass(slots=True)
class ImportReport:
    """What became of a file."""

    conversations: int = 0  # that were added
    messages: int = 0
    branches: int = 0  # messages that stand beside another
    skipped: list[str] = field(default_factory=list)  # a line for each conversation that was not added, and why


class Importer:
    """Takes conversations in for their owners."""

    def __init__(self, archive: ArchiveStore) -> None:
        self._archive = archive

    def run(self, owner_id: str, conversations: Iterable[ArchivedConversation]) -> ImportReport:
        """Add those that the owner does not have yet; raises Unreadable, and has added nothing then."""
        report = ImportReport()
        with self._archive.importing(owner_id) as importing:
            for conversation in conversations:
                _take(importing, conversation, report)
        return report


def _take(importing: Import, conversation: ArchivedConversation, report: ImportReport) -> None:
    title, known_by = conversation["title"] or "Untitled", digest(conversation)
    existing = importing.tree(conversation["id"])
    if importing.knows(known_by) or (existing and digest(from_tree(existing)) == known_by):
        report.skipped.append(f"{title}: it is here already")
        return
    importing.add(to_tree(conversation), known_by)
    report.conversations += 1
    report.messages += len(conversation["messages"])
    parents = Counter(message["parent_id"] for message in conversation["messages"])
    report.branches += sum(n_children - 1 for n_children in parents.values())
