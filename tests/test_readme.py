"""What the README says is so."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import ROOT

import app
from chat.formats.table import FORMATS
from chat.settings import Settings
from storage.conversations import ConversationStore

README = (ROOT / "README.md").read_text()
CODE_BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for kind, text in CODE_BLOCKS if kind == "sh" for line in text.splitlines()]
PARLEY_COMMANDS = [line for line in COMMANDS if line.startswith(".venv/bin/parley ")]
KEEPING = re.compile(r"\.venv/bin/parley (?:export|import|key|site) ")  # in a data folder of the test's own


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_the_table(name: str) -> None:
    assert re.search(rf"^\| `PARLEY_{name.upper()}` \| `--{name.replace('_', '-')}` \|", README, re.MULTILINE)


def test_the_table_has_no_setting_too_many() -> None:
    named = re.findall(r"^\| `PARLEY_(\w+)`", README, re.MULTILINE)
    assert {name.lower() for name in named} == Settings.model_fields.keys()


def test_every_command_is_in_the_table() -> None:
    commands = typer.main.get_group(app.cli).commands
    assert commands.keys() == set(re.findall(r"^\| `parley (\w+)", README, re.MULTILINE))
    assert commands["models"].commands.keys() == set(re.findall(r"^\| `parley models (\w+)", README, re.MULTILINE))


def test_every_format_is_in_the_table() -> None:
    table = re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE)
    assert {chosen.name: chosen.description for chosen in FORMATS.values()}.items() <= dict(table).items()


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", README, re.MULTILINE)) <= targets


def test_every_file_in_the_tree_exists() -> None:
    tree = next(text for kind, text in CODE_BLOCKS if not kind and text.startswith("app.py"))
    folder = Path()
    for line in tree.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = Path(name) if name.endswith("/") else Path()
        assert (ROOT / (folder if line.split()[0] == str(folder) + "/" else folder / name)).exists(), line


def test_every_picture_and_link_to_a_file_exists() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists()


def test_conversations_leave_and_come_back_as_shown(store: ConversationStore, tmp_path: Path) -> None:
    chat = store.create("local", channel="ui").id
    _, reply = store.begin_turn("local", chat, content="Hi", parent_id=None, model="m", params={}, seed=1)
    store.finish_reply("local", reply.id, content="Hello!", status="complete", finish_reason="stop")
    commands = [line for line in PARLEY_COMMANDS if KEEPING.match(line)]
    assert commands
    for command in commands:
        words = [sys.executable, str(ROOT / "app.py"), *shlex.split(command)[1:], "--data", str(tmp_path)]
        subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize("command", [line for line in PARLEY_COMMANDS if not KEEPING.match(line)])
def test_every_command_shown_runs(command: str, default_path: Path) -> None:
    words = [sys.executable, "app.py", *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    assert done.stderr == ""
