"""Completions without a chat template, of a model that counts: "abc" goes on as "defg…"."""

from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types import Completion
from openai_server import Counted, serve_counting

from model.checkpoint.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def v1(tiny_checkpoint: Checkpoint) -> Iterator[Counted]:
    with serve_counting(tiny_checkpoint) as v1:
        yield v1


@pytest.fixture
def client(v1: Counted) -> Iterator[OpenAI]:
    with v1.client() as client:
        yield client


def complete(client: OpenAI, prompt: Any, **options: Any) -> Completion:
    """Return how a prompt goes on, by five tokens unless the options say otherwise."""
    answer = client.completions.create(
        **{"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 5, **options}
    )
    assert isinstance(answer, Completion)
    return answer


def texts(answer: Completion) -> list[str]:
    """Return what the choices say, in their order."""
    assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
    return [choice.text for choice in answer.choices]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("abc", ["defgh"]),
        (["abc", "ABC"], ["defgh", "DEFGH"]),
        ([67, 68, 69], ["defgh"]),
        ([[67], [35, 36]], ["bcdef", "CDEFG"]),
    ],
    ids=["text", "texts", "token ids", "lists of them"],
)
def test_prompts_of_all_kinds_go_on(v1: Counted, client: OpenAI, prompt: Any, expected: list[str]) -> None:
    assert v1.model.context_builder.tokenizer.encode("abcABC") == [67, 68, 69, 35, 36, 37]
    assert texts(complete(client, prompt)) == expected


def test_a_stream_tells_each_choice_by_its_index(client: OpenAI) -> None:
    stream = client.completions.create(
        model="tiny", prompt=["abc", "ABC"], n=2, temperature=0, max_tokens=5, stream=True
    )
    said = dict.fromkeys(range(4), "")
    for chunk in stream:
        for choice in chunk.choices:
            said[choice.index] += choice.text
    assert said == {0: "defgh", 1: "defgh", 2: "DEFGH", 3: "DEFGH"}


def test_each_prompt_counts_once_in_the_usage(client: OpenAI) -> None:
    usage = complete(client, ["abc", "ABCD"], n=2).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 20, 27)


def test_the_prompt_is_repeated_if_it_is_asked_for(client: OpenAI) -> None:
    assert texts(complete(client, ["abc", "ABC"], echo=True, n=2)) == ["abcdefgh"] * 2 + ["ABCDEFGH"] * 2
    assert texts(complete(client, [67, 68], echo=True)) == ["abcdefg"]
    stream = client.completions.create(model="tiny", prompt="abc", echo=True, temperature=0, max_tokens=5, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "abcdefgh"


def test_a_reply_ends_for_one_of_two_reasons(client: OpenAI) -> None:
    assert complete(client, "abc").choices[0].finish_reason == "length"
    stopped = complete(client, "abc", stop="fg", max_tokens=50).choices[0]
    assert (stopped.text, stopped.finish_reason) == ("de", "stop")


def test_logprobs_have_their_older_form(client: OpenAI) -> None:
    logprobs = complete(client, "abc", logprobs=2).choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset) == (["d", "e", "f", "g", "h"], [0, 1, 2, 3, 4])
    assert logprobs.token_logprobs == [pytest.approx(0, abs=1e-9)] * 5
    assert [len(top) for top in logprobs.top_logprobs or []] == [2] * 5
    assert complete(client, "abc").choices[0].logprobs is None


def test_offsets_go_on_from_chunk_to_chunk(client: OpenAI) -> None:
    stream = client.completions.create(model="tiny", prompt="abc", temperature=0, max_tokens=5, logprobs=0, stream=True)
    told = [choice.logprobs for chunk in stream for choice in chunk.choices if choice.logprobs]
    assert [offset for logprobs in told for offset in logprobs.text_offset or []] == [0, 1, 2, 3, 4]


def test_a_part_of_a_character_is_told_by_its_bytes(v1: Counted, client: OpenAI) -> None:
    token_ids = v1.model.context_builder.tokenizer.encode("é")
    options = {"forced_token_ids": token_ids}
    answer = complete(client, "abc", max_tokens=2, logprobs=0, extra_body=options)
    assert answer.choices[0].text == "é"
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens == ["bytes:\\xc3", "bytes:\\xa9"]
    assert answer.choices[0].logprobs.text_offset == [0, 0]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"prompt": ["a"] * 5, "n": 2}, "n"),
        ({"prompt": "a" * 2000}, "prompt"),
        ({"prompt": ["a", [1, 400]]}, "prompt.1"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client: OpenAI, options: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        complete(client, options.pop("prompt", "abc"), **options)
    assert caught.value.param == param


def test_as_many_are_drawn_as_are_told(client: OpenAI) -> None:
    assert texts(complete(client, "abc", best_of=1)) == ["defgh"]
    assert texts(complete(client, "abc", n=2, best_of=2)) == ["defgh", "defgh"]
