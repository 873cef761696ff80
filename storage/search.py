"""Full-text search in messages and titles, and how their index is kept.

The index is two FTS5 tables, whose rowids are the numbers of conversations and messages. The store that writes a text
calls `index_titles` or `index_messages` in the same transaction; triggers take deleted rows out.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import chain, islice
from typing import Any

import regex
from sqlalchemy import ColumnElement, Select, TextClause, TextualSelect, bindparam, select, text
from sqlalchemy.orm import Session

from storage.database import Database
from storage.tables import Channel, Conversation, Message, Role, UtcDateTime

MAX_QUERY = 1000  # characters; what follows is not looked for
N_RANKED = 1500  # messages: of more that match, only the newest are ranked, since ranking is what takes time
N_FEW = 5000  # conversations: of fewer that pass the filters, the messages are listed before the search
N_SNIPPET = 32  # words, or characters of scripts without spaces
BATCH = 500  # texts that are indexed at once

_GAP = "\u200b"  # the zero-width space: no part of a word, and not to be seen
_BEGIN, _END = "\ufdd0", "\ufdd1"  # around matches in snippets: characters that no text should have
_NEVER_INDEXED = regex.compile(rf"[\0{_GAP}{_BEGIN}{_END}\p{{Cs}}]")  # ours; and what ends or breaks a text in SQLite
# By Unicode's rules for breaking lines: ideographs and most emoji, kana, scripts of South East Asia, and Hangul
_WITHOUT_SPACES = regex.compile(r"[\p{LB=ID}\p{LB=CJ}\p{LB=NS}\p{LB=SA}\p{LB=H2}\p{LB=H3}\p{So}]\p{M}*")
_PHRASE = regex.compile(r'"(?P<quoted>[^"]*)(?P<closing>"?)\*?|(?P<word>[^\s"]+)')


Values = dict[str, Any]  # what a statement names with a colon: filters that are set, and what else a search is about


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What hits must be, for all that is set."""

    since: datetime | None = None  # by the time of the message or, for a title, of the conversation's beginning
    until: datetime | None = None
    channel: Channel | None = None
    pinned: bool | None = None  # the conversation, and so archived
    archived: bool | None = None
    role: Role | None = None  # titles have none of these three
    model: str | None = None
    rating: int | None = None  # the owner's or their visitor's: 1 or -1


@dataclass(frozen=True, slots=True)
class Hit:
    """A message or, without a message's id and role, a title."""

    conversation_id: str
    title: str | None
    message_id: str | None
    role: Role | None
    created_at: datetime
    snippet: tuple[tuple[str, bool], ...]  # pieces of the text around the matches, and whether each is a match


class SearchStore:
    """Searches the conversations of all owners, for each in its own; one object serves all threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def search(
        self, owner_id: str, query: str, *, filters: Filters = Filters(), limit: int = 20, offset: int = 0
    ) -> list[Hit]:
        """Return what has all words of a query, outside the trash: titles first, then messages, each the best first.

        "several words" are a phrase. A word with * at its end, and a last word that nothing follows, are beginnings of
        words. All else in a query is text, and one without words finds nothing. Of very many messages, only the newest
        are ranked and returned.
        """
        expression = _expression(query)
        if not expression:
            return []
        values = {name: value for name, value in asdict(filters).items() if value is not None}
        values |= {"owner_id": owner_id, "expression": expression, "last": offset + limit, "few": N_FEW}
        with self._database.read() as session:
            rows = chain.from_iterable(session.execute(find, values) for find in _statements(session, values))
            page = islice(rows, offset, offset + limit)
            return [Hit(**row._asdict() | {"snippet": tuple(_parts(row.snippet))}) for row in page]


def index_titles(session: Session, *which: ColumnElement[bool]) -> None:
    """Index the titles of conversations, in place of those that they had."""
    titles = select(Conversation.number, Conversation.title).where(Conversation.title.is_not(None), *which)
    _index(session, titles, text("INSERT OR REPLACE INTO conversations_fts(rowid, title) VALUES (:number, :text)"))


def index_messages(session: Session, *which: ColumnElement[bool]) -> None:
    """Index messages that have their last content."""
    messages = select(Message.number, Message.content).where(*which)
    _index(session, messages, text("INSERT OR REPLACE INTO messages_fts(rowid, content) VALUES (:number, :text)"))


def _index(session: Session, texts: Select[int, Any], statement: TextClause) -> None:
    for batch in session.execute(texts).partitions(BATCH):
        session.execute(statement, [{"number": number, "text": segmented(content)} for number, content in batch])


def segmented(content: str) -> str:
    """Return a text in which each character of a script without spaces is a word, so that any part of it is found."""
    content = _NEVER_INDEXED.sub(" ", content)
    if content.isascii():
        return content
    apart: str = _WITHOUT_SPACES.sub(rf"{_GAP}\g<0>{_GAP}", unicodedata.normalize("NFC", content))
    return apart.replace(_GAP * 2, _GAP)


def _expression(query: str) -> str:
    """Return a query in FTS5's language, all of it quoted, so that nothing in it can be an operator."""
    query = segmented(query[:MAX_QUERY])
    phrases = []
    for found in _PHRASE.finditer(query):
        words = found["word"] or found["quoted"]
        is_being_typed = found.end() == len(query) and not found["closing"]
        phrases.append(f'"{words}"*' if is_being_typed or found[0].endswith("*") else f'"{words}"')
    return " ".join(phrases)


def _parts(snippet: str) -> Iterator[tuple[str, bool]]:
    before, *matches = snippet.replace(_GAP, "").split(_BEGIN)
    if before:
        yield before, False
    for match in matches:
        inside, after = match.split(_END)
        yield inside, True
        if after:
            yield after, False


_TIMES = {"since": "created_at >= :since", "until": "created_at < :until"}
_OF_CONVERSATIONS = {name: f"{name} = :{name}" for name in ("channel", "pinned", "archived")}
_OF_MESSAGES = {name: f"{name} = :{name}" for name in ("role", "model")} | _TIMES


def _statements(session: Session, values: Values) -> Iterator[TextualSelect]:
    """Yield what finds titles, and what finds messages, by the filters that are set."""
    own = ["conversations.owner_id = :owner_id", "conversations.trashed_at IS NULL"]
    own += _conditions("conversations", _OF_CONVERSATIONS, values)
    if not values.keys() & {"role", "model", "rating"}:
        yield _find_titles(own, values)
    few = text(f"SELECT count(*) < :few FROM (SELECT 1 FROM conversations WHERE {_all(own)} LIMIT :few)")
    yield _find_messages(own, values, are_few=bool(session.scalar(few, values)))


def _find_titles(own: list[str], values: Values) -> TextualSelect:
    conversations = "CROSS JOIN conversations ON conversations.number = conversations_fts.rowid"
    columns = "NULL AS message_id, NULL AS role, conversations.created_at"
    conditions = [*own, *_conditions("conversations", _TIMES, values)]
    return _find("conversations_fts", conversations, columns, f"conversations_fts {conversations}", conditions)


def _find_messages(own: list[str], values: Values, *, are_few: bool) -> TextualSelect:
    """Look up first what passes the filters, in indexes: to look at a message's row for each match takes far longer."""
    passing = []
    if are_few:
        messages = "messages ON messages.conversation_id = conversations.id"
        passing.append(f"SELECT messages.number FROM conversations CROSS JOIN {messages} WHERE {_all(own)}")
    if "rating" in values:
        rows = (
            "feedback CROSS JOIN messages ON messages.id = feedback.message_id "
            "CROSS JOIN conversations ON conversations.id = messages.conversation_id"
        )
        raters = "(:owner_id, 'visitor:' || conversations.visitor_id)"
        rated = f"feedback.rating = :rating AND feedback.user_id IN {raters}"
        passing.append(f"SELECT messages.number FROM {rows} WHERE {rated}")
    if conditions := _conditions("messages", _OF_MESSAGES, values):
        passing.append(f"SELECT messages.number FROM messages WHERE {_all(conditions)}")
    # The + keeps SQLite from searching the index anew for each of them.
    listed = [f"+messages_fts.rowid IN ({numbers})" for numbers in passing]
    rows = (
        "CROSS JOIN messages ON messages.number = messages_fts.rowid "
        "CROSS JOIN conversations ON conversations.id = messages.conversation_id"
    )
    columns = "messages.id AS message_id, messages.role, messages.created_at"
    if are_few:
        return _find("messages_fts", rows, columns, "messages_fts", listed)
    return _find("messages_fts", rows, columns, f"messages_fts {rows}", [*own, *listed])


def _find(index: str, rows: str, columns: str, searched: str, conditions: list[str]) -> TextualSelect:
    # CROSS JOIN keeps the order of the tables: from the owner's rows to the index, a search takes seconds.
    sql = f"""
        WITH matching AS (
            SELECT {index}.rowid AS number, bm25({index}) AS score FROM {searched}
            WHERE {index} MATCH :expression AND {_all(conditions)}
            ORDER BY {index}.rowid DESC LIMIT {N_RANKED}
        ), best AS (
            SELECT number, score FROM matching ORDER BY score, number DESC LIMIT :last
        )
        SELECT conversations.id AS conversation_id, conversations.title, {columns},
            snippet({index}, 0, '{_BEGIN}', '{_END}', '…', {N_SNIPPET}) AS snippet
        FROM best CROSS JOIN {index} ON {index}.rowid = best.number {rows}
        WHERE {index} MATCH :expression
        ORDER BY best.score, best.number DESC
    """
    times = [bindparam(name, type_=UtcDateTime) for name in _TIMES if f":{name}" in sql]
    return text(sql).bindparams(*times).columns(created_at=UtcDateTime)


def _conditions(table: str, tests: Mapping[str, str], values: Values) -> list[str]:
    """Return the tests of the filters that are set, on a table."""
    return [f"{table}.{test}" for name, test in tests.items() if name in values]


def _all(conditions: list[str]) -> str:
    return " AND ".join(conditions)
