"""Preference pairs as TRL's DPOTrainer takes them: JSON Lines, a pair in each."""

from collections.abc import Iterable, Iterator

from chat.formats.archive import ArchivedConversation
from chat.formats.json_text import dump_json
from chat.formats.preferences import preferences


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
    """Yield a line for each pair."""
    for pair in preferences(conversations):
        line = {"prompt": pair.prompt, "chosen": [pair.better], "rejected": [pair.worse]}
        yield dump_json(line) + "\n"
