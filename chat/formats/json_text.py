"""JSON that somebody else wrote."""

import json
import re
from typing import Any

from chat.errors import Unreadable

_HALF = re.compile(r"\\ud[89a-f]", re.IGNORECASE)  # of a character, as JSON escapes it


def load_json(text: str, place: str) -> Any:
    """Return the value of a JSON text, all of whose texts UTF-8 can hold; raises Unreadable, which names the place."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise Unreadable(place, "expected JSON, found too many brackets in each other") from None
    except UnicodeEncodeError:
        raise Unreadable(place, "expected whole characters, found half of one (a lone surrogate)") from None
    except ValueError as error:  # no JSON, or a number of thousands of digits
        raise Unreadable(place, f"expected JSON ({error})") from None
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")
