"""The tokenizer.json of Hugging Face's library `tokenizers`: byte-level BPE is read and written, all else refused.

Its parts work one after the other: normalizers and pre-tokenizers prepare a text, the model makes tokens of it, the
post-processor puts tokens around them. SentencePiece's models, Unigram and WordPiece show by other kinds of these.
https://huggingface.co/docs/tokenizers/components
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from model.checkpoint.json_file import Json, JsonObject, read_json
from model.errors import CheckpointError
from model.pre_tokenizer import DIGITS, GPT2, Behavior, NormalForm, PreTokenizer, Split
from model.tokenizer import Tokenizer
from model.vocabulary import TokenKind, Vocabulary

MAX_BYTES = 64 << 20  # a vocabulary of 260k tokens takes 35 MB
MAX_ID = 1 << 20
MAX_PARTS = 32  # of one kind, one after the other


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """What a tokenizer.json says."""

    tokenizer: Tokenizer
    bos_id: int | None  # begins every text, where the post-processor puts a token there


def read_tokenizer_json(path: Path) -> TokenizerFile:
    """Read a tokenizer.json.

    Raises CheckpointError: not there, not JSON, not byte-level BPE, an option that would change the ids and is unknown
    here, a vocabulary that tiktoken would merge otherwise.
    """
    file = read_json(path, MAX_BYTES)
    model = file.child("model")
    _check_model(model)
    tokens, kinds = _read_tokens(file, model)
    pre_tokenizer = PreTokenizer(_read_splits(file), _read_normal_forms(file))
    merges, ignore_merges = _read_merges(model), model.flag("ignore_merges", False)
    try:
        tokenizer = Tokenizer(Vocabulary(tokens, kinds, merges, pre_tokenizer, ignore_merges))
    except CheckpointError as error:
        raise CheckpointError(f"{file.where}: {error}") from None
    return TokenizerFile(tokenizer, _read_bos_id(file, n_vocab=len(tokens)))


def _check_model(model: JsonObject) -> None:
    """Refuse what would change the ids. The unknown token is no such thing: byte-level BPE knows every byte."""
    if model.text("type", "BPE") != "BPE":
        model.refuse("type", "'BPE' of the byte-level kind")
    if model.flag("byte_fallback", False):
        model.refuse("byte_fallback", "false as in byte-level BPE, not SentencePiece's")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.values.get(key):
            model.refuse(key, "null")


def _read_tokens(file: JsonObject, model: JsonObject) -> tuple[list[str], list[TokenKind]]:
    """Return the tokens by id; ids that no token has are filled up as in GGUF files."""
    vocabulary = model.child("vocab")
    by_id: dict[int, tuple[str, TokenKind]] = {}
    for token, token_id in vocabulary.values.items():
        if type(token_id) is not int or not 0 <= token_id < MAX_ID or token_id in by_id:
            vocabulary.refuse(token, f"an id of its own, below {MAX_ID:,}")
        by_id[token_id] = token, TokenKind.ORDINARY
    for added in file.children("added_tokens") if file.has("added_tokens") else ():
        token, token_id = _read_added_token(added)
        if vocabulary.values.get(token, token_id) != token_id or by_id.get(token_id, (token,))[0] != token:
            added.refuse("id", f"that of {token!r} in the vocabulary, or one of its own")
        by_id[token_id] = token, TokenKind.CONTROL if added.flag("special", False) else TokenKind.USER_DEFINED
    n_vocab = max(by_id, default=-1) + 1
    filled = [by_id.get(i, (f"[PAD{i}]", TokenKind.UNUSED)) for i in range(n_vocab)]
    return [token for token, _ in filled], [kind for _, kind in filled]


def _read_added_token(added: JsonObject) -> tuple[str, int]:
    """Return text and id of a token that is found before the text is merged."""
    for key in ("lstrip", "rstrip", "single_word"):  # these look at the text around the token
        if added.flag(key, False):
            added.refuse(key, "false")
    if not 0 <= added.integer("id") < MAX_ID:
        added.refuse("id", f"one below {MAX_ID:,}")
    return added.text("content"), added.integer("id")


def _read_merges(model: JsonObject) -> list[str]:
    """Return the merges as "left right"; newer files have them as pairs."""
    merges = model.values.get("merges")
    joined = []
    for merge in merges if isinstance(merges, list) else [None]:
        match merge:
            case str():
                joined.append(merge)
            case [str(left), str(right)]:
                joined.append(f"{left} {right}")
            case _:
                model.refuse("merges", 'a list of texts "left right", or of pairs')
    return joined


def _read_parts(file: JsonObject, key: str, inside: str) -> list[JsonObject]:
    """Return the parts at `key` one after the other; sequences have theirs in a list of the name `inside`."""
    parts = []
    waiting = [file.child(key)] if file.has(key) else []
    while waiting:
        part = waiting.pop()
        if part.text("type") == "Sequence":
            waiting += reversed(part.children(inside))
        else:
            parts.append(part)
    if len(parts) > MAX_PARTS:
        file.refuse(key, f"at most {MAX_PARTS} parts")
    return parts


def _read_normal_forms(file: JsonObject) -> tuple[NormalForm, ...]:
    forms = []
    for part in _read_parts(file, "normalizer", "normalizers"):
        form = next((form for form in get_args(NormalForm) if form == part.text("type")), None)
        forms.append(form or part.refuse("type", f"one of {', '.join(get_args(NormalForm))} or 'Sequence'"))
    return tuple(forms)


def _read_splits(file: JsonObject) -> tuple[Split, ...]:
    """Return the splits; what maps bytes to characters has to come last, and only once."""
    parts = _read_parts(file, "pre_tokenizer", "pretokenizers")
    if not parts:
        file.refuse("pre_tokenizer", "one of type 'ByteLevel'")
    *before, last = parts
    splits = [_read_split(part) for part in before]
    if last.text("type") != "ByteLevel":
        last.refuse("type", "'ByteLevel' at the end")
    if last.flag("add_prefix_space"):
        last.refuse("add_prefix_space", "false")
    return (*splits, GPT2) if last.flag("use_regex", True) else tuple(splits)


def _read_split(part: JsonObject) -> Split:
    if part.text("type") == "Digits":
        return DIGITS if part.flag("individual_digits") else Split(DIGITS.pattern, "Contiguous")
    if part.text("type") != "Split":
        part.refuse("type", "'Digits' or 'Split' before 'ByteLevel'")
    behavior = next((behavior for behavior in get_args(Behavior) if behavior == part.text("behavior")), None)
    if behavior is None:
        part.refuse("behavior", f"one of {', '.join(get_args(Behavior))}")
    pattern = part.child("pattern")
    try:
        expression = pattern.text("Regex") if pattern.has("Regex") else _literally(pattern.text("String"))
        return Split(expression, behavior, part.flag("invert", False))
    except CheckpointError as error:
        raise CheckpointError(f"{part.where}: {error}") from None


def _literally(text: str) -> str:
    """Return the regular expression that matches this text only."""
    return re.sub(r"[^\w\s]", r"\\\g<0>", text)


def _read_bos_id(file: JsonObject, n_vocab: int) -> int | None:
    """Return the token before the text; what comes after it, as some models for other ends have it, is left out."""
    bos_ids: list[int] = []
    for part in _read_parts(file, "post_processor", "processors"):
        if part.text("type") == "TemplateProcessing":
            bos_ids += _ids_before_text(part)
        elif part.text("type") != "ByteLevel":
            part.refuse("type", "'ByteLevel', 'TemplateProcessing' or 'Sequence'")
    if len(bos_ids) > 1 or not all(0 <= bos_id < n_vocab for bos_id in bos_ids):
        file.refuse("post_processor", f"at most one token before the text, with an id below {n_vocab:,}")
    return bos_ids[0] if bos_ids else None


def _ids_before_text(template: JsonObject) -> list[int]:
    special_tokens = template.child("special_tokens")
    token_ids = []
    for piece in template.children("single"):
        if piece.has("Sequence"):
            break
        token_ids += special_tokens.child(piece.child("SpecialToken").text("id")).integers("ids")
    return token_ids


def write_tokenizer_json(tokenizer: Tokenizer, bos_id: int | None) -> str:
    """Return the tokenizer.json with which `tokenizers` encodes as this tokenizer does, with `bos_id` before a text."""
    vocabulary = tokenizer.vocabulary
    byte_level: Json = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    file: dict[str, Json] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _write_added_token(token, token_id, special=vocabulary.kinds[token_id] == TokenKind.CONTROL)
            for token, token_id in tokenizer.control_tokens.items()
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": form} for form in vocabulary.pre_tokenizer.normal_forms],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [*map(_write_split, vocabulary.pre_tokenizer.splits), byte_level],
        },
        "post_processor": byte_level if bos_id is None else _write_template(vocabulary.tokens[bos_id], bos_id),
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": vocabulary.ignore_merges,
            "vocab": dict(vocabulary.ids(TokenKind.ORDINARY, TokenKind.CONTROL, TokenKind.USER_DEFINED)),
            "merges": list(vocabulary.merges),
        },
    }
    return json.dumps(file, ensure_ascii=False, indent=2)


def _write_added_token(token: str, token_id: int, *, special: bool) -> Json:
    flags: dict[str, Json] = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": token, **flags, "special": special}


def _write_split(split: Split) -> Json:
    pattern: Json = {"Regex": split.pattern}
    return {"type": "Split", "pattern": pattern, "behavior": split.behavior, "invert": split.invert}


def _write_template(bos: str, bos_id: int) -> Json:
    """Declare what puts a token before each text, of one or of two."""
    first: Json = {"SpecialToken": {"id": bos, "type_id": 0}}
    texts: list[Json] = [{"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB")]
    return {
        "type": "TemplateProcessing",
        "single": [first, texts[0]],
        "pair": [first, texts[0], first, texts[1]],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }
