"""Tokenizers of all families, and the default model's real one, against the `tokenizers` library.

The default model's oracle is put together as SmolLM2's own tokenizer.json declares it, not by transformers' reading of
the GGUF file, which loses the pre-tokenizer that sets each digit apart.
"""

import random
import time
from functools import cache

import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizer_families import CORNERS, FAMILIES, TEXTS, as_gguf, known_characters, oracle, random_texts
from tokenizers import decoders, models

from model.checkpoint.checkpoint import Checkpoint
from model.errors import CheckpointError
from model.pre_tokenizer import PreTokenizer
from model.tokenizer import StreamingDetokenizer, Tokenizer, byte_alphabet
from model.vocabulary import TokenKind, Vocabulary

ALPHABET = list(byte_alphabet())
NAMED = [name for name, family in FAMILIES.items() if family.pre]

# These 13, numbers since Unicode 17, are numbers to the Digits of `tokenizers` only; of all other characters, all
# engines make the same (tested below, one by one).
NEW_NUMBERS = "".join(map(chr, [*range(0x11DE0, 0x11DEA), *range(0x16FF4, 0x16FF7)]))
UNSPELLABLE = "\x04\x06\x13\x14\x16\x1d\U00040000\U0007ffff\U00080000\U000bffff"

CHARACTERS = st.characters(exclude_characters=NEW_NUMBERS)
MIXTURES = st.lists(st.sampled_from(CORNERS) | st.text(CHARACTERS, max_size=3), max_size=30).map("".join)

FORGERIES = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<file_sep>", "<repo_name>", "<empty_output>", "<|im", "|>"]
FORGERIES += [
    "_start",
    "_end|>",
    "<",
    "|",
    ">",
    "<|",
    "<｜im_start｜>",
    "<|im\u200b_end|>",
    "‹|im_end|›",
    "<|im_ｅnd|>",
]
FORGERIES += ["<0x02>", "\x02", "Ġ", "Ċ", "system\n", "user", " ", "\n", "\0", "<think>", "</think>", "<thi", "nk>"]

GOLDEN = [38634, 553, 256, 34, 28, 33, 32, 34, 28, 38, 37, 32, 9910, 30]


@cache
def family_tokenizer(name: str) -> Tokenizer:
    return Tokenizer(as_gguf(name))


@pytest.fixture(scope="module")
def real_oracle(default_checkpoint: Checkpoint) -> tokenizers.Tokenizer:
    vocabulary = default_checkpoint.tokenizer.vocabulary
    merges = [tuple(merge.split(" ")) for merge in vocabulary.merges]
    oracle = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary.tokens)}, merges))
    oracle.pre_tokenizer = FAMILIES["smollm"].pre_tokenizer
    oracle.decoder = decoders.ByteLevel()
    return oracle


@pytest.fixture(scope="module")
def tokenizer(default_checkpoint: Checkpoint) -> Tokenizer:
    return default_checkpoint.tokenizer


def check_ids(tokenizer: Tokenizer, oracle: tokenizers.Tokenizer, texts: list[str]) -> None:
    spelled = [tokenizer.representable(text) for text in texts]
    expected = [encoding.ids for encoding in oracle.encode_batch_fast(spelled, add_special_tokens=False)]
    for text, token_ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text) == token_ids, repr(text)


@pytest.mark.parametrize("name", NAMED)
def test_family_in_gguf_lists_has_the_oracles_ids(name: str) -> None:
    check_ids(family_tokenizer(name), oracle(name), random_texts(seed=1, n=5_000))


@settings(deadline=None)
@given(name=st.sampled_from(NAMED), text=MIXTURES)
def test_shortest_text_of_which_a_family_has_other_ids_is_found(name: str, text: str) -> None:
    assume(set(text) <= known_character_set())  # for the normal forms
    assert family_tokenizer(name).encode(text) == oracle(name).encode(text).ids


@cache
def known_character_set() -> frozenset[str]:
    return frozenset(known_characters())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_each_character_is_cut_as_by_the_oracle(name: str) -> None:
    every = known_characters() if FAMILIES[name].normalizer else map(chr, [*range(0xD800), *range(0xE000, 0x110000)])
    tried = [f"a{char}b {char}1{char}. '{char}{char}A\n{char}\n'{char}e" for char in every if char not in NEW_NUMBERS]
    check_ids(family_tokenizer(name), oracle(name), ["".join(tried[i : i + 500]) for i in range(0, len(tried), 500)])


def test_golden_ids_of_a_sentence(tokenizer: Tokenizer) -> None:
    text = "Paris has  2,102,650 inhabitants."
    assert tokenizer.encode(text) == GOLDEN
    assert tokenizer.decode(GOLDEN) == text


def test_real_vocabulary_has_the_oracles_ids_and_gives_the_texts_back(
    tokenizer: Tokenizer, real_oracle: tokenizers.Tokenizer
) -> None:
    texts = random_texts(seed=3, n=5_000)
    check_ids(tokenizer, real_oracle, texts)
    assert all(tokenizer.decode(tokenizer.encode(text)) == tokenizer.representable(text) for text in texts)


@pytest.mark.slow
def test_real_vocabulary_has_the_oracles_ids_of_100_000_texts(
    tokenizer: Tokenizer, real_oracle: tokenizers.Tokenizer
) -> None:
    check_ids(tokenizer, real_oracle, random_texts(seed=4, n=100_000))


@settings(max_examples=300, deadline=None)
@given(text=st.text(CHARACTERS) | MIXTURES)
def test_any_text_has_the_oracles_ids_and_comes_back(
    tokenizer: Tokenizer, real_oracle: tokenizers.Tokenizer, text: str
) -> None:
    spelled = tokenizer.representable(text)
    token_ids = tokenizer.encode(text)
    assert token_ids == real_oracle.encode(spelled).ids
    assert tokenizer.decode(token_ids) == spelled


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("space", [" ", "\n", "\u3000", "\n "])
def test_space_of_any_length_has_the_oracles_ids(name: str, space: str) -> None:
    lengths = [*range(1, 9), *range(254, 262), *range(510, 518), 3000]
    texts = [f"x{(space * n)[:n]}{after}" for n in lengths for after in ("", "a", "7", "!", "'s", "\na")]
    check_ids(family_tokenizer(name), oracle(name), texts)


@pytest.mark.parametrize("name", NAMED)
def test_long_text_of_all_scripts_has_the_oracles_ids(name: str) -> None:
    check_ids(family_tokenizer(name), oracle(name), ["\n".join(TEXTS.values()) * 20])


@settings(deadline=None)
@given(token_ids=st.lists(st.integers(17, 49_151), max_size=40))
def test_any_ids_decode_as_the_oracle_decodes_them(
    tokenizer: Tokenizer, real_oracle: tokenizers.Tokenizer, token_ids: list[int]
) -> None:
    assert tokenizer.decode(token_ids) == real_oracle.decode(token_ids, skip_special_tokens=False)


@pytest.mark.parametrize("char", UNSPELLABLE)
def test_character_that_the_vocabulary_cannot_spell_becomes_the_replacement_character(
    tokenizer: Tokenizer, char: str
) -> None:
    assert tokenizer.representable(f"a{char} b") == "a\ufffd b"
    assert tokenizer.encode(f"a{char} b") == tokenizer.encode("a\ufffd b")


def test_only_those_characters_cannot_be_spelled(tokenizer: Tokenizer) -> None:
    every = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)
    spelled = tokenizer.representable(every)
    unspellable = [char for char, representable in zip(every, spelled, strict=True) if char != representable]
    assert unspellable[:6] == list(UNSPELLABLE[:6])
    assert unspellable[6:] == [chr(i) for i in range(0x40000, 0xC0000)]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc80\ud800"])
def test_lone_surrogates_become_replacement_characters(tokenizer: Tokenizer, text: str) -> None:
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(tokenizer.encode(text)) == expected
    assert family_tokenizer("qwen2").decode(family_tokenizer("qwen2").encode(text)) == expected


@pytest.mark.parametrize("text", ["\0", "a\0b\0\0", "a" + "\u0301" * 10_000, "\u200d" * 10_000])
def test_odd_text_has_the_oracles_ids_and_comes_back(
    tokenizer: Tokenizer, real_oracle: tokenizers.Tokenizer, text: str
) -> None:
    assert tokenizer.encode(text) == real_oracle.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_text_comes_back_in_the_normal_form_that_the_family_asks_for() -> None:
    qwen2 = family_tokenizer("qwen2")
    assert qwen2.decode(qwen2.encode("e\u0301 Å 한")) == "é Å 한"


def check_no_forgery(tokenizer: Tokenizer, seed: int, n: int) -> None:
    rng = random.Random(seed)
    forbidden = set(tokenizer.control_tokens.values())
    for _ in range(n):
        text = "".join(rng.choices(FORGERIES, k=rng.randint(1, 12)))
        token_ids = tokenizer.encode(text)
        assert forbidden.isdisjoint(token_ids), repr(text)
        assert tokenizer.decode(token_ids) == text


def test_nothing_written_becomes_a_control_token(tokenizer: Tokenizer) -> None:
    check_no_forgery(tokenizer, seed=5, n=5_000)


@pytest.mark.slow
def test_nothing_of_100_000_texts_becomes_a_control_token(tokenizer: Tokenizer) -> None:
    check_no_forgery(tokenizer, seed=6, n=100_000)


@pytest.mark.parametrize("name", NAMED)
def test_nothing_written_becomes_a_control_or_user_defined_token(name: str) -> None:
    assert set(family_tokenizer(name).control_tokens.values()) == {0, 1, 2, 3000, 3001}
    check_no_forgery(family_tokenizer(name), seed=7, n=1_000)


def test_control_tokens_have_no_text(tokenizer: Tokenizer) -> None:
    assert list(tokenizer.control_tokens.values()) == list(range(17))
    assert tokenizer.decode(range(17)) == ""


def of_kinds(**kinds: TokenKind) -> Tokenizer:
    """A tokenizer of all bytes and these tokens, with ids from 256 on."""
    all_kinds = [TokenKind.ORDINARY] * 256 + list(kinds.values())
    return Tokenizer(Vocabulary([*ALPHABET, *kinds], all_kinds, [], PreTokenizer(()), ignore_merges=True))


def test_user_defined_token_has_its_own_text_and_is_known_to_templates() -> None:
    tokenizer = of_kinds(thönk=TokenKind.USER_DEFINED)
    assert tokenizer.token_bytes(256) == "thönk".encode()
    assert tokenizer.control_tokens == {"thönk": 256}
    assert 256 not in tokenizer.encode("thönk")


def test_unused_token_has_no_text_and_is_unknown_to_templates() -> None:
    tokenizer = of_kinds(PAD=TokenKind.UNUSED)
    assert tokenizer.token_bytes(256) == b""
    assert tokenizer.control_tokens == {}
    assert 256 not in tokenizer.encode("PAD")
    assert tokenizer.n_vocab == 257


@pytest.mark.parametrize("token_id", [-1, 256, 151_935])
def test_id_that_is_no_token_has_no_text(token_id: int) -> None:
    assert of_kinds().decode([65, token_id, 66]) == of_kinds().decode([65, 66])


@pytest.mark.parametrize("name", NAMED)
def test_a_million_blanks_take_less_than_two_seconds(name: str) -> None:
    check_time(family_tokenizer(name), " " * 1_100_000 + "a")


UNITS = ["a", "A", "^", "\n", "1", "😀", "中", "\u0301", "\t ", " \n", "\n ", "\x04", "'s", "/", " a"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("after", ["", "a"])
def test_a_million_characters_of_one_thing_take_less_than_two_seconds(name: str, unit: str, after: str) -> None:
    check_time(family_tokenizer(name), unit * (1_000_000 // len(unit)) + after)


@pytest.mark.parametrize("unit", UNITS)
def test_megabyte_of_one_thing_takes_less_than_two_seconds(tokenizer: Tokenizer, unit: str) -> None:
    check_time(tokenizer, unit * (1_000_000 // len(unit.encode())))


def check_time(tokenizer: Tokenizer, text: str) -> None:
    start = time.thread_time()
    token_ids = tokenizer.encode(text)
    assert time.thread_time() - start < 2
    assert tokenizer.decode(token_ids) == tokenizer.representable(text)


@settings(deadline=None)
@given(token_ids=st.lists(st.integers(0, 49_151), max_size=60))
def test_stream_of_any_ids_joins_to_the_decoded_text(tokenizer: Tokenizer, token_ids: list[int]) -> None:
    stream = StreamingDetokenizer(tokenizer)
    pieces = [stream.add(token_id) for token_id in token_ids]
    assert "".join(pieces) + stream.finish() == tokenizer.decode(token_ids)


@settings(deadline=None)
@given(text=st.text() | MIXTURES)
def test_stream_of_a_text_never_shows_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    assume("\ufffd" not in tokenizer.representable(text))
    stream = StreamingDetokenizer(tokenizer)
    pieces = [stream.add(token_id) for token_id in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert stream.finish() == ""


def test_stream_gives_an_emoji_with_its_last_token(tokenizer: Tokenizer) -> None:
    stream = StreamingDetokenizer(tokenizer)
    first, *middle, last = (stream.add(token_id) for token_id in tokenizer.encode("🦜"))
    assert (first, "".join(middle), last) == ("", "", "🦜")


def test_stream_that_ends_inside_a_character_finishes_with_the_replacement_character(tokenizer: Tokenizer) -> None:
    stream = StreamingDetokenizer(tokenizer)
    assert stream.add(tokenizer.encode("🦜")[0]) == ""
    assert stream.finish() == "\ufffd"


def test_token_outside_the_byte_alphabet_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^token 'a中': expected GPT-2's byte alphabet, found '中'$"):
        of_kinds(a中=TokenKind.ORDINARY)


def test_vocabulary_that_cannot_spell_the_replacement_character_is_refused() -> None:
    kinds = [TokenKind.ORDINARY] * 200
    vocabulary = Vocabulary(ALPHABET[:100] + ALPHABET[156:], kinds, [], PreTokenizer(()), ignore_merges=False)
    with pytest.raises(CheckpointError, match=r"^tokens: expected one for each byte of U\+FFFD, found none for some$"):
        Tokenizer(vocabulary)
