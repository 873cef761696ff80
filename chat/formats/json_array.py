"""A JSON array, written one item at a time."""

from collections.abc import Iterable, Iterator

from chat.formats.json_text import dump_json


def write_array(items: Iterable[object]) -> Iterator[str]:
    """Yield the text of an array, piece by piece: an item on each line."""
    opening = "[\n"
    for item in items:
        yield opening + dump_json(item)
        opening = ",\n"
    yield "[]\n" if opening == "[\n" else "\n]\n"
