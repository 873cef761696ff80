"""Replies written by random logits through the mask: Python's `json` and `re` say whether they keep to their form."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from constraint_writer import PADDING, PERSON, EndlessReply, Writer, fits
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model.checkpoint.checkpoint import Checkpoint
from model.constraint import ConstraintCompiler
from model.sampling_params import ResponseFormat
from model.tokenizer import Tokenizer
from model.vocabulary import TokenKind


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
        assert re.fullmatch(pattern, writer.write(writer.compile("regex", pattern), seed), re.ASCII)


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


ATOMS = st.sampled_from(
    ["a", "é", "日", "7", " ", "/", r"\\", r"\.", '"', r"\n", r"\d", r"[\w-]", "[^b-y]", "[à-ü😀]", "."]
)
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
    assert re.fullmatch(expression, reply, re.ASCII), reply


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


@pytest.mark.parametrize(
    ("pattern", "escapable"),
    [('[^"]', "\\"), (r"[^\\/]", '"'), ('[^]"]', "\\"), ('[^-"]', "\\"), (r"\P{P}", ""), (r"[^a]", '"\\')],
)
def test_a_pattern_rules_quotes_and_backslashes_out(tiny: Writer, pattern: str, escapable: str) -> None:
    constraint = tiny.compile("json_schema", {"type": "string", "pattern": f"^{pattern}*$"})
    tiny.feed(constraint, '"\\')
    either = {tiny.token_id(b'"'), tiny.token_id(b"\\")}
    assert tiny.allowed(constraint) & either == {tiny.token_id(char.encode()) for char in escapable}


def test_a_key_has_one_spelling(tiny: Writer) -> None:
    constraint = tiny.compile("json_schema", {"type": "object", "properties": {"a": {"type": "integer"}}})
    tiny.feed(constraint, '{"\\')
    assert tiny.token_id(b"n") in tiny.allowed(constraint)
    assert tiny.token_id(b"u") not in tiny.allowed(constraint)


def test_a_schema_is_read_as_of_2020_whatever_it_says(tiny: Writer) -> None:
    dialect = "http://json-schema.org/draft-07/schema#"  # to which prefixItems means nothing
    schema = {"$schema": dialect, "type": "array", "prefixItems": [{"type": "null"}], "minItems": 1, "maxItems": 1}
    assert json.loads(tiny.write(tiny.compile("json_schema", schema))) == [None]


def test_end_ids_that_are_no_tokens_are_left_out(tiny_checkpoint: Checkpoint) -> None:
    tokenizer = tiny_checkpoint.tokenizer
    end_ids = tiny_checkpoint.end_ids | {tokenizer.n_vocab + 3}
    constraint = ConstraintCompiler(tokenizer, end_ids).compile(ResponseFormat("regex", "a?"))
    allowed = np.flatnonzero(np.isfinite(constraint.apply(np.zeros(tokenizer.n_vocab + 8))))
    assert set(allowed) == {*tokenizer.encode("a"), *tiny_checkpoint.end_ids}


def test_constraints_of_one_compiler_are_independent(tiny: Writer) -> None:
    first, second = tiny.compile("regex", "ab"), tiny.compile("regex", "ab")
    tiny.feed(first, "a")
    assert tiny.allowed(first) == {tiny.token_id(b"b")}
    assert tiny.allowed(second) == {tiny.token_id(b"a")}


def test_a_constraint_is_made_in_one_thread_and_used_in_another(tiny: Writer) -> None:
    with ThreadPoolExecutor(1) as pool:
        constraint = pool.submit(tiny.compile, "json_schema", PERSON).result()
    assert fits(json.loads(tiny.write(constraint)), PERSON, PERSON)
