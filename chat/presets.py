"""Ways to begin a conversation: those for the classic uses of a GPT, and an owner's own."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from chat.errors import ChatError, UnknownPreset
from chat.params import from_json, to_json
from chat.text import clean
from model.sampling_params import SamplingParams
from storage.presets import PresetStore

MAX_NAME = 100  # characters

_NAME_RULE = f"name must have 1 to {MAX_NAME} characters, none of them a control character, and no space at its ends"
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}  # control characters, what no file can hold, and what else begins a line
_PARAMS = [field.name for field in fields(SamplingParams)]


class InvalidPreset(ChatError):
    """An own preset breaks a rule: the text names the preset, the rule and the value."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A system prompt, and the sampling parameters that suit it; the others are the model's own."""

    name: str
    system_prompt: str | None
    params: Mapping[str, Any]  # fields of SamplingParams
    is_own: bool = False  # an owner's, not a built-in one


PLAIN = Preset("", None, {})

PRESETS = (
    Preset("assistant", None, {}),
    Preset(
        "summarize",
        "Summarize the text that the user gives you in a few sentences. Keep its language, leave nothing important "
        "out, and add nothing that it does not say.",
        {"temperature": 0.2},
    ),
    Preset(
        "translate",
        "Translate the text that the user gives you into English, or into the language that they name. "
        "Answer with the translation only.",
        {"temperature": 0.0},
    ),
    Preset(
        "sentiment",
        "Say whether the text that the user gives you is positive, negative or neutral. Answer with that one word.",
        {"temperature": 0.0, "max_tokens": 8},
    ),
    Preset(
        "rewrite",
        "Rewrite the text that the user gives you: clearer and shorter, with the same meaning and without mistakes. "
        "Answer with the new text only.",
        {"temperature": 0.3},
    ),
    Preset(
        "story",
        "Write a story about what the user names, with a beginning, a turn and an end.",
        {"temperature": 0.9, "top_p": 0.95, "max_tokens": 1024},
    ),
)


def new_preset(name: str, system_prompt: str | None, params: Mapping[str, Any]) -> Preset:
    """Return an own preset, its parameters given as JSON has them; raises InvalidPreset."""
    categories = {unicodedata.category(character) for character in name}
    if not 1 <= len(name) <= MAX_NAME or name != name.strip() or categories & _CONTROL:
        raise InvalidPreset(f"preset: {_NAME_RULE}, got {name[: MAX_NAME + 1]!r}")
    for unknown in params.keys() - _PARAMS:
        raise InvalidPreset(f"preset {name!r}: params must be some of {', '.join(_PARAMS)}, got {unknown!r}")
    try:
        values = {field: from_json(field, value) for field, value in params.items()}
        SamplingParams(**values)
    except ValueError as error:  # its text begins with the parameter
        raise InvalidPreset(f"preset {name!r}: {error}") from None
    except RecursionError:
        raise InvalidPreset(f"preset {name!r}: params must be nested less deeply") from None
    return Preset(name, system_prompt and clean(system_prompt), values, is_own=True)


def save_preset(store: PresetStore, owner_id: str, preset: Preset) -> None:
    """Keep a preset for an owner, in place of their one of that name if there is one."""
    store.save(owner_id, preset.name, system_prompt=preset.system_prompt, params=to_json(preset.params))


def presets_of(store: PresetStore, owner_id: str) -> list[Preset]:
    """Return all presets that an owner can name, the built-in ones first; raises InvalidPreset.

    An own one takes the place of the built-in one of its name: so a built-in one that comes with a later Parley
    changes nothing that its owner has named, and one that was replaced is there again once the own one is deleted.
    """
    own = [new_preset(stored.name, stored.system_prompt, stored.params) for stored in store.of(owner_id)]
    return list({preset.name: preset for preset in (*PRESETS, *own)}.values())


def find_preset(name: str | None, presets: Sequence[Preset] = PRESETS) -> Preset:
    """Return the preset of a name, one that changes nothing for none; raises UnknownPreset."""
    if name is None:
        return PLAIN
    for preset in presets:
        if preset.name == name:
            return preset
    raise UnknownPreset(name, [preset.name for preset in presets])
