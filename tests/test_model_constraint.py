"""Replies written by random logits through the mask: Python's `json` and `re` say whether they keep to their form."""

import contextlib
import json
import re
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model.checkpoint.checkpoint import Checkpoint
from model.constraint import MAX_EXPRESSION, MAX_PATTERNS, MAX_SOURCE, MAX_VALUES, Constraint, ConstraintCompiler
from model.errors import ModelError
from model.sampling_params import ResponseFormat
from model.tokenizer import Tokenizer
from model.vocabulary import TokenKind

PADDING = 7  # ids that the network has and the tokenizer has not
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["person", "bot", None]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-zé]{2,5}$"}, "maxItems": 3},
        "boss": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


class EndlessReply(AssertionError):
    pass


class Writer:
    """Writes random replies with one vocabulary."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.tokenizer = checkpoint.tokenizer
        self.end_ids = sorted(checkpoint.end_ids)
        self.n_vocab = checkpoint.tokenizer.n_vocab
        self._compiler = ConstraintCompiler(checkpoint.tokenizer, checkpoint.end_ids)
        self._closing = [i for i in range(self.n_vocab) if self.tokenizer.token_bytes(i) in (b'"', b"]", b"}")]

    def compile(self, kind: str, source: object = "") -> Constraint:
        text = source if isinstance(source, str) else json.dumps(source)
        return self._compiler.compile(ResponseFormat(kind, text))  # type: ignore[arg-type]

    def allowed(self, constraint: Constraint) -> set[int]:
        masked = constraint.apply(np.zeros(self.n_vocab + PADDING, np.float32))
        return set(np.flatnonzero(masked == 0).tolist())

    def feed(self, constraint: Constraint, text: str) -> None:
        for byte in text.encode():
            constraint.accept(self.token_id(bytes([byte])))

    def token_id(self, token: bytes) -> int:
        return next(i for i in range(self.n_vocab) if self.tokenizer.token_bytes(i) == token)

    def write(self, constraint: Constraint, seed: int = 0, n_free: int = 12) -> str:
        """Return a reply: n_free tokens drawn with equal chances, then those that close and end it when they may."""
        random = np.random.default_rng(seed)
        token_ids: list[int] = []
        while len(token_ids) < 400:
            logits = random.normal(size=self.n_vocab + PADDING).astype(np.float32)
            if len(token_ids) >= n_free:
                logits[self._closing] += 20
                logits[self.end_ids] += 40
            token_id = int(constraint.apply(logits).argmax())
            if token_id in self.end_ids:
                return b"".join(map(self.tokenizer.token_bytes, token_ids)).decode()
            constraint.accept(token_id)
            token_ids.append(token_id)
        raise EndlessReply


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Checkpoint) -> Writer:
    return Writer(tiny_checkpoint)


@pytest.fixture(scope="module")
def default(default_checkpoint: Checkpoint) -> Writer:
    return Writer(default_checkpoint)


@pytest.fixture(scope="module", params=["tiny", "default"])
def writer(request: pytest.FixtureRequest) -> Writer:
    return request.getfixturevalue(request.param)


# What comes out


def test_json_object_gives_an_object(writer: Writer) -> None:
    for seed in range(25):
        assert isinstance(json.loads(writer.write(writer.compile("json_object"), seed)), dict)


def test_json_schema_gives_what_it_describes(writer: Writer) -> None:
    for seed in range(25):
        text = writer.write(writer.compile("json_schema", PERSON), seed)
        assert fits(json.loads(text), PERSON, PERSON), text


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{4}-\d{2}-\d{2}",
        r"(yes|no|maybe)( please)?",
        r"[a-z]{1,9}@[a-z]{1,9}\.(com|de)",
        r"(日本|é|😀){2,5}",
        r"[^a-z]{3}",
        ".*",
    ],
)
def test_regex_gives_a_text_that_it_matches(writer: Writer, pattern: str) -> None:
    for seed in range(8):
        assert re.fullmatch(pattern, writer.write(writer.compile("regex", pattern), seed))


def fits(value: object, schema: dict, root: dict) -> bool:  # type: ignore[type-arg]
    """Say whether a value is what a schema of this file describes."""
    if "$ref" in schema:
        return fits(value, root, root)
    if "anyOf" in schema:
        return any(fits(value, option, root) for option in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    types = {"string": str, "integer": int, "number": int | float, "array": list, "object": dict, "null": type(None)}
    if not isinstance(value, types[schema["type"]]) or isinstance(value, bool):
        return False
    if isinstance(value, str):
        length_fits = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1e9)
        return length_fits and re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, int | float):
        return schema.get("minimum", -1e400) <= value <= schema.get("maximum", 1e400)
    if isinstance(value, list):
        length_fits = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1e9)
        return length_fits and all(fits(item, schema["items"], root) for item in value)
    if isinstance(value, dict):
        names_fit = set(schema["required"]) <= set(value) <= set(schema["properties"])
        return names_fit and all(fits(item, schema["properties"][name], root) for name, item in value.items())
    return value is None


def ranges(values: st.SearchStrategy[float], low: str, high: str) -> st.SearchStrategy[dict[str, float]]:
    pairs = st.tuples(values, values).map(sorted)
    return pairs.map(lambda pair: {low: pair[0], high: pair[1]})


def merged(kind: str, *parts: st.SearchStrategy[dict[str, object]]) -> st.SearchStrategy[dict[str, object]]:
    return st.tuples(*parts).map(lambda found: {"type": kind} | {key: part[key] for part in found for key in part})


NAMES = st.sampled_from(["a", "b", "ä", "x y", 'q"', "\n", "", "😀"])
DECIMALS = st.integers(-2000, 2000).map(lambda number: number / 100)
LEAVES = (
    merged("string", ranges(st.integers(0, 6), "minLength", "maxLength"))
    | merged("integer", ranges(st.integers(-200, 200), "minimum", "maximum"))
    | merged("number", ranges(DECIMALS, "minimum", "maximum"))
    | st.just({"type": "null"})
    | st.lists(st.none() | st.integers() | DECIMALS | NAMES, min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    )
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        merged("array", ranges(st.integers(0, 3), "minItems", "maxItems"), inner.map(lambda items: {"items": items}))
        | st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
        | st.tuples(st.dictionaries(NAMES, inner, max_size=3), st.sets(NAMES)).map(
            lambda pair: {
                "type": "object",
                "properties": pair[0],
                "required": [name for name in pair[0] if name in pair[1]],
                "additionalProperties": False,
            }
        )
    ),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(schema=SCHEMAS, seed=st.integers(0, 1000))
def test_every_schema_is_kept_to(tiny: Writer, schema: dict[str, object], seed: int) -> None:
    text = json.dumps(schema)
    assume(not re.search(r"\d{16}", text))  # numbers that are refused
    reply = finished(tiny, "json_schema", text, seed)
    assert fits(json.loads(reply), schema, schema), reply


# Not \w, in which Rust's Unicode and Python's differ.
ATOMS = st.sampled_from(["a", "é", "日", "7", " ", "/", r"\\", r"\.", '"', r"\n", "[0-9]", "[^b-y]", "[à-ü😀]", "."])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: (
        st.tuples(inner, inner).map("".join)
        | st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})")
        | st.tuples(inner, st.sampled_from(["*", "+?", "?", "{2}", "{1,3}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        )
    ),
    max_leaves=8,
)


@settings(max_examples=120, deadline=None)
@given(expression=EXPRESSIONS, seed=st.integers(0, 1000))
def test_every_expression_is_kept_to(tiny: Writer, expression: str, seed: int) -> None:
    reply = finished(tiny, "regex", expression, seed)
    assert re.fullmatch(expression, reply), reply


def finished(writer: Writer, kind: str, source: str, seed: int) -> str:
    try:
        return writer.write(writer.compile(kind, source), seed, n_free=seed % 20)
    except (EndlessReply, ValueError) as error:
        assume(isinstance(error, ValueError) and "a fault of llguidance" not in str(error))
        raise


# What may come next


def test_end_comes_only_when_the_reply_is_complete(writer: Writer) -> None:
    constraint = writer.compile("regex", "ab?")
    assert not writer.allowed(constraint) & set(writer.end_ids)
    writer.feed(constraint, "a")
    assert writer.allowed(constraint) == {*writer.end_ids, writer.token_id(b"b")}
    writer.feed(constraint, "b")
    assert writer.allowed(constraint) == set(writer.end_ids)
    constraint.accept(writer.end_ids[0])
    assert writer.allowed(constraint) == set(writer.end_ids)


def test_nothing_follows_the_last_brace(writer: Writer) -> None:
    constraint = writer.compile("json_object")
    writer.feed(constraint, '{"a": [1, {}]}')
    assert writer.allowed(constraint) == set(writer.end_ids)


def test_control_tokens_and_padding_never_come(writer: Writer) -> None:
    constraint = writer.compile("regex", r"[\s\S]*")
    refused = set(writer.tokenizer.control_tokens.values()) - set(writer.end_ids)
    assert refused
    for text in ("", "<|im_start|>", "é"):
        writer.feed(constraint, text)
        allowed = writer.allowed(constraint)
        assert not allowed & refused
        assert max(allowed) < writer.n_vocab


def test_tokens_that_templates_have_as_text_never_come(tiny_checkpoint: Checkpoint) -> None:
    vocabulary = tiny_checkpoint.tokenizer.vocabulary
    tokens, kinds = [*vocabulary.tokens, "<think>"], [*vocabulary.kinds, TokenKind.USER_DEFINED]
    tokenizer = Tokenizer(replace(vocabulary, tokens=tokens, kinds=kinds))
    constraint = ConstraintCompiler(tokenizer, tiny_checkpoint.end_ids).compile(ResponseFormat("regex", ".*"))
    assert constraint.apply(np.zeros(tokenizer.n_vocab))[-1] == -np.inf


def test_half_a_character_is_gone_on_with(writer: Writer) -> None:
    constraint = writer.compile("regex", ".*")
    assert writer.token_id(b"\xe6") in writer.allowed(constraint)
    constraint.accept(writer.token_id(b"\xe6"))
    allowed = writer.allowed(constraint)
    assert not allowed & set(writer.end_ids)
    assert all(0x80 <= writer.tokenizer.token_bytes(token_id)[0] < 0xC0 for token_id in allowed)


def test_bytes_that_utf8_has_not_never_come(tiny: Writer) -> None:
    allowed = tiny.allowed(tiny.compile("regex", r"[\s\S]*"))
    assert {tiny.token_id(bytes([byte])) for byte in range(0x80)} <= allowed
    assert not allowed & {tiny.token_id(bytes([byte])) for byte in (0x80, 0xBF, 0xC0, 0xC1, 0xF5, 0xFF)}


def test_logits_are_kept_or_ruled_out_in_a_copy(tiny: Writer) -> None:
    logits = np.random.default_rng(0).normal(size=tiny.n_vocab + PADDING).astype(np.float32)
    before = logits.copy()
    constraint = tiny.compile("json_object")
    masked = constraint.apply(logits)
    assert (logits == before).all()
    assert masked.dtype == np.float32
    assert (masked[masked > -np.inf] == logits[masked > -np.inf]).all()
    assert (constraint.apply(logits) == masked).all()


def test_white_space_is_bounded(tiny: Writer) -> None:
    constraint = tiny.compile("json_object")
    blanks = {tiny.token_id(blank) for blank in (b" ", b"\n", b"\t", b"\r")}
    assert not tiny.allowed(constraint) & blanks
    tiny.feed(constraint, "{\n" + 16 * " ")
    assert not tiny.allowed(constraint) & blanks
    tiny.feed(constraint, '"a" ')
    assert not tiny.allowed(constraint) & blanks


def test_a_key_has_one_spelling(tiny: Writer) -> None:
    constraint = tiny.compile("json_schema", {"type": "object", "properties": {"a": {"type": "integer"}}})
    tiny.feed(constraint, '{"\\')
    assert tiny.token_id(b"n") in tiny.allowed(constraint)
    assert tiny.token_id(b"u") not in tiny.allowed(constraint)


def test_a_schema_is_read_as_of_2020_whatever_it_says(tiny: Writer) -> None:
    dialect = "http://json-schema.org/draft-07/schema#"  # to which prefixItems means nothing
    schema = {"$schema": dialect, "type": "array", "prefixItems": [{"type": "null"}], "minItems": 1, "maxItems": 1}
    assert json.loads(tiny.write(tiny.compile("json_schema", schema))) == [None]


def test_constraints_of_one_compiler_are_independent(tiny: Writer) -> None:
    first, second = tiny.compile("regex", "ab"), tiny.compile("regex", "ab")
    tiny.feed(first, "a")
    assert tiny.allowed(first) == {tiny.token_id(b"b")}
    assert tiny.allowed(second) == {tiny.token_id(b"a")}


def test_a_constraint_is_made_in_one_thread_and_used_in_another(tiny: Writer) -> None:
    with ThreadPoolExecutor(1) as pool:
        constraint = pool.submit(tiny.compile, "json_schema", PERSON).result()
    assert fits(json.loads(tiny.write(constraint)), PERSON, PERSON)


# What is refused


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("regex", "a(", "unclosed group"),
        ("regex", "(?=a)b", "look-around"),
        ("regex", r"(a)\1", "backreferences"),
        ("regex", r"\bfoo", "lookarounds"),
        ("regex", "a\\", "after the last backslash"),
        ("regex", "(?x)a # one\nb", "line breaks"),
        ("regex", "\ud800", "half a surrogate pair"),
        ("regex", r"a[^\s\S]", "no token of the vocabulary fits"),
        ("json_schema", "{", "expected a schema in JSON"),
        ("json_schema", "[]", "an object, found '[]'"),
        ("json_schema", {"type": "strin"}, "Invalid type: strin"),
        ("json_schema", {"properties": 3}, "properties must be an object"),
        ("json_schema", {"items": [{}]}, "found [{}]"),
        ("json_schema", {"required": "a"}, "Expected array for 'required'"),
        ("json_schema", {"type": "string", "pattern": "a("}, "unclosed group"),
        ("json_schema", {"type": "string", "format": "poem"}, "Unknown format: poem"),
        ("json_schema", {"exclusiveMinimum": True}, "exclusiveMinimum: expected a number"),
        ("json_schema", {"$ref": "https://example.com/a"}, "$ref: expected '#' or '#/$defs/NAME'"),
        ("json_schema", {"$ref": "#/$defs/a"}, "'/$defs/a' does not exist"),
        ("json_schema", {"$ref": "#"}, "no token of the vocabulary fits"),
        ("json_schema", {"type": "integer", "minimum": 5, "maximum": 3}, "minimum (5) is greater than maximum (3)"),
        ("json_schema", {"oneOf": [{"minimum": 1}, {"maximum": 3}]}, "oneOf constraints are not supported"),
    ],
)
def test_an_invalid_form_is_refused(tiny: Writer, kind: str, source: object, message: str) -> None:
    with pytest.raises(ValueError, match="^response_format: ") as caught:
        tiny.compile(kind, source)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "keyword",
    ["not", "if", "uniqueItems", "contains", "dependentRequired", "propertyNames", "patternProperties", "multipleOf"]
    + ["unevaluatedProperties", "x-guidance", "$id", "minLenght"],
)
def test_an_unsupported_keyword_is_named(tiny: Writer, keyword: str) -> None:
    schema = {"type": "object", "properties": {"a": {"anyOf": [{"type": "array", keyword: {}}]}}}
    with pytest.raises(ValueError, match=f"^response_format: .*'{re.escape(keyword)}' is not supported"):
        tiny.compile("json_schema", schema)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"minProperties": 2}, "minProperties: expected 0 or 1, found 2"),  # with {"a": 1, "a": 1}
        ({"minimum": 2**53 + 1}, "found 9007199254740993"),
        ({"maximum": 0.1 + 0.2}, "found 0.30000000000000004"),
        ({"minimum": float("nan")}, "found nan"),
        ({"const": "\x01"}, r"found '\x01'"),
        ({"properties": {"\x7f": {}}}, r"found '\x7f'"),
        ({"exclusiveMinimum": 3, "maximum": 3.5}, "exclusiveMinimum 3 is not supported together with maximum 3.5"),
    ],
)
def test_what_the_library_gets_wrong_is_refused(tiny: Writer, schema: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="^response_format: ") as caught:
        tiny.compile("json_schema", {"type": "object", "properties": {"a": schema}})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "source", "limit"),
    [
        ("regex", "a" * (MAX_EXPRESSION + 1), "at most 2,000 characters, found 2,001"),
        ("json_schema", " " * MAX_SOURCE + "{}", "at most 65,536 characters, found 65,538"),
        ("json_schema", {"enum": [1] * MAX_VALUES}, "at most 1,000 values in the schema, found 1,002"),
        (
            "json_schema",
            {"anyOf": [{"pattern": "a"}] * (MAX_PATTERNS + 1)},
            "at most 12 patterns in the schema, found 13",
        ),
        ("json_schema", {"anyOf": [{"pattern": "a" * (MAX_EXPRESSION // 2 + 1)}] * 2}, "2,000 characters together"),
        ("json_schema", '{"items":' * 3000 + "{}" + "}" * 3000, "fewer levels"),
        ("json_schema", "[" * MAX_SOURCE, "fewer levels"),
    ],
)
def test_what_is_too_large_is_refused(tiny: Writer, kind: str, source: object, limit: str) -> None:
    with pytest.raises(ValueError, match=f"^response_format: expected .*{limit}"):
        tiny.compile(kind, source)


def test_a_model_without_an_end_token_is_refused(tiny_checkpoint: Checkpoint) -> None:
    compiler = ConstraintCompiler(tiny_checkpoint.tokenizer, frozenset())
    with pytest.raises(ValueError, match="^response_format: expected a model with an end token"):
        compiler.compile(ResponseFormat("json_object"))


def test_an_end_token_is_no_text(tiny: Writer, tiny_checkpoint: Checkpoint) -> None:
    compiler = ConstraintCompiler(tiny_checkpoint.tokenizer, frozenset({tiny.token_id(b"a")}))
    with pytest.raises(ValueError, match="^response_format: cannot be compiled: no token of the vocabulary fits"):
        compiler.compile(ResponseFormat("regex", "a"))


def test_a_token_that_may_not_come_is_an_error(tiny: Writer) -> None:
    constraint = tiny.compile("regex", "ab")
    with pytest.raises(ModelError, match="^The reply cannot be held to its response_format") as caught:
        tiny.feed(constraint, "b")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError):
        tiny.allowed(constraint)


def test_a_mask_that_grows_too_complex_is_an_error(default: Writer) -> None:
    constraint = default.compile("regex", r"(?i)" + r"(\w|k)*s?" * 150)
    with pytest.raises(ModelError, match="too many expressions"):
        default.write(constraint, n_free=400)


# What somebody sends to bring the machine down


def chain(n: int, link: Callable[[dict[str, str]], dict[str, object]]) -> dict[str, object]:
    links = {str(i): link({"$ref": f"#/$defs/{i + 1}"}) for i in range(n)}
    return {"$ref": "#/$defs/0", "$defs": {**links, str(n): {"type": "null"}}}


def needs(name: str) -> dict[str, object]:
    return {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]}


HOSTILE: dict[str, tuple[str, object]] = {
    "repeated": ("regex", "(a{1000000}){1000000}"),
    "catastrophic": ("regex", "(a+)+$"),
    "exponential": ("regex", ".*a.{200}b.*"),
    "nested": ("regex", "(" * 900 + "a" + ")" * 900),
    "quadratic": ("regex", r"\w*" * (MAX_EXPRESSION // 3)),
    "large enum": ("json_schema", {"enum": [str(i) * 20 for i in range(MAX_VALUES - 2)]}),
    "optional": ("json_schema", {"type": "object", "properties": {str(i): True for i in range(MAX_VALUES - 3)}}),
    "references": ("json_schema", chain(MAX_VALUES // 4 - 2, lambda ref: {"properties": {"a": ref}})),
    "doubling": ("json_schema", chain(MAX_VALUES // 9, lambda ref: {"prefixItems": [ref, ref], "minItems": 2})),
    "product": ("json_schema", {"allOf": [{"anyOf": [{"minimum": i}, {"maxLength": i}]} for i in range(1, 60)]}),
    "combinations": ("json_schema", {"allOf": [{"anyOf": [needs(f"{i} {j}") for j in range(2)]} for i in range(11)]}),
    "endless": ("json_schema", {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
    "long": ("json_schema", {"type": "string", "minLength": 10**9, "maxLength": 10**9}),
    "many": ("json_schema", {"type": "array", "items": {"type": "array", "minItems": 10**9}, "minItems": 10**9}),
    "patterns": ("json_schema", {"allOf": [{"pattern": f"a.{{{i}}}b"} for i in range(MAX_PATTERNS)]}),
    "digits": ("json_schema", '{"minimum": 1' + "0" * 5000 + "}"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_refused_or_served_in_time(default: Writer, name: str) -> None:
    start, memory = time.thread_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(ValueError, ModelError, EndlessReply):
        default.write(default.compile(*HOSTILE[name]), n_free=20)
    assert time.thread_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100_000  # kB
