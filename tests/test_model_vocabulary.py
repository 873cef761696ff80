"""Which vocabularies are refused, and that tiktoken merges all others as the `tokenizers` library does."""

import itertools
import random

import pytest
from tokenizers import models

from model.errors import CheckpointError
from model.pre_tokenizer import PRE_TOKENIZERS, PreTokenizer
from model.tokenizer import Tokenizer, byte_alphabet
from model.vocabulary import TokenKind, Vocabulary

ALPHABET = list(byte_alphabet())
WORDS = ["".join(word) for n in range(1, 8) for word in itertools.product("ab", repeat=n)]


def vocabulary(tokens: list[str], merges: list[str], *, ignore_merges: bool = False) -> Vocabulary:
    """A vocabulary of all bytes and these tokens, with ids from 256 on; nothing cuts a text."""
    kinds = [TokenKind.ORDINARY] * (256 + len(tokens))
    return Vocabulary([*ALPHABET, *tokens], kinds, merges, PreTokenizer(()), ignore_merges)


def random_vocabulary(rng: random.Random) -> Vocabulary:
    """Up to ten tokens of a and b, with some or all of the merges that make them, in the order of ids."""
    tokens = ["a", "b"]
    n_tokens = rng.randint(3, 12)
    while len(tokens) < n_tokens:
        token = rng.choice(tokens) + rng.choice(tokens)
        if len(token) < 7 and token not in tokens:
            tokens.append(token)
    made = tokens[2:]
    if rng.random() < 0.2:
        rng.shuffle(made)
    merges: list[str] = []
    share = rng.choice([0.3, 0.6, 1.0])
    for token in made:
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        all_pairs = [f"{left} {right}" for left, right in pairs if left in tokens and right in tokens]
        merges += rng.sample(all_pairs, k=round(share * len(all_pairs)))
    return vocabulary(made, merges, ignore_merges=rng.random() < 0.5)


def test_every_vocabulary_that_is_not_refused_has_the_oracles_ids_of_all_words() -> None:
    rng = random.Random(0)
    n_accepted = n_never_made = 0
    for _ in range(600):
        made = random_vocabulary(rng)
        try:
            tokenizer = Tokenizer(made)
        except CheckpointError:
            continue
        n_accepted += 1
        n_never_made += len(made.mergeable_ids()) < len(made.tokens)
        merges = [tuple(merge.split(" ")) for merge in made.merges]
        oracle = models.BPE({t: i for i, t in enumerate(made.tokens)}, merges, ignore_merges=made.ignore_merges)
        for word in WORDS:
            assert tokenizer.encode(word) == [token.id for token in oracle.tokenize(word)], (word, made.merges)
    assert n_accepted > 300
    assert n_never_made > 50


def test_token_that_no_merges_lead_to_is_never_made_but_decoded() -> None:
    tokenizer = Tokenizer(vocabulary(["ab", "abc"], ["a b"]))
    assert tokenizer.encode("abc") == [256, ALPHABET.index("c")]
    assert tokenizer.decode([257]) == "abc"


def test_token_is_taken_whole_if_merges_are_ignored_but_never_made_of_parts() -> None:
    tokenizer = Tokenizer(vocabulary(["xyz"], [], ignore_merges=True))
    assert tokenizer.encode("xyz") == [256]
    assert 256 not in tokenizer.encode("xyzx")


def test_merges_may_make_a_token_in_several_ways() -> None:
    tokenizer = Tokenizer(vocabulary(["aa", "aaa"], ["a a", "aa a", "a aa"]))
    assert tokenizer.encode("aaaaa") == [256, 257]


def refusal(tokens: list[str], merges: list[str], *, ignore_merges: bool = False) -> str:
    with pytest.raises(CheckpointError) as refused:
        vocabulary(tokens, merges, ignore_merges=ignore_merges).mergeable_ids()
    return str(refused.value)


def test_merges_out_of_order_are_refused() -> None:
    expected = "two ordinary tokens that make one of an id from 257 on"
    assert refusal(["ab", "cd"], ["c d", "a b"]) == f"merge 1 'a b': expected {expected}, found id 256"


@pytest.mark.parametrize(
    ("merge", "stranger"), [("a b", "ab"), ("a  b", "' b'"), ("ab", "ab"), ("中 a", "中"), ("a b c", "b c")]
)
def test_merge_of_no_tokens_is_refused(merge: str, stranger: str) -> None:
    text = refusal([], [merge])
    assert text.startswith(
        f"merge 0 {merge!r}: expected two ordinary tokens that make one of an id from 0 on, found no"
    )
    assert stranger in text.rpartition("found")[2]


def test_merge_that_makes_a_control_token_is_refused() -> None:
    kinds = [TokenKind.ORDINARY] * 256 + [TokenKind.CONTROL]
    made = Vocabulary([*ALPHABET, "ab"], kinds, ["a b"], PreTokenizer(()), ignore_merges=False)
    with pytest.raises(CheckpointError, match=r"^merge 0 'a b': expected two ordinary .*, found no such token 'ab'$"):
        made.mergeable_ids()


def test_pair_that_makes_a_token_but_is_no_merge_is_refused_if_merges_are_ignored() -> None:
    expected = "token 257 'abc': expected the merge 'ab c', found none"
    assert refusal(["ab", "abc"], ["a b"], ignore_merges=True) == expected


def test_part_that_comes_after_the_whole_is_refused() -> None:
    expected = "merge 0 'ab c': expected only after that of 'ab', found before"
    assert refusal(["abc", "ab"], ["ab c", "a b"]) == expected


@pytest.mark.parametrize("token", ["a", ""])
def test_repeated_and_empty_tokens_are_refused(token: str) -> None:
    with pytest.raises(
        CheckpointError, match=rf"^token 257: expected a text that no other token has, found {token!r}$"
    ):
        vocabulary(["b c", token], [])


def test_endless_token_is_refused_in_a_short_line() -> None:
    with pytest.raises(CheckpointError, match=r"^token 256: expected at most 1,000 characters, found 1,000,000$"):
        vocabulary(["a" * 1_000_000], [])
    assert len(refusal([], ["a" * 1_000_000])) < 300


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^tokens: expected Unicode, found '\\ud800'$"):
        vocabulary(["<\ud800>"], [])


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_lists_of_a_gguf_file_are_taken_over(pre: str) -> None:
    made = Vocabulary.from_gguf(pre, ["a", "b", "<c>", "<d>", "[PAD4]"], [1, 2, 3, 4, 5], [])
    assert [kind.name for kind in made.kinds] == ["ORDINARY", "CONTROL", "CONTROL", "USER_DEFINED", "UNUSED"]
    assert made.ignore_merges == (pre in {"llama-bpe", "llama3", "llama-v3", "smaug-bpe", "tekken"})


def test_unknown_pre_tokenizer_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^pre-tokenizer: expected one of gpt-2, smollm, .*, found 'gpt-5'$"):
        Vocabulary.from_gguf("gpt-5", ALPHABET, [1] * 256, [])


@pytest.mark.parametrize("number", [0, 6, -1, 2**31])
def test_unknown_type_of_token_is_refused(number: int) -> None:
    with pytest.raises(CheckpointError, match=rf"^token type: expected a number from 1 to 5, found {number}$"):
        Vocabulary.from_gguf("gpt-2", ["a", "b"], [1, number], [])


def test_missing_types_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^token types: expected 2, one for each token, found 1$"):
        Vocabulary.from_gguf("gpt-2", ["a", "b"], [1], [])
