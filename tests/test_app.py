"""The command line as a user runs it: every test starts real processes."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import run_app
from conftest import ROOT, Server, write_tiny_gguf
from families import FAMILIES
from gguf_files import write_gguf

from chat.opening import new_context_builder
from chat.settings import load_settings
from model.checkpoint.catalog import CATALOG, DEFAULT_MODEL
from model.checkpoint.open import open_checkpoint
from storage.conversations import ConversationStore
from storage.database import Database
from storage.tables import Conversation, Message

APP = [sys.executable, str(ROOT / "app.py")]
QUESTION = "What is the capital of France?"


def run(*arguments: str, cwd: Path, text: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, with nothing but these PARLEY_* variables; a lone surrogate is a raw byte."""
    return run_app(*arguments, cwd=cwd, environment=environment(**variables), text=text)


def environment(**variables: str) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    return {**others, "PARLEY_DATA": "data", "PARLEY_THREADS": "1", **variables}


@contextmanager
def started(
    *arguments: str, cwd: Path, stdin: int | None = None, stdout: int | None = None, stderr: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the command line for the length of a with block."""
    command, variables = [*APP, *arguments], environment(PARLEY_PORT="0")
    with subprocess.Popen(
        command, cwd=cwd, env=variables, bufsize=0, stdin=stdin, stdout=stdout, stderr=stderr
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def complete(*arguments: str, model: Path) -> dict[str, Any]:
    """Return the JSON that a completion prints."""
    command = ["complete", "--model", str(model), "--json", *arguments]
    ended = run(*command, cwd=model.parent)
    assert (ended.returncode, ended.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def kept(data: Path) -> tuple[Conversation, list[Message]]:
    """Return the only conversation in a data folder."""
    database = Database(data / "parley.db")
    store = ConversationStore(database)
    [conversation] = store.recent("local")
    messages = store.path("local", conversation.id)
    database.close()
    return conversation, messages


# complete


@pytest.fixture(scope="module")
def long_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that goes on and on."""
    return write_tiny_gguf(tmp_path_factory.mktemp("long") / "long.gguf", n_ctx=65_536)


@pytest.fixture(scope="module")
def answer(tiny_path: Path) -> dict[str, Any]:
    return complete("hi", "--max-tokens", "3", "--seed", "7", "--temperature", "1", model=tiny_path)


def test_complete_prints_the_reply_of_the_default_model_and_nothing_else(default_path: Path, tmp_path: Path) -> None:
    ended = run("complete", QUESTION, "--temperature", "0", cwd=tmp_path, PARLEY_DATA=str(default_path.parents[1]))
    assert (ended.stdout, ended.stderr, ended.returncode) == ("The capital of France is Paris.\n", "", 0)


def test_complete_raw_continues_the_bare_text(tiny_path: Path) -> None:
    answer = complete("hello", "--raw", "--max-tokens", "3", model=tiny_path)
    assert answer["usage"]["prompt_tokens"] == len(["hello"])


def test_complete_json_tells_how_the_reply_came_about(answer: dict[str, Any]) -> None:
    assert list(answer) == ["text", "finish_reason", "model", "seed", "usage"]
    assert (answer["model"], answer["seed"]) == ("tiny", 7)
    assert list(answer["usage"])[:3] == ["prompt_tokens", "cached_tokens", "completion_tokens"]


def test_complete_ends_at_max_tokens(answer: dict[str, Any]) -> None:
    assert (answer["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 3)


def test_complete_keeps_nothing(answer: dict[str, Any], tiny_path: Path) -> None:
    assert list(tiny_path.parent.iterdir()) == [tiny_path]


def test_complete_repeats_itself_with_the_same_seed(answer: dict[str, Any], tiny_path: Path) -> None:
    again = complete("hi", "--max-tokens", "3", "--seed", "7", "--temperature", "1", model=tiny_path)
    assert again["text"] == answer["text"]


def test_complete_puts_the_system_prompt_before_the_message(answer: dict[str, Any], tiny_path: Path) -> None:
    longer = complete("hi", "--max-tokens", "3", "--system", "hello", model=tiny_path)
    assert answer["usage"]["prompt_tokens"] == 21
    assert longer["usage"]["prompt_tokens"] == 21 + len(["<|im_start|>", *"system\n", "hello", "<|im_end|>", "\n"])


def test_complete_answers_odd_characters_as_text(tiny_path: Path) -> None:
    not_utf8, controls, control_token, combining = "\udcff", "\x01\x07\x1b[31m\x7f", "<|im_end|>", "a" + "\u0301" * 50
    answer = complete(not_utf8 + controls + control_token + combining, "--max-tokens", "2", model=tiny_path)
    n_around = len(["<|im_start|>", *"user\n", "<|im_end|>", "\n", "<|im_start|>", *"assistant\n"])
    n_bytes = len("\ufffd".encode()) + len(controls) + len(control_token) + len(combining.encode())
    assert answer["usage"]["prompt_tokens"] == n_around + n_bytes


def test_complete_into_a_pipe_that_closes_ends_quietly(tiny_path: Path, tmp_path: Path) -> None:
    with started("complete", "hi", "--model", str(tiny_path), cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""


def test_ctrl_c_ends_complete_quietly(long_path: Path, tmp_path: Path) -> None:
    command = ["complete", "hi", "--temperature", "0", "--max-tokens", "60000", "--model", str(long_path)]
    with started(*command, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[1] == b""
        assert process.returncode == 128 + signal.SIGINT


# chat


@pytest.fixture(scope="module")
def chatted(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A data folder in which a chat over a pipe has been kept, and what that printed."""
    folder = tmp_path_factory.mktemp("chat")
    command = ["chat", "--temperature", "0", "--max-tokens", "5", "--system", "hello", "--model", str(tiny_path)]
    ended = run(*command, cwd=folder, text="hi\n\udcff again", PYTHONIOENCODING="utf-8:strict")  # as where LANG is set
    assert (ended.returncode, ended.stderr) == (0, "")
    return folder / "data", ended.stdout


def test_chat_prints_a_reply_to_each_line_until_the_input_ends(chatted: tuple[Path, str]) -> None:
    data, printed = chatted
    replies = [message.content for message in kept(data)[1][1::2]]
    assert printed == "".join(
        ["tiny. Ctrl-C stops a reply, Ctrl-D ends the chat.\n", *(f"> {reply}\n" for reply in replies), "> \n"]
    )


def test_chat_is_kept_as_a_conversation_of_the_terminal(chatted: tuple[Path, str]) -> None:
    conversation, messages = kept(chatted[0])
    assert (conversation.channel, conversation.title, conversation.system_prompt) == ("terminal", "hi", "hello")
    assert [message.content for message in messages[::2]] == ["hi", "\ufffd again"]
    assert [message.status for message in messages] == ["complete"] * 4


def test_what_is_kept_is_readable_for_its_user_alone(chatted: tuple[Path, str]) -> None:
    data = chatted[0]
    modes = {path.name: path.stat().st_mode & 0o777 for path in [data, *data.rglob("*")]}
    assert modes == {"data": 0o700, "parley.db": 0o600, "parley.lock": 0o600}


def test_ctrl_c_stops_a_reply_and_ctrl_d_ends_the_chat(long_path: Path, tmp_path: Path) -> None:
    terminal, inside = pty.openpty()
    command = ["chat", "--temperature", "0", "--max-tokens", "60000", "--model", str(long_path)]
    with started(*command, cwd=tmp_path, stdin=inside, stdout=inside, stderr=inside) as process:
        read_until(terminal, "> $")
        os.write(terminal, b"hi\n")
        read_until(terminal, r"hi\r\n.")
        process.send_signal(signal.SIGINT)
        read_until(terminal, r"\r\n> $")
        os.write(terminal, b"\x04")
        assert process.wait(timeout=20) == 0
    os.close(terminal)
    os.close(inside)
    assert [message.status for message in kept(tmp_path / "data")[1]] == ["complete", "stopped"]


def read_until(terminal: int, pattern: str) -> None:
    text = ""
    while not re.search(pattern, text):
        text += os.read(terminal, 10_000).decode(errors="replace")


# serve


def test_serve_answers_until_sigterm(start_server: Callable[..., Server], tiny_path: Path) -> None:
    server = start_server(tiny_path)
    with urllib.request.urlopen(f"{server.url}/health") as response:
        assert (response.status, json.load(response)) == (200, {"status": "ok"})
    signalled_at = time.monotonic()
    assert server.end(signal.SIGTERM) == 0
    assert time.monotonic() - signalled_at < 5
    assert "Traceback" not in server.log


def test_parley_alone_serves_until_ctrl_c(tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"PARLEY_MODEL={tiny_path}\n")
    with started(cwd=tmp_path) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, b"")
        url = next(found[1] for line in lines if (found := re.search(rb"Parley is at (http://127.0.0.1:\d+)", line)))
        assert any(b"is ready" in line for line in lines)
        urllib.request.urlopen(f"{url.decode()}/health").close()
        process.send_signal(signal.SIGINT)
        assert [line for line in lines if b" path=/health " not in line] == []
        assert process.wait(timeout=5) == 0


def test_a_server_that_still_loads_its_model_can_be_ended(tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"PARLEY_MODEL={tiny_path}\n")
    with started(cwd=tmp_path) as process:
        assert process.stderr is not None
        assert any(b"Parley is at" in line for line in iter(process.stderr.readline, b""))
        process.send_signal(signal.SIGINT)
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(timeout=5) == 0


# models, and the settings


def test_complete_keeps_to_a_schema(default_path: Path, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    schema["additionalProperties"] = False
    form = json.dumps({"kind": "json_schema", "source": schema})
    answer = run(
        "complete",
        "How old are you?",
        "--param",
        f"response_format={form}",
        "--temperature",
        "0",
        "--model",
        str(default_path),
        cwd=tmp_path,
    )
    assert list(json.loads(answer.stdout)) == ["age"]


@pytest.mark.parametrize(("thinking", "expected"), [(True, "True"), (False, "False")])
def test_thinking_reaches_the_template(tmp_path: Path, thinking: bool, expected: str) -> None:
    template = "{{ messages[-1].content }}{{ enable_thinking }}"
    checkpoint = open_checkpoint(write_tiny_gguf(tmp_path / "tiny.gguf", tokenizer_chat_template=template))
    builder = new_context_builder(load_settings(thinking=thinking), checkpoint, 64)
    context = builder.build_alone("hello", system_prompt=None, max_new_tokens=5)
    assert checkpoint.tokenizer.decode(context.token_ids) == f"hello{expected}"


def test_base_model_without_a_template_is_chatted_with(tmp_path: Path) -> None:
    path = write_gguf(FAMILIES["gpt2"].make(), tmp_path / "gpt2.gguf")
    ended = run("chat", "--max-tokens", "5", "--model", str(path), cwd=tmp_path, text="hello\n")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("> ") == 2


def test_models_lists_what_is_known_by_name(tmp_path: Path) -> None:
    ended = run("models", cwd=tmp_path)
    assert ended.stdout.startswith(
        f"{DEFAULT_MODEL}: 134,515,008 parameters, 98,362,432 bytes, Apache-2.0, not here yet"
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_models_tells_where_the_others_come_from(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in json.loads(run("models", "--json", cwd=tmp_path).stdout)}
    assert rows.keys() == CATALOG.keys()
    assert rows["gpt2"]["source"].startswith("https://huggingface.co/")
    assert rows["gpt2"]["path"] is None


@pytest.mark.parametrize(
    ("flags", "variables", "expected"),
    [([], {}, "from_file"), ([], {"PARLEY_DATA": "var"}, "var"), (["--data", "flag"], {"PARLEY_DATA": "var"}, "flag")],
)
def test_flags_win_over_variables_and_these_over_the_env_file(
    flags: list[str], variables: dict[str, str], expected: str, tmp_path: Path
) -> None:
    file = Path(expected, "models", CATALOG[DEFAULT_MODEL].file_name)
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    os.truncate(tmp_path / file, CATALOG[DEFAULT_MODEL].n_bytes)  # a file of the right length; nothing is read of it
    (tmp_path / ".env").write_text("PARLEY_DATA=from_file\nOTHER=1\n")
    command = [*APP, "models", "--json", *flags]
    others = {name: value for name, value in environment().items() if name != "PARLEY_DATA"}
    row, *_ = json.loads(subprocess.check_output(command, cwd=tmp_path, env={**others, **variables}))
    assert (row["name"], row["path"]) == (DEFAULT_MODEL, str(file))
