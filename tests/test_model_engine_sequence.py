"""One generation: which tokens its parameters let in, how it ends, and what is told of each token.

The logits are the test's own: `rows` prefers one token after the other.
"""

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.engine.generation import FinishReason, Generation, Piece
from model.engine.sequence import Limits, Sequence, token_logprob
from model.engine.stop_strings import StopStrings
from model.errors import ModelError
from model.sampling import Floats
from model.sampling_params import ResponseFormat, SamplingParams
from model.tokenizer import StreamingDetokenizer, Tokenizer

END = 2
NOTHING_LEFT = "No token can follow: what the request forbids and what it demands leave none."


class OnlyDigits:
    """A constraint that lets digits through, and notes what it hears of."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.allowed = tokenizer.encode("0123456789")
        self.accepted: list[int] = []

    def apply(self, logits: Floats) -> Floats:
        masked = np.full_like(logits, -np.inf)
        masked[self.allowed] = logits[self.allowed]
        return masked

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)


class OnlyDigitsCompiler:
    """In place of model.constraint's."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        assert end_ids
        self.tokenizer = tokenizer

    def compile(self, response_format: ResponseFormat) -> OnlyDigits:
        if response_format.source != "[0-9]+":
            raise ValueError(f"response_format must be digits, got {response_format.source!r}")
        return OnlyDigits(self.tokenizer)


@pytest.fixture
def tokenizer(tiny_checkpoint: Checkpoint) -> Tokenizer:
    return tiny_checkpoint.tokenizer


@pytest.fixture
def constraints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model.constraint", SimpleNamespace(ConstraintCompiler=OnlyDigitsCompiler))  # type: ignore[arg-type]


def rows(*token_ids: int, n_vocab: int = 265) -> Iterator[Floats]:
    """Logits that prefer each token in turn, then "!", then what follows it in the vocabulary."""
    for token_id in token_ids:
        row = np.linspace(0, -1, n_vocab, dtype=np.float32)
        row[:3] = -5  # the control tokens
        row[token_id] = 9
        yield row


def run(
    tokenizer: Tokenizer, text: str, *, n_ctx: int = 1_000, constraint: OnlyDigits | None = None, **params
) -> Generation:  # type: ignore[no-untyped-def]
    """Run a greedy sequence on logits that prefer the characters of a text ("$" is the end token) until it ends."""
    sampling = SamplingParams(**{"temperature": 0, **params})
    limits = Limits(n_ctx=n_ctx, end_ids=frozenset({END}))
    sequence = Sequence(
        tokenizer.encode("ab"), sampling, "ada", tokenizer=tokenizer, limits=limits, constraint=constraint, timeout=60
    )
    token_ids = [END if char == "$" else token_id for char in text for token_id in tokenizer.encode(char)]
    reason = None
    for row in rows(*token_ids):
        reason = sequence.advance(row)
        if reason:
            break
    sequence.finish(reason or "cancelled")
    return sequence.generation


def said(generation: Generation) -> tuple[str, str | None]:
    return "".join(piece.text for piece in generation), generation.finish_reason


def new_sequence(tokenizer: Tokenizer, text: str, **params: Any) -> Sequence:
    limits = Limits(n_ctx=1_000, end_ids=frozenset({END}))
    sampling = SamplingParams(**{"temperature": 0, **params})
    return Sequence(tokenizer.encode(text), sampling, "ada", tokenizer=tokenizer, limits=limits, timeout=60)


def follow(sequence: Sequence, tokenizer: Tokenizer, draft: str, truth: str) -> FinishReason | None:
    """Have a draft checked by logits that prefer the characters of another text."""
    token_ids = [*sequence.token_ids[sequence.n_computed :], *tokenizer.encode(draft)]
    preferred = [END if char == "$" else tokenizer.encode(char)[0] for char in truth]
    return sequence.take(token_ids, np.stack(list(rows(*preferred))))


@pytest.mark.parametrize(
    ("draft", "truth", "text", "n_computed"),
    [("", "c", "c", 2), ("cde", "cdef", "cdef", 5), ("cdX", "cdef", "cde", 4), ("XYZ", "cdef", "c", 2)],
)
def test_draft_is_followed_as_far_as_it_is_what_the_model_says(
    tokenizer: Tokenizer, draft: str, truth: str, text: str, n_computed: int
) -> None:
    sequence = new_sequence(tokenizer, "ab")
    assert follow(sequence, tokenizer, draft, truth) is None
    assert sequence.token_ids == tokenizer.encode("ab") + tokenizer.encode(text)
    assert (sequence.n_computed, sequence.n_sound, sequence.n_pending) == (n_computed, n_computed, 1)


@pytest.mark.parametrize(
    ("params", "truth", "text", "reason"),
    [
        ({"max_tokens": 2}, "cdef", "cd", "length"),
        ({"stop": ("de",)}, "cdef", "cde", "stop"),
        ({}, "c$ef", "c", "stop"),
    ],
)
def test_reply_ends_within_a_draft_as_it_would_without(
    tokenizer: Tokenizer, params: dict[str, Any], truth: str, text: str, reason: str
) -> None:
    sequence = new_sequence(tokenizer, "ab", **params)
    assert follow(sequence, tokenizer, "cde", truth) == reason
    assert sequence.token_ids == tokenizer.encode("ab") + tokenizer.encode(text)


@pytest.mark.parametrize(("length", "n"), [(997, 2), (998, 1), (999, 0)])
def test_no_draft_goes_beyond_the_context(tokenizer: Tokenizer, length: int, n: int) -> None:
    assert len(new_sequence(tokenizer, "a" * length).draft(5)) == n


def test_part_of_a_prompt_is_computed_but_not_yet_sound(tokenizer: Tokenizer) -> None:
    sequence = new_sequence(tokenizer, "abcdef")
    assert sequence.take(tokenizer.encode("abc"), np.zeros((0, 265), np.float32)) is None
    assert (sequence.n_computed, sequence.n_sound, sequence.generation.prefilled_tokens) == (3, 0, 3)


def test_stop_token_ends_the_reply_as_an_end_token_does(tokenizer: Tokenizer) -> None:
    generation = run(tokenizer, "cdef", stop_token_ids=tuple(tokenizer.encode("e")))
    pieces = list(generation)
    assert ("".join(piece.text for piece in pieces), generation.finish_reason) == ("cd", "stop")
    assert [piece.token_ids for piece in pieces] == [tuple(tokenizer.encode(char)) for char in "cd"]
    assert generation.usage is not None
    assert generation.usage.completion_tokens == 2


@pytest.mark.parametrize(("min_tokens", "text"), [(0, "c"), (1, "c"), (2, "c!d"), (4, "c!d!")])
def test_no_end_and_no_stop_token_comes_before_min_tokens(tokenizer: Tokenizer, min_tokens: int, text: str) -> None:
    stop = tuple(tokenizer.encode("e"))
    generation = run(tokenizer, "c$de$", stop_token_ids=stop, min_tokens=min_tokens)
    assert said(generation) == (text, "stop")


@pytest.mark.parametrize(("min_tokens", "text"), [(0, ""), (1, ""), (2, "xyz"), (4, "xyz"), (5, "xyzxyz")])
def test_no_stop_string_ends_within_min_tokens(tokenizer: Tokenizer, min_tokens: int, text: str) -> None:
    generation = run(tokenizer, "xyzxyz$", stop=("xy", "zzz"), min_tokens=min_tokens)
    assert said(generation)[0] == text


@given(
    text=st.text("ab", max_size=12), n_exempt=st.integers(0, 12), stop=st.lists(st.text("ab", min_size=1, max_size=4))
)
def test_stop_string_may_begin_but_not_end_in_exempt_text(text: str, n_exempt: int, stop: list[str]) -> None:
    strings, shown = StopStrings(tuple(stop)), ""
    for i, char in enumerate(text):
        shown += strings.add(char, may_stop=i >= n_exempt)
        if strings.found:
            break
    starts = [[end - len(s) for s in stop if text[:end].endswith(s)] for end in range(n_exempt + 1, len(text) + 1)]
    cut = next((min(found) for found in starts if found), None)
    assert (shown + strings.finish(), strings.found) == (text[:cut], cut is not None)


def test_forced_tokens_begin_the_reply(tokenizer: Tokenizer) -> None:
    generation = run(tokenizer, "cdef$", forced_token_ids=tuple(tokenizer.encode("xy")))
    assert said(generation) == ("xyef", "stop")


def test_forced_end_token_ends_the_reply(tokenizer: Tokenizer) -> None:
    assert said(run(tokenizer, "cdef", forced_token_ids=(*tokenizer.encode("x"), END))) == ("x", "stop")


def test_banned_token_does_not_come(tokenizer: Tokenizer) -> None:
    assert said(run(tokenizer, "cdc$", banned_token_ids=tuple(tokenizer.encode("c")))) == ("!d!", "stop")


def test_biased_token_comes_instead(tokenizer: Tokenizer) -> None:
    bias = ((tokenizer.encode("x")[0], 11.0),)
    assert said(run(tokenizer, "cd", logit_bias=bias, max_tokens=2)) == ("xx", "length")


@pytest.mark.parametrize(
    ("penalty", "prompt_counts"),
    [("repetition_penalty", True), ("presence_penalty", False), ("frequency_penalty", False)],
)
def test_penalty_counts_the_prompt_or_only_the_reply(tokenizer: Tokenizer, penalty: str, prompt_counts: bool) -> None:
    almost = ((tokenizer.encode("x")[0], 8.5),)  # comes where the penalty takes 2 from the 9 of the preferred token
    assert said(run(tokenizer, "cc", logit_bias=almost, max_tokens=2, **{penalty: 2.0}))[0] == "cx"
    assert said(run(tokenizer, "a", logit_bias=almost, max_tokens=1, **{penalty: 2.0}))[0] == (
        "x" if prompt_counts else "a"
    )


@pytest.mark.parametrize(("n_ctx", "text"), [(3, "c"), (5, "cde"), (7, "cdefg")])
def test_full_context_ends_with_length(tokenizer: Tokenizer, n_ctx: int, text: str) -> None:
    assert said(run(tokenizer, "cdefghij", n_ctx=n_ctx)) == (text, "length")


@pytest.mark.parametrize("temperature", [0, 1])
def test_nothing_left_to_draw_is_an_error_of_one_sentence(tokenizer: Tokenizer, temperature: float) -> None:
    generation = run(tokenizer, "cd", banned_token_ids=tuple(range(265)), temperature=temperature)
    assert said(generation) == ("", "error")
    assert generation.error == NOTHING_LEFT


def test_nothing_left_after_some_tokens_keeps_them(tokenizer: Tokenizer) -> None:
    constraint = OnlyDigits(tokenizer)
    forced = tuple(tokenizer.encode("12c"))
    assert said(run(tokenizer, "cdef", constraint=constraint, forced_token_ids=forced)) == ("12", "error")


def test_constraint_masks_each_token_and_hears_of_it(tokenizer: Tokenizer) -> None:
    constraint = OnlyDigits(tokenizer)
    assert said(run(tokenizer, "1c3", constraint=constraint, max_tokens=3)) == ("103", "length")
    assert constraint.accepted == tokenizer.encode("103")


def test_constraint_does_not_hear_of_the_end(tokenizer: Tokenizer) -> None:
    constraint = OnlyDigits(tokenizer)
    constraint.allowed.append(END)
    assert said(run(tokenizer, "12$", constraint=constraint)) == ("12", "stop")
    assert constraint.accepted == tokenizer.encode("12")


def test_constraint_that_gives_up_ends_the_reply_with_its_error(tokenizer: Tokenizer) -> None:
    class GivesUp(OnlyDigits):
        def accept(self, token_id: int) -> None:
            super().accept(token_id)
            if len(self.accepted) == 3:
                raise ModelError("The library gives up.")

    generation = run(tokenizer, "123", constraint=GivesUp(tokenizer))
    assert (said(generation), generation.error) == (("12", "error"), "The library gives up.")


def test_last_tokens_without_text_come_too(tokenizer: Tokenizer) -> None:
    control = next(token_id for token_id in tokenizer.control_tokens.values() if token_id != END)
    pieces = list(run(tokenizer, "cd", logit_bias=((control, 100.0),), max_tokens=2, logprobs=0))
    assert [(piece.text, piece.token_ids, len(piece.logprobs)) for piece in pieces] == [("", (control, control), 2)]


def test_a_reply_whose_end_cannot_be_passed_on_ends_with_an_error(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: StreamingDetokenizer) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(StreamingDetokenizer, "finish", fail)
    generation = run(tokenizer, "cd$")
    assert said(generation) == ("cd", "error")
    assert generation.error == "The end of the reply could not be passed on."


def test_no_logprobs_come_unasked(tokenizer: Tokenizer) -> None:
    assert [piece.logprobs for piece in run(tokenizer, "cd$")] == [(), ()]


def test_logprobs_come_with_the_tokens_of_each_piece(tokenizer: Tokenizer) -> None:
    pieces = list(run(tokenizer, "c🦜d$", logprobs=0))
    assert [piece.text for piece in pieces] == ["c", "🦜", "d"]
    for piece in pieces:
        assert tuple(logprob.token_id for logprob in piece.logprobs) == piece.token_ids


def test_logprobs_are_those_of_the_model_whatever_the_parameters(tokenizer: Tokenizer) -> None:
    token_id = tokenizer.encode("x")[0]
    (piece,) = run(tokenizer, "c", logprobs=2, logit_bias=((token_id, 50.0),), temperature=3.0, top_k=1, max_tokens=1)
    expected = torch.tensor(next(rows(*tokenizer.encode("c")))).log_softmax(-1)
    (logprob,) = piece.logprobs
    assert logprob.token_id == token_id
    assert logprob.logprob == pytest.approx(expected[token_id].item(), abs=1e-5)
    assert [place for place, _ in logprob.most_likely] == tokenizer.encode("c!")


@given(logits=st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=200), n=st.integers(0, 20))
def test_logprobs_are_the_log_softmax_of_torch(logits: list[float], n: int) -> None:
    measured = token_logprob(np.array(logits, np.float32), 1, n)
    expected = torch.tensor(logits, dtype=torch.float64).log_softmax(-1)
    assert measured.logprob == pytest.approx(expected[1].item(), abs=1e-12)
    values, _ = expected.topk(min(n, len(logits)))
    assert [value for _, value in measured.most_likely] == pytest.approx(values.tolist(), abs=1e-12)
    assert all(expected[place].item() == pytest.approx(value, abs=1e-12) for place, value in measured.most_likely)


def test_asking_for_logprobs_changes_no_token(tiny_engine: Engine, tokenizer: Tokenizer) -> None:
    def ask(logprobs: int | None) -> list[Piece]:
        params = SamplingParams(temperature=1.5, seed=3, max_tokens=20, logprobs=logprobs)
        return list(tiny_engine.submit(tokenizer.encode("hello"), params, owner="ada"))

    with_them, without = ask(5), ask(None)
    assert [piece.token_ids for piece in with_them] == [piece.token_ids for piece in without]
    assert all(len(piece.logprobs) == len(piece.token_ids) for piece in with_them)


@pytest.mark.parametrize("name", ["banned_token_ids", "forced_token_ids", "stop_token_ids"])
def test_engine_refuses_token_ids_beyond_the_vocabulary(tiny_engine: Engine, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be token ids between 0 and 264, got 265$"):
        tiny_engine.submit([5], SamplingParams(**{name: (265,)}), owner="ada")
    assert tiny_engine.healthy


def test_engine_goes_on_after_a_reply_with_nothing_left(tiny_engine: Engine) -> None:
    all_but_the_end = tuple(token_id for token_id in range(265) if token_id != 2)
    impossible = SamplingParams(banned_token_ids=all_but_the_end, min_tokens=1)
    generation = tiny_engine.submit([5], impossible, owner="ada")
    assert said(generation) == ("", "error")
    other = tiny_engine.submit([5], SamplingParams(max_tokens=3, min_tokens=3), owner="ada")
    assert said(other)[1] == "length"


@pytest.mark.usefixtures("constraints")
def test_response_format_constrains_the_reply(tiny_engine: Engine) -> None:
    params = SamplingParams(temperature=1, max_tokens=20, response_format=ResponseFormat("regex", "[0-9]+"))
    text, reason = said(tiny_engine.submit([5], params, owner="ada"))
    assert (len(text), text.isdigit(), reason) == (20, True, "length")


@pytest.mark.usefixtures("constraints")
def test_response_format_that_cannot_be_followed_is_refused(tiny_engine: Engine) -> None:
    params = SamplingParams(response_format=ResponseFormat("regex", "[a-z]+"))
    with pytest.raises(ValueError, match=r"^response_format must be digits, got '\[a-z\]\+'$"):
        tiny_engine.submit([5], params, owner="ada")
    assert tiny_engine.healthy
