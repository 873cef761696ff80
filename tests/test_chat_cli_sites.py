"""`parley site` keeps the websites whose visitors may chat."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import typer
from conftest import Server
from event_readers import Tab
from widget_app import SHOP

from chat.cli.sites import sites_cli
from chat.data_folder import open_database
from chat.errors import UnknownPreset
from chat.settings import SettingsError
from storage.sites import SiteNotFound, SiteStore, SiteValues

Parley = Callable[..., list[str]]


@pytest.fixture
def parley(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Parley:
    """A function that runs `parley site` with these arguments, and returns the lines that it prints."""

    def run(*arguments: str) -> list[str]:
        typer.main.get_command(sites_cli).main([*arguments, "--data", str(tmp_path)], standalone_mode=False)
        return capsys.readouterr().out.splitlines()

    return run


def shown(lines: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}


@pytest.fixture
def site_id(parley: Parley) -> str:
    return shown(parley("add", "Shop", "--origin", SHOP))["id"]


def test_a_site_is_added_listed_and_shown(parley: Parley) -> None:
    added = parley("add", "My shop", "--origin", SHOP, "--origin", "https://*.b.example", "--title", "Questions?")
    site = shown(added)
    assert (site["name"], site["title"], site["enabled"]) == ("My shop", "Questions?", "yes")
    assert site["origins"] == f"{SHOP} https://*.b.example"
    assert parley("show", site["id"]) == added
    assert parley("list") == [f"{site['id']}  {site['key']}  enabled  My shop  {SHOP}  https://*.b.example"]
    [listed] = json.loads(parley("list", "--json")[0])
    assert json.loads(parley("show", site["id"], "--json")[0]) == listed
    assert (listed["origins"], listed["appearance"]["theme"]) == ([SHOP, "https://*.b.example"], "auto")


def test_only_what_is_named_is_changed(parley: Parley, site_id: str) -> None:
    before = shown(parley("show", site_id))
    flags = ("--disabled", "--system", "Be\nkind.", "--messages-per-visitor", "5", "--theme", "dark", "--name", "Blog")
    after = shown(parley("set", site_id, *flags))
    expected = {"enabled": "no", "system_prompt": "Be kind.", "messages_per_visitor": "5", "theme": "dark"}
    assert {**before, **expected, "name": "Blog", "updated_at": after["updated_at"]} == after


def test_empty_and_zero_mean_none(parley: Parley, site_id: str) -> None:
    parley("set", site_id, "--preset", "story", "--system", "x")
    parley("set", site_id, "--preset", "", "--system", "", "--tokens-per-day", "0", "--retention-days", "0")
    [site] = json.loads(parley("list", "--json")[0])
    names = ("preset", "system_prompt", "tokens_per_day", "retention_days")
    assert [site[name] for name in names] == [None] * 4


def test_an_empty_origin_leaves_nobody(parley: Parley, site_id: str) -> None:
    assert shown(parley("set", site_id, "--origin", ""))["origins:"] == ""
    [site] = json.loads(parley("list", "--json")[0])
    assert site["origins"] == []
    with pytest.raises(SettingsError, match="^--origin: expected scheme and host as in https://shop.example, got ''$"):
        parley("set", site_id, "--origin", SHOP, "--origin", "")


def test_the_identity_secret_is_that_of_the_server(
    parley: Parley, start_server: Callable[..., Server], tiny_path: Path, site_id: str
) -> None:
    server = start_server(tiny_path)
    answer = httpx.get(f"{server.url}/api/sites/{site_id}/identity-secret").raise_for_status()
    assert parley("identity-secret", site_id) == [answer.json()["secret"]]
    parley("rotate", site_id)
    assert parley("identity-secret", site_id) != [answer.json()["secret"]]
    with pytest.raises(SiteNotFound):
        parley("identity-secret", "nope")


def test_a_new_key_takes_the_place_of_the_old_one(parley: Parley, site_id: str) -> None:
    before = shown(parley("show", site_id))["key"]
    assert shown(parley("rotate", site_id))["key"] != before


def test_the_snippet_is_printed(parley: Parley, site_id: str) -> None:
    key = shown(parley("show", site_id))["key"]
    assert parley("snippet", site_id, "--url", "https://Chat.example/") == [
        f'<script src="https://chat.example/widget.js" data-site="{key}" defer></script>'
    ]
    with pytest.raises(SettingsError, match="^--url: expected scheme and host as in https://shop.example, got 'chat'$"):
        parley("snippet", site_id, "--url", "chat")


def test_what_is_removed_is_gone(parley: Parley, site_id: str) -> None:
    assert parley("remove", site_id, "--yes") == []
    assert parley("list") == []
    with pytest.raises(SiteNotFound):
        parley("remove", site_id, "--yes")


def test_nothing_is_removed_without_a_word(parley: Parley, site_id: str) -> None:
    with pytest.raises(SettingsError, match="say --yes"):
        parley("remove", site_id)
    assert len(parley("list")) == 1


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--origin", "shop"), "--origin: expected scheme and host as in https://shop.example, got 'shop'"),
        (("--accent", "red"), "--accent: string should match pattern '^#[0-9A-Fa-f]{6}$', got 'red'"),
        (("--theme", "pink"), "--theme: input should be 'auto', 'light' or 'dark', got 'pink'"),
        (("--messages-per-visitor", "0"), "--messages-per-visitor: input should be greater than or equal to 1, got 0"),
        (("--retention-days", "-1"), "--retention-days: input should be greater than or equal to 1, got -1"),
        (("--title", "x" * 61), "--title: string should have at most 60 characters, got 'xxx"),
        (("--name", ""), "--name: string should have at least 1 character, got ''"),
    ],
)
def test_what_breaks_a_rule_changes_nothing(parley: Parley, site_id: str, flags: tuple[str, ...], reason: str) -> None:
    before = parley("show", site_id)
    with pytest.raises(SettingsError) as refused:
        parley("set", site_id, *flags)
    assert str(refused.value).startswith(reason)
    assert parley("show", site_id) == before


def test_a_site_needs_a_name_and_a_preset_that_is_there(parley: Parley) -> None:
    with pytest.raises(SettingsError, match="^NAME: string should have at least 1 character, got ''$"):
        parley("add", "")
    with pytest.raises(UnknownPreset):
        parley("add", "Shop", "--preset", "nope")
    assert parley("list") == []


def test_another_owners_site_is_none(parley: Parley, tmp_path: Path, site_id: str) -> None:
    values: SiteValues = {"name": "Hers", "origins": [], "appearance": {}, "enabled": True, "preset": None}
    quotas: SiteValues = {"messages_per_visitor": 1, "messages_per_address": 1}
    with open_database(tmp_path) as database:
        hers = SiteStore(database).create("eve", "pub_eve", limit=9, **values, **quotas).id
    assert len(parley("list")) == 1
    with pytest.raises(SiteNotFound):
        parley("show", hers)


def test_a_running_server_heeds_it_at_once(
    parley: Parley, start_server: Callable[..., Server], tiny_path: Path
) -> None:
    server = start_server(tiny_path)
    site = shown(parley("add", "Shop", "--origin", SHOP, "--system", "Be kind.", "--retention-days", "0"))
    with httpx.Client(base_url=server.url, timeout=30) as client:
        show = {"url": f"/widget/{site['key']}", "params": {"origin": SHOP}}
        assert client.get(**show).status_code == 200
        begun = client.post("/widget/api/session", json={"site": site["key"], "origin": SHOP}).raise_for_status().json()
        client.headers["Authorization"] = f"Bearer {begun['token']}"
        body = {"conversation_id": None, "content": "Hello", "idempotency_key": "1"}
        sent = client.post("/widget/api/messages", json=body).raise_for_status().json()
        place = {"Last-Event-ID": f"{sent['messages'][1]['id']}:0"}  # or a reply that has ended by now would be no news
        path = f"/widget/api/conversations/{sent['conversation_id']}/events"
        with client.stream("GET", path, headers=place) as stream:
            tab = Tab(stream)
            assert tab.next("text").data["message_id"] == sent["messages"][1]["id"]
            client.post(f"/widget/api/conversations/{sent['conversation_id']}/stop").raise_for_status()
            assert tab.next("end").data["status"] in ("stopped", "complete")
        parley("set", site["id"], "--disabled")
        assert client.get(**show).status_code == 403
        assert client.get("/widget/api/conversations").status_code == 401
    assert "Hello" not in server.log
