"""A JSON array, written one item at a time."""

import json
from collections.abc import Iterable, Iterator


def write_array(items: Iterable[object]) -> Iterator[str]:
    """Yield the text of an array, piece by piece: an item on each line."""
    opening = "[\n"
    for item in items:
        yield opening + json.dumps(item, ensure_ascii=False, separators=(",", ":"))
        opening = ",\n"
    yield "[]\n" if opening == "[\n" else "\n]\n"
