"""tokenizer.json read and written, against the `tokenizers` library itself."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizer_families import FAMILIES, as_gguf, before_bytes, oracle, random_texts
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.tokenizer_json import TokenizerFile, read_tokenizer_json, write_tokenizer_json
from model.errors import CheckpointError
from model.tokenizer import Tokenizer
from model.vocabulary import TokenKind

TEMPLATE = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., TokenizerFile]:
    def read(file: str | dict[str, Any] | tokenizers.Tokenizer) -> TokenizerFile:
        text = file if isinstance(file, str) else json.dumps(file) if isinstance(file, dict) else file.to_str()
        path = tmp_path / "tokenizer.json"
        path.write_text(text)
        return read_tokenizer_json(path)

    return read


@pytest.fixture(scope="module")
def family_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    tokenizers = {}
    for name in FAMILIES:
        path = tmp_path_factory.mktemp(name) / "tokenizer.json"
        oracle(name).save(str(path))
        tokenizers[name] = read_tokenizer_json(path).tokenizer
    return tokenizers


def check_ids(tokenizer: Tokenizer, oracle: tokenizers.Tokenizer, texts: list[str]) -> None:
    expected = [encoding.ids for encoding in oracle.encode_batch_fast(texts, add_special_tokens=False)]
    for text, token_ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text) == token_ids, repr(text)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_has_the_oracles_ids(family_tokenizers: dict[str, Tokenizer], name: str) -> None:
    check_ids(family_tokenizers[name], oracle(name), random_texts(seed=1, n=5_000))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_family_has_the_oracles_ids_of_100_000_texts(family_tokenizers: dict[str, Tokenizer], name: str) -> None:
    check_ids(family_tokenizers[name], oracle(name), random_texts(seed=2, n=100_000))


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.pre])
def test_family_is_the_same_in_both_formats(family_tokenizers: dict[str, Tokenizer], name: str) -> None:
    assert family_tokenizers[name].vocabulary == as_gguf(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_written_file_makes_the_oracle_encode_alike(family_tokenizers: dict[str, Tokenizer], name: str) -> None:
    written = tokenizers.Tokenizer.from_str(write_tokenizer_json(family_tokenizers[name], None))
    written.encode_special_tokens = True
    check_ids(family_tokenizers[name], written, random_texts(seed=10, n=500))
    assert written.get_vocab() == oracle(name).get_vocab()


@pytest.mark.parametrize("name", FAMILIES)
def test_written_file_is_read_as_what_it_was(
    read: Callable[..., TokenizerFile], family_tokenizers: dict[str, Tokenizer], name: str
) -> None:
    written = read(write_tokenizer_json(family_tokenizers[name], bos_id=2))
    assert written.tokenizer.vocabulary == family_tokenizers[name].vocabulary
    assert written.bos_id == 2


def test_written_file_knows_special_tokens_and_puts_bos_first(family_tokenizers: dict[str, Tokenizer]) -> None:
    written = tokenizers.Tokenizer.from_str(write_tokenizer_json(family_tokenizers["qwen2"], bos_id=1))
    assert written.encode("<|im_end|><think>").ids == [1, 2, 3000]
    assert written.encode("", "<think>").ids == [1, 1, 3000]
    assert written.decode([1, 3000, 2]) == "<think>"


def test_real_vocabulary_is_written_so_that_the_oracle_encodes_alike(default_checkpoint: Checkpoint) -> None:
    tokenizer = default_checkpoint.tokenizer
    written = tokenizers.Tokenizer.from_str(write_tokenizer_json(tokenizer, None))
    written.encode_special_tokens = True
    check_ids(tokenizer, written, [tokenizer.representable(text) for text in random_texts(seed=11, n=500)])


@cache
def small_oracle() -> tokenizers.Tokenizer:
    """All bytes, four merges across cuts, one control token among them, and two tokens behind."""
    tokens = ["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "1a", "1a-", "Ġb", "--"]
    merges = [("1", "a"), ("1a", "-"), ("Ġ", "b"), ("-", "-")]
    small = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    small.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    small.add_special_tokens(["<s>", "</s>"])
    small.add_tokens(["<think>"])
    return small


def small_file() -> dict[str, Any]:
    return json.loads(small_oracle().to_str())


def test_kinds_and_ids_of_tokens_are_those_of_the_file(read: Callable[..., TokenizerFile]) -> None:
    tokenizer = read(small_oracle()).tokenizer
    assert tokenizer.control_tokens == {"<s>": 0, "</s>": 261, "<think>": 262}
    kinds = tokenizer.vocabulary.kinds
    assert [kinds[0], kinds[261], kinds[262]] == [TokenKind.CONTROL, TokenKind.CONTROL, TokenKind.USER_DEFINED]
    assert set(kinds[1:261]) == {TokenKind.ORDINARY}
    assert tokenizer.decode([0, 262, 261]) == "<think>"


def test_ids_of_no_token_are_unused(read: Callable[..., TokenizerFile]) -> None:
    file = small_file()
    file["added_tokens"].append({"id": 265, "content": "<pad>", "special": True})
    vocabulary = read(file).tokenizer.vocabulary
    assert vocabulary.tokens[263:] == ["[PAD263]", "[PAD264]", "<pad>"]
    assert vocabulary.kinds[263:] == [TokenKind.UNUSED, TokenKind.UNUSED, TokenKind.CONTROL]


def test_merges_may_be_texts_or_pairs(read: Callable[..., TokenizerFile]) -> None:
    pairs = small_file()
    texts = deepcopy(pairs)
    texts["model"]["merges"] = [" ".join(pair) for pair in pairs["model"]["merges"]]
    assert read(texts).tokenizer.vocabulary == read(pairs).tokenizer.vocabulary


DECLARATIONS = {
    "text": before_bytes(pre_tokenizers.Split("1a", "merged_with_next"), pre_tokenizers.Split("\n. ", "isolated")),
    "nested": before_bytes(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(False)]), pre_tokenizers.Split("-", "removed")
    ),
    "matches only": before_bytes(
        pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}+| ?[^\p{L}\p{N}]+"), "removed", invert=True)
    ),
    "nothing cut": before_bytes(),
}


@pytest.mark.parametrize("name", DECLARATIONS)
@pytest.mark.parametrize("normalizer", [None, normalizers.Sequence([normalizers.NFD(), normalizers.NFC()])])
def test_declared_pre_tokenizer_and_normalizer_are_followed(
    read: Callable[..., TokenizerFile], name: str, normalizer: Any
) -> None:
    declared = tokenizers.Tokenizer.from_str(oracle("gpt-2").to_str())
    declared.pre_tokenizer, declared.normalizer = DECLARATIONS[name], normalizer
    check_ids(read(declared).tokenizer, declared, [*random_texts(seed=12, n=300), "1a1a -\n. --12 ab12"])


@pytest.mark.parametrize(
    ("processor", "bos_id"),
    [
        (None, None),
        (processors.ByteLevel(), None),
        (TEMPLATE, 1),
        (processors.Sequence([processors.ByteLevel(), TEMPLATE]), 1),
        (processors.TemplateProcessing(single="$A <|im_end|>", special_tokens=[("<|im_end|>", 2)]), None),
    ],
)
def test_token_that_begins_texts_is_the_post_processors(
    read: Callable[..., TokenizerFile], processor: Any, bos_id: int | None
) -> None:
    declared = tokenizers.Tokenizer.from_str(oracle("gpt-2").to_str())
    if processor is not None:
        declared.post_processor = processor
    assert read(declared).bos_id == bos_id


def change(*path: str | int, to: Any) -> dict[str, Any]:
    """Return the small file with one value changed; a path beyond it makes the keys that are missing."""
    file = small_file()
    inner: Any = file
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return file


def refusal(read: Callable[..., TokenizerFile], file: str | dict[str, Any]) -> str:
    """Return the error's text; empty if the file is read."""
    try:
        read(file)
    except CheckpointError as error:
        return str(error)
    return ""


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
SPLIT = {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated", "invert": False}


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


REFUSED = {
    "Unigram": (change("model", "type", to="Unigram"), "model: type: expected 'BPE' of the byte-level kind"),
    "WordPiece": (change("model", "type", to="WordPiece"), "model: type: expected 'BPE' of the byte-level kind"),
    "SentencePiece": (
        change("model", "byte_fallback", to=True),
        "model: byte_fallback: expected false as in byte-level BPE, not SentencePiece's, found true",
    ),
    "dropout": (change("model", "dropout", to=0.1), "model: dropout: expected null, found 0.1"),
    "suffix": (
        change("model", "end_of_word_suffix", to="</w>"),
        "model: end_of_word_suffix: expected null, found '</w>'",
    ),
    "no pre-tokenizer": (
        change("pre_tokenizer", to=None),
        "pre_tokenizer: expected one of type 'ByteLevel', found null",
    ),
    "Metaspace": (
        change("pre_tokenizer", to={"type": "Metaspace"}),
        "pre_tokenizer: type: expected 'ByteLevel' at the end, found 'Metaspace'",
    ),
    "Whitespace": (
        change("pre_tokenizer", to=sequence({"type": "Whitespace"}, BYTE_LEVEL)),
        "pre_tokenizer: pretokenizers[0]: type: expected 'Digits' or 'Split' before 'ByteLevel', found 'Whitespace'",
    ),
    "prefix": (
        change("pre_tokenizer", "add_prefix_space", to=True),
        "pre_tokenizer: add_prefix_space: expected false, found true",
    ),
    "behavior": (
        change("pre_tokenizer", to=sequence(SPLIT | {"behavior": "Doubled"}, BYTE_LEVEL)),
        "pre_tokenizer: pretokenizers[0]: behavior: expected one of Isolated, Removed, Contiguous, MergedWithPrevious, "
        "MergedWithNext, found 'Doubled'",
    ),
    "pattern": (
        change("pre_tokenizer", to=sequence(SPLIT | {"pattern": {"Regex": r"a\b"}}, BYTE_LEVEL)),
        r"pre_tokenizer: pretokenizers[0]: pattern 'a\\b': expected what all engines agree on, found '\\b'",
    ),
    "many": (
        change("pre_tokenizer", to=sequence(*[SPLIT] * 40, BYTE_LEVEL)),
        "pre_tokenizer: expected at most 32 parts, found an object of 2",
    ),
    "normalizer": (
        change("normalizer", to={"type": "Prepend", "prepend": "▁"}),
        "normalizer: type: expected one of NFC, NFD or 'Sequence', found 'Prepend'",
    ),
    "post-processor": (
        change("post_processor", to={"type": "BertProcessing"}),
        "post_processor: type: expected 'ByteLevel', 'TemplateProcessing' or 'Sequence', found 'BertProcessing'",
    ),
    "rstrip": (change("added_tokens", 1, "rstrip", to=True), "added_tokens[1]: rstrip: expected false, found true"),
    "id in the vocabulary": (
        change("added_tokens", 0, "id", to=400),
        "added_tokens[0]: id: expected that of '<s>' in the vocabulary, or one of its own, found 400",
    ),
    "id taken": (
        change("added_tokens", 1, "id", to=65),
        "added_tokens[1]: id: expected that of '</s>' in the vocabulary, or one of its own, found 65",
    ),
    "id repeated": (
        change("model", "vocab", "--", to=259),
        "model: vocab: --: expected an id of its own, below 1,048,576, found 259",
    ),
    "id too large": (
        change("added_tokens", 1, "id", to=1 << 31),
        "added_tokens[1]: id: expected one below 1,048,576, found 2147483648",
    ),
    "merge": (
        change("model", "merges", 0, to=["1", 2]),
        'model: merges: expected a list of texts "left right", or of pairs, found a list of 4',
    ),
    "order": (
        change("model", "merges", to=["1 a", "- -", "Ġ b"]),
        "merge 2 'Ġ b': expected two ordinary tokens that make one of an id from 260 on, found id 259",
    ),
    "version": (change("model", to="bpe"), "model: expected an object, found 'bpe'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_file_that_would_be_understood_otherwise_is_refused(read: Callable[..., TokenizerFile], name: str) -> None:
    file, expected = REFUSED[name]
    assert refusal(read, file).startswith(f"tokenizer.json: {expected}")


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths to all values of a file; of the vocabulary to the first four."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:10]:
        yield (*path, key)
        yield from places(inner, (*path, key))


def odd_file() -> dict[str, Any]:
    """A file with something everywhere."""
    file = small_file()
    file["model"]["vocab"] = dict(sorted(file["model"]["vocab"].items(), key=lambda item: len(item[0]), reverse=True))
    file["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    file["pre_tokenizer"] = sequence({"type": "Digits", "individual_digits": True}, SPLIT, BYTE_LEVEL)
    file["post_processor"] = json.loads(TEMPLATE.__getstate__())
    return deepcopy(file)


ODD_VALUES = [None, True, -1, 7, 1.5, 1e300, 10**400, "", "x", "\ud800", [], [[]], ["a b"], [{}], {}, {"type": "Split"}]


def test_odd_file_is_read(read: Callable[..., TokenizerFile]) -> None:
    assert refusal(read, odd_file()) == ""


@pytest.mark.parametrize("path", list(places(odd_file())), ids=lambda path: ".".join(map(str, path)))
def test_odd_value_in_any_place_is_read_or_refused_in_one_line(
    read: Callable[..., TokenizerFile], path: tuple[str | int, ...]
) -> None:
    for odd in ODD_VALUES:
        file = odd_file()
        inner: Any = file
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = deepcopy(odd)
        text = refusal(read, file)
        assert not text or text.startswith("tokenizer.json: ")
        assert text.isprintable()
        assert len(text) < 500


def test_truncated_file_is_refused(read: Callable[..., TokenizerFile]) -> None:
    whole = small_oracle().to_str()
    for length in range(0, len(whole), 101):
        assert refusal(read, whole[:length]).startswith("tokenizer.json: expected JSON, found ")


def test_lone_surrogates_and_missing_files_are_refused(read: Callable[..., TokenizerFile], tmp_path: Path) -> None:
    text = refusal(read, change("added_tokens", 1, "content", to="<\udc00>"))
    assert text == r"tokenizer.json: tokens: expected Unicode, found '\udc00'"
    with pytest.raises(CheckpointError, match=r"^none\.json: expected a file, found nothing$"):
        read_tokenizer_json(tmp_path / "none.json")
