"""Presets are system prompts and sampling parameters that any model can use."""

import pytest

from chat.errors import UnknownPreset
from chat.presets import PLAIN, PRESETS, Preset, find_preset
from model.sampling_params import SamplingParams


def test_the_classic_uses_are_there() -> None:
    names = [preset.name for preset in PRESETS]
    assert names == ["assistant", "summarize", "translate", "sentiment", "rewrite", "story"]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_is_found_and_its_parameters_are_valid(preset: Preset) -> None:
    assert find_preset(preset.name) is preset
    SamplingParams(**preset.params)  # type: ignore[arg-type]  # checked here


def test_without_a_name_nothing_changes() -> None:
    assert find_preset(None) is PLAIN
    assert (PLAIN.system_prompt, dict(PLAIN.params)) == (None, {})


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UnknownPreset, match=r"^preset: expected one of assistant, .*, story, got 'poem'$"):
        find_preset("poem")
