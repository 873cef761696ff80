"""`parley presets`: the ways to begin a conversation, listed; an owner's own saved and deleted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from chat.cli.flags import (
    JsonFlag,
    MaxTokensFlag,
    ParamFlag,
    SeedFlag,
    SystemFlag,
    TemperatureFlag,
    sampling_overrides,
    takes_settings,
)
from chat.data_folder import LOCAL_OWNER, open_database
from chat.params import to_json
from chat.presets import Preset, find_preset, new_preset, presets_of, save_preset
from chat.settings import Settings
from storage.presets import PresetStore

presets_cli = typer.Typer(help="Ways to begin a conversation: system prompts with the sampling that suits them.")


@presets_cli.callback(invoke_without_command=True)
@takes_settings("data")
def presets(settings: Settings, context: typer.Context, as_json: JsonFlag = False) -> None:
    """List the presets that --preset takes; Parley may be running."""
    if context.invoked_subcommand is None:
        with open_database(settings.data) as database:
            found = presets_of(PresetStore(database), LOCAL_OWNER)
        (print_presets_as_json if as_json else print_presets)(found)


@presets_cli.command()
@takes_settings("data")
def save(
    settings: Settings,
    name: Annotated[str, typer.Argument(help="What to call it.")],
    system: SystemFlag = None,
    temperature: TemperatureFlag = None,
    max_tokens: MaxTokensFlag = None,
    seed: SeedFlag = None,
    param: ParamFlag = None,
) -> None:
    """Save a preset of your own, in place of the one that has its name."""
    params = sampling_overrides(temperature, max_tokens, seed, param)
    preset = new_preset(name, system, to_json(params))
    with open_database(settings.data) as database:
        save_preset(PresetStore(database), LOCAL_OWNER, preset)
    print_presets([preset])


@presets_cli.command()
@takes_settings("data")
def delete(settings: Settings, name: Annotated[str, typer.Argument(help="One of your own.")]) -> None:
    """Delete a preset of your own; a built-in one of its name is there again."""
    with open_database(settings.data) as database:
        PresetStore(database).delete(LOCAL_OWNER, name)


def choose_preset(data: Path, name: str | None) -> Preset:
    """Return the preset that --preset names, one that changes nothing without it; raises UnknownPreset."""
    if name is None or not (data / "parley.db").exists():  # then none is made
        return find_preset(name)
    with open_database(data) as database:
        return find_preset(name, presets_of(PresetStore(database), LOCAL_OWNER))


def print_presets(found: Sequence[Preset]) -> None:
    """Print a line for each preset: its name, whose it is, its parameters, its system prompt."""
    for preset in found:
        params = [f"{name}={json.dumps(value)}" for name, value in to_json(preset.params).items()]
        whose = "own" if preset.is_own else "built-in"
        typer.echo("  ".join([preset.name, whose, *params, " ".join((preset.system_prompt or "").split())]).rstrip())


def print_presets_as_json(found: Sequence[Preset]) -> None:
    """Print presets for a program."""
    rows = [
        {
            "name": preset.name,
            "own": preset.is_own,
            "system_prompt": preset.system_prompt,
            "params": to_json(preset.params),
        }
        for preset in found
    ]
    typer.echo(json.dumps(rows, ensure_ascii=False))
