"""The account of a reply's prompt, and how it is stored: as what it says anew.

A ledger has an entry for each message of its path, so that ledgers stored whole would grow with the square of a chat's
length. A reply keeps only the entries that differ from what the ledgers above it say of the same messages. Read from
the root on, a later entry replaces an earlier one; so are the whole ledgers read that earlier versions stored.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from storage.ledgers import ledger_entries
from storage.tables import JsonObject, Message

Reason = Literal["fits", "pinned", "dropped", "recapped", "empty"]  # a recapped one is dropped, but quoted in the recap


class LedgerEntry(TypedDict):
    """What became of one message of the history; it stays the same from reply to reply until the history is cut."""

    message_id: str
    tokens: int  # of its content: as they are in the prompt, or as they would be
    included: bool
    reason: Reason
    start: NotRequired[int]  # the place of its first token in the prompt; ledgers of earlier versions lack it


class Ledger(TypedDict):
    """The account of a prompt: how many tokens it had room for, and which messages took it."""

    budget: int
    messages: list[LedgerEntry]
    recap_tokens: NotRequired[int]  # of the recap, if there is one
    cached_tokens: NotRequired[int]  # of the prompt's first: those that the engine did not have to compute


_ADAPTER = TypeAdapter(Ledger)


def split_ledger(path: Sequence[Message], ledger: Ledger) -> Ledger:
    """Return what a reply keeps of its whole ledger, given the path from the root to its parent, with ledgers."""
    known = _fold(path)
    changed = [entry for entry in ledger["messages"] if known.get(entry["message_id"]) != entry]
    return {**ledger, "messages": changed}


def join_ledger(path: Sequence[Message], reply: Message) -> Ledger | None:
    """Return the whole ledger of a reply, given the path from the root to its parent, with ledgers.

    Its entries are in the order of the path. None if none is stored, or what somebody else wrote is none.
    """
    if reply.ledger is None:
        return None
    entries = _fold([*path, reply])
    whole = {**reply.ledger, "messages": [entries[message.id] for message in path if message.id in entries]}
    if reply.cached_tokens is not None:
        whole.setdefault("cached_tokens", reply.cached_tokens)  # which ledgers of earlier versions lack
    try:
        return _ADAPTER.validate_python(whole)
    except ValidationError:
        return None


def cached_share(entry: LedgerEntry, cached_tokens: int) -> int:
    """Return how many of an entry's tokens are among so many first ones of the prompt."""
    return min(max(cached_tokens - entry["start"], 0), entry["tokens"]) if "start" in entry else 0


def _fold(path: Iterable[Message]) -> dict[str, JsonObject]:
    """Return the newest entry on each message that the ledgers of a path name."""
    entries: dict[str, JsonObject] = {}
    for message in path:
        entries |= ledger_entries(message.ledger)
    return entries
