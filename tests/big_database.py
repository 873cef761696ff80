"""A database as large as a lifetime of chats, for measurements: python -m tests.big_database FILE [CONVERSATIONS]

Words are made up, and as frequent as those of a language: the n-th most frequent word comes 1/n times as often as the
first. One conversation in twenty is in Chinese, and one more is very long. A reply has what is kept of one: its tokens,
what is new of the account of its prompt, its parameters. The same arguments give the same rows.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import bindparam, insert, update

from chat.context import CUT_TO
from chat.ledger import Ledger, LedgerEntry, split_ledger
from model.sampling_params import SamplingParams
from storage.database import Database
from storage.search import index_messages, index_titles
from storage.tables import Conversation, Feedback, Message

OWNER = "local"
N_TURNS = 9  # of each conversation: 20 messages, since each fourth reply has been written twice
LONG_ID, N_LONG_TURNS = "long", 250
N_WORDS = {"user": 15, "assistant": 80}  # of a message, on average
N_TOKENS = 100  # of each message, in the accounts of prompts
BUDGET = 7168  # of tokens in a prompt
PARAMS = asdict(SamplingParams())
OF_REPLIES = ("model", "model_digest", "params", "seed", "token_ids", "prompt_shared", "prompt_ids", "ledger")
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
    """Yield the long conversation and n others, each with its messages and what its owner thinks of them."""
    random = np.random.default_rng(0)
    alphabetic, chinese = languages()
    for number in range(n + 1):
        language = chinese if number % 20 == 10 else alphabetic
        moment = BEGIN + timedelta(hours=5 * number)
        conversation: Row = {
            "number": number + 1,
            "id": f"conversation{number}" if number else LONG_ID,
            "owner_id": OWNER,
            "channel": ("ui", "widget", "api")[number % 3],
            "title": language.text(random, 5),
            "params": PARAMS,
            "pinned": number % 100 == 1,
            "archived": number % 20 == 2,
            "trashed_at": moment if number % 100 == 3 else None,
            "created_at": moment,
            "updated_at": moment + timedelta(minutes=N_TURNS),
        }
        messages = list(_messages(conversation, N_TURNS if number else N_LONG_TURNS, language, random))
        rated = [] if number % 5 else messages[-1:] if number else messages[1::10]
        rating = -1 if number % 10 else 1
        yield conversation, messages, [{"message_id": row["id"], "user_id": OWNER, "rating": rating} for row in rated]


def _messages(conversation: Row, n_turns: int, language: Language, random: np.random.Generator) -> Iterator[Row]:
    seq = count(1)
    path: list[Message] = []
    for turn in range(1, n_turns + 1):
        for role, n_versions in (("user", 1), ("assistant", 1 if turn % 4 else 2)):
            versions = [_message(conversation, next(seq), role, path, language, random) for _ in range(n_versions)]
            yield from versions
            path.append(Message(id=versions[-1]["id"], ledger=versions[-1]["ledger"]))


def _message(
    conversation: Row, seq: int, role: str, path: list[Message], language: Language, random: np.random.Generator
) -> Row:
    n_words = 1 + int(random.exponential(N_WORDS[role]))
    message: Row = {
        "id": f"{conversation['id']}-{seq}",
        "conversation_id": conversation["id"],
        "parent_id": path[-1].id if path else None,
        "seq": seq,
        "role": role,
        "content": language.text(random, n_words),
        "status": "complete",
        "created_at": conversation["created_at"] + timedelta(seconds=20 * seq),
        **dict.fromkeys(OF_REPLIES),
    }
    return message | _reply(n_words, path, random) if role == "assistant" else message


def _reply(n_words: int, path: list[Message], random: np.random.Generator) -> Row:
    values = (
        ("small", "large")[len(path) % 4 // 2],
        "0" * 64,
        PARAMS,
        int(random.integers(2**32)),
        random.integers(49_152, size=n_words * 4 // 3).tolist(),
        100 * len(path),
        random.integers(49_152, size=N_WORDS["user"] * 2).tolist(),
        split_ledger(path, _account(path)),
    )
    return dict(zip(OF_REPLIES, values, strict=True))


def _account(path: list[Message]) -> Ledger:
    """Return the account of a prompt; turns of two messages are dropped as the program does it."""
    n_fit, n_left = BUDGET // N_TOKENS, int(BUDGET * CUT_TO) // N_TOKENS
    first = 0
    while len(path) - first > n_fit:
        first += (n_fit + 2 - n_left) // 2 * 2
    kept = [
        LedgerEntry(message_id=message.id, tokens=N_TOKENS, included=True, reason="fits", start=N_TOKENS * place)
        for place, message in enumerate(path[first:])
    ]
    dropped = [
        LedgerEntry(message_id=message.id, tokens=N_TOKENS, included=False, reason="dropped")
        for message in path[:first]
    ]
    return Ledger(budget=BUDGET, messages=dropped + kept, cached_tokens=N_TOKENS * max(0, len(path) - first - 1))


def write(path: Path, n_conversations: int) -> Database:
    """Create a database of so many conversations, and a long one."""
    database = Database(path)
    database.migrate()
    rows = conversations(n_conversations)
    while batch := list(islice(rows, BATCH)):
        with database.write() as session:
            connection = session.connection()
            connection.execute(insert(Conversation), [conversation for conversation, _, _ in batch])
            connection.execute(insert(Message), [message for _, messages, _ in batch for message in messages])
            if ratings := [rating for _, _, ratings in batch for rating in ratings]:
                connection.execute(insert(Feedback), ratings)
            leaves = [{"b_id": conversation["id"], "leaf": messages[-1]["id"]} for conversation, messages, _ in batch]
            own_row = update(Conversation).where(Conversation.id == bindparam("b_id"))
            connection.execute(own_row.values(active_leaf_id=bindparam("leaf")), leaves)
            ids = [conversation["id"] for conversation, _, _ in batch]
            index_titles(session, Conversation.id.in_(ids))
            index_messages(session, Message.conversation_id.in_(ids))
    return database


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10_000).close()
