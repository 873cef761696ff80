"""Conversations over HTTP: begun, listed, changed one or many at once, erased; each owner sees only their own."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from api_client import NOBODY, Api
from sqlalchemy import text

from chat.presets import PRESETS

# Every request on one conversation, or on several.
REQUESTS: dict[str, Callable[[str], tuple[str, str, Any]]] = {
    "read": lambda chat: ("GET", f"/conversations/{chat}", None),
    "change": lambda chat: ("PATCH", f"/conversations/{chat}", {"title": "Mine now"}),
    "erase": lambda chat: ("DELETE", f"/conversations/{chat}", None),
    "change all": lambda chat: ("POST", "/conversations/change", {"ids": [chat], "change": {"title": "Mine now"}}),
}


def ids(page: dict[str, Any]) -> list[str]:
    return [conversation["id"] for conversation in page["conversations"]]


def pages(api: Api, show: str, between: Callable[[int], None], limit: int = 50) -> list[str]:
    """Return the ids of all pages of a list; `between` is called after each with its number."""
    seen: list[str] = []
    after, number = "", 0
    while True:
        page = api.get(f"/conversations?show={show}&limit={limit}{after}")
        assert len(page["conversations"]) <= limit
        seen += ids(page)
        if page["next"] is None:
            return seen
        between(number)
        after, number = f"&after={page['next']}", number + 1


def test_a_new_conversation_is_told_as_it_is(api: Api) -> None:
    answer = api.ask("POST", "/conversations", {"system_prompt": "Be brief.", "recap": True})
    assert answer.status_code == 201
    made = answer.json()
    assert made == api.get(f"/conversations/{made['id']}")
    assert (made["system_prompt"], made["recap"], made["channel"]) == ("Be brief.", True, "ui")
    assert (made["title"], made["preset"], made["active_leaf_id"], made["trashed_at"]) == (None, None, None, None)
    assert (made["pinned"], made["archived"]) == (False, False)
    assert made["created_at"].endswith("Z")
    assert api.changed == [made["id"]]


def test_a_conversation_is_begun_while_no_model_is_there(api: Api) -> None:
    api.served.model = None
    chat = api.start()
    assert ids(api.get("/conversations")) == [chat]


@pytest.mark.parametrize(
    ("new", "system_prompt"),
    [({}, "a preset's"), ({"system_prompt": None}, "a preset's"), ({"system_prompt": "Mine."}, "Mine.")],
)
def test_a_preset_gives_its_system_prompt_where_none_is_given(
    api: Api, new: dict[str, Any], system_prompt: str
) -> None:
    story = next(preset for preset in PRESETS if preset.name == "story")
    made = api.post("/conversations", {"preset": "story", **new})
    assert made["preset"] == "story"
    assert made["system_prompt"] == (story.system_prompt if system_prompt == "a preset's" else system_prompt)


def test_a_preset_of_one_s_own_is_known_to_its_owner_alone(api: Api) -> None:
    api.workspace.presets.save(api.owner("ada"), "mine", system_prompt="Sing.", params={})
    assert api.post("/conversations", {"preset": "mine"})["system_prompt"] == "Sing."
    assert api.error("POST", "/conversations", {"preset": "mine"}, owner="eve")[:3] == (400, "preset", "unknown_preset")
    assert api.get("/conversations", owner="eve")["conversations"] == []


@pytest.mark.parametrize("show", ["recent", "archived", "trashed"])
def test_pages_hold_every_conversation_once_while_some_are_used(api: Api, show: str) -> None:
    chats = api.start_many(120)
    elsewhere = [api.start() for _ in range(3)]
    api.post("/conversations/change", {"ids": chats[30:50], "change": {"pinned": True}})
    change: dict[str, Any] = {"recent": {}, "archived": {"archived": True}, "trashed": {"trashed": True}}[show]
    api.post("/conversations/change", {"ids": chats, "change": change})
    api.post("/conversations/change", {"ids": elsewhere, "change": {"archived": True, "trashed": show != "trashed"}})
    if show == "trashed":
        api.post("/conversations/change", {"ids": elsewhere, "change": {"trashed": False}})
    with api.workspace.database.write() as session:  # many of the same time
        session.execute(
            text(
                "UPDATE conversations "
                "SET updated_at = strftime('%Y-%m-%d 00:00:00.000000', '2026-01-01', (number / 30) || ' days')"
            )
        )
        session.execute(text("UPDATE conversations SET trashed_at = updated_at WHERE trashed_at IS NOT NULL"))
    first: list[str] = []

    def use_one(number: int) -> None:
        first[:] = first or ids(api.get(f"/conversations?show={show}&limit=1"))
        api.say(first[0])
        api.ask("PATCH", f"/conversations/{chats[number]}", {"title": f"Renamed {number}"})

    seen = pages(api, show, use_one, limit=25)
    assert len(seen) == 120
    assert set(seen) == set(chats)
    newest_first = chats[::-1]
    pinned_first = sorted(newest_first, key=lambda chat: chat not in chats[30:50])
    assert seen == (newest_first if show == "trashed" else pinned_first)


def test_a_page_that_is_just_full_is_the_last(api: Api) -> None:
    chats = [api.start() for _ in range(4)]
    page = api.get("/conversations?limit=2")
    page = api.get(f"/conversations?limit=2&after={page['next']}")
    assert (ids(page), page["next"]) == (chats[1::-1], None)


def test_a_conversation_that_has_gone_still_says_where_the_next_page_begins(api: Api) -> None:
    chats = [api.start() for _ in range(4)]
    page = api.get("/conversations?limit=2")
    api.ask("DELETE", f"/conversations/{chats[2]}")
    assert ids(api.get(f"/conversations?after={page['next']}")) == chats[1::-1]


@pytest.mark.parametrize(
    "after",
    [
        "",
        "5",
        "ä",
        "%00",
        "=" * 5000,
        base64.b64encode(b"[" * 3000).decode(),
        *(
            base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode()
            for cursor in (
                None,
                {"pinned": False},
                {"pinned": False, "updated_at": "2026-01-01", "trashed_at": None, "number": 1},
                {"pinned": False, "updated_at": "2026-01-01T00:00:00Z", "trashed_at": None, "number": 2**63},
                {"pinned": False, "updated_at": "2026-01-01T00:00:00Z", "trashed_at": None, "number": -1},
                {"pinned": False, "updated_at": "0001-01-01T00:00:00+23:59", "trashed_at": None, "number": 1},
                {
                    "pinned": False,
                    "updated_at": "2026-01-01T00:00:00Z",
                    "trashed_at": "2026-01-01T00:00:00Z",
                    "number": 1,
                },
            )
        ),
    ],
)
def test_a_cursor_of_somebody_else_s_making_is_refused(api: Api, after: str) -> None:
    assert api.error("GET", f"/conversations?after={after}")[:3] == (400, "after", "invalid_field")


def test_a_cursor_of_another_owner_shows_none_of_theirs(api: Api) -> None:
    for _ in range(3):
        api.start()
    page = api.get("/conversations?limit=1")
    assert api.get(f"/conversations?after={page['next']}", owner="eve") == {"conversations": [], "next": None}


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=1e400", "limit"),
        (f"limit={10**30}", "limit"),
        ("show=all", "show"),
    ],
)
def test_a_query_out_of_its_range_is_refused(api: Api, query: str, param: str) -> None:
    assert api.error("GET", f"/conversations?{query}")[:3] == (400, param, "invalid_field")


def test_only_the_fields_that_are_named_change(api: Api) -> None:
    chat = api.start(system_prompt="Be brief.", recap=True)
    before = api.get(f"/conversations/{chat}")
    api.changed.clear()
    changed = api.ask("PATCH", f"/conversations/{chat}", {"pinned": True}).json()
    assert changed == api.get(f"/conversations/{chat}") == {**before, "pinned": True}
    assert api.changed == [chat]
    assert api.ask("PATCH", f"/conversations/{chat}", {}).json() == changed


def test_every_field_can_be_changed(api: Api) -> None:
    chat = api.start(system_prompt="Be brief.")
    change = {"title": "Mine", "pinned": True, "archived": True, "system_prompt": None, "recap": True}
    changed = api.ask("PATCH", f"/conversations/{chat}", {**change, "trashed": True}).json()
    assert {name: changed[name] for name in change} == change
    assert changed["title_source"] == "user"
    assert changed["trashed_at"] is not None
    assert api.ask("PATCH", f"/conversations/{chat}", {"trashed": False}).json()["trashed_at"] is None


def test_what_is_in_the_trash_already_keeps_its_time(api: Api) -> None:
    chat = api.start()
    before, after = (api.ask("PATCH", f"/conversations/{chat}", {"trashed": True}).json() for _ in range(2))
    assert before == after


@pytest.mark.parametrize(
    ("title", "kept"),
    [
        ("  A walk\n in \t Lisbon ", "A walk in Lisbon"),
        ("half \ud83d", "half \ufffd"),
        ("N\x00UL", "NUL"),
        ("<b>&amp;</b>", "<b>&amp;</b>"),
        ("ü" * 200, "ü" * 200),
    ],
)
def test_a_title_is_one_line_that_can_be_kept(api: Api, title: str, kept: str) -> None:
    chat = api.start()
    body = json.dumps({"title": title}).encode()
    assert api.ask("PATCH", f"/conversations/{chat}", body).json()["title"] == kept
    assert api.get(f"/conversations/{chat}")["title"] == kept
    assert ids(api.get("/conversations")) == [chat]


@pytest.mark.parametrize("title", ["", " \n", "\x00", "x" * 201, None, 5, ["x"]])
def test_what_is_no_title_is_refused(api: Api, title: Any) -> None:
    chat = api.start()
    assert api.error("PATCH", f"/conversations/{chat}", {"title": title})[:3] == (400, "title", "invalid_field")
    assert api.get(f"/conversations/{chat}")["title"] is None


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"pinned": None}, "pinned"),
        ({"pinned": 1}, "pinned"),
        ({"archived": "true"}, "archived"),
        ({"trashed": "2026-01-01"}, "trashed"),
        ({"system_prompt": 5}, "system_prompt"),
        ({"system_prompt": "x" * 1_000_001}, "system_prompt"),
        ({"owner_id": "eve"}, "owner_id"),
        ({"id": NOBODY}, "id"),
        ({"trashed_at": None}, "trashed_at"),
    ],
)
def test_a_change_of_another_type_or_of_what_is_no_user_s_is_refused(
    api: Api, change: dict[str, Any], param: str
) -> None:
    chat = api.start()
    before = api.get(f"/conversations/{chat}")
    for body, place in (({**change, "title": "New"}, param), (change, param)):
        assert api.error("PATCH", f"/conversations/{chat}", body)[:3] == (400, place, "invalid_field")
    error = api.error("POST", "/conversations/change", {"ids": [chat], "change": change})
    assert error[:3] == (400, f"change.{param}", "invalid_field")
    assert api.get(f"/conversations/{chat}") == before


@pytest.mark.parametrize(
    ("new", "param"),
    [
        ({"title": "x"}, "title"),
        ({"recap": "yes"}, "recap"),
        ({"preset": 5}, "preset"),
        ({"channel": "api"}, "channel"),
    ],
)
def test_a_conversation_cannot_begin_with_what_it_does_not_take(api: Api, new: dict[str, Any], param: str) -> None:
    assert api.error("POST", "/conversations", new)[:3] == (400, param, "invalid_field")
    assert api.get("/conversations")["conversations"] == []


def test_texts_that_no_file_can_hold_are_cleaned(api: Api) -> None:
    body = json.dumps({"system_prompt": "a\ud800b\x00c\r\nd"}).encode()
    assert api.ask("POST", "/conversations", body).json()["system_prompt"] == "a\ufffdbc\nd"
    body = json.dumps({"preset": "\ud800"}).encode()
    assert api.error("POST", "/conversations", body)[:3] == (400, "preset", "unknown_preset")


def test_many_change_at_once_in_the_order_in_which_they_were_named(api: Api) -> None:
    chats = api.start_many(500)
    api.changed.clear()
    changed = api.post("/conversations/change", {"ids": chats, "change": {"archived": True}})
    assert ids(changed) == chats
    assert all(conversation["archived"] for conversation in changed["conversations"])
    assert api.changed == chats
    assert api.get("/conversations")["conversations"] == []


def test_many_change_or_none_do(api: Api) -> None:
    chats, theirs = [api.start() for _ in range(3)], api.post("/conversations", {}, owner="eve")["id"]
    api.changed.clear()
    for missing in (NOBODY, theirs, "\x00", "x" * 1000):
        body = {"ids": [*chats, missing], "change": {"trashed": True, "title": "Gone"}}
        status, param, code, message = api.error("POST", "/conversations/change", body)
        assert (status, param, code) == (404, None, "conversation_not_found")
        assert missing.strip("\x00")[:100] in message
    assert api.get("/conversations?show=trashed")["conversations"] == []
    assert {chat["title"] for chat in api.get("/conversations")["conversations"]} == {None}
    assert api.get(f"/conversations/{theirs}", owner="eve")["title"] is None
    assert api.changed == []


def test_one_that_is_named_twice_changes_once(api: Api) -> None:
    chat = api.start()
    assert ids(api.post("/conversations/change", {"ids": [chat, chat], "change": {"pinned": True}})) == [chat]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"ids": [], "change": {}}, "ids"),
        ({"ids": [NOBODY] * 501, "change": {}}, "ids"),
        ({"ids": [5], "change": {}}, "ids.0"),
        ({"ids": NOBODY, "change": {}}, "ids"),
        ({"ids": [NOBODY]}, "change"),
        ({"ids": [NOBODY], "change": None}, "change"),
        ({"change": {}}, "ids"),
    ],
)
def test_a_change_of_many_that_does_not_suit_is_refused(api: Api, body: Any, param: str) -> None:
    assert api.error("POST", "/conversations/change", body)[:3] == (400, param, "invalid_field")


def test_half_a_surrogate_pair_is_no_conversation(api: Api) -> None:
    body = json.dumps({"ids": ["\ud800"], "change": {}}).encode()
    assert api.error("POST", "/conversations/change", body)[0] == 404


def test_an_erased_conversation_is_gone(api: Api) -> None:
    chat = api.start()
    api.say(chat)
    api.changed.clear()
    answer = api.ask("DELETE", f"/conversations/{chat}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert api.changed == [chat]
    for make in REQUESTS.values():
        assert api.error(*make(chat))[0] == 404


def test_a_conversation_whose_reply_is_being_written_is_not_erased(api: Api) -> None:
    chat = api.start()
    api.post(f"/conversations/{chat}/messages", {"content": "Hello"})
    assert api.error("DELETE", f"/conversations/{chat}")[:3] == (409, None, "conversation_busy")
    api.reply("Still here.")
    assert api.contents(chat) == ["Hello", "Still here."]


@pytest.mark.parametrize("name", REQUESTS)
def test_another_owner_s_conversation_is_as_one_that_is_not_there(api: Api, name: str) -> None:
    chat = api.start()
    api.say(chat)
    before = api.get(f"/conversations/{chat}/messages")
    foreign = api.error(*REQUESTS[name](chat), owner="eve")
    missing = api.error(*REQUESTS[name](NOBODY), owner="eve")
    assert foreign[0] == 404
    assert (*foreign[:3], foreign[3].replace(chat, NOBODY)) == missing
    assert api.get(f"/conversations/{chat}/messages") == before
    assert api.get("/conversations", owner="eve")["conversations"] == []
