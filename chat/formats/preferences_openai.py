"""Preference pairs as OpenAI's preference fine-tuning takes them: JSON Lines, a pair in each."""

from collections.abc import Iterable, Iterator

from chat.formats.archive import ArchivedConversation
from chat.formats.json_text import dump_json
from chat.formats.preferences import preferences


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[str]:
    """Yield a line for each pair."""
    for pair in preferences(conversations):
        question = {"messages": pair.prompt, "tools": [], "parallel_tool_calls": True}
        line = {"input": question, "preferred_output": [pair.better], "non_preferred_output": [pair.worse]}
        yield dump_json(line) + "\n"
