"""Ways to begin a conversation for the classic uses of a GPT."""

from collections.abc import Mapping
from dataclasses import dataclass

from chat.errors import UnknownPreset


@dataclass(frozen=True, slots=True)
class Preset:
    """A system prompt, and the sampling parameters that suit it; the others are the model's own."""

    name: str
    system_prompt: str | None
    params: Mapping[str, float | int]


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


def find_preset(name: str | None) -> Preset:
    """Return the preset of a name, one that changes nothing for none; raises UnknownPreset."""
    if name is None:
        return PLAIN
    for preset in PRESETS:
        if preset.name == name:
            return preset
    raise UnknownPreset(name, [preset.name for preset in PRESETS])
