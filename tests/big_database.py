"""A database as large as a lifetime of chats, for measurements: python -m tests.big_database FILE [CONVERSATIONS]

Words are made up, and as frequent as those of a language: the n-th most frequent word comes 1/n times as often as the
first. One conversation in twenty is in Chinese. The same arguments give the same texts.
"""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert, update

from storage.database import Database
from storage.search import index_messages, index_titles
from storage.tables import Conversation, Feedback, Message

OWNER = "local"
N_MESSAGES = 20  # of each conversation
N_WORDS = {"user": 15, "assistant": 80}  # of a message, on average
BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
BATCH = 500  # conversations that are stored at once

Row = dict[str, Any]


class Language:
    """Words to draw texts from."""

    def __init__(self, words: list[str], separator: str) -> None:
        self._words = np.array(words)
        self._separator = separator
        self._ceilings = np.cumsum(1 / np.arange(1, len(words) + 1))

    def text(self, random: np.random.Generator, n_words: int) -> str:
        """Return so many words."""
        places = np.searchsorted(self._ceilings, random.random(n_words) * self._ceilings[-1])
        return self._separator.join(self._words[places])


def languages() -> tuple[Language, Language]:
    """Return an alphabetic one, with words from "ba" on, and one like Chinese."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    pairs = [first + second for first in syllables for second in syllables]
    words = syllables + pairs + [pair + syllable for pair in pairs[:1000] for syllable in syllables[:30]]
    characters = [chr(0x4E00 + number) for number in range(3000)]
    return Language(words, " "), Language(characters, "")


def conversations(n: int) -> Iterator[tuple[Row, list[Row], list[Row]]]:
    """Yield conversations, each with its messages and what its owner thinks of them."""
    random = np.random.default_rng(0)
    alphabetic, chinese = languages()
    for number in range(1, n + 1):
        language = chinese if number % 20 == 0 else alphabetic
        moment = BEGIN + timedelta(hours=5 * number)
        conversation: Row = {
            "number": number,
            "id": f"conversation{number}",
            "owner_id": OWNER,
            "channel": ("ui", "widget", "api")[number % 3],
            "title": language.text(random, 5),
            "pinned": number % 100 == 1,
            "archived": number % 20 == 2,
            "trashed_at": moment if number % 100 == 3 else None,
            "created_at": moment,
            "updated_at": moment,
        }
        messages = [_message(conversation, seq, language, random) for seq in range(1, N_MESSAGES + 1)]
        rating = {"message_id": messages[-1]["id"], "user_id": OWNER, "rating": -1 if number % 10 else 1}
        yield conversation, messages, [rating] if number % 5 == 0 else []


def _message(conversation: Row, seq: int, language: Language, random: np.random.Generator) -> Row:
    role = "assistant" if seq % 2 == 0 else "user"
    return {
        "id": f"{conversation['id']}-{seq}",
        "conversation_id": conversation["id"],
        "parent_id": f"{conversation['id']}-{seq - 1}" if seq > 1 else None,
        "seq": seq,
        "role": role,
        "content": language.text(random, 1 + int(random.exponential(N_WORDS[role]))),
        "status": "complete",
        "model": ("small", "large")[seq % 4 // 2] if role == "assistant" else None,
        "created_at": conversation["created_at"] + timedelta(minutes=seq),
    }


def write(path: Path, n_conversations: int) -> Database:
    """Create a database of so many conversations."""
    database = Database(path)
    database.migrate()
    rows = conversations(n_conversations)
    while batch := [row for _, row in zip(range(BATCH), rows, strict=False)]:
        with database.write() as session:
            connection = session.connection()
            connection.execute(insert(Conversation), [conversation for conversation, _, _ in batch])
            connection.execute(insert(Message), [message for _, messages, _ in batch for message in messages])
            connection.execute(insert(Feedback), [rating for _, _, ratings in batch for rating in ratings])
            numbers = [conversation["number"] for conversation, _, _ in batch]
            ids = [conversation["id"] for conversation, _, _ in batch]
            index_titles(session, Conversation.number.in_(numbers))
            index_messages(session, Message.conversation_id.in_(ids))
    with database.write() as session:
        leaf = Conversation.id + f"-{N_MESSAGES}"
        session.execute(update(Conversation).values(active_leaf_id=leaf))
    return database


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10_000).close()
