"""What the command line refuses: one line on stderr that says what to do, exit code 2, no stack trace."""

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import run_app
from conftest import ROOT, write_tiny_gguf
from filelock import FileLock

from model.checkpoint.catalog import CATALOG
from storage.database import Database

APP = [sys.executable, str(ROOT / "app.py")]
NO_NUMBER = "Input should be a valid integer, unable to parse string as an integer"
UNSAFE = (
    "{}: others can reach {!r}, and there are no accounts, so that anybody could read everything: "
    "add one first, with `parley user add NAME`."
)
COMMANDS = [["complete", "hi"], ["chat"], ["serve", "--port", "0"]]

# Root may write everywhere, by the capabilities CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, which a program run by root
# gets from its bounding set: without them the mode of a file binds root too. Others have none to lose.
WITHOUT_PRIVILEGES = """
import ctypes, os, sys
PR_CAPBSET_DROP = 24
for capability in (1, 2):
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
UNPRIVILEGED = [sys.executable, "-c", WITHOUT_PRIVILEGES, str(ROOT / "app.py")]

Refusal = Callable[..., str]


@pytest.fixture
def refusal(tmp_path: Path) -> Refusal:
    """A function that runs the command line in tmp_path, and returns the one line with which it refuses."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}

    def refusal(*arguments: str, program: list[str] | None = None, **variables: str) -> str:
        environment = {**others, "PARLEY_DATA": "data", **variables}
        if program is None:
            ended = run_app(*arguments, cwd=tmp_path, environment=environment)
        else:
            command = [*program, *arguments]
            ended = subprocess.run(
                command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
            )
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith("parley: ")
        assert ended.stderr.endswith("\n")
        assert ended.stderr.count("\n") == 1
        return ended.stderr.removeprefix("parley: ").removesuffix("\n")

    return refusal


# The model


@pytest.fixture(scope="module")
def weights(default_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are no model."""
    folder = tmp_path_factory.mktemp("weights")
    whole = default_path.read_bytes()
    (folder / "cut.gguf").write_bytes(whole[:50_000_000])
    (folder / "cut_header.gguf").write_bytes(whole[:1_000_000])
    (folder / "empty.gguf").touch()
    (folder / "page.html").write_text("<!doctype html>")
    (folder / "folder").mkdir()
    write_tiny_gguf(folder / "gemma.gguf", general_architecture="gemma")
    return folder


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cut.gguf", "tensor blk.16.ffn_down.weight needs bytes 49,600,576 to 50,153,536, the file ends at 50,000,000"),
        ("cut_header.gguf", "key tokenizer.ggml.merges needs bytes 999,999 to 1,000,007, the file ends at 1,000,000"),
        ("empty.gguf", "the magic number of a GGUF file needs bytes 0 to 4, the file ends at 0"),
        ("page.html", "the first bytes of a GGUF file: expected b'GGUF', found b'<!do'"),
        ("folder", "weights: expected model.safetensors or model.safetensors.index.json, found neither"),
        (
            "gemma.gguf",
            "key general.architecture: expected one of gpt2, llama, qwen2, qwen3, smollm3, found 'gemma'",
        ),
    ],
)
def test_file_that_is_no_model_is_refused(refusal: Refusal, weights: Path, name: str, reason: str) -> None:
    assert refusal("complete", "hi", "--model", str(weights / name)) == f"{weights / name}: {reason}"


def test_memory_for_too_few_tokens_is_refused(refusal: Refusal, default_path: Path) -> None:
    text = "--kv-memory: expected enough for 128 tokens, found enough for 32."
    assert refusal("complete", "hi", "--kv-memory", "1", "--model", str(default_path)) == text


def test_model_that_does_not_exist_is_refused(refusal: Refusal) -> None:
    expected = f"expected a path, or one of the names {', '.join(CATALOG)}; found neither"
    assert refusal("complete", "hi", "--model", "none.gguf") == f"'none.gguf': {expected}"


WATCHED = """
import sys, app
try:
    app.main()
finally:
    loaded = {"torch", "gradio", "transformers", "llguidance"} & sys.modules.keys()
    assert not loaded, loaded
"""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_wrong_model_is_refused_before_anything_slow_is_loaded(
    refusal: Refusal, weights: Path, command: list[str]
) -> None:
    watched = [sys.executable, "-c", WATCHED]
    assert "cut.gguf" in refusal(
        *command, program=watched, PARLEY_MODEL=str(weights / "cut.gguf"), PYTHONPATH=str(ROOT)
    )


@pytest.mark.parametrize("command", ["chat", "serve --port 0"])
def test_wrong_model_is_refused_before_there_is_a_database(refusal: Refusal, tmp_path: Path, command: str) -> None:
    refusal(*command.split(), "--model", "none.gguf")
    assert list(tmp_path.rglob("*.db")) == []


# The message


@pytest.mark.parametrize("text", ["", " \t\r\n\u2003"])
def test_blank_message_is_refused(refusal: Refusal, text: str) -> None:
    assert refusal("complete", text) == "The message is empty: write something first."


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([], "The message is too long: it has 20,001 tokens, and at most 109 fit."),
        (["--raw"], "The text has 20,001 tokens; at most 255 fit into the model's context."),
    ],
)
def test_message_longer_than_the_context_is_refused(
    refusal: Refusal, tiny_path: Path, flags: list[str], reason: str
) -> None:
    ten_thousand_accents = "a" + "\u0301" * 10_000
    assert refusal("complete", ten_thousand_accents, *flags, PARLEY_MODEL=str(tiny_path)) == reason


def test_chat_goes_on_after_a_message_that_it_refuses(tiny_path: Path, tmp_path: Path) -> None:
    text = f"\n{'a ' * 150}\n"
    ended = run_app("chat", "--data", "data", "--model", str(tiny_path), cwd=tmp_path, text=text)
    refusals = [
        "The message is empty: write something first.",
        "The message is too long: it has 300 tokens, and at most 109 fit.",
    ]
    assert ended.stdout.splitlines()[1:] == [*(f"> {refusal}" for refusal in refusals), "> "]
    assert (ended.returncode, ended.stderr) == (0, "")


# The data folder


@pytest.fixture
def database_path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "parley.db"


def test_database_that_is_a_folder_is_refused(refusal: Refusal, database_path: Path) -> None:
    database_path.mkdir()
    assert refusal("chat") == "Cannot use the database data/parley.db: it is a folder; choose a file."


def test_database_that_is_something_else_is_refused(refusal: Refusal, database_path: Path) -> None:
    database_path.write_text("Dear diary, " * 1000)
    assert refusal("chat") == (
        "Cannot use the database data/parley.db: it is not a SQLite database; "
        "move it away or choose another data folder."
    )


def test_database_of_a_newer_version_is_refused(refusal: Refusal, database_path: Path) -> None:
    database = Database(database_path)
    database.migrate()
    database.close()
    with sqlite3.connect(database_path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    assert "data/parley.db has schema revision 9999, but this Parley knows only up to" in refusal("chat")


def test_database_that_is_read_only_is_refused(refusal: Refusal, tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "parley.db"
    path.touch(mode=0o444)
    reason = refusal("chat", "--model", str(tiny_path), program=UNPRIVILEGED, PARLEY_DATA=str(tmp_path))
    assert reason == f"Cannot use the database {path}: it is read-only; make the file and its folder writable."


def test_data_folder_that_is_read_only_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o555)
    reason = refusal("chat", program=UNPRIVILEGED, PARLEY_DATA=str(folder))
    assert reason.startswith(f"The data folder {folder} cannot be used (Permission denied): make it a writable")


def test_data_folder_that_is_a_file_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reason = refusal("chat", "--data", "file/data")
    assert reason.startswith("The data folder file/data cannot be used (Not a directory): make it a writable folder")


@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda command: command[0])
def test_data_folder_that_another_parley_uses_is_refused(
    refusal: Refusal, database_path: Path, tiny_path: Path, command: list[str]
) -> None:
    with FileLock(database_path.parent / "parley.lock"):
        reason = refusal(*command, "--model", str(tiny_path))
    assert reason == ("The data folder data is in use by another Parley: end that one, or choose another with --data.")


# The address


def test_port_in_use_is_refused(refusal: Refusal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        reason = refusal("serve", "--port", str(port))
    assert reason.startswith(f"Port {port} of 127.0.0.1 cannot be used (Address already in use): end the program")
    assert "or choose another, for example with --port " in reason


@pytest.mark.parametrize("host", ["0.0.0.0", ""])
def test_host_that_others_reach_is_refused(refusal: Refusal, host: str) -> None:
    assert refusal("serve", "--host", host) == UNSAFE.format("host", host)


@pytest.mark.parametrize(("setting", "value"), [("hosts", "chat.example.org"), ("proxies", "10.0.0.0/8")])
def test_a_proxy_without_accounts_is_refused(refusal: Refusal, setting: str, value: str) -> None:
    assert refusal("serve", **{f"PARLEY_{setting.upper()}": value}) == UNSAFE.format(setting, value)


# Flags and variables


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("parrot", "No such command 'parrot'."),
        ("complete", "Missing argument 'text'."),
        ("complete hi --parrot", "No such option: --parrot"),
        ("complete hi --max-tokens", "Option '--max-tokens' requires an argument."),
        ("complete hi --max-tokens many", f"Invalid value for '--max-tokens': {NO_NUMBER}"),
        ("complete hi --max-tokens 0", "--max-tokens must be a whole number, 1 or more, got 0"),
        ("complete hi --temperature -1", "--temperature must be between 0 and 100, got -1.0"),
        ("complete hi --temperature nan", "--temperature must be between 0 and 100, got nan"),
        ("complete hi --seed -1", "--seed must be a whole number between 0 and 2**63 - 1, got -1"),
        ("complete hi --param top_k", "--param top_k: expected JSON after the sign =, got ''"),
        ("complete hi --param parrot=1", "--param: expected NAME=JSON with one of temperature, top_k,"),
        ("complete hi --param top_k=-1", "--param top_k must be a whole number, 0 or more, got -1"),
        ("complete hi --param stop=[1]", "--param stop must be a list of strings that are not empty, got (1,)"),
        ("complete hi --param min_tokens=9 --max-tokens 8", "--param min_tokens must be at most max_tokens, got 9"),
        ('complete hi --param response_format={"kind":"xml"}', "--param response_format.kind must be one of json_"),
        (
            'complete hi --param response_format={"type":1}',
            "--param response_format: expected the keys kind and source,",
        ),
        ("complete hi --param logprobs=2", "--param logprobs cannot be shown without --json."),
        ("complete hi --param logit_bias=[[[]]]", "--param logit_bias must be pairs of a token id"),
        ("chat --dtype int8", "--dtype or PARLEY_DTYPE: Input should be 'float32', 'bfloat16' or 'float16', got"),
        ("chat --kv-memory 0", "--kv-memory or PARLEY_KV_MEMORY: Input should be greater than or equal to 1, got 0"),
        ("models pull parrot", "models pull: expected one of smollm2-135m-instruct,"),
        ("convert none.gguf x", "'none.gguf': expected a path, or one of the names"),
        ("complete hi --raw --system x", "--system cannot be combined with --raw: a raw text has no system prompt."),
        ("chat --threads 0", "--threads or PARLEY_THREADS: Input should be greater than or equal to 1, got 0"),
        ("serve --port 65536", "--port or PARLEY_PORT: Input should be less than or equal to 65535, got 65536"),
    ],
)
def test_wrong_command_is_refused(refusal: Refusal, command: str, reason: str) -> None:
    assert refusal(*command.split()).startswith(reason)


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("PARLEY_PORT", "many", f"--port or PARLEY_PORT: {NO_NUMBER}, got 'many'"),
        ("PARLEY_PORT", "", f"--port or PARLEY_PORT: {NO_NUMBER}, got ''"),
        ("PARLEY_THREADS", "0", "--threads or PARLEY_THREADS: Input should be greater than or equal to 1, got '0'"),
        ("PARLEY_HOST", "0.0.0.0", UNSAFE.format("host", "0.0.0.0")),
        ("PARLEY_MODEL", "none.gguf", "'none.gguf': expected a path, or one of the names"),
        ("PARLEY_DATA", "x" * 300, f"The data folder {'x' * 300} cannot be used (File name too long)"),
    ],
)
def test_wrong_variable_is_refused(refusal: Refusal, tiny_path: Path, variable: str, value: str, reason: str) -> None:
    variables = {"PARLEY_MODEL": str(tiny_path), "PARLEY_PORT": "0", variable: value}
    assert refusal(**variables).startswith(reason)


def test_env_file_with_a_wrong_value_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PARLEY_PORT=many\n")
    assert refusal("models") == f"--port or PARLEY_PORT: {NO_NUMBER}, got 'many'"


def test_env_file_that_is_not_utf8_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"PARLEY_MODEL=\xff\n")
    assert refusal("models").startswith(".env: ")


def test_full_disk_is_named() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run([*APP, "models"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (2, "parley: [Errno 28] No space left on device\n")
