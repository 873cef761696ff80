"""Presets are system prompts and sampling parameters that any model can use: built-in ones, and an owner's own."""

from dataclasses import fields
from functools import reduce
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chat.errors import UnknownPreset
from chat.presets import (
    MAX_NAME,
    PLAIN,
    PRESETS,
    InvalidPreset,
    Preset,
    find_preset,
    new_preset,
    presets_of,
    save_preset,
)
from model.sampling_params import ResponseFormat, SamplingParams
from storage.database import Database
from storage.presets import PresetStore

anything = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
PARAMS = [field.name for field in fields(SamplingParams)]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["0", "a", "json_object", "kind"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "source", "7"]), inner),
    max_leaves=6,
)
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=MAX_NAME)


@pytest.fixture
def store(database: Database) -> PresetStore:
    return PresetStore(database)


def save(store: PresetStore, name: str, system_prompt: str | None = None, **params: Any) -> None:
    save_preset(store, "ada", new_preset(name, system_prompt, params))


def find(store: PresetStore, name: str) -> Preset:
    return find_preset(name, presets_of(store, "ada"))


def test_the_classic_uses_are_there(store: PresetStore) -> None:
    names = [preset.name for preset in presets_of(store, "ada")]
    assert names == ["assistant", "summarize", "translate", "sentiment", "rewrite", "story"]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_is_found_and_its_parameters_are_valid(preset: Preset) -> None:
    assert find_preset(preset.name) is preset
    SamplingParams(**preset.params)


def test_without_a_name_nothing_changes() -> None:
    assert find_preset(None) is PLAIN
    assert (PLAIN.system_prompt, dict(PLAIN.params)) == (None, {})


def test_an_unknown_name_is_refused_with_those_that_there_are(store: PresetStore) -> None:
    save(store, "poet")
    save(store, "story")
    names = "assistant, summarize, translate, sentiment, rewrite, story, poet"
    with pytest.raises(UnknownPreset, match=f"^preset: expected one of {names}, got 'poem'$"):
        find(store, "poem")


def test_an_own_preset_is_found_as_it_was_saved(store: PresetStore) -> None:
    save(store, "poet", "Rhyme.\r\n", temperature=0.9, stop=["\n\n"], logit_bias={"7": -1.5})
    found = find(store, "poet")
    assert found == Preset(
        "poet", "Rhyme.\n", {"temperature": 0.9, "stop": ("\n\n",), "logit_bias": ((7, -1.5),)}, is_own=True
    )
    SamplingParams(**found.params)


def test_a_form_of_replies_is_kept(store: PresetStore) -> None:
    save(store, "judge", response_format={"kind": "json_schema", "source": {"type": "boolean"}})
    expected = {"response_format": ResponseFormat("json_schema", '{"type": "boolean"}')}
    assert find(store, "judge").params == expected


def test_an_own_preset_comes_before_the_built_in_one_of_its_name_until_it_is_deleted(store: PresetStore) -> None:
    save(store, "translate", "Translate into Latin.")
    assert find(store, "translate").system_prompt == "Translate into Latin."
    assert [preset.is_own for preset in presets_of(store, "ada")] == [False, False, True, False, False, False]
    store.delete("ada", "translate")
    assert find(store, "translate") is PRESETS[2]


def test_nobody_finds_what_is_another_s(store: PresetStore) -> None:
    save(store, "poet", "Rhyme.")
    save(store, "story", "Lie.")
    assert presets_of(store, "eve") == list(PRESETS)


@anything
@given(name=NAMES.filter(lambda name: name == name.strip()))
@example("x" * MAX_NAME)
@example("詩人")
@example("नमस्ते")
@example("می\u200cخواهم")
@example("👩🏽\u200d🚀")
@example("'; DROP TABLE presets; --")
def test_a_name_may_be_of_any_script(store: PresetStore, name: str) -> None:
    save(store, name, "Rhyme.")
    assert find(store, name).system_prompt == "Rhyme."


@pytest.mark.parametrize(
    "name", ["", " ", " poet", "poet\n", "po\0et", "po\tet", "\x7f", "a\u2028b", "\ud800", "x" * 101]
)
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidPreset) as refusal:
        new_preset(name, None, {})
    rule = "name must have 1 to 100 characters, none of them a control character, and no space at its ends"
    assert str(refusal.value) == f"preset: {rule}, got {name!r}"


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"temperature": "hot"}, "temperature must be between 0 and 100, got 'hot'"),
        ({"top_k": True}, "top_k must be a whole number, 0 or more, got True"),
        ({"stop": "end"}, "stop must be a list of strings that are not empty, got 'end'"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens must be at most max_tokens, got 9"),
        ({"response_format": {"kind": "xml"}}, "response_format.kind must be one of json_object, json_schema, regex, "),
        ({"response_format": {"type": 1}}, "response_format: expected the keys kind and source, got type"),
        ({"warmth": 1}, "params must be some of temperature, top_k, "),
    ],
)
def test_a_wrong_parameter_is_refused_with_its_rule_and_value(params: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidPreset) as refusal:
        new_preset("poet", None, params)
    assert str(refusal.value).startswith(f"preset 'poet': {reason}")


@anything
@given(params=st.dictionaries(st.sampled_from(PARAMS), VALUES))
def test_whatever_the_parameters_are_a_preset_is_either_refused_or_kept(
    store: PresetStore, params: dict[str, Any]
) -> None:
    try:
        preset = new_preset("poet", None, params)
    except InvalidPreset:
        return
    save_preset(store, "ada", preset)
    assert find(store, "poet") == preset


def test_parameters_nested_too_deeply_are_refused() -> None:
    nested = reduce(lambda inner, _: [inner], range(5000), [])
    with pytest.raises(InvalidPreset, match=r"^preset 'poet': params must be nested less deeply$"):
        new_preset("poet", None, {"stop": nested})


def test_a_stored_preset_that_breaks_a_rule_is_refused_with_its_name(store: PresetStore) -> None:
    store.save("ada", "poet", system_prompt=None, params={"temperature": "hot"})
    with pytest.raises(InvalidPreset, match=r"^preset 'poet': temperature must be between 0 and 100, got 'hot'$"):
        find(store, "story")
    store.delete("ada", "poet")
    assert find(store, "story") is PRESETS[5]
