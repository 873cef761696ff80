"""Forms that are refused, replies that go wrong, and what somebody sends to bring the machine down."""

import contextlib
import re
import resource
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from constraint_writer import EndlessReply, Writer

from model.checkpoint.checkpoint import Checkpoint
from model.constraint import MAX_EXPRESSION, MAX_PATTERNS, MAX_SOURCE, MAX_VALUES, ConstraintCompiler
from model.errors import ModelError
from model.sampling_params import ResponseFormat


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Checkpoint) -> Writer:
    return Writer(tiny_checkpoint)


@pytest.fixture(scope="module")
def default(default_checkpoint: Checkpoint) -> Writer:
    return Writer(default_checkpoint)


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
    constraint = default.compile("regex", r"(?i)" + r"(\p{L}|k)*s?" * 150)
    with pytest.raises(ModelError, match="too many expressions"):
        default.write(constraint, n_free=400)


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


def test_levels_need_no_room_on_the_stack_of_the_caller(tiny: Writer) -> None:
    schema = chain(MAX_VALUES // 3 - 2, lambda ref: {"items": ref})
    usual = threading.stack_size(2**18)  # on which the library would take the process down
    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(tiny.compile, "json_schema", schema).result()
    finally:
        threading.stack_size(usual)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_refused_or_served_in_time(default: Writer, name: str) -> None:
    start, memory = time.process_time(), most_memory()
    with contextlib.suppress(ValueError, ModelError, EndlessReply):
        default.write(default.compile(*HOSTILE[name]), n_free=20)
    assert time.process_time() - start < 2
    assert most_memory() - memory < 100_000_000


def most_memory() -> int:
    """Return the largest number of bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
