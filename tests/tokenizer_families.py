"""Tokenizers of all families, trained here with the `tokenizers` library, and texts to try them on.

The families share one vocabulary, trained on snippets that nothing cut, so that it has tokens across every place
where a family cuts: a text cut elsewhere comes out in other ids.
"""

import json
import random
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

import regex
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from model.vocabulary import TokenKind, Vocabulary

CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # in the vocabulary, ids 0 to 2
USER_DEFINED_TOKENS = ["<think>", "</think>"]  # behind it

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
    "case": "IT'S we'LL They'Re I'VE 'd'D'm 'ſ CamelCase XMLHttp ÀÉîõ ǅ ŉ aʼn /path//to/ \n/ /\r\n",
}

# What the patterns tell apart
CORNERS = ["'s", "'S", "'t", "'T", "'m", "'d", "'D", "'re", "'ve", "'Ve", "'ll", "'LL", "'", "1", "42"]
CORNERS += ["1234567", "½", " ", "  ", "    ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\r", "\x0b", "\x1c"]
CORNERS += ["\x85", "\xa0", "\u3000", "\u2028", "\u200b", "\ufeff", "\0", "a", "A", " the", "The", "THE"]
CORNERS += ["Ünï", "ǅ", "ʰ", "ª", "ſ", "ß", "e\u0301", "\u0301", "\u0345", "\u0489"]
CORNERS += ["\u1100\u1161", "!", "...", "_", "=>"]
CORNERS += ["/", "//", "$", "€", "^", "`", "(", "“", "…", "😀", "👩‍👩‍👧", "🇫🇷", "\ue000", "\U000e0001"]
CORNERS += ["\u0378", "\U0010ffff", "中文", "い", "ア", "한", "ไทย", "हिन्दी", "مرحبا", "שלום", "Ⅷ", "²", "٣"]
CORNERS += ["१२३"]


@dataclass(frozen=True)
class Family:
    """How a family prepares texts, as its checkpoints' tokenizer.json declares it."""

    pre_tokenizer: Any
    pre: str | None = None  # its name in GGUF files
    normalizer: Any = None
    for_tiktoken: bool = False  # all pairs are merges, and a piece that is a token is taken as it is


def split(pattern: str) -> pre_tokenizers.Split:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def before_bytes(*cuts: pre_tokenizers.PreTokenizer) -> pre_tokenizers.Sequence:
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
BLANKS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CAMEL_CASE = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"

FAMILIES = {
    "gpt-2": Family(GPT2, "gpt-2"),
    "smollm": Family(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2]), "smollm"),
    "llama-3": Family(
        before_bytes(split(rf"{WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{BLANKS}")),
        "llama-bpe",
        for_tiktoken=True,
    ),
    "qwen2": Family(
        before_bytes(split(rf"{WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{BLANKS}")), "qwen2", normalizers.NFC()
    ),
    "tekken": Family(
        before_bytes(split(rf"{CAMEL_CASE}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{BLANKS}")),
        "tekken",
        for_tiktoken=True,
    ),
    "deepseek": Family(
        before_bytes(
            split(r"\p{N}{1,3}"),
            split("[一-龥぀-ゟ゠-ヿ]+"),
            split(
                r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
                rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*{BLANKS}"
            ),
        )
    ),
}


def random_texts(seed: int, n: int) -> list[str]:
    """Return texts of up to 40 corner cases, snippets of real text, and characters of all Unicode."""
    rng = random.Random(seed)
    known = known_characters()
    real = "\n".join(TEXTS.values())

    def part() -> str:
        kind = rng.random()
        if kind < 0.6:
            return rng.choice(CORNERS)
        if kind < 0.85:
            start = rng.randrange(len(real))
            return real[start : start + rng.randint(1, 12)]
        return rng.choice(known)

    return ["".join(part() for _ in range(rng.randint(0, 40))) for _ in range(n)]


@cache
def known_characters() -> str:
    """Return all characters but those that not all versions of Unicode know that are at work here.

    `regex` has the newest one, the normalizers of `tokenizers` are at Unicode 9, Python's is in between.
    """
    every = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)
    too_new = set(regex.findall(r"\P{Cn}", every)) - {char for char in every if unicodedata.category(char) != "Cn"}
    too_new |= {"\U00011935", "\U00011938"}  # part and whole of one character
    nfc = normalizers.NFC()
    for mark in filter(unicodedata.combining, every):
        texts = [order for other in "\u0334\u0345" for order in (f"a{mark}{other}", f"a{other}{mark}")]
        if any(unicodedata.normalize("NFC", text) != nfc.normalize_str(text) for text in texts):
            too_new.add(mark)
    return "".join(char for char in every if char not in too_new)


@cache
def trained() -> dict[str, Any]:
    """Train the vocabulary that all families share: about 3,000 tokens, ids in the order of merges."""
    rng = random.Random(0)
    real = "\n".join([*TEXTS.values(), *CORNERS])
    snippets = ["".join(rng.choices(CORNERS, k=3)) for _ in range(4000)]
    snippets += [real[start : start + rng.randint(2, 9)] for start in rng.choices(range(len(real)), k=12_000)]
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=CONTROL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(snippets, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in USER_DEFINED_TOKENS])
    tokenizer.decoder = decoders.ByteLevel()
    return json.loads(tokenizer.to_str())


@cache
def oracle(name: str) -> tokenizers.Tokenizer:
    """Return a family's tokenizer as `tokenizers` runs it; special tokens in a text are text to it."""
    family = FAMILIES[name]
    file = json.loads(json.dumps(trained()))
    if family.for_tiktoken:
        file["model"] |= {"merges": all_pairs(file["model"]["vocab"]), "ignore_merges": True}
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(file))
    tokenizer.pre_tokenizer, tokenizer.normalizer = family.pre_tokenizer, family.normalizer
    tokenizer.encode_special_tokens = True
    return tokenizer


def all_pairs(vocab: dict[str, int]) -> list[list[str]]:
    """Return the merges of a vocabulary made for tiktoken: each two tokens that make one, ordered by that one's id."""
    pairs = []
    for token in vocab.keys() - set(CONTROL_TOKENS):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs += [(vocab[token], vocab[a], vocab[b], a, b) for a, b in cuts if a in vocab and b in vocab]
    return [[a, b] for *_, a, b in sorted(pairs)]


def as_gguf(name: str) -> Vocabulary:
    """Return a family's vocabulary as a GGUF file lists it."""
    file = json.loads(oracle(name).to_str())
    ids = oracle(name).get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)
    types = [TokenKind.ORDINARY] * len(tokens)
    for added in file["added_tokens"]:
        types[added["id"]] = TokenKind.CONTROL if added["special"] else TokenKind.USER_DEFINED
    merges = [" ".join(merge) for merge in file["model"]["merges"]]
    pre = FAMILIES[name].pre
    assert pre is not None
    return Vocabulary.from_gguf(pre, tokens, types, merges)
