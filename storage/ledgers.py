"""Ledgers name messages by their ids: what follows when a copy of them gets new ones, and when one is deleted.

Of a ledger only this much is known here: `messages` is a list of entries, each on the message that its `message_id`
names, and it has those that differ from what the ledgers above on the path say. Somebody else's may be anything.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

from storage.tables import JsonObject


def ledger_entries(ledger: JsonObject | None) -> dict[str, JsonObject]:
    """Return the entries of a ledger by the ids of the messages that they are on."""
    entries = ledger.get("messages") if ledger else None
    return {entry["message_id"]: entry for entry in entries if _is_entry(entry)} if isinstance(entries, list) else {}


def inherit_entries(ledger: JsonObject, above: JsonObject | None, deleted_id: str) -> JsonObject:
    """Return a ledger that also says what one above it did, of all messages but a deleted one."""
    entries = ledger_entries(above) | ledger_entries(ledger)
    entries.pop(deleted_id, None)
    return {**ledger, "messages": [*entries.values()]}


def rename_in_ledger(ledger: JsonObject | None, names: Mapping[str, object]) -> JsonObject | None:
    """Return a ledger that calls its messages by other names; those that have none, by None."""
    entries = ledger.get("messages") if ledger else None
    if ledger is None or not isinstance(entries, list):
        return ledger
    return {**ledger, "messages": [_renamed_entry(entry, names) for entry in entries]}


def _renamed_entry(entry: object, names: Mapping[str, object]) -> object:
    return {**entry, "message_id": names.get(entry["message_id"])} if _is_entry(entry) else entry


def _is_entry(entry: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(entry, dict) and isinstance(entry.get("message_id"), str)
