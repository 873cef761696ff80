"""/presets lists the ways to begin, and keeps an owner's own."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from route_client import client_of, no_model

from chat.api.presets import preset_routes
from chat.presets import PRESETS
from chat.workspace import open_workspace
from storage.database import Database
from storage.presets import PresetStore


@pytest.fixture
def client(database: Database) -> Iterator[TestClient]:
    with open_workspace(database, no_model) as workspace:
        yield client_of(preset_routes(workspace))


def names(client: TestClient) -> list[str]:
    return [preset["name"] for preset in client.get("/api/presets").json()["presets"]]


def test_the_built_in_presets_are_listed(client: TestClient) -> None:
    [first, second, *_] = client.get("/api/presets").json()["presets"]
    assert names(client) == [preset.name for preset in PRESETS]
    assert first == {"name": "assistant", "own": False, "system_prompt": None, "params": {}}
    assert second["params"] == {"temperature": 0.2}


@pytest.mark.parametrize("name", ["pirate", "a/b", "Größe 中文", "50%", "what?", "#1"])
def test_an_own_preset_is_kept_and_deleted_whatever_its_name(client: TestClient, name: str) -> None:
    path = f"/api/presets/{quote(name, safe='')}"
    preset = {"name": name, "own": True, "system_prompt": "Arr.", "params": {"stop": ["."], "logit_bias": [[5, 1.0]]}}
    answer = client.put(path, json={"system_prompt": "Arr.", "params": {"stop": ["."], "logit_bias": {"5": 1.0}}})
    assert (answer.status_code, answer.json()) == (200, preset)
    assert client.get("/api/presets").json()["presets"][-1] == preset
    assert (client.delete(path).status_code, client.delete(path).status_code) == (204, 404)
    assert name not in names(client)


def test_an_own_preset_takes_the_place_of_a_built_in_one(client: TestClient) -> None:
    client.put("/api/presets/story", json={"system_prompt": "Short.", "params": {}})
    [story] = [preset for preset in client.get("/api/presets").json()["presets"] if preset["name"] == "story"]
    assert (story["own"], story["system_prompt"]) == (True, "Short.")
    client.delete("/api/presets/story")
    assert names(client) == [preset.name for preset in PRESETS]


def test_another_owners_presets_are_neither_seen_nor_deleted(client: TestClient, database: Database) -> None:
    PresetStore(database).save("eve", "hers", system_prompt=None, params={})
    assert "hers" not in names(client)
    assert client.delete("/api/presets/hers").json()["error"]["message"] == "You have no preset 'hers' of your own."
    assert len(PresetStore(database).of("eve")) == 1


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("x" * 101, {}, "preset: name must have 1 to 100 characters"),
        ("%20x", {}, "preset: name must have 1 to 100 characters"),
        ("a%00b", {}, "preset: name must have 1 to 100 characters"),
        ("x", {"params": {"warmth": 1}}, "preset 'x': params must be some of"),
        ("x", {"params": {"temperature": -1}}, "preset 'x': temperature must be"),
        ("x", {"params": {"temperature": "hot"}}, "preset 'x': temperature must be"),
        ("x", {"params": {"stop": [["."]]}}, "preset 'x': stop"),
        ("x", {"params": {"response_format": {"kind": "haiku"}}}, "preset 'x': response_format"),
        ("x", {"params": {"response_format": {"shape": "round"}}}, "preset 'x': response_format"),
        ("x", {"params": []}, "params: "),
        ("x", {"system_prompt": 5}, "system_prompt: "),
        ("x", {"colour": "red"}, "colour: "),
    ],
)
def test_what_breaks_a_rule_is_refused(client: TestClient, name: str, body: dict[str, object], reason: str) -> None:
    answer = client.put(f"/api/presets/{name}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(reason)
    assert names(client) == [preset.name for preset in PRESETS]


@pytest.mark.parametrize("value", [rb'["\ud800"]', rb"NaN", b"[-Infinity]"])
def test_what_json_cannot_hold_is_refused(client: TestClient, value: bytes) -> None:
    body = b'{"params": {"stop": ' + value + b"}}"
    answer = client.put("/api/presets/x", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "params")
    assert names(client) == [preset.name for preset in PRESETS]
