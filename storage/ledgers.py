"""Ledgers name messages by their ids: what follows when a copy of them gets new ones."""

from collections.abc import Mapping

from storage.tables import JsonObject


def rename_in_ledger(ledger: JsonObject | None, names: Mapping[str, object]) -> JsonObject | None:
    """Return a ledger that calls its messages by other names; those that have none, by None."""
    entries = ledger.get("messages") if ledger else None
    if ledger is None or not isinstance(entries, list):
        return ledger
    return {**ledger, "messages": [_renamed_entry(entry, names) for entry in entries]}


def _renamed_entry(entry: object, names: Mapping[str, object]) -> object:
    if isinstance(entry, dict) and isinstance(message_id := entry.get("message_id"), str):
        return {**entry, "message_id": names.get(message_id)}
    return entry  # of a file that somebody else wrote
