"""What an owner may say of a site, and which pages may show it."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chat.errors import UnknownPreset
from chat.sites import Appearance, NewSite, SiteChange, Sites, allows, new_key, parse_origin, snippet_of
from storage.database import Database
from storage.presets import PresetStore
from storage.sites import SiteStore
from storage.tables import Site

PLAIN = re.compile(r"https?://(\*\.)?[a-z0-9.-]+(:[0-9]{1,5})?")


@pytest.fixture
def sites(database: Database) -> Sites:
    return Sites(SiteStore(database), PresetStore(database))


def of(*origins: str) -> Site:
    return Site(origins=list(origins))


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://shop.example", "https://shop.example"),
        ("HTTPS://Shop.Example:443/", "https://shop.example"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("https://*.shop.example:8443", "https://*.shop.example:8443"),
        ("https://münchen.example", "https://xn--mnchen-3ya.example"),
        ("https://straße.example", "https://xn--strae-oqa.example"),  # and not strasse, which may be another's
    ],
)
def test_an_origin_is_kept_as_browsers_write_it(text: str, origin: str) -> None:
    assert parse_origin(text) == origin
    assert parse_origin(origin) == origin


@pytest.mark.parametrize(
    "text",
    [
        *("shop.example", "*", "null", "", "https://", "//shop.example", "ftp://shop.example", "data:text/html,"),
        *("https://*", "https://*.com", "https://*.*.example", "https://a.*.example", "https://*shop.example"),
        *("https://shop.example/path", "https://shop.example?x", "https://shop.example#x", "https://me@shop.example"),
        *("https://shop.example:x", "https://shop.example:99999", "https://a..b", "https://-a.example", "http://[::1]"),
        *("https://shop.example; script-src *", "https://a.example b.example", "https://'self'", "https://a_b.example"),
        "https://shop\ud800.example",
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="^expected scheme and host as in https://shop.example$"):
        parse_origin(text)


@given(st.text() | st.from_regex(r"https?://[*.a-z;, '\"]+(:\d+)?[/?#]?"))
def test_no_origin_can_say_more_in_a_policy(text: str) -> None:
    try:
        origin = parse_origin(text)
    except ValueError:
        return
    assert PLAIN.fullmatch(origin)


def test_only_listed_origins_may_show_the_chat() -> None:
    site = of("https://shop.example", "http://localhost:8000")
    assert allows(site, "https://shop.example")
    assert allows(site, "http://localhost:8000")
    for other in ("http://shop.example", "https://shop.example:8443", "https://www.shop.example", "null", "", "*"):
        assert not allows(site, other)


def test_without_origins_nobody_may() -> None:
    assert not allows(of(), "https://shop.example")


def test_a_star_stands_for_all_names_below_and_for_nothing_else() -> None:
    site = of("https://*.shop.example")
    assert allows(site, "https://www.shop.example")
    assert allows(site, "https://a.b.shop.example")
    for other in (
        *("https://shop.example", "https://myshop.example", "http://www.shop.example", "https://www.shop.example:444"),
        *(
            "https://evil.example/.shop.example",
            "https://evil.example?.shop.example",
            "https://*.shop.example.evil.example",
        ),
    ):
        assert not allows(site, other)


def test_a_new_site_has_careful_defaults(sites: Sites) -> None:
    site = sites.create("ada", NewSite(name="Shop"))
    assert (site.origins, site.enabled, site.appearance) == ([], True, Appearance().model_dump())
    assert (site.messages_per_visitor, site.messages_per_address, site.tokens_per_day) == (20, 60, 200_000)
    assert site.retention_days == 30
    assert re.fullmatch("pub_[A-Za-z0-9_-]{22}", site.key)


def test_an_origin_that_is_named_twice_is_listed_once(sites: Sites) -> None:
    site = sites.create("ada", NewSite(name="Shop", origins=["https://a.example", "https://A.example/"]))
    assert site.origins == ["https://a.example"]


def test_only_what_is_named_is_changed(sites: Sites) -> None:
    site = sites.create("ada", NewSite(name="Shop", appearance=Appearance(title="Hi")))
    changed = sites.change("ada", site.id, SiteChange(appearance=Appearance(accent="#ff0000"), tokens_per_day=None))
    assert (changed.name, changed.appearance["title"], changed.appearance["accent"]) == ("Shop", "Hi", "#ff0000")
    assert (changed.tokens_per_day, changed.retention_days) == (None, 30)


def test_a_preset_must_be_there(sites: Sites, database: Database) -> None:
    PresetStore(database).save("eve", "hers", system_prompt="x", params={})
    with pytest.raises(UnknownPreset):
        sites.create("ada", NewSite(name="Shop", preset="hers"))
    site = sites.create("ada", NewSite(name="Shop", preset="story"))
    with pytest.raises(UnknownPreset):
        sites.change("ada", site.id, SiteChange(preset="nope"))


def test_a_new_key_takes_the_place_of_the_old_one(sites: Sites, database: Database) -> None:
    site = sites.create("ada", NewSite(name="Shop"))
    rotated = sites.rotate("ada", site.id)
    assert rotated.key != site.key
    assert SiteStore(database).with_key(site.key) is None


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": " \n "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"origins": ["https://a.example"] * 51}, "origins"),
        ({"origins": "https://a.example"}, "origins"),
        ({"origins": ["null"]}, "origins.0"),
        ({"appearance": {"title": "x" * 61}}, "appearance.title"),
        ({"appearance": {"greeting": "x" * 501}}, "appearance.greeting"),
        ({"appearance": {"accent": "red"}}, "appearance.accent"),
        ({"appearance": {"accent": "#ff00000"}}, "appearance.accent"),
        ({"appearance": {"accent": "#ff0000\n"}}, "appearance.accent"),
        ({"appearance": {"theme": "pink"}}, "appearance.theme"),
        ({"appearance": {"css": "x"}}, "appearance.css"),
        ({"messages_per_visitor": 0}, "messages_per_visitor"),
        ({"messages_per_visitor": True}, "messages_per_visitor"),
        ({"tokens_per_day": -1}, "tokens_per_day"),
        ({"retention_days": 10**9}, "retention_days"),
        ({"system_prompt": "x" * 100_001}, "system_prompt"),
        ({"key": "pub_mine"}, "key"),
    ],
)
def test_what_breaks_a_rule_is_refused_by_its_name(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        NewSite.model_validate({"name": "Shop", **values})
    assert ".".join(map(str, refused.value.errors()[0]["loc"])) == field


def test_keys_are_never_the_same() -> None:
    assert len({new_key() for _ in range(1000)}) == 1000


def test_the_snippet_is_one_line_of_html() -> None:
    line = snippet_of(Site(key="pub_x"), "https://chat.example")
    assert line == '<script src="https://chat.example/widget.js" data-site="pub_x" defer></script>'
