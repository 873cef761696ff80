"""What must be true of every database, whatever has happened to it."""

from collections.abc import Iterable

from child_work import Shown
from sqlalchemy import select, text

from storage.database import Database
from storage.search import segmented
from storage.tables import Conversation, Message


def check_sound(database: Database) -> None:
    """Check the file, its foreign keys, and that the search index has each text that has its last content."""
    with database.read() as session:
        assert session.scalars(text("PRAGMA integrity_check")).all() == ["ok"]
        assert session.execute(text("PRAGMA foreign_key_check")).all() == []
        messages = select(Message.number, Message.content).where(Message.status != "streaming")
        titles = select(Conversation.number, Conversation.title).where(Conversation.title.is_not(None))
        for index, column, texts in (("messages_fts", "content", messages), ("conversations_fts", "title", titles)):
            indexed = session.execute(text(f"SELECT rowid, {column} FROM {index}"))
            kept = {number: segmented(content or "") for number, content in session.execute(texts)}
            assert dict(indexed.all()) == kept
    with database.write() as session:
        for index in ("messages_fts", "conversations_fts"):  # its words against its own copy of the texts
            session.execute(text(f"INSERT INTO {index}({index}, rank) VALUES ('integrity-check', 1)"))


def replies(database: Database) -> dict[str, tuple[str, str]]:
    """Return the text and the status of the reply to each message."""
    query = text(
        "SELECT message.content, reply.content, reply.status FROM messages AS message "
        "JOIN messages AS reply ON reply.parent_id = message.id WHERE message.role = 'user'"
    )
    with database.read() as session:
        return {message: (content, status) for message, content, status in session.execute(query)}


def check_kept(shown: Iterable[Shown], kept: dict[str, tuple[str, str]]) -> None:
    """Check that all messages and texts that a reader has seen are among the replies, each of which has ended.

    An end that was told as an error, for it could not be surely stored, may be there after all: SQLite finds a commit
    in the WAL at its next start although the fsync after it failed.
    """
    for seen in shown:
        content, status = kept[seen.message]
        assert content.startswith(seen.text), "what was on a screen is kept"
        assert status != "streaming"
        is_unsure = (seen.error or "").startswith("Cannot use the database ")
        assert is_unsure or seen.status in ("streaming", status), f"{seen} is kept as {status}: {content}"
