"""JSON that somebody else wrote: read within limits, and asked for its values by key and kind."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeAlias, TypeVar, cast

from model.errors import CheckpointError

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
T = TypeVar("T")

_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True, slots=True)
class JsonObject:
    """One object of a JSON file, and the words by which errors say where it stands.

    The getters raise `CheckpointError` for another kind of value, and for a key that is missing or null unless there
    is a default. A bool is no integer here; an integer is a number.
    """

    where: str
    values: dict[str, Json]

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.values.get(key) is not None

    def text(self, key: str, default: str | None = None) -> str:
        """The string at `key`."""
        return self._get(key, str, default)

    def integer(self, key: str, default: int | None = None) -> int:
        """The integer at `key`."""
        return self._get(key, int, default)

    def number(self, key: str, default: float | None = None) -> float:
        """The finite float or integer at `key`, as a float."""
        value = self.values.get(key)
        if type(value) is int and abs(value) < 2**1000:  # larger ones are no floats
            return float(value)
        number = self._get(key, float, default)
        return number if math.isfinite(number) else self.refuse(key, "a finite number")

    def flag(self, key: str, default: bool | None = None) -> bool:
        """The bool at `key`."""
        return self._get(key, bool, default)

    def integers(self, key: str) -> list[int]:
        """The list of integers at `key`."""
        return self._list(key, int, "a list of whole numbers")

    def texts(self, key: str) -> list[str]:
        """The list of strings at `key`."""
        return self._list(key, str, "a list of texts")

    def child(self, key: str) -> "JsonObject":
        """The object at `key`."""
        return JsonObject(f"{self.where}: {key}", self._get(key, dict, None))

    def children(self, key: str) -> list["JsonObject"]:
        """The list of objects at `key`."""
        items = self._list(key, dict, "a list of objects")
        return [JsonObject(f"{self.where}: {key}[{i}]", item) for i, item in enumerate(items)]

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raise CheckpointError with what was expected at `key` and what is there."""
        found = shown(self.values[key]) if key in self.values else "nothing"
        raise CheckpointError(f"{self.where}: {shown_key(key)}: expected {expected}, found {found}")

    def _get(self, key: str, kind: type[T], default: T | None) -> T:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is kind:  # not isinstance(): True is an int
            return value
        self.refuse(key, _KINDS[kind])

    def _list(self, key: str, kind: type[T], expected: str) -> list[T]:
        items = self._get(key, list, None)
        if all(type(item) is kind for item in items):
            return cast(list[T], items)
        self.refuse(key, expected)


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; raises CheckpointError, also for what goes wrong while it is read."""
    if not path.is_file():  # a pipe would be waited for
        raise CheckpointError(f"{path.name}: expected a file, found {'something else' if path.exists() else 'nothing'}")
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path.name}: expected a readable file, found {error.strerror}") from None


def read_json(path: Path, max_bytes: int) -> JsonObject:
    """Read the JSON object that a whole file is.

    Raises CheckpointError, naming the file: not there, too long, not UTF-8, no JSON, no object, a key twice, NaN.
    """
    with open_file(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise CheckpointError(f"{path.name}: expected at most {max_bytes:,} bytes, found more")
    return parse_json(data, path.name)


def parse_json(data: bytes, where: str) -> JsonObject:
    """Parse a JSON object; `where` says in errors what it is."""
    try:
        values = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise CheckpointError(f"{where}: expected JSON, found too many brackets inside one another") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError among them
        raise CheckpointError(f"{where}: expected JSON, found {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{where}: expected a JSON object, found {shown(values)}")
    return JsonObject(where, values)


def shown(value: object) -> str:
    """Return a value for an error text: one short line."""
    if isinstance(value, (list, dict)):
        return f"{_KINDS[type(value)]} of {len(value):,}"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def shown_key(key: str) -> str:
    """Return a key or name for an error text: as it is, unless that would break the line."""
    return key if key.isprintable() and len(key) <= 256 else shown(key)


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown_key(repeated)} twice")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no number of JSON")
