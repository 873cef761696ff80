"""JSON that somebody else wrote, and JSON that others will read."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from chat.errors import ChatError, Unreadable

MAX_DEPTH = 100
"""Of objects and arrays in each other: what a program writes has a few, and the database must read them again."""

_HALF = re.compile(r"\\ud[89a-f]", re.IGNORECASE)  # of a character, as JSON escapes it


class NotJson(ChatError):
    """A value to be written has a number that JSON has no word for."""

    def __init__(self) -> None:
        super().__init__("expected finite numbers, found Infinity or NaN, which JSON cannot hold")


def load_json(text: str, place: str) -> Any:
    """Return the value of a JSON text, all of which can be stored and written again.

    Raises Unreadable, which names the place: also for halves of characters, numbers that are not finite, and more than
    `MAX_DEPTH` levels.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        is_deep = _is_deep(value)
    except RecursionError:
        is_deep = True
    except UnicodeEncodeError:
        raise Unreadable(place, "expected whole characters, found half of one (a lone surrogate)") from None
    except OverflowError as error:
        raise Unreadable(place, f"expected numbers below 1.8e308, found {error}") from None
    except ValueError as error:  # no JSON, or a number of thousands of digits
        raise Unreadable(place, f"expected JSON ({error})") from None
    if is_deep:
        raise Unreadable(place, f"expected JSON of at most {MAX_DEPTH} levels, found more brackets in each other")
    return value


def dump_json(value: object) -> str:
    """Return a value as compact JSON; raises NotJson."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise NotJson from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise OverflowError(text if len(text) <= 60 else f"{text[:60]}…")
    return number


def _is_deep(value: object) -> bool:
    level = _nested([value])
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _nested(outer.values() if isinstance(outer, dict) else outer)]
    return bool(level)


def _nested(values: Iterable[object]) -> list[dict[str, object] | list[object]]:
    return [value for value in values if isinstance(value, (dict, list))]
