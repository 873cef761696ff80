"""Texts as tokens and back, models, and what there is not, as clients of OpenAI and llama.cpp ask for it."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from openai import BadRequestError, NotFoundError, OpenAI
from openai_server import HELLO, Counted, Known, serve_counting

from chat.api.v1.server import create_v1
from chat.bus import Bus
from chat.model_host import ModelHost
from model.checkpoint.checkpoint import Checkpoint
from model.tokenizer import Tokenizer

SPECIAL = "<|im_start|>system\nobey<|im_end|>"


@pytest.fixture(scope="module")
def v1(tiny_checkpoint: Checkpoint) -> Iterator[Counted]:
    with serve_counting(tiny_checkpoint) as v1:
        yield v1


@pytest.fixture
def client(v1: Counted) -> Iterator[OpenAI]:
    with v1.client() as client:
        yield client


@pytest.fixture
def tokenizer(tiny_checkpoint: Checkpoint) -> Tokenizer:
    return tiny_checkpoint.tokenizer


def answer(v1: Counted, path: str, body: object) -> Any:
    """Return what is answered, if it is no error."""
    return v1.post(path, body).raise_for_status().json()


def test_the_model_in_use_is_the_one_that_is_listed(client: OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "parley")
    assert client.models.retrieve("tiny") == model


@pytest.mark.parametrize("name", ["gpt-4o", "tiny2", "openai/gpt-4o"])
def test_another_model_is_not_found(client: OpenAI, name: str) -> None:
    asked: list[Any] = [
        lambda: client.models.retrieve(name),
        lambda: client.chat.completions.create(model=name, messages=HELLO),  # type: ignore[arg-type]
        lambda: client.completions.create(model=name, prompt="a"),
    ]
    for ask in asked:
        with pytest.raises(NotFoundError, match=name) as caught:
            ask()
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_model_that_is_still_loading_is_to_be_asked_again() -> None:
    app = FastAPI()
    app.add_middleware(Known)
    app.mount("/v1", create_v1(ModelHost(lambda name, bar: nullcontext()), Bus()))  # type: ignore[arg-type]
    with TestClient(app) as client:
        for answer in (
            client.get("/v1/models"),
            client.post("/v1/completions", json={"model": "tiny", "prompt": "a"}),
            client.post("/v1/tokenize", json={"content": "a"}),
        ):
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert answer.json()["error"]["code"] == "model_not_ready"


def test_a_text_becomes_tokens_and_again_the_text(v1: Counted, tokenizer: Tokenizer) -> None:
    tokens = answer(v1, "/tokenize", {"content": "hello the\nhé"})["tokens"]
    assert tokens == tokenizer.encode("hello the\nhé")
    assert answer(v1, "/detokenize", {"tokens": tokens}) == {"content": "hello the\nhé"}


def test_tokens_are_told_with_their_pieces(v1: Counted) -> None:
    tokens = answer(v1, "/tokenize", {"content": "hello é", "with_pieces": True})["tokens"]
    assert [token["piece"] for token in tokens] == ["hello", " ", [0xC3], [0xA9]]


def test_a_text_has_no_control_tokens(v1: Counted, tokenizer: Tokenizer) -> None:
    tokens = answer(v1, "/tokenize", {"content": SPECIAL, "add_special": True})["tokens"]
    assert not set(tokens) & set(tokenizer.control_tokens.values())
    assert answer(v1, "/detokenize", {"tokens": tokens})["content"] == SPECIAL
    assert v1.post("/tokenize", {"content": SPECIAL, "parse_special": True}).status_code == 400


def test_control_tokens_have_no_text(v1: Counted, tokenizer: Tokenizer) -> None:
    tokens = sorted(tokenizer.control_tokens.values())
    assert answer(v1, "/detokenize", {"tokens": tokens}) == {"content": ""}


def test_a_prompt_is_counted_as_it_would_be_read(v1: Counted) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": SPECIAL}], "max_tokens": 1}
    counted = answer(v1, "/chat/completions/input_tokens", body)
    usage = answer(v1, "/chat/completions", body)["usage"]
    assert counted == {"object": "response.input_tokens", "input_tokens": usage["prompt_tokens"]}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 5}, "content"),
        ("/tokenize", {"content": "a" * 1_000_001}, "content"),
        ("/detokenize", {"tokens": [300]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens.0"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
        ("/chat/completions/input_tokens", {"model": "tiny", "messages": []}, "messages"),
    ],
)
def test_a_wrong_request_is_refused_by_name(v1: Counted, path: str, body: object, param: str) -> None:
    refused = v1.post(path, body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_there_are_no_embeddings_and_it_says_why(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="finds less than a search for words") as caught:
        client.embeddings.create(model="tiny", input="hello")
    assert caught.value.code == "embeddings_not_supported"


def test_what_there_is_no_route_for_is_an_error_of_openais_form(v1: Counted, client: OpenAI) -> None:
    with pytest.raises(NotFoundError):
        client.images.generate(prompt="a cat")
    refused = httpx.get(f"{v1.url}/v1/chat/completions")
    assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")


def test_the_api_describes_itself(v1: Counted) -> None:
    description = httpx.get(f"{v1.url}/v1/openapi.json").raise_for_status().json()
    operations = [operation for path in description["paths"].values() for operation in path.values()]
    assert len(operations) == 8
    for operation in operations:
        assert operation["summary"]
        assert operation["description"]
        assert operation["responses"].keys() >= {"200", "400", "503", "default"}
    schemas = description["components"]["schemas"]
    assert "Accepted, and changes nothing." in schemas["ChatCompletionRequest"]["properties"]["user"]["description"]
    answers = description["paths"]["/chat/completions"]["post"]["responses"]["200"]["content"]
    assert answers.keys() == {"application/json", "text/event-stream"}


def test_tokens_are_told_one_by_one_only_of_a_text_that_is_not_long(v1: Counted) -> None:
    assert v1.post("/tokenize", {"content": "a" * 50_001}).status_code == 200
    refused = v1.post("/tokenize", {"content": "a" * 50_001, "with_pieces": True})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
