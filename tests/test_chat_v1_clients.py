"""Clients as they are published, against a real server with the default model: OpenAI's and Simon Willison's `llm`."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import httpx
import pytest
from command_line import run_app
from conftest import ROOT, Server
from openai import APIError, AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel

QUESTION = "What is the capital of France?"
MODELS = """
- model_id: parley
  model_name: {name}
  api_base: {url}/v1
  supports_schema: true
- model_id: parley-text
  model_name: {name}
  api_base: {url}/v1
  completion: true
"""


class Capital(BaseModel):
    city: Literal["Paris", "Rome", "Berlin"]
    is_old: bool


@pytest.fixture(scope="module")
def server(default_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("v1"), default_path)
    yield server
    assert server.end() == 0
    assert "Traceback" not in server.log


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="sk-any", timeout=60) as client:
        yield client


@pytest.fixture
def name(client: OpenAI) -> str:
    return client.models.list().data[0].id


@pytest.fixture(scope="module")
def complete(default_path: Path) -> Callable[..., str]:
    """A function that returns what `parley complete` prints, greedy."""

    def complete(text: str, *flags: str) -> str:
        arguments = ["complete", text, "--model", str(default_path), "--temperature", "0", *flags]
        ended = run_app(*arguments, environment={**os.environ, "PARLEY_THREADS": "1"})
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.removesuffix("\n")

    return complete


@pytest.fixture
def llm(server: Server, name: str, tmp_path: Path) -> Callable[..., str]:
    """A function that runs `llm` in a process of its own and returns what it prints."""
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(name=name, url=server.url))

    def run(*arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "llm"), *arguments]
        environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120).stdout

    return run


def test_openais_client_gets_what_the_command_line_prints(
    client: OpenAI, name: str, complete: Callable[..., str]
) -> None:
    answer = client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=40
    )
    assert answer.choices[0].message.content == complete(QUESTION, "--max-tokens", "40")
    assert "Paris" in (answer.choices[0].message.content or "")


def test_openais_client_streams_it(client: OpenAI, name: str, complete: Callable[..., str]) -> None:
    messages = [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": QUESTION}]
    with client.chat.completions.stream(model=name, messages=messages, temperature=0, max_tokens=40) as stream:  # type: ignore[arg-type]
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        assert stream.get_final_completion().choices[0].message.content == text
    assert text == complete(QUESTION, "--system", "Answer in one word.", "--max-tokens", "40")


def test_openais_client_continues_a_raw_text(client: OpenAI, name: str, complete: Callable[..., str]) -> None:
    answer = client.completions.create(model=name, prompt="One, two, three,", temperature=0, max_tokens=12)
    assert answer.choices[0].text == complete("One, two, three,", "--raw", "--max-tokens", "12")


def test_openais_client_parses_a_structured_answer(client: OpenAI, name: str) -> None:
    answer = client.chat.completions.parse(
        model=name, messages=[{"role": "user", "content": QUESTION}], response_format=Capital, max_tokens=60
    )
    assert isinstance(answer.choices[0].message.parsed, Capital)


def test_openais_client_reads_logprobs(client: OpenAI, name: str) -> None:
    answer = client.chat.completions.create(
        model=name,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=8,
        logprobs=True,
        top_logprobs=5,
    )
    assert answer.choices[0].logprobs is not None
    tokens = answer.choices[0].logprobs.content or []
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    assert all(token.top_logprobs[0].logprob >= token.top_logprobs[4].logprob for token in tokens)


def test_openais_asynchronous_client_asks_many_things_at_once(server: Server, name: str) -> None:
    async def ask() -> list[str | None]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sk-any", timeout=60) as client:
            asked = [
                client.chat.completions.create(
                    model=name, messages=[{"role": "user", "content": f"Count from {i}."}], temperature=0, max_tokens=10
                )
                for i in range(6)
            ]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    assert all(asyncio.run(ask()))


def test_errors_are_the_exceptions_of_openais_client(client: OpenAI, name: str) -> None:
    with pytest.raises(NotFoundError):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": QUESTION}])
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(model=name, messages=[{"role": "user", "content": QUESTION}], n=100)
    assert caught.value.param == "n"


def test_a_second_question_is_answered_at_once_after_a_cancelled_one(client: OpenAI, server: Server, name: str) -> None:
    messages = [{"role": "user", "content": "Write the numbers from 1 to 1000."}]
    options = {"model": name, "messages": messages, "max_tokens": 4000, "extra_body": {"min_tokens": 4000}}
    for _ in range(20):  # more than run at once: were one left, the last ones would wait
        with client.chat.completions.create(**options, stream=True) as stream:  # type: ignore[call-overload]
            next(iter(stream))
    answer = client.chat.completions.create(**{**options, "max_tokens": 1, "extra_body": {}})  # type: ignore[call-overload]
    assert answer.choices[0].finish_reason == "length"


def test_nothing_of_a_request_is_stored(client: OpenAI, server: Server, name: str) -> None:
    client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": QUESTION}], max_tokens=2, store=True
    )
    assert httpx.get(f"{server.url}/api/conversations", timeout=60).json()["conversations"] == []
    assert QUESTION not in server.log


@pytest.mark.parametrize("flags", [[], ["--no-stream"]], ids=["stream", "whole"])
def test_llm_gets_what_the_command_line_prints(
    llm: Callable[..., str], complete: Callable[..., str], flags: list[str]
) -> None:
    options = ["-o", "temperature", "0", "-o", "max_tokens", "40"]
    assert llm("-m", "parley", QUESTION, *options, *flags).strip() == complete(QUESTION, "--max-tokens", "40").strip()


def test_llm_continues_a_conversation(llm: Callable[..., str]) -> None:
    options = ["-o", "temperature", "0", "-o", "max_tokens", "30"]
    llm("-m", "parley", "-s", "Be brief.", "My name is Ada. Say hello.", *options)
    assert llm("-c", "What is my name?", *options).strip()


def test_llm_asks_for_an_answer_of_a_form(llm: Callable[..., str]) -> None:
    answer = llm("-m", "parley", "--schema", "city, is_old bool", QUESTION, "-o", "max_tokens", "200")
    assert '"city"' in answer


def test_llm_continues_a_raw_text(llm: Callable[..., str]) -> None:
    assert llm("-m", "parley-text", "One, two, three,", "-o", "temperature", "0", "-o", "max_tokens", "12").strip()


def test_open_streams_hear_of_the_end_and_do_not_hold_it_up(
    start_server: Callable[..., Server], default_path: Path
) -> None:
    server = start_server(default_path)
    with OpenAI(base_url=f"{server.url}/v1", api_key="sk-any", timeout=60) as client:
        messages = [{"role": "user", "content": "Write the numbers from 1 to 1000."}]
        stream = client.chat.completions.create(
            model=client.models.list().data[0].id,
            messages=messages,  # type: ignore[arg-type]
            stream=True,
            extra_body={"min_tokens": 4000, "max_tokens": 4000},
        )
        next(stream)
        start = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            ending = pool.submit(server.end)
            with pytest.raises(APIError) as caught:
                list(stream)
            assert ending.result() == 0
    assert caught.value.code == "shutting_down"
    assert time.monotonic() - start < 15  # on a busy machine; the reply would take longer


def test_the_program_of_the_readme_prints_a_reply(server: Server, name: str) -> None:
    [program] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    program = program.replace("http://127.0.0.1:7860", server.url).replace("smollm2-135m-instruct", name)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()  # what it says is drawn
