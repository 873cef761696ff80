"""/widget shows the chat on the pages that may show it, and gives each visitor what is theirs and nothing else."""

import gzip
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from event_readers import SECONDS, Server, Tab, eventually, said
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from itsdangerous import URLSafeTimedSerializer
from widget_app import HOME, SECRET, SHOP, VisitorClient, WidgetApp, error_of, open_widget

from chat import visitors as visitors_module
from chat.api import event_stream, visitor_events
from chat.api import widget as widget_module
from chat.api.widget import STREAMS_OF_VISITOR
from chat.api.widget_frame import _spelled
from chat.limits import DailyTokens
from chat.visitors import Visitors
from model.checkpoint.checkpoint import Checkpoint
from model.errors import EngineBusy, EngineStopped
from storage.conversations import Visitor
from storage.database import Database
from storage.errors import DatabaseUnusable
from storage.tables import Site

CANARY = "canary-7f3a"
NOBODY = "0" * 32


@pytest.fixture
def app(database: Database, tiny_checkpoint: Checkpoint) -> Iterator[WidgetApp]:
    with open_widget(database, tiny_checkpoint) as app:
        yield app


@pytest.fixture
def site(app: WidgetApp) -> dict[str, Any]:
    return app.add_site(system_prompt=f"Never say {CANARY}.", preset="story")


@pytest.fixture
def visitor(app: WidgetApp, site: dict[str, Any]) -> VisitorClient:
    return app.enter(site)


def frame(app: WidgetApp, key: str, origin: str) -> Any:
    return app.client.get(f"/widget/{key}", params={"origin": origin})


def policy(answer: Any) -> dict[str, str]:
    directives = answer.headers["Content-Security-Policy"].split("; ")
    return {name: value for name, _, value in (directive.partition(" ") for directive in directives)}


def data_of(document: str) -> dict[str, str]:
    """Return the data attributes of a document's root."""
    root = re.search("<html ([^>]*)>", document)
    assert root is not None
    return {name: unescape(value) for name, value in re.findall('data-([a-z]+)="([^"]*)"', root[1])}


# The documents and scripts.


def test_a_listed_origin_gets_the_frame(app: WidgetApp) -> None:
    site = app.add_site(
        origins=[SHOP, "https://*.shop.example"],
        appearance={"title": '"><script>alert(1)</script>', "accent": "#ff0000"},
    )
    answer = frame(app, site["key"], "https://www.shop.example")
    assert answer.status_code == 200
    assert policy(answer) == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'self' https://shop.example https://*.shop.example",
        "require-trusted-types-for": "'script'",
    }
    assert answer.headers["Cache-Control"] == "no-store"
    assert "X-Frame-Options" not in answer.headers
    data = data_of(answer.text)
    assert (data["site"], data["origin"]) == (site["key"], "https://www.shop.example")
    assert json.loads(data["appearance"]) == site["appearance"]
    assert "alert" not in re.sub('"[^"]*"', "", answer.text)
    assert not re.search("<script(?![^>]* src=)|<style|style=| on[a-z]+=", answer.text)


@pytest.mark.parametrize(
    ("change", "origin", "reason"),
    [
        ({}, "https://evil.example", "origin_not_listed"),
        ({}, "http://shop.example", "origin_not_listed"),
        ({}, "https://shop.example.evil.example", "origin_not_listed"),
        ({}, "null", "origin_not_listed"),
        ({}, "", "origin_not_listed"),
        ({"origins": []}, SHOP, "origin_not_listed"),
        ({"enabled": False}, SHOP, "site_disabled"),
        (None, SHOP, "unknown_site"),
    ],
)
def test_any_other_page_learns_why_it_cannot_have_it(
    app: WidgetApp, change: dict[str, Any] | None, origin: str, reason: str
) -> None:
    site = app.add_site(**(change or {}))
    answer = frame(app, site["key"] if change is not None else "pub_nobody", origin)
    assert answer.status_code == 403
    assert (policy(answer)["frame-ancestors"], policy(answer)["script-src"]) == ("* file:", "'self'")
    is_origin = origin.startswith("http")
    assert data_of(answer.text) == {"reason": reason, "origin": origin if is_origin else ""}
    assert re.findall('src="([^"]*)"', answer.text) == ["/widget/static/refused.js"]
    assert error_of(app.knock(site if change is not None else {"key": "pub_nobody"}, origin))[:2] == (403, reason)


@given(origin=st.text(max_size=60))
def test_nothing_that_is_said_of_an_origin_gets_into_the_document_as_html(origin: str) -> None:
    assert re.fullmatch(r"(https?://[a-z0-9.*:-]+)?", _spelled(origin))


def test_the_loader_is_for_all_pages_and_the_rest_for_our_own(app: WidgetApp) -> None:
    loader = app.client.get("/widget.js")
    assert loader.headers["Content-Type"].startswith("text/javascript")
    assert loader.headers["Cache-Control"] == "public, max-age=300"
    assert loader.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    script = app.client.get("/widget/static/refused.js")
    assert (script.status_code, script.headers["Cache-Control"]) == (200, "no-cache")
    assert script.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    for path, answer in (("/widget.js", loader), ("/widget/static/refused.js", script)):
        again = app.client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_scripts_come_compressed_to_those_who_take_them_so(app: WidgetApp) -> None:
    with app.client.stream("GET", "/widget.js", headers={"Accept-Encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    plain = app.client.get("/widget.js", headers={"Accept-Encoding": "identity"}).content
    assert gzip.decompress(raw) == plain


@pytest.mark.parametrize("path", ["frame.html", "refused.html", "%2e%2e/sites.py", "none.js", ""])
def test_there_are_no_other_files(app: WidgetApp, path: str) -> None:
    assert app.client.get(f"/widget/static/{path}").status_code == 404


# Sessions.


def test_a_session_is_a_token_and_no_more(app: WidgetApp, site: dict[str, Any]) -> None:
    told = app.knock(site).json()
    assert told.keys() == {"token"}
    assert told["token"].startswith("vis_")


def test_an_earlier_token_is_the_same_visitor(app: WidgetApp, site: dict[str, Any], visitor: VisitorClient) -> None:
    chat = visitor.begin()
    again = app.enter(site, token=visitor.token)
    assert [one["id"] for one in again.ask("GET", "/conversations").json()["conversations"]] == [chat]
    other = app.enter(site)
    assert other.ask("GET", "/conversations").json() == {"conversations": []}


@pytest.mark.parametrize("token", ["", "vis_", "vis_x.y.z", "x", "vis_é", "vis_" + "x" * 1900])
def test_a_token_that_is_none_begins_anew(app: WidgetApp, site: dict[str, Any], token: str) -> None:
    body = json.dumps({"site": site["key"], "origin": SHOP, "token": token})
    answer = app.client.post("/widget/api/session", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


def test_another_sites_token_begins_anew(app: WidgetApp, site: dict[str, Any], visitor: VisitorClient) -> None:
    visitor.begin()
    elsewhere = app.enter(app.add_site("Blog"), token=visitor.token)
    assert elsewhere.ask("GET", "/conversations").json() == {"conversations": []}


def vouched(app: WidgetApp, site: dict[str, Any], user: str) -> dict[str, str]:
    """Return what a site's server says of a user."""
    secret = app.own("GET", f"/sites/{site['id']}/identity-secret").json()["secret"]
    return {"id": user, "hash": hmac.new(secret.encode(), user.encode(), hashlib.sha256).hexdigest()}


def test_a_user_whom_the_site_vouches_for_is_one_visitor_on_all_devices(app: WidgetApp, site: dict[str, Any]) -> None:
    user = vouched(app, site, "bob")
    chat = app.enter(site, user=user).begin()
    elsewhere = app.enter(site, user=user)
    assert [one["id"] for one in elsewhere.ask("GET", "/conversations").json()["conversations"]] == [chat]
    rotated = app.own("POST", f"/sites/{site['id']}/rotate").json()
    after = app.enter(rotated, user=vouched(app, rotated, "bob"))
    assert [one["id"] for one in after.ask("GET", "/conversations").json()["conversations"]] == [chat]


def test_a_user_does_not_take_over_what_was_said_before(
    app: WidgetApp, site: dict[str, Any], visitor: VisitorClient
) -> None:
    visitor.begin()
    known = app.enter(site, token=visitor.token, user=vouched(app, site, "bob"))
    assert known.ask("GET", "/conversations").json() == {"conversations": []}


@pytest.mark.parametrize("wrong", ["", "0" * 64, "é", "other user", "other site"])
def test_a_wrong_hash_is_refused_and_nobody_is_let_in(app: WidgetApp, site: dict[str, Any], wrong: str) -> None:
    if wrong == "other user":
        wrong = vouched(app, site, "eve")["hash"]
    elif wrong == "other site":
        wrong = vouched(app, app.add_site("Blog"), "bob")["hash"]
    known = app.knock(site, user=vouched(app, site, "bob")).json()["token"]
    for token in (None, known):
        answer = app.knock(site, user={"id": "bob", "hash": wrong}, token=token)
        assert error_of(answer)[:2] == (403, "wrong_hash")


def test_another_web_site_gets_no_session(app: WidgetApp, site: dict[str, Any]) -> None:
    body = {"site": site["key"], "origin": SHOP}
    for where in ("cross-site", "same-site"):
        answer = app.client.post("/widget/api/session", json=body, headers={"Sec-Fetch-Site": where})
        assert answer.status_code == 403
    answer = app.client.post("/widget/api/session", json=body, headers={"Origin": SHOP})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


# Tokens.


def claims_of(token: str) -> dict[str, Any]:
    serializer = URLSafeTimedSerializer(SECRET, salt="visitor", signer_kwargs=SIGNER)
    claims: dict[str, Any] = serializer.loads(token.removeprefix("vis_"))
    return claims


SIGNER = {"key_derivation": "hmac", "digest_method": hashlib.sha256}


def sign(claims: Any, secret: bytes = SECRET, salt: str = "visitor", signer: Any = SIGNER) -> str:
    return "vis_" + str(URLSafeTimedSerializer(secret, salt=salt, signer_kwargs=signer).dumps(claims))


def test_a_token_that_is_signed_rightly_is_taken(visitor: VisitorClient) -> None:
    visitor.token = sign(claims_of(visitor.token))  # or the refusals below would show nothing
    assert visitor.ask("GET", "/conversations").status_code == 200


@settings(max_examples=300)
@given(data=st.data())
def test_a_token_with_any_other_character_is_refused(shared: tuple[Visitors, str], data: st.DataObject) -> None:
    visitors, token = shared
    place = data.draw(st.integers(4, len(token) - 1))
    character = data.draw(st.characters(codec="ascii").filter(lambda one: one != token[place]))
    mutated = token[:place] + character + token[place + 1 :]
    try:
        session = visitors.find(mutated, HOME)
    except visitors_module.NoVisitor:
        return
    # base64 has bits to spare at its end: another spelling of the same signature
    known = visitors.find(token, HOME)
    assert (session.site.id, session.visitor, session.origin) == (known.site.id, known.visitor, known.origin)
    assert place == len(token) - 1


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Iterator[tuple[Visitors, str]]:
    """Visitors, and the token of one of them."""
    with closing(Database(tmp_path_factory.mktemp("widget") / "parley.db")) as database:
        database.migrate()
        with open_widget(database, tiny_checkpoint) as app:
            token = app.enter(app.add_site()).token
            yield Visitors(app.workspace, SECRET, DailyTokens(None)), token


@pytest.mark.parametrize(
    "forge",
    [
        lambda claims: sign(claims, secret=b"another secret of thirty-two byte"),
        lambda claims: sign(claims, salt="session"),
        lambda claims: sign(claims, signer={"key_derivation": "hmac"}),
        lambda claims: sign({**claims, "s": "another"}),
        lambda claims: sign({**claims, "k": "pub_another"}),
        lambda claims: sign({**claims, "o": "https://evil.example"}),
        lambda claims: sign(claims).removeprefix("vis_"),
        lambda claims: "vis_eyJhbGciOiJub25lIn0.eyJ2IjoiYWRhIn0.",
        lambda claims: "",
    ],
)
def test_a_token_of_another_kind_is_refused(visitor: VisitorClient, forge: Callable[[Any], str]) -> None:
    visitor.token = forge(claims_of(visitor.token))
    assert error_of(visitor.ask("GET", "/conversations"))[:2] == (401, "no_visitor")


def test_a_token_is_worth_nothing_after_thirty_days(
    visitor: VisitorClient, monkeypatch: pytest.MonkeyPatch, site: dict[str, Any], app: WidgetApp
) -> None:
    monkeypatch.setattr(visitors_module, "TOKEN_DAYS", -1)
    answer = visitor.ask("GET", "/conversations")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    monkeypatch.undo()
    assert visitor.ask("GET", "/conversations").status_code == 200


def test_no_cookie_and_no_other_place_takes_a_token(app: WidgetApp, visitor: VisitorClient) -> None:
    for headers in (
        {"Cookie": f"Authorization=Bearer {visitor.token}"},
        {"Authorization": f"Basic {visitor.token}"},
        {"Authorization": visitor.token},
        {"X-Api-Key": visitor.token},
    ):
        assert app.client.get("/widget/api/conversations", headers=headers).status_code == 401
    assert app.client.get(f"/widget/api/conversations?token={visitor.token}").status_code == 401
    assert "set-cookie" not in visitor.ask("GET", "/conversations").headers


@pytest.mark.parametrize("change", [{"enabled": False}, {"origins": ["https://other.example"]}, {"origins": []}])
def test_a_site_that_no_longer_shows_the_chat_ends_its_sessions(
    app: WidgetApp, site: dict[str, Any], visitor: VisitorClient, change: dict[str, Any]
) -> None:
    visitor.begin()
    app.own("PATCH", f"/sites/{site['id']}", change)
    assert error_of(visitor.ask("GET", "/conversations"))[:2] == (401, "no_visitor")
    assert error_of(visitor.send())[:2] == (401, "no_visitor")


# Conversations.


def test_a_visitor_sees_what_was_said_and_nothing_else(visitor: VisitorClient) -> None:
    sent = visitor.send("Is it open?").json()
    assert sent.keys() == {"conversation_id", "messages"}
    question, reply = sent["messages"]
    assert question.keys() == {"id", "role", "content", "status", "rating", "created_at"}
    assert (question["role"], question["content"], question["rating"]) == ("user", "Is it open?", None)
    assert (reply["role"], reply["status"]) == ("assistant", "streaming")


def test_the_reply_is_drawn_as_the_sites_preset_says(app: WidgetApp, visitor: VisitorClient) -> None:
    visitor.begin()
    assert (app.engine.params[-1].temperature, app.engine.params[-1].max_tokens) == (0.9, 1024)


def test_a_preset_that_was_deleted_is_none(app: WidgetApp) -> None:
    app.own("GET", "/sites")
    app.workspace.presets.save("ada", "mine", system_prompt="x", params={"top_k": 3})
    visitor = app.enter(app.add_site(preset="mine"))
    app.workspace.presets.delete("ada", "mine")
    visitor.begin()
    assert app.engine.params[-1].top_k != 3


def test_a_conversation_goes_on(app: WidgetApp, visitor: VisitorClient) -> None:
    chat = visitor.begin("One?")
    app.reply("Yes.")
    assert visitor.send("Two?", chat).json()["conversation_id"] == chat
    app.reply("No.")
    assert [message["content"] for message in visitor.messages(chat)] == ["One?", "Yes.", "Two?", "No."]
    listed = visitor.ask("GET", "/conversations").json()["conversations"]
    assert [one.keys() for one in listed] == [{"id", "title", "created_at", "updated_at"}]


def test_what_is_sent_again_with_its_key_is_sent_once(app: WidgetApp, visitor: VisitorClient) -> None:
    first = visitor.send("One?", key="k")
    assert first.status_code == 201
    app.reply()
    again = visitor.send("One?", key="k")
    assert (again.status_code, again.json()["conversation_id"]) == (200, first.json()["conversation_id"])
    assert [m["id"] for m in again.json()["messages"]] == [m["id"] for m in first.json()["messages"]]
    refused = visitor.send("Two?", key="k")
    assert error_of(refused)[:2] == (409, "key_taken")
    assert refused.json()["error"]["param"] == "idempotency_key"
    assert len(visitor.ask("GET", "/conversations").json()["conversations"]) == 1


def test_one_reply_at_a_time_is_written_for_a_visitor(
    app: WidgetApp, site: dict[str, Any], visitor: VisitorClient
) -> None:
    chat = visitor.begin()
    assert error_of(visitor.send("And?", chat))[:2] == (409, "conversation_busy")
    assert error_of(visitor.send("Another one"))[:2] == (409, "conversation_busy")
    app.enter(site).begin()
    assert len(visitor.ask("GET", "/conversations").json()["conversations"]) == 1


def test_of_two_at_once_one_is_sent(app: WidgetApp, visitor: VisitorClient) -> None:
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda n=n: statuses.append(visitor.send(f"{n}").status_code)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201, 409, 409, 409]


def test_a_visitor_stops_a_reply(app: WidgetApp, visitor: VisitorClient) -> None:
    chat = visitor.begin()
    assert visitor.ask("POST", f"/conversations/{chat}/stop").status_code == 204
    app.reply("unseen", "cancelled")
    assert visitor.messages(chat)[1]["status"] == "stopped"


def test_a_visitor_rates_replies_alone(app: WidgetApp, visitor: VisitorClient) -> None:
    chat = visitor.begin()
    app.reply()
    question, reply = (message["id"] for message in visitor.messages(chat))
    assert visitor.ask("PUT", f"/messages/{reply}/rating", {"rating": 1}).status_code == 204
    assert [message["rating"] for message in visitor.messages(chat)] == [None, 1]
    assert visitor.ask("PUT", f"/messages/{reply}/rating", {"rating": None}).status_code == 204
    assert [message["rating"] for message in visitor.messages(chat)] == [None, None]
    assert visitor.ask("PUT", f"/messages/{question}/rating", {"rating": 1}).status_code == 409
    assert visitor.ask("PUT", f"/messages/{reply}/rating", {"rating": 5}).status_code == 400


def test_the_owners_title_is_the_owners(app: WidgetApp, visitor: VisitorClient) -> None:
    chat = visitor.begin("Is it open?")
    app.reply()
    [told] = visitor.ask("GET", "/conversations").json()["conversations"]
    assert told["title"]
    app.own("PATCH", f"/conversations/{chat}", {"title": "A tiresome customer"})
    [told] = visitor.ask("GET", "/conversations").json()["conversations"]
    assert told["title"] is None


@pytest.mark.parametrize("gone", ["erased", "in the trash"])
def test_a_conversation_that_the_owner_deletes_is_gone(app: WidgetApp, visitor: VisitorClient, gone: str) -> None:
    chat = visitor.begin()
    app.reply()
    if gone == "erased":
        app.own("DELETE", f"/conversations/{chat}")
    else:
        app.own("PATCH", f"/conversations/{chat}", {"trashed": True})
    assert visitor.ask("GET", f"/conversations/{chat}").status_code == 404
    assert visitor.send("Still there?", chat).status_code == 404
    visitor.begin("Then anew.")


def test_nobody_else_finds_a_visitors_conversation(
    app: WidgetApp, site: dict[str, Any], visitor: VisitorClient
) -> None:
    chat = visitor.begin()
    app.reply()
    reply = visitor.messages(chat)[1]["id"]
    own = app.own("POST", "/conversations", {}).json()["id"]
    blog = app.add_site("Blog")
    for stranger in (app.enter(site), app.enter(blog), app.enter(app.add_site("Hers", owner="eve"))):
        for chat_id in (chat, own, NOBODY):
            for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/stop"), ("GET", "/export")):
                answer = stranger.ask(method, f"/conversations/{chat_id}{path}")
                assert error_of(answer) == (404, "conversation_not_found", f"There is no conversation {chat_id}.")
            assert stranger.send("Mine?", chat_id).status_code == 404
        assert stranger.ask("PUT", f"/messages/{reply}/rating", {"rating": 1}).status_code == 404
    assert [message["content"] for message in visitor.messages(chat)] == ["Hello", "Hi!"]
    assert visitor.ask("GET", f"/conversations/{own}").status_code == 404


# Limits.


def test_messages_of_a_visitor_are_limited(app: WidgetApp) -> None:
    site = app.add_site(messages_per_visitor=2)
    visitor = app.enter(site)
    for n in range(2):
        visitor.begin(str(n))
        app.reply()
    answer = visitor.send("One more")
    assert error_of(answer)[:2] == (429, "limit_exceeded")
    assert error_of(answer)[2].startswith("There were too many messages in a short time. Try again in ")
    assert 0 < int(answer.headers["Retry-After"]) <= 600
    app.enter(site).begin()


def test_messages_of_an_address_are_limited(app: WidgetApp) -> None:
    site = app.add_site(messages_per_address=2)
    for _ in range(2):
        app.enter(site).begin()
    assert app.enter(site).send().status_code == 429
    app.enter(app.add_site("Blog")).begin()


def test_a_message_that_is_too_long_counts_for_nothing(app: WidgetApp) -> None:
    visitor = app.enter(app.add_site(messages_per_visitor=1))
    assert error_of(visitor.send("word " * 1_500, key="1"))[:2] == (400, "message_too_long")
    visitor.begin()


def test_who_may_send_no_more_is_told_so_before_their_text_is_looked_at(app: WidgetApp) -> None:
    visitor = app.enter(app.add_site(messages_per_visitor=1))
    visitor.begin()
    app.reply()
    assert visitor.send("word " * 1_500, key="2").status_code == 429


def test_a_message_that_the_address_may_not_send_is_not_counted_as_the_visitors(app: WidgetApp) -> None:
    site = app.add_site(messages_per_visitor=1, messages_per_address=1)
    app.enter(site).begin()
    visitor = app.enter(site)
    assert visitor.send().status_code == 429
    app.own("PATCH", f"/sites/{site['id']}", {"messages_per_address": 2}).raise_for_status()
    visitor.begin()


def test_a_message_that_the_visitor_may_not_send_is_not_counted_as_the_addresses(app: WidgetApp) -> None:
    site = app.add_site(messages_per_visitor=1, messages_per_address=2)
    visitor = app.enter(site)
    visitor.begin()
    app.reply()
    assert visitor.send("One more").status_code == 429
    app.enter(site).begin()


def test_tokens_of_a_day_are_limited(app: WidgetApp) -> None:
    visitor = app.enter(app.add_site(tokens_per_day=8))
    chat = visitor.begin()
    app.reply()
    answer = visitor.send("More", chat)
    assert error_of(answer)[:2] == (429, "limit_exceeded")
    assert error_of(answer)[2].startswith("This chat has answered as much as it may today.")
    assert 0 < int(answer.headers["Retry-After"]) <= 86_400
    assert len(visitor.messages(chat)) == 2


def test_what_the_owner_has_used_counts_for_their_sites_too(app: WidgetApp) -> None:
    visitor = app.enter(app.add_site(tokens_per_day=None))
    app.owners_tokens.add("ada", 1_000)
    answer = visitor.send("Hello")
    assert error_of(answer)[:2] == (429, "limit_exceeded")
    assert error_of(answer)[2].startswith("This chat has answered as much as it may today.")


def test_how_long_the_system_prompt_is_is_told_nowhere(app: WidgetApp, visitor: VisitorClient) -> None:
    answer = visitor.send("word " * 1_500, key="1")
    assert error_of(answer) == (400, "message_too_long", "The message is too long for this chat: shorten it.")


def test_half_a_character_is_no_conversation(visitor: VisitorClient) -> None:
    assert error_of(visitor.send("Hello", "\\ud800"))[0] == 404


def test_sessions_of_an_address_are_limited_and_new_ones_more(app: WidgetApp, site: dict[str, Any]) -> None:
    visitor = app.enter(site)
    for _ in range(9):
        app.enter(site)
    answer = app.knock(site)
    assert (error_of(answer)[:2], "Retry-After" in answer.headers) == ((429, "limit_exceeded"), True)
    for _ in range(49):
        app.enter(site, token=visitor.token)
    answer = app.knock(site, token=visitor.token)
    assert (error_of(answer)[:2], "Retry-After" in answer.headers) == ((429, "limit_exceeded"), True)


def test_a_shared_computer_keeps_nothing_of_a_visitor(
    app: WidgetApp, site: dict[str, Any], visitor: VisitorClient
) -> None:
    chat = visitor.begin()
    answers = [app.knock(site), visitor.send("More", chat), visitor.ask("GET", f"/conversations/{NOBODY}")]
    answers += [visitor.ask("GET", path) for path in ("/conversations", f"/conversations/{chat}")]
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_an_address_is_what_somebody_has(app: WidgetApp, one: str, other: str, are_one: bool) -> None:
    site = app.add_site()
    clients = [TestClient(app.app, client=(address, 5)) for address in (one, other)]
    body = {"site": site["key"], "origin": SHOP}
    for _ in range(10):
        assert clients[0].post("/widget/api/session", json=body).status_code == 200
    forged = {"X-Forwarded-For": "198.51.100.7", "X-Real-IP": "198.51.100.7", "Forwarded": "for=198.51.100.7"}
    assert clients[0].post("/widget/api/session", json=body, headers=forged).status_code == 429
    assert clients[1].post("/widget/api/session", json=body).status_code == (429 if are_one else 200)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"content": "x" * 8001}, "content"),
        ({"content": " \n"}, "content"),
        ({"content": 5}, "content"),
        ({"content": None}, "content"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"role": "system"}, "role"),
        ({"params": {"temperature": 0}}, "params"),
        ({"system_prompt": "x"}, "system_prompt"),
        ({"conversation_id": 5}, "conversation_id"),
    ],
)
def test_visitors_can_send_text_and_nothing_else(visitor: VisitorClient, body: dict[str, Any], param: str) -> None:
    answer = visitor.ask("POST", "/messages", {"conversation_id": None, "content": "x", "idempotency_key": "k", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert visitor.ask("GET", "/conversations").json() == {"conversations": []}


def test_a_body_of_a_visitor_is_small(visitor: VisitorClient) -> None:
    assert visitor.send("x" * 70_000).status_code == 413


# What is not a visitor's to know.


def test_the_system_prompt_is_told_nowhere(app: WidgetApp, site: dict[str, Any], visitor: VisitorClient) -> None:
    chat = visitor.begin()
    app.reply()
    reply = visitor.messages(chat)[1]["id"]
    answers = [
        frame(app, site["key"], SHOP),
        frame(app, site["key"], "https://evil.example"),
        app.knock(site),
        visitor.send("More", chat),
        visitor.send("x" * 9000),
        visitor.ask("GET", "/conversations"),
        visitor.ask("GET", f"/conversations/{chat}"),
        visitor.ask("PUT", f"/messages/{reply}/rating", {"rating": 1}),
        *(visitor.ask("GET", f"/conversations/{chat}/export?format={name}") for name in ("json", "markdown", "text")),
        visitor.ask("GET", "/openapi.json"),
        app.client.get("/widget.js"),
        *(app.client.get(f"/widget/static/{file.name}") for file in Path("chat/widget").glob("*.js")),
    ]
    assert len(answers) > 12
    for answer in answers:
        assert CANARY not in answer.text
        assert "story" not in answer.text or answer.url.path.endswith(".js")
    assert CANARY in app.own("GET", f"/conversations/{chat}").text


@pytest.mark.parametrize(
    "failure",
    [EngineStopped("The weights /secret/model.gguf are gone."), ValueError("top_k must suit /secret/model")],
)
def test_faults_of_the_model_are_the_owners_to_know(app: WidgetApp, visitor: VisitorClient, failure: Any) -> None:
    app.engine.failure = failure
    answer = visitor.send()
    assert error_of(answer)[:2] == (503, "unavailable")
    assert "secret" not in answer.text
    [chat] = visitor.ask("GET", "/conversations").json()["conversations"]
    told = visitor.ask("GET", f"/conversations/{chat['id']}")
    assert "secret" not in told.text
    assert told.json()["messages"][1]["status"] == "error"


def test_a_busy_engine_says_when_to_come_again(app: WidgetApp, visitor: VisitorClient) -> None:
    app.engine.failure = EngineBusy("There are 64 in line.", 7)
    answer = visitor.send()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")


def test_a_fault_of_the_disk_is_the_owners_to_know(
    app: WidgetApp, visitor: VisitorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnusable(Path("/secret/parley.db"), "the disk is full")

    monkeypatch.setattr(app.workspace.manager, "start", fail)
    answer = visitor.send()
    assert error_of(answer)[:2] == (503, "unavailable")
    assert "secret" not in answer.text


def test_nothing_that_a_visitor_says_is_logged(
    app: WidgetApp, visitor: VisitorClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "chat")
    visitor.begin("My number is 12345.")
    app.reply()
    visitor.send("x" * 9000)
    assert "12345" not in caplog.text
    assert "testclient" not in caplog.text


# Exports.


def test_a_visitor_takes_along_what_was_said(app: WidgetApp, visitor: VisitorClient) -> None:
    chat = visitor.begin('"Open"? /../\r\nSet-Cookie: x')
    app.reply("Yes — **always**.")
    path = f"/conversations/{chat}/export"
    exported = {name: visitor.ask("GET", f"{path}?format={name}") for name in ("json", "markdown", "text")}
    for name, suffix in (("json", "json"), ("markdown", "md"), ("text", "txt")):
        headers = exported[name].headers
        assert re.fullmatch(
            rf"attachment; filename=\"[\w-]+\.{suffix}\"; filename\*=.*", headers["Content-Disposition"]
        )
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Type"] == "application/octet-stream"
        assert headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in headers
    told = json.loads(exported["json"].text)
    assert [message["content"] for message in told["messages"]] == [m["content"] for m in visitor.messages(chat)]
    assert [message.keys() for message in told["messages"]] == [{"role", "content", "created_at"}] * 2
    assert "## Assistant, " in exported["markdown"].text
    assert "Yes — **always**." in exported["text"].text
    assert visitor.ask("GET", f"{path}?format=parley").status_code == 400


@pytest.mark.parametrize(("title", "shown"), [("Questions?", "Questions?"), ("", "Chat")])
def test_what_is_saved_does_not_tell_how_the_owner_calls_it(app: WidgetApp, title: str, shown: str) -> None:
    visitor = app.enter(app.add_site("Annoying customers", appearance={"title": title}))
    chat = visitor.begin()
    app.reply()
    app.own("PATCH", f"/conversations/{chat}", {"title": "A tiresome customer"})
    answer = visitor.ask("GET", f"/conversations/{chat}/export?format=json")
    assert answer.json()["title"] == shown
    assert f'filename="{shown.strip("?")}.json"' in answer.headers["Content-Disposition"]


# The stream.


@pytest.fixture
def watch(app: WidgetApp) -> Iterator[Callable[..., Tab]]:
    """A function that opens a visitor's stream in a real server."""
    with (
        closing(Server(app.app)) as server,
        httpx.Client(base_url=server.url, timeout=SECONDS) as client,
        ExitStack() as tabs,
    ):

        def open_stream(visitor: VisitorClient, chat: str, at: str | None = None) -> Tab:
            headers = {"Authorization": f"Bearer {visitor.token}", **({"Last-Event-ID": at} if at else {})}
            url = f"/widget/api/conversations/{chat}/events"
            return Tab(tabs.enter_context(client.stream("GET", url, headers=headers)))

        yield open_stream
        app.workspace.bus.close()


def test_a_reply_is_told_as_it_grows(app: WidgetApp, visitor: VisitorClient, watch: Callable[..., Tab]) -> None:
    chat = visitor.begin()
    reply = visitor.messages(chat)[1]["id"]
    tab = watch(visitor, chat)
    assert tab.response.headers["Content-Type"].startswith("text/event-stream")
    progress = tab.next("progress").data
    assert (progress["message_id"], progress["progress"]["queue_position"]) == (reply, 0)
    app.engine.say("Hel\n\ndata: x\r", "lo 😀")
    app.engine.end()
    events = tab.until("end")
    assert said(events, reply) == "Hel\n\ndata: x\rlo 😀"
    end = events[-1].data
    assert end.keys() == {"id", "role", "content", "status", "rating", "created_at"}
    assert (end["content"], end["status"]) == ("Hel\n\ndata: x\rlo 😀", "complete")
    assert {event.name for event in events} <= {"progress", "text", "end", "ping"}


def test_a_reader_goes_on_where_they_were(app: WidgetApp, visitor: VisitorClient, watch: Callable[..., Tab]) -> None:
    chat = visitor.begin()
    reply = visitor.messages(chat)[1]["id"]
    app.reply("a😀bc")
    text, end = watch(visitor, chat, f"{reply}:2").until("end")[-2:]
    assert (text.data["text"], text.id) == ("bc", f"{reply}:4")
    assert end.data["content"] == "a😀bc"


def test_a_place_in_somebody_elses_reply_is_none(
    app: WidgetApp, site: dict[str, Any], visitor: VisitorClient, watch: Callable[..., Tab]
) -> None:
    other = app.enter(site)
    theirs = other.messages(other.begin("Secret"))[1]["id"]
    app.reply("Very secret")
    chat = visitor.begin()
    tab = watch(visitor, chat, f"{theirs}:0")
    app.engine.say("Mine")
    told = tab.until("text")  # what has ended before anybody watched would be no news
    app.engine.end()
    assert "ecret" not in json.dumps([event.data for event in [*told, *tab.until("end")]])


def test_other_conversations_and_the_owners_changes_are_not_told(
    app: WidgetApp, site: dict[str, Any], visitor: VisitorClient, watch: Callable[..., Tab]
) -> None:
    chat = visitor.begin()
    tab = watch(visitor, chat)
    tab.next("progress")
    app.own("PATCH", f"/conversations/{chat}", {"title": "Tiresome", "system_prompt": CANARY})
    app.own("POST", "/conversations", {})
    app.engine.say("Hi")
    app.engine.end()
    events = tab.until("end")
    assert {event.name for event in events} <= {"progress", "text", "end"}
    assert CANARY not in json.dumps([event.data for event in events])


@pytest.mark.parametrize("gone", ["erased", "in the trash"])
def test_a_conversation_that_goes_is_told_and_ends_the_stream(
    app: WidgetApp, visitor: VisitorClient, watch: Callable[..., Tab], gone: str
) -> None:
    chat = visitor.begin()
    app.reply()
    tab = watch(visitor, chat)
    assert next(tab.events).name == "ping"
    if gone == "erased":
        app.own("DELETE", f"/conversations/{chat}")
    else:
        app.own("PATCH", f"/conversations/{chat}", {"trashed": True})
    assert tab.next("gone").data == {"id": chat}
    assert list(tab.events) == []


def test_an_error_of_the_engine_is_told_without_its_text(
    app: WidgetApp, visitor: VisitorClient, watch: Callable[..., Tab]
) -> None:
    chat = visitor.begin()
    tab = watch(visitor, chat)
    tab.next("progress")
    app.engine.end("error", "The model computed secret numbers.")
    end = tab.next("end")
    assert end.data["status"] == "error"
    assert "secret" not in json.dumps(end.data)


def test_a_stream_ends_when_the_site_is_switched_off(
    app: WidgetApp, site: dict[str, Any], visitor: VisitorClient, watch: Callable[..., Tab], monkeypatch
) -> None:
    monkeypatch.setattr(event_stream, "PING_SECONDS", 0.05)
    monkeypatch.setattr(visitor_events, "CHECK_SECONDS", 0.0)
    chat = visitor.begin()
    app.reply()
    tab = watch(visitor, chat)
    assert next(tab.events).name == "ping"
    app.own("PATCH", f"/sites/{site['id']}", {"enabled": False})
    assert {event.name for event in tab.events} <= {"ping"}


def test_visitors_are_counted_and_not_kept(app: WidgetApp) -> None:
    site = app.workspace.sites.get("ada", app.add_site()["id"])
    visitors = Visitors(app.workspace, SECRET, DailyTokens(None))

    def enter(n: int) -> str:
        token = visitors.enter(site.key, SHOP, HOME, address=f"192.0.2.{n}", token=None, user=None)
        return visitors.find(token, HOME).visitor.id

    assert len({enter(n) for n in range(100)}) == 100
    with app.workspace.database.read() as session:
        assert session.query(Site).count() == 1
    assert app.workspace.sites.conversations(Visitor(site.id, "x"), limit=9) == []


@pytest.mark.parametrize("change", ["switched off", "another key"])
def test_a_reply_is_told_no_further_once_the_site_is_no_longer_open(
    app: WidgetApp, site: dict[str, Any], visitor: VisitorClient, watch: Callable[..., Tab], monkeypatch, change: str
) -> None:
    monkeypatch.setattr(visitor_events, "CHECK_SECONDS", 0.0)
    tab = watch(visitor, visitor.begin())
    app.engine.say("Seen")
    tab.next("text")
    if change == "switched off":
        app.own("PATCH", f"/sites/{site['id']}", {"enabled": False})
    else:
        app.own("POST", f"/sites/{site['id']}/rotate")
    app.engine.say("unseen")
    app.engine.end()
    assert "unseen" not in json.dumps([event.data for event in tab.events])


def test_a_visitor_and_an_address_may_have_some_streams_at_a_time(
    app: WidgetApp, site: dict[str, Any], visitor: VisitorClient, watch: Callable[..., Tab], monkeypatch
) -> None:
    chat = visitor.begin()
    app.reply()
    tabs = [watch(visitor, chat) for _ in range(STREAMS_OF_VISITOR)]
    refused = watch(visitor, chat).response
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "10")
    assert json.loads(refused.read())["error"]["code"] == "limit_exceeded"
    other = app.enter(site)
    others = other.begin()
    assert watch(other, others).response.status_code == 200
    monkeypatch.setattr(widget_module, "STREAMS_OF_ADDRESS", STREAMS_OF_VISITOR + 1)
    assert watch(other, others).response.status_code == 429
    tabs[0].response.close()
    eventually(lambda: watch(other, others).response.status_code == 200)
