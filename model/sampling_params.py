"""What a caller may ask of the tokens of a reply: which are drawn, and where they end.

Needs neither NumPy nor PyTorch, so that whoever only names parameters loads neither. The names are those of OpenAI
and vLLM; what each does, and in which order, is told in model.sampling.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

ResponseKind = Literal["json_object", "json_schema", "regex"]

MAX_STOP = 32
"""Stop strings: each is looked for after every token."""
MAX_STOP_LENGTH = 256
"""Characters of a stop string: so much text may be held back."""


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """The form that a whole reply has: any JSON object, JSON by a schema, or a text that an expression matches."""

    kind: ResponseKind
    source: str = ""
    """The schema as JSON text, or the regular expression; none for json_object."""

    def __post_init__(self) -> None:
        kinds = get_args(ResponseKind)
        _check("response_format.kind", self.kind, self.kind in kinds, f"one of {', '.join(kinds)}")
        if self.kind == "json_object":
            _check("response_format.source", self.source, self.source == "", "empty for json_object")
        else:
            holds = isinstance(self.source, str) and self.source != ""
            _check("response_format.source", self.source, holds, f"the text of the {self.kind}, not empty")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens and when to stop. The defaults are those of SmolLM2's model card.

    Raises ValueError for a value that breaks its rule; the text begins with the field's name.
    """

    temperature: float = 0.2
    """Below 1, likely tokens become more likely; 0 takes the most likely token always (greedy)."""
    top_k: int = 0
    """Draw among the k most likely tokens, exactly k even where they tie; 0 is off."""
    top_p: float = 0.9
    """Draw among the fewest most likely tokens that together reach this probability; 1 is off."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one; 0 is off."""
    typical_p: float = 1.0
    """Draw among the fewest tokens, most typical ones first, that together reach this probability; 1 is off."""
    repetition_penalty: float = 1.0
    """Above 1, tokens of the prompt and of the reply become less likely (Keskar et al. 2019); 1 is off."""
    presence_penalty: float = 0.0
    """Taken from the logit of each token that the reply has already; 0 is off."""
    frequency_penalty: float = 0.0
    """Taken from the logit of a token once for each time that the reply has it; 0 is off."""
    penalty_window: int = 0
    """The three penalties see only so many of the last tokens; 0 is all of them."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, each with what is added to its logit."""
    banned_token_ids: tuple[int, ...] = ()
    """Tokens that the reply does not have."""
    forced_token_ids: tuple[int, ...] = ()
    """The reply begins with these tokens."""
    stop: tuple[str, ...] = ()
    """The reply ends before the first of these strings."""
    stop_token_ids: tuple[int, ...] = ()
    """The reply ends before the first of these tokens, as it does before the model's own end tokens."""
    min_tokens: int = 0
    """No end token is drawn, and no stop string looked for, in so many first tokens."""
    max_tokens: int = 1024
    """The reply ends after so many tokens."""
    logprobs: int | None = None
    """Tell for each token its log-probability, and those of so many most likely tokens at its place."""
    seed: int | None = None
    """The same seed gives the same reply; None draws a new one each time."""
    response_format: ResponseFormat | None = None
    """The reply has this form."""

    def __post_init__(self) -> None:
        self._check_filters()
        self._check_processors()
        self._check_ends()
        self._check("logprobs", self.logprobs is None or _is_int(self.logprobs, 0, 20), "a whole number from 0 to 20")
        seed_holds = self.seed is None or _is_int(self.seed, 0, 2**63 - 1)
        self._check("seed", seed_holds, "a whole number between 0 and 2**63 - 1")
        format_holds = self.response_format is None or isinstance(self.response_format, ResponseFormat)
        self._check("response_format", format_holds, "a ResponseFormat")

    def check_token_ids(self, n_vocab: int) -> None:
        """Raise ValueError for a token id that a vocabulary of this size does not have."""
        fields: dict[str, Iterable[int]] = {
            "logit_bias": [token_id for token_id, _ in self.logit_bias],
            "banned_token_ids": self.banned_token_ids,
            "forced_token_ids": self.forced_token_ids,
            "stop_token_ids": self.stop_token_ids,
        }
        for name, token_ids in fields.items():
            largest = max(token_ids, default=0)
            _check(name, largest, largest < n_vocab, f"token ids between 0 and {n_vocab - 1}")
        n_banned = len(set(self.banned_token_ids))
        _check("banned_token_ids", n_banned, n_banned < n_vocab, f"fewer than all {n_vocab} tokens")

    def _check_filters(self) -> None:
        self._check("temperature", _is_number(self.temperature, 0, 100), "between 0 and 100")
        self._check("top_k", _is_int(self.top_k, 0), "a whole number, 0 or more")
        self._check("top_p", _is_number(self.top_p, 0, 1) and self.top_p > 0, "above 0 and at most 1")
        self._check("min_p", _is_number(self.min_p, 0, 1), "between 0 and 1")
        self._check("typical_p", _is_number(self.typical_p, 0, 1) and self.typical_p > 0, "above 0 and at most 1")

    def _check_processors(self) -> None:
        self._check("repetition_penalty", _is_number(self.repetition_penalty, 0.01, 100), "between 0.01 and 100")
        self._check("presence_penalty", _is_number(self.presence_penalty, -2, 2), "between -2 and 2")
        self._check("frequency_penalty", _is_number(self.frequency_penalty, -2, 2), "between -2 and 2")
        self._check("penalty_window", _is_int(self.penalty_window, 0), "a whole number, 0 or more")
        self._check("logit_bias", _is_bias(self.logit_bias), "pairs of a token id, once each, and -100 to 100")
        self._check("banned_token_ids", _is_ids(self.banned_token_ids), "a list of token ids")
        self._check("forced_token_ids", _is_ids(self.forced_token_ids), "a list of token ids")
        allowed = not set(self.forced_token_ids) & set(self.banned_token_ids)
        self._check("forced_token_ids", allowed, "none of banned_token_ids")

    def _check_ends(self) -> None:
        stop_holds = isinstance(self.stop, tuple) and all(isinstance(text, str) and text for text in self.stop)
        self._check("stop", stop_holds, "a list of strings that are not empty")
        _check("stop", len(self.stop), len(self.stop) <= MAX_STOP, f"at most {MAX_STOP} strings")
        longest = max(map(len, self.stop), default=0)
        _check("stop", longest, longest <= MAX_STOP_LENGTH, f"strings of at most {MAX_STOP_LENGTH} characters")
        self._check("stop_token_ids", _is_ids(self.stop_token_ids), "a list of token ids")
        self._check("max_tokens", _is_int(self.max_tokens, 1), "a whole number, 1 or more")
        self._check("min_tokens", _is_int(self.min_tokens, 0), "a whole number, 0 or more")
        self._check("min_tokens", self.min_tokens <= self.max_tokens, "at most max_tokens")

    def _check(self, name: str, holds: bool, rule: str) -> None:
        _check(name, getattr(self, name), holds, rule)


def _check(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value!r}")


# A bool is an int to Python, but True is no temperature; NaN lies in no range.


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_int(value: object, low: int, high: float = float("inf")) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_ids(value: object) -> bool:
    return isinstance(value, tuple) and all(_is_int(token_id, 0) for token_id in value)


def _is_bias(value: object) -> bool:
    if not isinstance(value, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        return False
    holds = all(_is_int(token_id, 0) and _is_number(bias, -100, 100) for token_id, bias in value)
    return holds and len({token_id for token_id, _ in value}) == len(value)
