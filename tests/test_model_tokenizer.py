"""The tokenizer against the `tokenizers` library, put together as SmolLM2's own tokenizer.json declares it.

Not against transformers' reading of the GGUF file, which loses the pre-tokenizer that sets each digit apart.
"""

import time
from pathlib import Path

import pytest
import tokenizers
from gguf import GGUFReader
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from model.checkpoint.gguf import Checkpoint
from model.errors import CheckpointError
from model.tokenizer import StreamingDetokenizer, Tokenizer, byte_alphabet

ALPHABET = list(byte_alphabet())

# The two libraries know different versions of Unicode: these 13, numbers since Unicode 17, are numbers to one only
# (all other characters were compared one by one).
NEW_NUMBERS = "".join(map(chr, [*range(0x11DE0, 0x11DEA), *range(0x16FF4, 0x16FF7)]))
UNSPELLABLE = "\x04\x06\x13\x14\x16\x1d\U00040000\U0007ffff\U00080000\U000bffff"

CHARACTERS = st.characters(exclude_characters=NEW_NUMBERS)
CORNERS = ["'s", "'ll", "'S", "1", "42", "٣", "½", " ", "  ", "    ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b"]
CORNERS += [
    "a",
    " the",
    "The",
    "Ünï",
    "!",
    "...",
    "_",
    "=>",
    "👩‍👩‍👧",
    "🇫🇷",
    "e\u0301",
    "中文",
    "ไทย",
    "हिन्दी",
    "مرحبا",
]
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
FORGERIES += ["<0x02>", "\x02", "Ġ", "Ċ", "system\n", "user", " ", "\n", "\0"]

TEXTS = {
    "latin": "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich. L'été, l'âme; ¿qué tal, señor? It's I'll.",
    "greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ἄνδρα μοι ἔννεπε, Μοῦσα, πολύτροπον.",
    "cyrillic": "Съешь же ещё этих мягких французских булок, да выпей чаю. Є, ї, ґ — українські літери.",
    "arabic": "نصٌّ حكيمٌ لهُ سرٌّ قاطعٌ وَذُو شأنٍ عظيمٍ. العدد ١٢٣ و٤٥٦؛ هل هذا صحيح؟",
    "hebrew": "דג סקרן שט בים מאוכזב ולפתע מצא חברה. בְּרֵאשִׁית בָּרָא אֱלֹהִים.",
    "devanagari": "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले। १२३ ४५",
    "thai": "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ๑๒๓",
    "chinese": "天地玄黄,宇宙洪荒。日月盈昃,辰宿列张。一九八四年,一共 12345 个字。",
    "japanese": "いろはにほへと ちりぬるを。カタカナと漢字、ガギグ。第3回、2024年!",
    "korean": "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. 각각 3번.",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇫🇷🇩🇪 ☺️ 🧑🏿‍🚀 1️⃣ 😀😀",
    "combining": "Z\u0351\u036f\u0321a\u0308\u0301\u0330l\u0334g\u0335o\u0489 e\u0301 n\u0303 \u1100\u1161\u11a8",
    "code": 'def f(x):\n    """Doc."""\n\tif x >= 10_000:\n        return {"a": [2.5e-3]}\n\n\n    return x[::-1]\r\n',
    "numbers": "  123  45 6.789   0 \n 10 000 000  1,5 -3 ½ ²³ Ⅷ ٣٤  3rd 4th 1's  '  2 ",
    "spaces": " \t \n\n\t\t  x   y\u00a0\u00a0z \u2003\u2003 w\u3000 \r\n \x0b\x0c \x85 end   ",
}

GOLDEN = [38634, 553, 256, 34, 28, 33, 32, 34, 28, 38, 37, 32, 9910, 30]


@pytest.fixture(scope="module")
def oracle(default_path: Path) -> tokenizers.Tokenizer:
    fields = GGUFReader(default_path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    oracle = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    oracle.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    oracle.decoder = decoders.ByteLevel()
    return oracle


@pytest.fixture(scope="module")
def tokenizer(default_checkpoint: Checkpoint) -> Tokenizer:
    return default_checkpoint.tokenizer


def test_golden_ids_of_a_sentence(tokenizer: Tokenizer) -> None:
    text = "Paris has  2,102,650 inhabitants."
    assert tokenizer.encode(text) == GOLDEN
    assert tokenizer.decode(GOLDEN) == text


@settings(max_examples=10_000, deadline=None)
@given(text=st.text(CHARACTERS))
def test_any_text_has_the_oracles_ids_and_comes_back(
    tokenizer: Tokenizer, oracle: tokenizers.Tokenizer, text: str
) -> None:
    spelled = tokenizer.representable(text)
    token_ids = tokenizer.encode(text)
    assert token_ids == oracle.encode(spelled).ids
    assert tokenizer.decode(token_ids) == spelled


@settings(max_examples=10_000, deadline=None)
@given(text=MIXTURES)
def test_mixtures_of_corner_cases_have_the_oracles_ids_and_come_back(
    tokenizer: Tokenizer, oracle: tokenizers.Tokenizer, text: str
) -> None:
    spelled = tokenizer.representable(text)
    token_ids = tokenizer.encode(text)
    assert token_ids == oracle.encode(spelled).ids
    assert tokenizer.decode(token_ids) == spelled


@settings(deadline=None)
@given(
    space=st.sampled_from([" ", "\n", "\t ", "\u3000"]),
    n_chars=st.integers(1, 4) | st.integers(250, 262) | st.integers(506, 518) | st.integers(1, 3000),
    after=st.sampled_from(["", "a", "7", "!", "'s"]),
)
def test_space_of_any_length_has_the_oracles_ids(
    tokenizer: Tokenizer, oracle: tokenizers.Tokenizer, space: str, n_chars: int, after: str
) -> None:
    text = "x" + (space * n_chars)[:n_chars] + after
    assert tokenizer.encode(text) == oracle.encode(text).ids


@pytest.mark.parametrize("script", TEXTS)
def test_long_text_has_the_oracles_ids_and_comes_back(
    tokenizer: Tokenizer, oracle: tokenizers.Tokenizer, script: str
) -> None:
    text = TEXTS[script] * (20_000 // len(TEXTS[script]))
    token_ids = tokenizer.encode(text)
    assert token_ids == oracle.encode(text).ids
    assert tokenizer.decode(token_ids) == text


def test_all_scripts_after_one_another_have_the_oracles_ids(tokenizer: Tokenizer, oracle: tokenizers.Tokenizer) -> None:
    text = "\n".join(TEXTS.values()) * 20
    assert tokenizer.encode(text) == oracle.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None)
@given(token_ids=st.lists(st.integers(17, 49_151), max_size=40))
def test_any_ids_decode_as_the_oracle_decodes_them(
    tokenizer: Tokenizer, oracle: tokenizers.Tokenizer, token_ids: list[int]
) -> None:
    assert tokenizer.decode(token_ids) == oracle.decode(token_ids, skip_special_tokens=False)


@pytest.mark.parametrize("char", UNSPELLABLE)
def test_character_that_the_vocabulary_cannot_spell_becomes_the_replacement_character(
    tokenizer: Tokenizer, char: str
) -> None:
    assert tokenizer.representable(f"a{char} b") == "a\ufffd b"
    assert tokenizer.encode(f"a{char} b") == tokenizer.encode("a\ufffd b")


def test_only_those_characters_cannot_be_spelled(tokenizer: Tokenizer) -> None:
    every = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]
    unspellable = [char for char in every if tokenizer.representable(char) != char]
    assert unspellable[:6] == list(UNSPELLABLE[:6])
    assert unspellable[6:] == [chr(i) for i in range(0x40000, 0xC0000)]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc80\ud800"])
def test_lone_surrogates_become_replacement_characters(tokenizer: Tokenizer, text: str) -> None:
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(tokenizer.encode(text)) == expected


@pytest.mark.parametrize("text", ["\0", "a\0b\0\0", "a" + "\u0301" * 10_000, "\u200d" * 10_000])
def test_odd_text_has_the_oracles_ids_and_comes_back(
    tokenizer: Tokenizer, oracle: tokenizers.Tokenizer, text: str
) -> None:
    assert tokenizer.encode(text) == oracle.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=1_000, deadline=None)
@given(text=st.lists(st.sampled_from(FORGERIES), max_size=12).map("".join))
def test_nothing_written_becomes_a_control_token(tokenizer: Tokenizer, text: str) -> None:
    token_ids = tokenizer.encode(text)
    assert not set(token_ids) & set(tokenizer.control_tokens.values())
    assert tokenizer.decode(token_ids) == text


def test_control_tokens_have_no_text(tokenizer: Tokenizer) -> None:
    assert list(tokenizer.control_tokens.values()) == list(range(17))
    assert tokenizer.decode(range(17)) == ""


@pytest.mark.parametrize("unit", ["a", " ", "^", "\n", "1", "😀", "中", "\u0301", "\t ", "\x04", "'s"])
@pytest.mark.parametrize("after", ["", "a"])
def test_a_megabyte_of_one_thing_takes_less_than_two_seconds(tokenizer: Tokenizer, unit: str, after: str) -> None:
    text = unit * (1_000_000 // len(unit.encode())) + after
    start = time.thread_time()
    token_ids = tokenizer.encode(text)
    assert time.thread_time() - start < 2
    assert tokenizer.decode(token_ids) == tokenizer.representable(text)


def test_millions_of_line_breaks_do_not_stop_the_engine_of_the_pattern(tokenizer: Tokenizer) -> None:
    text = "\n" * 2_000_000 + "a"
    assert tokenizer.decode(tokenizer.encode(text)) == text


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


def test_vocabulary_with_an_unknown_pre_tokenizer_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^pre-tokenizer: expected one of smollm, found 'gpt-5'$"):
        Tokenizer.from_bpe("gpt-5", ALPHABET, [], frozenset())


def test_merges_out_of_order_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^merge 1 makes 'ab': .* an id above 257, found 256$"):
        Tokenizer.from_bpe("smollm", [*ALPHABET, "ab", "cd"], ["c d", "a b"], frozenset())


def test_merge_to_no_token_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^merge 0 makes 'ab': expected a token with an id above -1, found -1$"):
        Tokenizer.from_bpe("smollm", ALPHABET, ["a b"], frozenset())


def test_token_that_no_merge_makes_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^token 256 'ab': expected a merge that makes it, found none$"):
        Tokenizer.from_bpe("smollm", [*ALPHABET, "ab"], [], frozenset())


@pytest.mark.parametrize("control_ids", [frozenset(), frozenset({0, 257})])
def test_repeated_tokens_are_refused(control_ids: frozenset[int]) -> None:
    tokens = ["a", *ALPHABET[1:], "b", "a"]
    with pytest.raises(CheckpointError, match=r"^vocabulary: expected 258 different tokens, found repeated ones$"):
        Tokenizer.from_bpe("smollm", tokens, [], control_ids)


def test_token_outside_the_byte_alphabet_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^token 'a中': expected GPT-2's byte alphabet, found '中'$"):
        Tokenizer.from_bpe("smollm", [*ALPHABET, "a中"], [], frozenset())
