"""The search index: what is in it already is filled in, and what is deleted leaves it."""

from alembic import op
from sqlalchemy.orm import Session

from storage.database import sqlite_version
from storage.search import index_messages, index_titles
from storage.tables import Conversation, Message

revision = "0003"
down_revision = "0002"

# Marks and symbols belong to words, and so does what this SQLite's Unicode does not know yet; U+FE0E and U+FE0F, which
# only ask for a picture in black or in colour, do not.
_TOKENIZER = "unicode61 remove_diacritics 2 categories 'L* M* N* Co Cn So' separators '\ufe0e\ufe0f'"


def upgrade() -> None:
    """Create an index of titles and one of messages, and fill them."""
    for table, column in (("conversations", "title"), ("messages", "content")):
        index = f"{table}_fts"
        op.execute(f"CREATE VIRTUAL TABLE {index} USING fts5({column}, tokenize=\"{_TOKENIZER}\", prefix='1 2 3')")
        if tuple(map(int, sqlite_version().split("."))) >= (3, 42):
            op.execute(f"INSERT INTO {index}({index}, rank) VALUES ('secure-delete', 1)")
        op.execute(
            f"CREATE TRIGGER {index}_delete AFTER DELETE ON {table} "
            f"BEGIN DELETE FROM {index} WHERE rowid = old.number; END"
        )
    session = Session(op.get_bind())
    index_titles(session, Conversation.title.is_not(None))
    index_messages(session, Message.status != "streaming")
