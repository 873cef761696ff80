"""Sampling parameters: what they take and what they refuse, and that they can be kept."""

import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from model.sampling_params import MAX_STOP, MAX_STOP_LENGTH, ResponseFormat, SamplingParams

ROOT = Path(__file__).parent.parent
NAN, INF = math.nan, math.inf
IDS = "a list of token ids"
BIAS = "pairs of a token id, once each, and -100 to 100"

BAD = [
    *[("temperature", value, "between 0 and 100") for value in (-0.1, 100.1, INF, -INF, NAN, True, "1", None)],
    *[("top_k", value, "a whole number, 0 or more") for value in (-1, 2.5, 2.0, INF, NAN, True, None)],
    *[("top_p", value, "above 0 and at most 1") for value in (0, -0.5, 1.01, INF, NAN, True)],
    *[("min_p", value, "between 0 and 1") for value in (-0.01, 1.01, INF, NAN, False)],
    *[("typical_p", value, "above 0 and at most 1") for value in (0, -0.5, 1.01, INF, NAN, True)],
    *[("repetition_penalty", value, "between 0.01 and 100") for value in (0, -1.1, 1e-40, 101, INF, NAN, True)],
    *[("presence_penalty", value, "between -2 and 2") for value in (-2.1, 2.1, INF, NAN, True)],
    *[("frequency_penalty", value, "between -2 and 2") for value in (-2.1, 2.1, INF, NAN, True)],
    *[("penalty_window", value, "a whole number, 0 or more") for value in (-1, 1.5, INF, NAN, True)],
    *[("logit_bias", value, BIAS) for value in ({1: 2.0}, [(1, 2.0)], ((1,),), ((1, 2.0), (1, 3.0)), ([1, 2.0],))],
    *[("logit_bias", ((token_id, 1.0),), BIAS) for token_id in (-1, 1.0, "1", True)],
    *[("logit_bias", ((1, bias),), BIAS) for bias in (-100.1, 101, INF, -INF, NAN, "1", True)],
    *[
        (name, value, IDS)
        for name in ("banned_token_ids", "forced_token_ids", "stop_token_ids")
        for value in ([1], 1, "12", (-1,), (1.0,), (NAN,), (True,), (None,))
    ],
    *[("stop", value, "a list of strings that are not empty") for value in (("",), ("a", ""), "ab", ["a"], (1,))],
    *[("min_tokens", value, "a whole number, 0 or more") for value in (-1, 1.5, NAN, True)],
    ("min_tokens", 1025, "at most max_tokens"),
    *[("max_tokens", value, "a whole number, 1 or more") for value in (0, -1, 1.5, INF, NAN, True)],
    *[("logprobs", value, "a whole number from 0 to 20") for value in (-1, 21, 1.0, NAN, True)],
    *[("seed", value, "a whole number between 0 and 2**63 - 1") for value in (-1, 2**63, 0.5, INF, NAN, True)],
    *[("response_format", value, "a ResponseFormat") for value in ("json_object", {"kind": "json_object"})],
]
EXTREMES = [
    *[("temperature", value) for value in (0, 5e-324, 100)],
    *[("top_k", value) for value in (0, 1, 10**30)],
    *[("top_p", value) for value in (5e-324, 1)],
    *[("min_p", value) for value in (0, 1)],
    *[("typical_p", value) for value in (5e-324, 1)],
    *[("repetition_penalty", value) for value in (0.01, 100)],
    *[("presence_penalty", value) for value in (-2, 2)],
    *[("frequency_penalty", value) for value in (-2, 2)],
    *[("penalty_window", value) for value in (0, 10**30)],
    *[("logit_bias", value) for value in ((), ((0, -100), (5, 100)))],
    *[("stop", value) for value in ((), ("x",) * MAX_STOP, ("x" * MAX_STOP_LENGTH,))],
    *[("stop_token_ids", value) for value in ((), (0, 0, 10**30))],
    *[("min_tokens", value) for value in (0, 1024)],
    *[("max_tokens", value) for value in (1, 10**30)],
    *[("logprobs", value) for value in (None, 0, 20)],
    *[("seed", value) for value in (None, 0, 2**63 - 1)],
]
EVERYTHING = SamplingParams(
    logit_bias=((1, 0.5), (2, -1)),
    banned_token_ids=(3,),
    forced_token_ids=(4, 5),
    stop=("\nUser:",),
    stop_token_ids=(6,),
    logprobs=3,
    response_format=ResponseFormat("regex", "[a-z]+"),
)


@pytest.mark.parametrize(("name", "value", "rule"), BAD)
def test_bad_parameter_is_refused_with_name_rule_and_value(name: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        SamplingParams(**{name: value})
    assert str(caught.value) == f"{name} must be {rule}, got {value!r}"


@pytest.mark.parametrize(("name", "value"), EXTREMES)
def test_extreme_parameter_is_taken(name: str, value: object) -> None:
    assert getattr(SamplingParams(**{name: value}), name) == value


def test_forced_token_may_not_be_banned() -> None:
    with pytest.raises(ValueError, match=r"^forced_token_ids must be none of banned_token_ids, got \(1, 2\)$"):
        SamplingParams(forced_token_ids=(1, 2), banned_token_ids=(2, 3))


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("x",) * 10_000, "stop must be at most 32 strings, got 10000"),
        (("x" * 257,), "stop must be strings of at most 256 characters, got 257"),
    ],
)
def test_too_many_or_too_long_stop_strings_are_refused_in_one_line(stop: tuple[str, ...], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        SamplingParams(stop=stop)


def test_parameters_are_kept_as_json() -> None:
    kept = json.loads(json.dumps(asdict(EVERYTHING), allow_nan=False))
    assert kept["logit_bias"] == [[1, 0.5], [2, -1]]
    assert kept["response_format"] == {"kind": "regex", "source": "[a-z]+"}


def test_parameters_are_hashable() -> None:
    assert hash(EVERYTHING) == hash(SamplingParams(**{name: getattr(EVERYTHING, name) for name in asdict(EVERYTHING)}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_bias", ((9, 1.0), (10, 1.0))),
        ("banned_token_ids", (0, 10)),
        ("forced_token_ids", (10, 9)),
        ("stop_token_ids", (10,)),
    ],
)
def test_token_id_beyond_the_vocabulary_is_refused(name: str, value: object) -> None:
    params = SamplingParams(**{name: value})
    params.check_token_ids(11)
    with pytest.raises(ValueError, match=f"^{name} must be token ids between 0 and 9, got 10$"):
        params.check_token_ids(10)


@pytest.mark.parametrize(
    ("kind", "source", "text"),
    [
        ("xml", "", "response_format.kind must be one of json_object, json_schema, regex, got 'xml'"),
        ([], "", "response_format.kind must be one of json_object, json_schema, regex, got []"),
        ("json_object", "{}", "response_format.source must be empty for json_object, got '{}'"),
        ("json_schema", "", "response_format.source must be the text of the json_schema, not empty, got ''"),
        ("regex", None, "response_format.source must be the text of the regex, not empty, got None"),
    ],
)
def test_bad_response_format_is_refused(kind: str, source: str, text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        ResponseFormat(kind, source)  # type: ignore[arg-type]
    assert str(caught.value) == text


def test_naming_parameters_loads_neither_numpy_nor_torch() -> None:
    code = "import model.sampling_params, sys; sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
