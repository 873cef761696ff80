"""Sampling parameters as JSON has them, which knows no tuples: those of flags, of requests and of stored presets."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from model.sampling_params import ResponseFormat


def from_json(name: str, value: Any) -> Any:
    """Return the value of a field of SamplingParams for what stands for it in JSON.

    Raises ValueError for what is no response format; all other values are checked only by SamplingParams.
    """
    match name, value:
        case "response_format", dict():
            return _response_format(value)
        case "logit_bias", dict() if all(map(str.isdecimal, value)):  # JSON has no other keys than texts
            return tuple((int(token_id), bias) for token_id, bias in value.items())
        case _, list():
            return tuple(from_json("", item) for item in value)
    return value


def to_json(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of SamplingParams as `from_json` takes them."""
    return {
        name: asdict(value) if isinstance(value, ResponseFormat) else value  # json writes a tuple as a list
        for name, value in params.items()
    }


def _response_format(value: dict[str, Any]) -> ResponseFormat:
    if not value.keys() <= {"kind", "source"}:
        raise ValueError(f"response_format: expected the keys kind and source, got {', '.join(value)}")
    kind, source = value.get("kind"), value.get("source", "")
    # A schema may stand there as what it is
    return ResponseFormat(kind, json.dumps(source) if isinstance(source, dict) else source)  # type: ignore[arg-type]
