"""`parley presets` lists, saves and deletes presets, which --preset then finds."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from chat.cli.presets import choose_preset, presets_cli
from chat.errors import UnknownPreset
from chat.presets import PLAIN, PRESETS, InvalidPreset
from chat.settings import SettingsError
from storage.presets import PresetNotFound

Parley = Callable[..., list[str]]


@pytest.fixture
def presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Parley:
    """A function that runs `parley presets` with these arguments, and returns the lines that it prints."""

    def run(*arguments: str) -> list[str]:
        typer.main.get_command(presets_cli).main([*arguments, "--data", str(tmp_path)], standalone_mode=False)
        return capsys.readouterr().out.splitlines()

    return run


def test_built_in_and_own_ones_are_listed(presets: Parley) -> None:
    presets("save", "poet", "--system", "Rhyme.\nAlways.", "--temperature", "0.9", "--param", 'stop=["."]')
    presets("save", "story")
    lines = presets()
    assert [line.split("  ")[:2] for line in lines] == [
        *([preset.name, "built-in"] for preset in PRESETS[:-1]),
        ["story", "own"],
        ["poet", "own"],
    ]
    assert lines[-1] == 'poet  own  temperature=0.9  stop=["."]  Rhyme. Always.'


def test_they_come_as_json_for_a_program(presets: Parley) -> None:
    presets("save", "judge", "--param", 'response_format={"kind": "json_object"}', "--system", "")
    [line] = presets("--json")
    *built_in, judge = json.loads(line)
    assert [preset["own"] for preset in built_in] == [False] * len(PRESETS)
    params = {"response_format": {"kind": "json_object", "source": ""}}
    assert judge == {"name": "judge", "own": True, "system_prompt": "", "params": params}


def test_saved_again_is_changed(presets: Parley) -> None:
    presets("save", "poet", "--system", "Rhyme.", "--seed", "7")
    assert presets("save", "poet", "--max-tokens", "9") == ["poet  own  max_tokens=9"]
    assert presets()[-1] == "poet  own  max_tokens=9"
    assert len(presets()) == len(PRESETS) + 1


def test_deleted_is_no_longer_listed(presets: Parley) -> None:
    presets("save", "poet")
    assert presets("delete", "poet") == []
    assert len(presets()) == len(PRESETS)
    with pytest.raises(PresetNotFound):
        presets("delete", "poet")


def test_what_breaks_a_rule_is_not_saved(presets: Parley) -> None:
    with pytest.raises(SettingsError, match="^--temperature must be between 0 and 100, got -1.0$"):
        presets("save", "poet", "--temperature", "-1")
    with pytest.raises(InvalidPreset, match="^preset: name must have 1 to 100 characters, "):
        presets("save", "po\tet")
    assert len(presets()) == len(PRESETS)


def test_an_own_one_is_chosen_by_its_name(presets: Parley, tmp_path: Path) -> None:
    presets("save", "poet", "--system", "Rhyme.", "--temperature", "0.9")
    chosen = choose_preset(tmp_path, "poet")
    assert (chosen.system_prompt, chosen.params) == ("Rhyme.", {"temperature": 0.9})
    assert choose_preset(tmp_path, "story") is PRESETS[-1]
    with pytest.raises(UnknownPreset, match=", story, poet, got 'poem'$"):
        choose_preset(tmp_path, "poem")


def test_no_database_is_made_to_choose_one(tmp_path: Path) -> None:
    assert choose_preset(tmp_path, None) is PLAIN
    assert choose_preset(tmp_path, "story") is PRESETS[-1]
    assert list(tmp_path.iterdir()) == []
