"""Which tokens may come next in a reply of a given form: any JSON object, JSON by a schema, or a regular expression.

The grammars and the masks are those of llguidance. Here: the vocabulary, and the limits that keep a stranger's schema
or expression from holding up everybody else. The library bounds the work on each token; what takes it too long
before the first one, what it gets wrong and what it would leave out in silence is refused.

JSON is written with bounded white space, since small models like to go on with blanks for ever: in each place nothing,
one blank, or a line break and up to 16 blanks. Strings have no \\u escapes, so that a key has one spelling only:
otherwise the key "\\u0061" would pass for another than "a".
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper, regex_to_lark

from model.errors import ModelError
from model.sampling import Floats
from model.sampling_params import ResponseFormat
from model.tokenizer import Tokenizer

MAX_SOURCE = 65_536
"""Characters of a schema."""
MAX_VALUES = 1_000
"""Values in a schema, counting everything in it: the library nests a call for each level, and squares some numbers."""
MAX_EXPRESSION = 2_000
"""Characters of a regular expression, or of all those in a schema: the library squares their number, too."""
MAX_PATTERNS = 12
"""Regular expressions in a schema: the library takes twice as long for each one more that has to hold together."""
LARGEST_NUMBER = 2**53
"""Beyond it, the library rounds whole numbers, as every program does that reads JSON numbers as floats."""

_LIMITS = LLParserLimits(
    max_items_in_row=10_000,  # MAX_VALUES properties, all optional, need 4,000; the library's default is 2,000
    max_lexer_states=100_000,  # about 0.4 kB each; the default is 250,000
    max_grammar_size=50_000,  # the default is 500,000, of which it panics at 65,525
    verbose_errors=False,  # else errors quote the reply
)
_STACK_SIZE = 64 * 2**20  # bytes; memory is touched only as it is used
_stack_lock = threading.Lock()
_OPTIONS = {"whitespace_pattern": r" |\n {0,16}", "json_allowed_escapes": r"nrbtf\""}

# Keywords of JSON Schema 2020-12, by where there are schemas in their values.
_WITH_SCHEMA = frozenset({"additionalProperties", "items"})
_WITH_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_WITH_MAP = frozenset({"$defs", "definitions", "properties"})
_EXCLUSIVE = frozenset({"exclusiveMinimum", "exclusiveMaximum"})
_BOUNDS = _EXCLUSIVE | {"minimum", "maximum"}
_WITHOUT = (
    _BOUNDS
    | {"$ref", "const", "enum", "type"}
    | {"minLength", "maxLength", "pattern", "format", "minItems", "maxItems"}
    | {"required", "minProperties", "maxProperties"}
    | {"$comment", "$schema", "default", "deprecated", "description", "examples", "readOnly", "title", "writeOnly"}
)


class Constraint:
    """Where one reply stands in its form."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def apply(self, logits: Floats) -> Floats:
        """Return the logits (V,) with -inf for each id that may not come next; those given stay as they are.

        End ids may come when the reply is complete, and then nothing else if nothing may follow; no other control
        token ever does, nor ids beyond the tokenizer's. Raises ModelError if the library gives up.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)  # after an error, those of the end ids
        self._check()
        allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
        masked = np.full_like(logits, -np.inf)
        masked[allowed] = logits[allowed]
        return masked

    def accept(self, token_id: int) -> None:
        """Go on by the id that was chosen; raises ModelError if it may not come next."""
        self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ModelError(f"The reply cannot be held to its response_format any longer: {_reason(self._matcher)}")


class ConstraintCompiler:
    """Makes constraints for one vocabulary, in any thread."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._end_ids = frozenset(i for i in end_ids if i < tokenizer.n_vocab)  # a config may name others, too

    def compile(self, response_format: ResponseFormat) -> Constraint:
        """Return the constraint for a new reply.

        Raises ValueError, its text beginning with "response_format", for a schema or an expression that is invalid,
        unsupported, too large, or that no reply can meet.
        """
        if not self._end_ids:
            raise _error("expected a model with an end token, found none")
        try:
            grammar = _grammar(response_format)
        except RecursionError:
            raise _error("expected a schema of fewer levels") from None
        matcher = _on_a_deep_stack(lambda: self._match(grammar))
        if matcher.is_error():
            raise _error(f"cannot be compiled: {_reason(matcher)}")
        return Constraint(matcher)

    def _match(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0, limits=_LIMITS)
        matcher.compute_bitmask()  # so that what cannot even begin fails here
        return matcher

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        """The library's trie of the tokens' bytes; none of those that end a reply or shape a chat: no text is one."""
        special = self._end_ids | set(self._tokenizer.control_tokens.values())
        tokens = [b"" if i in special else self._tokenizer.token_bytes(i) for i in range(self._tokenizer.n_vocab)]
        end_ids = sorted(self._end_ids)
        vocabulary = SimpleNamespace(tokens=tokens, eos_token_id=end_ids[0], bos_token_id=None)
        return LLTokenizer(TokenizerWrapper(vocabulary), eos_token=end_ids)


def _on_a_deep_stack(make: Callable[[], LLMatcher]) -> LLMatcher:
    """Call in a thread of its own: the library nests a call for each level, and takes the process down where they end.

    MAX_VALUES levels need up to 5 MB. Python has one setting for all threads to come, so it holds for a moment only.
    """
    with _stack_lock, ThreadPoolExecutor(1) as pool:
        usual = threading.stack_size(_STACK_SIZE)
        try:
            matcher = pool.submit(make)
        finally:
            threading.stack_size(usual)
        return matcher.result()


def _error(text: str) -> ValueError:
    return ValueError(f"response_format: {text}")


def _reason(matcher: LLMatcher) -> str:
    """Return the library's error in one line, without its quotations of the grammar."""
    text = matcher.get_error()
    if text.startswith("NoExtensionBias"):
        return "no token of the vocabulary fits"
    marked = re.search(r"^error: (.+)", text, re.MULTILINE)  # of the parser of regular expressions
    line = marked[1] if marked else text.splitlines()[0].replace("panic: ", "a fault of llguidance: ")
    line = re.sub(r"^at \d+\(\d+\): (invalid regex .* \(in regex\): |failed to compile JSON schema: )?", "", line)
    return re.split(r"[.;] ", line[:200])[0]  # what follows tells of options of the library


def _grammar(response_format: ResponseFormat) -> str:
    """Return the grammar in the library's language; no_forcing: it masks, and never asks the tokenizer for tokens."""
    match response_format.kind:
        case "regex":
            _check_expression(response_format.source)
            start = f"/{regex_to_lark(response_format.source, 'dw')}/"  # \d and \w of ASCII only, as in schemas
        case "json_schema":
            start = f"%json {json.dumps(_read_schema(response_format.source))}"
        case "json_object":
            start = f"%json {json.dumps({'type': 'object', 'x-guidance': _OPTIONS})}"
    return f'%llguidance {{"no_forcing": true}}\nstart: {start}'


def _check_expression(source: str) -> None:
    """Raise for what the library would misread, or take too long for; it sees to the syntax (of Rust's regex)."""
    if len(source) > MAX_EXPRESSION:
        raise _error(f"expected regular expressions of at most {MAX_EXPRESSION:,} characters, found {len(source):,}")
    if not source.isascii() and any("\ud800" <= char <= "\udfff" for char in source):
        raise _error("expected a regular expression of characters, found half a surrogate pair")
    if any(char in source for char in "\n\r\t"):  # the library writes them out, which verbose mode takes amiss
        raise _error(r"expected \n, \r and \t in a regular expression instead of line breaks and tabs")
    if (len(source) - len(source.rstrip("\\"))) % 2:
        raise _error("expected a character after the last backslash of a regular expression, found none")


def _check_patterns(patterns: list[str]) -> None:
    if len(patterns) > MAX_PATTERNS:
        raise _error(f"expected at most {MAX_PATTERNS} patterns in the schema, found {len(patterns)}")
    if sum(map(len, patterns)) > MAX_EXPRESSION:
        raise _error(f"expected patterns of at most {MAX_EXPRESSION:,} characters together in the schema, found more")
    for pattern in patterns:
        _check_expression(pattern)


def _read_schema(source: str) -> dict[str, Any]:
    """Return the checked schema with the library's options: it takes a schema's own ones from the same place."""
    if len(source) > MAX_SOURCE:
        raise _error(f"expected a schema of at most {MAX_SOURCE:,} characters, found {len(source):,}")
    try:
        schema = json.loads(source)
    except ValueError as error:
        raise _error(f"expected a schema in JSON: {error}") from None
    if not isinstance(schema, dict):
        raise _error(f"expected a schema that is an object, found {source[:20]!r}")
    _check_values(schema)
    nodes = list(_nodes(schema))
    pairs = [pair for node in nodes for pair in node.items()]
    for keyword, value in pairs:
        _check_keyword(keyword, value)
    _check_patterns([str(value) for keyword, value in pairs if keyword == "pattern"])
    _check_bounds(
        [(keyword, value) for keyword, value in pairs if keyword in _BOUNDS and isinstance(value, int | float)]
    )
    for node in nodes:
        if isinstance(node.get("pattern"), str):
            node["pattern"] = _without_controls(node["pattern"])
    return {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema", "x-guidance": _OPTIONS}


def _check_values(schema: object) -> None:
    waiting, n_values = [schema], 0
    while waiting:
        value = waiting.pop()
        n_values += 1
        match value:
            case dict():
                waiting += value.values()
                _check_text("".join(value))
            case list():
                waiting += value
            case str():
                _check_text(value)
            case int() | float():
                _check_number(value)
    if n_values > MAX_VALUES:
        raise _error(f"expected at most {MAX_VALUES:,} values in the schema, found {n_values:,}")


def _check_text(text: str) -> None:
    """Raise for what JSON without \\u escapes cannot write."""
    found = re.search(r"[\x00-\x07\x0b\x0e-\x1f\x7f]", text)
    if found:
        raise _error(f"expected no control characters in the schema but \\b, \\t, \\n, \\f and \\r, found {found[0]!r}")


def _check_number(value: int | float) -> None:
    """Raise for what the library reads as another number."""
    if not abs(value) <= LARGEST_NUMBER:  # NaN is not, either
        raise _error(f"expected numbers between -2**53 and 2**53 in the schema, found {str(value):.20}")
    if isinstance(value, float) and float(f"{value:.15g}") != value:
        raise _error(f"expected fractions of at most 15 digits in the schema, found {value}")


def _check_bounds(bounds: list[tuple[str, float]]) -> None:
    """Raise if an excluded whole number bounds a range that ends before the next one: the library lets it in."""
    for keyword, excluded in bounds:
        for other, value in bounds:
            if keyword in _EXCLUSIVE and excluded % 1 == 0 and value % 1 and abs(excluded - value) < 1:
                raise _error(f"{keyword} {excluded} is not supported together with {other} {value}")


def _nodes(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schema and all those inside it, but for true and false."""
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, bool):
            continue
        if not isinstance(node, dict):
            raise _error(f"expected an object or a boolean for each schema inside the schema, found {node!r:.20}")
        yield node
        for keyword, value in node.items():
            if keyword in _WITH_SCHEMA:
                waiting.append(value)
            elif keyword in _WITH_LIST and isinstance(value, list):
                waiting += value
            elif keyword in _WITH_MAP and isinstance(value, dict):
                waiting += value.values()


def _without_controls(pattern: str) -> str:
    """Take the control characters that no string can have here out of each negated class.

    A class with all of them in it gets quotes and backslashes from the library, whether or not they belong there.
    """
    controls = r"\x00-\x07\x0b\x7f\x0e-\x1f"

    def narrowed(part: re.Match[str]) -> str:
        if part[0].startswith("[^"):
            return part[0] + controls
        return f"[{part[0]}--[{controls}]]" if part[0].startswith(r"\P") else part[0]

    return re.sub(r"\\P(\{[^}]*\}|.)|\\.|\[\^\]?", narrowed, pattern)  # a ] that comes first does not end a class


def _check_keyword(keyword: str, value: object) -> None:
    if keyword not in _WITH_SCHEMA | _WITH_LIST | _WITH_MAP | _WITHOUT:
        raise _error(f"the schema's keyword {keyword!r:.40} is not supported")
    if keyword == "$ref" and not re.fullmatch(r"#(/(\$defs|definitions)/[^/]+)?", str(value)):
        raise _error(f"$ref: expected '#' or '#/$defs/NAME', found {value!r:.80}")
    if keyword in _EXCLUSIVE and isinstance(value, bool):  # as JSON Schema had it until 2017
        raise _error(f"{keyword}: expected a number, found {value}")
    if keyword == "minProperties" and value not in (0, 1):  # keys may come twice
        raise _error(f"minProperties: expected 0 or 1, found {value!r:.20}")
