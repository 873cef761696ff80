"""Random replies held to a form, and a small judge of them."""

import json
import re

import numpy as np

from model.checkpoint.checkpoint import Checkpoint
from model.constraint import Constraint, ConstraintCompiler
from model.sampling_params import ResponseFormat

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


def fits(value: object, schema: dict, root: dict) -> bool:  # type: ignore[type-arg]
    """Say whether a value is what a schema describes, of the keywords that the tests use."""
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
