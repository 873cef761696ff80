"""/sites lets owners say where visitors may chat; what those say is in the owner's list."""

import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

import pytest
from widget_app import HOME, WidgetApp, error_of, open_widget

from chat.visitors import identity_secret
from model.checkpoint.checkpoint import Checkpoint
from storage.database import Database


@pytest.fixture
def app(database: Database, tiny_checkpoint: Checkpoint) -> Iterator[WidgetApp]:
    with open_widget(database, tiny_checkpoint) as app:
        yield app


def test_a_site_is_added_listed_changed_and_deleted(app: WidgetApp) -> None:
    site = app.add_site("Shop", origins=["https://Shop.example/"], system_prompt="Be kind.")
    assert (site["origins"], site["n_conversations"], site["retention_days"]) == (["https://shop.example"], 0, 30)
    assert app.own("GET", "/sites").json() == {"sites": [site]}
    changed = app.own("PATCH", f"/sites/{site['id']}", {"appearance": {"title": "Hi"}, "enabled": False}).json()
    assert (changed["appearance"]["title"], changed["appearance"]["theme"], changed["enabled"]) == ("Hi", "auto", False)
    assert (changed["system_prompt"], changed["key"]) == ("Be kind.", site["key"])
    assert app.own("GET", f"/sites/{site['id']}").json() == changed
    assert app.own("DELETE", f"/sites/{site['id']}").status_code == 204
    assert app.own("GET", "/sites").json() == {"sites": []}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"name": "Mine"}),
        ("DELETE", "", None),
        ("POST", "/rotate", None),
        ("GET", "/identity-secret", None),
    ],
)
def test_another_owners_site_is_none(app: WidgetApp, method: str, path: str, body: Any) -> None:
    site = app.add_site()
    answer = app.own(method, f"/sites/{site['id']}{path}", body, owner="eve")
    assert error_of(answer) == (404, "site_not_found", f"There is no site {site['id']}.")
    assert app.own("GET", "/sites").json() == {"sites": [site]}
    assert app.own("GET", "/sites", owner="eve").json() == {"sites": []}


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        (
            {"origins": ["https://a.example", "shop.example"]},
            "origins.1",
            "origins.1: expected scheme and host as in https://shop.example, got 'shop.example'",
        ),
        ({"origins": ["*"]}, "origins.0", "origins.0: expected scheme and host as in https://shop.example, got '*'"),
        ({"name": ""}, "name", "name: string should have at least 1 character, got ''"),
        ({"tokens_per_day": 0}, "tokens_per_day", "tokens_per_day: input should be greater than or equal to 1, got 0"),
        ({"colour": 1}, "colour", "colour: extra inputs are not permitted, got 1"),
        ({"preset": "nope"}, "preset", "preset: expected one of assistant, "),
    ],
)
def test_what_breaks_a_rule_is_refused(app: WidgetApp, body: dict[str, Any], param: str, text: str) -> None:
    site = app.add_site()
    for method, path in (("PATCH", f"/sites/{site['id']}"), ("POST", "/sites")):
        answer = app.own(method, path, {"name": "Shop", **body})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert answer.json()["error"]["message"].startswith(text)
    assert app.own("GET", "/sites").json() == {"sites": [site]}


def test_a_hundred_sites_are_enough(app: WidgetApp) -> None:
    for n in range(100):
        app.add_site(str(n))
    status, code, _ = error_of(app.own("POST", "/sites", {"name": "one more"}))
    assert (status, code) == (409, "too_many_sites")


def test_a_new_key_ends_the_old_snippet_and_the_old_sessions(app: WidgetApp) -> None:
    site = app.add_site()
    visitor = app.enter(site)
    secret = app.own("GET", f"/sites/{site['id']}/identity-secret").json()["secret"]
    rotated = app.own("POST", f"/sites/{site['id']}/rotate").json()
    assert rotated["key"] != site["key"]
    assert error_of(visitor.ask("GET", "/conversations"))[:2] == (401, "no_visitor")
    assert error_of(app.knock(site))[:2] == (403, "unknown_site")
    assert app.own("GET", f"/sites/{site['id']}/identity-secret").json()["secret"] != secret
    app.enter(rotated)


def test_the_identity_secret_is_each_sites_own(app: WidgetApp) -> None:
    sites = [app.add_site(), app.add_site()]
    secrets = {app.own("GET", f"/sites/{site['id']}/identity-secret").json()["secret"] for site in sites}
    assert len(secrets) == 2
    assert identity_secret(b"another" * 5, app.workspace.sites.get("ada", sites[0]["id"])) not in secrets


def test_a_visitors_conversation_is_in_the_owners_list(app: WidgetApp) -> None:
    site = app.add_site(system_prompt="Be kind.", preset="story")
    secret = app.own("GET", f"/sites/{site['id']}/identity-secret").json()["secret"]
    digest = hmac.new(secret.encode(), b"bob@shop.example", hashlib.sha256).hexdigest()
    visitor = app.enter(site, user={"id": "bob@shop.example", "hash": digest})
    chat = visitor.begin("Is it open?")
    app.reply("Yes.")
    [listed] = app.own("GET", "/conversations").json()["conversations"]
    assert (listed["id"], listed["channel"], listed["site_id"]) == (chat, "widget", site["id"])
    assert (listed["visitor_name"], listed["system_prompt"], listed["preset"]) == (
        *("bob@shop.example", "Be kind."),
        "story",
    )
    assert app.own("GET", f"/sites/{site['id']}").json()["n_conversations"] == 1


def test_the_owners_list_is_chosen_by_channel_and_site(app: WidgetApp) -> None:
    shop, blog = app.add_site("Shop"), app.add_site("Blog")
    own = app.own("POST", "/conversations", {}).json()["id"]
    in_shop, in_blog = app.enter(shop).begin(), app.enter(blog).begin()

    def listed(query: str) -> set[str]:
        return {chat["id"] for chat in app.own("GET", f"/conversations?{query}").json()["conversations"]}

    assert listed("") == {own, in_shop, in_blog}
    assert listed("channel=widget") == {in_shop, in_blog}
    assert listed(f"site_id={shop['id']}") == {in_shop}
    assert listed(f"channel=ui&site_id={shop['id']}") == set()
    app.own("PATCH", f"/conversations/{in_blog}", {"trashed": True})
    assert listed("show=trashed&channel=widget") == {in_blog}
    assert app.own("GET", "/conversations?channel=fax").status_code == 400


def test_a_sites_conversations_are_exported(app: WidgetApp) -> None:
    shop, blog = app.add_site("Shop"), app.add_site("Blog")
    app.enter(shop).begin("In the shop")
    app.reply()
    app.enter(blog).begin("In the blog")
    app.reply()
    exported = app.own("GET", f"/export?site_id={shop['id']}&format=text")
    assert (exported.status_code, exported.headers["X-Parley-Conversations"]) == (200, "1")
    assert "In the shop" in exported.text
    assert "In the blog" not in exported.text
    assert app.own("GET", "/export?site_id=none&format=text").status_code == 400


def test_the_conversations_of_a_deleted_site_stay(app: WidgetApp) -> None:
    site = app.add_site()
    visitor = app.enter(site)
    chat = visitor.begin()
    app.own("DELETE", f"/sites/{site['id']}")
    assert app.own("GET", f"/conversations/{chat}").json()["site_id"] == site["id"]
    assert error_of(visitor.ask("GET", "/conversations"))[:2] == (401, "no_visitor")


def test_what_a_visitor_thinks_is_shown_to_the_owner_who_thinks_nothing(app: WidgetApp) -> None:
    visitor = app.enter(app.add_site())
    chat = visitor.begin()
    app.reply()
    reply = visitor.messages(chat)[1]["id"]
    visitor.ask("PUT", f"/messages/{reply}/rating", {"rating": -1})

    def told() -> Any:
        return app.own("GET", f"/conversations/{chat}/messages").json()["messages"][1]["feedback"]

    assert told() == {"rating": -1, "comment": None}
    app.own("PUT", f"/messages/{reply}/feedback", {"rating": 1, "comment": "Fine."})
    assert told() == {"rating": 1, "comment": "Fine."}
    assert visitor.messages(chat)[1]["rating"] == -1
    assert app.own("GET", "/export?rating=-1&format=text").headers["X-Parley-Conversations"] == "1"


def test_the_owners_own_page_may_show_a_preview(app: WidgetApp) -> None:
    site = app.add_site(origins=[])
    assert app.client.get(f"/widget/{site['key']}", params={"origin": HOME}).status_code == 200
    app.enter(site, origin=HOME).begin()
