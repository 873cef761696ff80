"""What has been measured: figures, each of every contestant, and how they spread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

OURS = "parley"
NAMES = {OURS: "Parley"}  # as shown, where they differ

# What there is to measure, in the order in which it is shown
_WORDS = {
    "decode": "decode, {chats} after {tokens} tokens",
    "prefill": "prefill, {tokens} tokens",
    "first_token": "first token after {tokens} tokens",
    "start_up": "start-up",
    "memory": "memory at most",
    "kl": "KL to fp32, {tokens} positions",
    "greedy_equal": "greedy replies of {tokens} tokens as in fp32",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that is measured."""

    what: str
    unit: str
    chats: int = 0  # at the same time
    tokens: int = 0  # in the cache or in the prompt of each
    note: str = ""

    @property
    def label(self) -> str:
        """The figure in words, with its unit."""
        words = _WORDS[self.what].format(chats=f"{self.chats} chat{'s' * (self.chats > 1)}", tokens=f"{self.tokens:,}")
        return f"{', '.join(filter(None, [words, self.note]))} ({self.unit})"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure and the values that each contestant came to, one for each run."""

    figure: Figure
    values: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """Return the median of a contestant's values."""
        return median(self.values[name])

    def ratios(self) -> dict[str, float]:
        """Return how many times each peer's figure ours is; none where a peer's is 0."""
        peers = [name for name in self.values if name != OURS and self.median(name)]
        return {name: self.median(OURS) / self.median(name) for name in peers} if OURS in self.values else {}

    def as_json(self) -> dict[str, Any]:
        """Return the row for a program: medians by name, what they spread over, and their ratios."""
        figure = self.figure
        return {
            "what": figure.what,
            "chats": figure.chats,
            "tokens": figure.tokens,
            "unit": figure.unit,
            "note": figure.note,
            **{name: self.median(name) for name in self.values},
            "ratio": self.ratios(),
            "min": {name: min(values) for name, values in self.values.items()},
            "max": {name: max(values) for name, values in self.values.items()},
        }


@dataclass(slots=True)
class Figures:
    """A collection of values, as they come."""

    _values: dict[Figure, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, figure: Figure, name: str, value: float) -> None:
        """Keep one value of a contestant."""
        self._values.setdefault(figure, {}).setdefault(name, []).append(value)

    def rows(self) -> list[Row]:
        """Return all figures, those of a kind in the order in which they first came."""
        rows = [Row(figure, values) for figure, values in self._values.items()]
        return sorted(rows, key=lambda row: list(_WORDS).index(row.figure.what))
