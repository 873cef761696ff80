"""Plain text: the shown branch of each conversation, to read or to print."""

from collections.abc import Iterable, Iterator

from chat.formats.archive import ArchivedConversation
from chat.formats.linear import shown_path

RULE = "=" * 72


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
    """Yield the title of each conversation and the messages of its shown branch."""
    for number, conversation in enumerate(conversations):
        if number:
            yield f"\n{RULE}\n\n"
        yield " ".join((conversation["title"] or "Untitled").split()) + f"\n{conversation['created_at']}\n"
        for message in shown_path(conversation):
            yield f"\n{message['role'].upper()}, {message['created_at']}\n{message['content']}\n"
