"""An owner's presets are kept, one for each name, and are nobody else's."""

import pytest

from storage.database import Database
from storage.presets import PresetNotFound, PresetStore


@pytest.fixture
def presets(database: Database) -> PresetStore:
    return PresetStore(database)


def names(presets: PresetStore, owner: str) -> list[str]:
    return [preset.name for preset in presets.of(owner)]


def test_what_is_saved_comes_back_by_name(presets: PresetStore) -> None:
    presets.save("ada", "poet", system_prompt="Rhyme.", params={"temperature": 0.9, "stop": ["\n\n"]})
    presets.save("ada", "clerk", system_prompt=None, params={})
    clerk, poet = presets.of("ada")
    assert (clerk.name, clerk.system_prompt, clerk.params) == ("clerk", None, {})
    assert (poet.name, poet.system_prompt, poet.params) == ("poet", "Rhyme.", {"temperature": 0.9, "stop": ["\n\n"]})


def test_saved_twice_is_changed_and_not_doubled(presets: PresetStore) -> None:
    presets.save("ada", "poet", system_prompt="Rhyme.", params={"temperature": 0.9})
    [before] = presets.of("ada")
    presets.save("ada", "poet", system_prompt=None, params={"top_k": 3})
    [after] = presets.of("ada")
    assert (after.system_prompt, after.params) == (None, {"top_k": 3})
    assert after.created_at == before.created_at
    assert after.updated_at > before.updated_at


def test_what_is_deleted_is_gone(presets: PresetStore) -> None:
    presets.save("ada", "poet", system_prompt=None, params={})
    presets.save("ada", "clerk", system_prompt=None, params={})
    presets.delete("ada", "poet")
    assert names(presets, "ada") == ["clerk"]


def test_what_is_not_there_cannot_be_deleted(presets: PresetStore) -> None:
    with pytest.raises(PresetNotFound, match=r"^You have no preset 'poet' of your own\.$"):
        presets.delete("ada", "poet")


def test_nobody_reads_changes_or_deletes_what_is_another_s(presets: PresetStore) -> None:
    presets.save("ada", "poet", system_prompt="Ada's", params={})
    presets.save("eve", "poet", system_prompt="Eve's", params={})
    presets.delete("eve", "poet")
    with pytest.raises(PresetNotFound):
        presets.delete("eve", "poet")
    assert names(presets, "eve") == []
    assert [preset.system_prompt for preset in presets.of("ada")] == ["Ada's"]


def test_they_are_there_after_a_new_start(database: Database, presets: PresetStore) -> None:
    presets.save("ada", "詩人 🎭", system_prompt="Rhyme.", params={})
    database.close()
    again = Database(database.path)
    assert names(PresetStore(again), "ada") == ["詩人 🎭"]
    again.close()
