"""Messages over HTTP: sent once, answered, branched, edited, deleted, rated; and nothing of another owner's."""

import json
from typing import Any

import httpx
import pytest
from api_client import NOBODY, Api

from chat.api.messages import read_message, read_path
from model.errors import EngineBusy, EngineStopped
from model.sampling_params import SamplingParams

# Every request on one conversation's messages and on one message.
ON_A_CONVERSATION: dict[str, tuple[str, str, Any]] = {
    "path": ("GET", "messages", None),
    "send": ("POST", "messages", {"content": "Mine now"}),
    "preview": ("POST", "preview", {"content": "Mine now"}),
    "stop": ("POST", "stop", None),
    "clear": ("POST", "clear", None),
}
ON_A_MESSAGE: dict[str, tuple[str, str, Any]] = {
    "ledger": ("GET", "/ledger", None),
    "regenerate": ("POST", "/regenerate", {}),
    "continue": ("POST", "/continue", {}),
    "branch": ("POST", "/branch", {"place": 0, "token_id": 5}),
    "edit": ("POST", "/edit", {"content": "Mine now"}),
    "switch": ("POST", "/switch", None),
    "fork": ("POST", "/fork", None),
    "pin": ("PATCH", "", {"pinned": True}),
    "delete": ("DELETE", "", None),
    "delete branch": ("DELETE", "?branch=true", None),
    "rate": ("PUT", "/feedback", {"rating": 1}),
}
WITH_PARAMS = {
    "send": {"content": "Hello"},
    "preview": {"content": "Hello"},
    "regenerate": {},
    "continue": {},
    "branch": {"place": 0, "token_id": 5},
}


@pytest.fixture
def chat(api: Api) -> str:
    return api.start()


def path_of(name: str, chat: str, message: str) -> str:
    if name in ON_A_CONVERSATION:
        return f"/conversations/{chat}/{ON_A_CONVERSATION[name][1]}"
    return f"/messages/{message}{ON_A_MESSAGE[name][1]}"


def encoded(body: Any) -> bytes:
    """Return JSON with halves of surrogate pairs, which httpx would refuse to send."""
    return json.dumps(body).encode()


def shown(api: Api, chat: str) -> list[dict[str, Any]]:
    return api.get(f"/conversations/{chat}/messages")["messages"]


def ids_of(answer: httpx.Response) -> tuple[str, str, str]:
    sent = answer.json()
    assert [message["id"] for message in sent["messages"]] == [sent["message_id"], sent["reply_id"]]
    return sent["conversation_id"], sent["message_id"], sent["reply_id"]


def test_a_message_is_accepted_before_its_reply_is_written(api: Api, chat: str) -> None:
    api.changed.clear()
    answer = api.ask("POST", f"/conversations/{chat}/messages", {"content": "Hello"})
    assert answer.status_code == 202
    message, reply = shown(api, chat)
    sent = {"conversation_id": chat, "message_id": message["id"], "reply_id": reply["id"], "messages": [message, reply]}
    assert answer.json() == sent
    assert (message["content"], message["role"], message["status"]) == ("Hello", "user", "complete")
    assert (reply["content"], reply["role"], reply["status"]) == ("", "assistant", "streaming")
    assert set(api.changed) == {chat}


def test_a_path_tells_what_there_is_to_know_of_each_message(api: Api, chat: str) -> None:
    sent = api.say(chat, "Hello", "Hi!")
    path = api.get(f"/conversations/{chat}/messages")
    assert path["conversation"] == api.get(f"/conversations/{chat}")
    assert path["conversation"]["title"] == "Hello"
    message, reply = path["messages"]
    assert (message["parent_id"], reply["parent_id"]) == (None, message["id"])
    assert (message["siblings"], reply["siblings"]) == ([message["id"]], [reply["id"]])
    assert (reply["status"], reply["finish_reason"], reply["model"]) == ("complete", "stop", "tiny")
    assert (reply["prompt_tokens"], reply["cached_tokens"], reply["completion_tokens"]) == (7, 2, 1)
    assert (reply["ttft_ms"], reply["duration_ms"]) == (10, 100)
    assert reply["params"]["temperature"] == SamplingParams().temperature
    assert reply["feedback"] is None
    assert sent["reply_id"] == reply["id"] == path["conversation"]["active_leaf_id"]


def test_an_empty_conversation_has_an_empty_path(api: Api, chat: str) -> None:
    assert shown(api, chat) == []


def test_what_events_tell_of_a_message_is_what_its_path_tells(api: Api, chat: str) -> None:
    reply_id = api.say(chat)["reply_id"]
    api.ask("PUT", f"/messages/{reply_id}/feedback", {"rating": -1})
    api.post(f"/messages/{reply_id}/regenerate", {})
    api.reply("Hey!")
    api.post(f"/messages/{reply_id}/switch")
    told = read_path(api.workspace, api.owner("ada"), chat)
    assert told.model_dump(mode="json") == api.get(f"/conversations/{chat}/messages")
    assert read_message(api.workspace, api.owner("ada"), reply_id) == told.messages[-1]
    assert len(told.messages[-1].siblings) == 2


@pytest.mark.parametrize(
    ("content", "kept"),
    [("half \ud83d", "half \ufffd"), ("N\x00UL", "NUL"), ("a\r\nb\rc", "a\nb\nc"), ("<b>&amp;</b>", "<b>&amp;</b>")],
)
def test_a_message_is_kept_as_it_can_be(api: Api, chat: str, content: str, kept: str) -> None:
    answer = api.ask("POST", f"/conversations/{chat}/messages", encoded({"content": content}))
    assert answer.status_code == 202
    api.reply()
    assert api.contents(chat) == [kept, "Hi!"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", "blank_message"),
        (" \n", "blank_message"),
        ("\x00", "blank_message"),
        ("x" * 1_000_001, "message_too_long"),
        ("word " * 1000, "message_too_long"),
        (None, "invalid_field"),
        (5, "invalid_field"),
        (["Hello"], "invalid_field"),
    ],
)
@pytest.mark.parametrize("route", ["messages", "preview"])
def test_what_is_no_message_is_refused_and_not_stored(api: Api, chat: str, route: str, content: Any, code: str) -> None:
    error = api.error("POST", f"/conversations/{chat}/{route}", {"content": content})
    assert error[:3] == (400, "content", code)
    assert shown(api, chat) == []


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"temperature": -1}, "params.temperature"),
        ({"temperature": "hot"}, "params.temperature"),
        ({"top_k": True}, "params.top_k"),
        ({"max_tokens": 0}, "params.max_tokens"),
        ({"stop": ["\ud800"]}, "params.stop"),
        ({"stop": ["x" * 10_000]}, "params.stop"),
        ({"stop": "x"}, "params.stop"),
        ({"logit_bias": {"5": 101}}, "params.logit_bias"),
        ({"logit_bias": {"x": 1}}, "params.logit_bias"),
        ({"logit_bias": {"1" * 5000: 1}}, "params.logit_bias"),
        ({"response_format": {"kind": "poem"}}, "params.response_format.kind"),
        ({"response_format": {"kind": "regex", "flags": 1}}, "params.response_format"),
        ({"heat": 1}, "params.heat"),
        ({"": 1}, "params."),
        ({"\ud800": 1}, "params.\ufffd"),
        ([], "params"),
        (None, "params"),
    ],
    ids=str,
)
def test_sampling_parameters_that_break_a_rule_are_named(api: Api, chat: str, params: Any, param: str) -> None:
    for route in ("messages", "preview"):
        body = encoded({"content": "Hello", "params": params})
        assert api.error("POST", f"/conversations/{chat}/{route}", body)[:3] == (400, param, "invalid_field")
    assert shown(api, chat) == []


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"NaN", b"1" + b"0" * 400])
@pytest.mark.parametrize("name", ["temperature", "seed", "logprobs", "forced_token_ids"])
def test_a_number_without_measure_is_refused(api: Api, chat: str, name: str, number: bytes) -> None:
    body = b'{"content": "Hello", "params": {"%s": %s}}' % (name.encode(), number)
    assert api.error("POST", f"/conversations/{chat}/messages", body)[:3] == (400, f"params.{name}", "invalid_field")
    assert shown(api, chat) == []


def test_parameters_that_are_nested_deeply_are_refused(api: Api, chat: str) -> None:
    for depth in (10, 300, 600, 900):
        nested = b"[" * depth + b"]" * depth
        body = b'{"content": "Hello", "params": {"stop": %s}}' % nested
        assert api.error("POST", f"/conversations/{chat}/messages", body)[0] == 400
    assert shown(api, chat) == []


@pytest.mark.parametrize("name", [*WITH_PARAMS, "edit"])
def test_every_reply_is_drawn_as_its_request_says(api: Api, chat: str, name: str) -> None:
    sent = api.say(chat, "Hello", "Hi", params={"seed": 1})
    api.post(f"/messages/{sent['reply_id']}/regenerate", {"params": {"max_tokens": 1}})
    api.reply("Cut", "length")
    [*_, reply] = shown(api, chat)
    target = sent["message_id"] if name == "edit" else reply["id"]
    body = {"content": "Bye"} if name == "edit" else WITH_PARAMS[name]
    place = path_of(name, chat, target)
    error = api.error("POST", place, {**body, "params": {"temperature": 101}})
    assert error[:3] == (400, "params.temperature", "invalid_field")
    n_asked = len(api.engine.params)
    given = {"seed": 7, "temperature": 0.5, "stop": ["\r\n"], "logit_bias": {"5": -1}}
    api.post(place, {**body, "params": given})
    assert len(api.engine.params) == n_asked + (name != "preview")
    if name != "preview":
        asked = api.engine.params[-1]
        assert (asked.seed, asked.temperature, asked.stop[:1], asked.logit_bias) == (7, 0.5, ("\r\n",), ((5, -1),))
        assert asked.top_p == SamplingParams().top_p
        assert api.get(f"/conversations/{chat}")["params"]["stop"] == ["\r\n"]


@pytest.mark.parametrize("name", [*WITH_PARAMS, "edit"])
def test_nothing_is_stored_while_no_model_is_there(api: Api, chat: str, name: str) -> None:
    sent = api.say(chat)
    api.served.model = None
    target = sent["message_id"] if name == "edit" else sent["reply_id"]
    body = {"content": "Bye"} if name == "edit" else WITH_PARAMS[name]
    answer = api.ask("POST", path_of(name, chat, target), body)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "model_not_ready"
    assert api.contents(chat) == ["Hello", "Hi!"]


@pytest.mark.parametrize(
    ("failure", "status", "code", "param"),
    [
        (EngineBusy("The queue is full.", 3), 503, "engine_busy", None),
        (EngineStopped("The engine has been closed."), 503, "engine_stopped", None),
        (ValueError("logit_bias must be token ids between 0 and 5, got 9"), 400, "invalid_field", "params.logit_bias"),
    ],
)
def test_a_message_that_the_engine_refuses_is_stored_with_the_reason(
    api: Api, chat: str, failure: Any, status: int, code: str, param: str | None
) -> None:
    api.engine.failure = failure
    error = api.error("POST", f"/conversations/{chat}/messages", {"content": "Hello", "idempotency_key": "1"})
    assert error == (status, param, code, str(failure))
    message, reply = shown(api, chat)
    assert (message["content"], reply["status"], reply["error"]) == ("Hello", "error", str(failure))
    again = api.ask("POST", f"/conversations/{chat}/messages", {"content": "Hello", "idempotency_key": "1"})
    assert (again.status_code, again.json()["reply_id"]) == (200, reply["id"])


def test_a_second_message_waits_for_the_reply_to_the_first(api: Api, chat: str) -> None:
    sent = api.post(f"/conversations/{chat}/messages", {"content": "Hello"})
    message, reply = sent["message_id"], sent["reply_id"]
    requests: list[tuple[str, str, Any]] = [
        ("POST", f"/conversations/{chat}/messages", {"content": "And?"}),
        ("POST", f"/conversations/{chat}/clear", None),
        ("POST", f"/messages/{reply}/regenerate", {}),
        ("POST", f"/messages/{message}/edit", {"content": "Bye"}),
        ("POST", f"/messages/{reply}/edit", {"content": "Bye"}),
        ("POST", f"/messages/{message}/switch", None),
        ("POST", f"/messages/{message}/fork", None),
        ("DELETE", f"/messages/{message}", None),
        ("DELETE", f"/messages/{message}?branch=true", None),
    ]
    for request in requests:
        assert api.error(*request)[:3] == (409, None, "conversation_busy"), request
    api.reply()
    assert api.contents(chat) == ["Hello", "Hi!"]


def test_the_same_request_sent_again_adds_nothing(api: Api, chat: str) -> None:
    body = {"content": "Hello", "idempotency_key": "k", "seen_leaf_id": None}
    first = api.ask("POST", f"/conversations/{chat}/messages", body)
    while_written = api.ask("POST", f"/conversations/{chat}/messages", body)
    api.reply()
    later = api.ask("POST", f"/conversations/{chat}/messages", body)
    assert [answer.status_code for answer in (first, while_written, later)] == [202, 200, 200]
    assert ids_of(first) == ids_of(while_written) == ids_of(later)
    assert later.json()["messages"] == shown(api, chat)
    assert api.contents(chat) == ["Hello", "Hi!"]
    other = api.error("POST", f"/conversations/{chat}/messages", {**body, "content": "Bye"})
    assert other[:3] == (409, "idempotency_key", "key_taken")


def test_a_key_counts_within_its_conversation_alone(api: Api, chat: str) -> None:
    api.say(chat, idempotency_key="k")
    assert api.say(api.start(), idempotency_key="k")["reply_id"] != api.say(chat)["reply_id"]


@pytest.mark.parametrize("key", ["", "\x00", "x" * 201, 5])
def test_what_is_no_key_is_refused(api: Api, chat: str, key: Any) -> None:
    body = {"content": "Hello", "idempotency_key": key}
    error = api.error("POST", f"/conversations/{chat}/messages", body)
    assert error[:3] == (400, "idempotency_key", "invalid_field")


def test_half_a_surrogate_pair_is_a_key_that_can_be_kept(api: Api, chat: str) -> None:
    body = encoded({"content": "Hello", "idempotency_key": "\ud800"})
    statuses = [api.ask("POST", f"/conversations/{chat}/messages", body).status_code for _ in range(2)]
    assert statuses == [202, 200]


@pytest.mark.parametrize(
    ("seen", "is_sent"),
    [
        ({}, True),
        ({"seen_leaf_id": "the reply"}, True),
        ({"seen_leaf_id": None}, False),
        ({"seen_leaf_id": "x"}, False),
    ],
)
def test_who_has_not_seen_the_last_message_is_told(api: Api, chat: str, seen: dict[str, Any], is_sent: bool) -> None:
    reply_id = api.say(chat)["reply_id"]
    body = {"content": "And?", **{name: reply_id if value == "the reply" else value for name, value in seen.items()}}
    if is_sent:
        api.post(f"/conversations/{chat}/messages", body)
    else:
        error = api.error("POST", f"/conversations/{chat}/messages", body)
        assert error[:3] == (409, None, "conversation_moved")
    assert len(shown(api, chat)) == (4 if is_sent else 2)


def test_who_has_seen_no_message_may_send_the_first(api: Api, chat: str) -> None:
    stale = api.error("POST", f"/conversations/{chat}/messages", {"content": "Hello", "seen_leaf_id": NOBODY})
    assert stale[:3] == (409, None, "conversation_moved")
    api.say(chat, seen_leaf_id=None)
    assert api.contents(chat) == ["Hello", "Hi!"]


@pytest.mark.parametrize(
    ("name", "body", "param"),
    [
        ("send", {"content": "Hello", "role": "system"}, "role"),
        ("send", {"content": "Hello", "seen_leaf_id": 5}, "seen_leaf_id"),
        ("send", {}, "content"),
        ("preview", {"content": "Hello", "model": "x"}, "model"),
        ("regenerate", {"content": "Hello"}, "content"),
        ("continue", {"params": 5}, "params"),
        ("edit", {"text": "Hello"}, "content"),
        ("pin", {"pinned": "yes"}, "pinned"),
        ("pin", {"content": "Rewritten"}, "pinned"),
        ("pin", {"pinned": True, "content": "Rewritten"}, "content"),
        ("rate", {"rating": 2}, "rating"),
        ("rate", {"rating": True}, "rating"),
        ("rate", {"rating": 1.0}, "rating"),
        ("rate", {"rating": "1"}, "rating"),
        ("rate", {"comment": "x" * 10_001}, "comment"),
        ("branch", {"place": -1, "token_id": 5}, "place"),
        ("branch", {"place": True, "token_id": 5}, "place"),
        ("branch", {"place": 0, "token_id": 0.0}, "token_id"),
        ("branch", {"place": 0}, "token_id"),
    ],
)
def test_a_body_that_a_route_does_not_take_is_refused(
    api: Api, chat: str, name: str, body: dict[str, Any], param: str
) -> None:
    reply_id = api.say(chat)["reply_id"]
    before = api.get(f"/conversations/{chat}/messages")
    method = (ON_A_CONVERSATION | ON_A_MESSAGE)[name][0]
    error = api.error(method, path_of(name, chat, reply_id), body)
    assert error[:3] == (400, param, "invalid_field")
    assert api.get(f"/conversations/{chat}/messages") == before


def test_a_stopped_reply_ends(api: Api, chat: str) -> None:
    api.post(f"/conversations/{chat}/messages", {"content": "Hello"})
    answer = api.ask("POST", f"/conversations/{chat}/stop")
    assert (answer.status_code, answer.content) == (204, b"")
    api.reply("", "cancelled")
    assert shown(api, chat)[-1]["status"] == "stopped"
    assert api.ask("POST", f"/conversations/{chat}/stop").status_code == 204


def test_a_cleared_conversation_has_no_messages(api: Api, chat: str) -> None:
    api.say(chat)
    api.changed.clear()
    assert api.ask("POST", f"/conversations/{chat}/clear").status_code == 204
    assert shown(api, chat) == []
    assert api.changed == [chat]


def test_a_preview_tells_what_a_prompt_would_hold_and_stores_nothing(api: Api, chat: str) -> None:
    sent = api.say(chat)
    ledger = api.post(f"/conversations/{chat}/preview", {"content": "And?"})
    assert [entry["message_id"] for entry in ledger["messages"]] == [sent["message_id"], sent["reply_id"], ""]
    assert all(entry["included"] and entry["cached"] is None for entry in ledger["messages"])
    assert ledger["budget"] > 0
    assert api.contents(chat) == ["Hello", "Hi!"]


def test_a_ledger_tells_how_much_of_each_message_was_cached(api: Api, chat: str) -> None:
    sent = api.say(chat, "Hello")
    ledger = api.get(f"/messages/{sent['reply_id']}/ledger")
    [entry] = ledger["messages"]
    assert (ledger["cached_tokens"], entry["message_id"], entry["reason"]) == (2, sent["message_id"], "fits")
    assert entry["cached"] == min(max(2 - entry["start"], 0), entry["tokens"])


def test_a_message_without_a_ledger_has_none(api: Api, chat: str) -> None:
    answer = api.ask("GET", f"/messages/{api.say(chat)['message_id']}/ledger")
    assert (answer.status_code, answer.json()) == (200, None)


def test_another_reply_stands_beside_the_first(api: Api, chat: str) -> None:
    first = api.say(chat)
    answer = api.ask("POST", f"/messages/{first['reply_id']}/regenerate", {})
    assert answer.status_code == 202
    api.reply("Hey!")
    [message, reply] = shown(api, chat)
    assert ids_of(answer) == (chat, message["id"], reply["id"])
    assert reply["siblings"] == [first["reply_id"], reply["id"]]


def test_a_cut_reply_goes_on_and_a_whole_one_does_not(api: Api, chat: str) -> None:
    sent = api.post(f"/conversations/{chat}/messages", {"content": "Hello"})
    api.reply("Hi", "length")
    answer = api.ask("POST", f"/messages/{sent['reply_id']}/continue", {})
    assert answer.status_code == 202
    api.reply(" there.")
    assert shown(api, chat)[-1]["content"] == "Hi there."
    error = api.error("POST", f"/messages/{answer.json()['reply_id']}/continue", {})
    assert error[:3] == (409, None, "not_possible")


def test_a_reply_branches_at_a_token(api: Api, chat: str) -> None:
    reply_id = api.say(chat)["reply_id"]
    answer = api.ask("POST", f"/messages/{reply_id}/branch", {"place": 0, "token_id": 65})
    assert answer.status_code == 202
    assert api.engine.params[-1].forced_token_ids == (65,)
    api.reply("And")
    assert shown(api, chat)[-1]["siblings"] == [reply_id, answer.json()["reply_id"]]
    far = api.error("POST", f"/messages/{reply_id}/branch", {"place": 10**100, "token_id": 65})
    assert far[:3] == (409, None, "not_possible")


def test_an_edited_message_gets_a_reply_of_its_own(api: Api, chat: str) -> None:
    first = api.say(chat)
    answer = api.ask("POST", f"/messages/{first['message_id']}/edit", {"content": "Bye"})
    assert answer.status_code == 202
    api.reply("Bye!")
    message, reply = shown(api, chat)
    assert ids_of(answer) == (chat, message["id"], reply["id"])
    assert (message["content"], message["siblings"]) == ("Bye", [first["message_id"], message["id"]])


def test_an_edited_reply_stands_beside_it_at_once(api: Api, chat: str) -> None:
    first = api.say(chat)
    api.changed.clear()
    answer = api.ask("POST", f"/messages/{first['reply_id']}/edit", encoded({"content": "Better \ud800"}))
    [_, reply] = shown(api, chat)
    assert answer.status_code == 200
    assert ids_of(answer) == (chat, first["message_id"], reply["id"])
    assert (reply["content"], reply["origin"], reply["status"]) == ("Better \ufffd", "edited", "complete")
    assert reply["siblings"] == [first["reply_id"], reply["id"]]
    assert api.changed == [chat]
    blank = api.error("POST", f"/messages/{reply['id']}/edit", {"content": " "})
    assert blank[:3] == (400, "content", "blank_message")


def test_a_branch_is_shown_again(api: Api, chat: str) -> None:
    first = api.say(chat)
    api.post(f"/messages/{first['message_id']}/edit", {"content": "Bye"})
    api.reply("Bye!")
    api.changed.clear()
    path = api.post(f"/messages/{first['message_id']}/switch")
    assert path == api.get(f"/conversations/{chat}/messages")
    assert api.contents(chat) == ["Hello", "Hi!"]
    assert api.changed == [chat]


def test_a_fork_is_a_conversation_of_its_own(api: Api, chat: str) -> None:
    first = api.say(chat)
    api.say(chat, "And?")
    api.changed.clear()
    answer = api.ask("POST", f"/messages/{first['reply_id']}/fork")
    assert answer.status_code == 201
    fork = answer.json()
    assert fork == api.get(f"/conversations/{fork['id']}")
    assert api.contents(fork["id"]) == ["Hello", "Hi!"]
    assert api.changed == [fork["id"]]


def test_a_message_is_pinned_and_unpinned(api: Api, chat: str) -> None:
    sent = api.say(chat)
    api.changed.clear()
    for pinned in (True, False):
        told = api.ask("PATCH", f"/messages/{sent['message_id']}", {"pinned": pinned}).json()
        assert told["pinned"] == pinned
        assert told == shown(api, chat)[0]
    assert api.changed == [chat, chat]


@pytest.mark.parametrize(
    ("query", "left"),
    [("", ["Hello", "And?", "Yes."]), ("?branch=false", ["Hello", "And?", "Yes."]), ("?branch=1", ["Hello"])],
)
def test_a_message_is_deleted_alone_or_with_what_follows(api: Api, chat: str, query: str, left: list[str]) -> None:
    sent = api.say(chat)
    api.say(chat, "And?", "Yes.")
    api.changed.clear()
    path = api.ask("DELETE", f"/messages/{sent['reply_id']}{query}").json()
    assert path == api.get(f"/conversations/{chat}/messages")
    assert [message["content"] for message in path["messages"]] == left
    assert api.changed == [chat]
    assert api.error("DELETE", f"/messages/{sent['reply_id']}")[:3] == (404, None, "message_not_found")
    assert api.error("DELETE", f"/messages/{sent['message_id']}?branch=perhaps")[:2] == (400, "branch")


def test_a_message_is_rated_anew_and_no_more(api: Api, chat: str) -> None:
    reply_id = api.say(chat)["reply_id"]
    api.changed.clear()

    def rate(body: Any) -> Any:
        return api.ask("PUT", f"/messages/{reply_id}/feedback", encoded(body)).json()

    assert rate({"rating": 1}) == {"rating": 1, "comment": None}
    assert rate({"rating": -1, "comment": "N\x00o \ud800"}) == {"rating": -1, "comment": "No \ufffd"}
    assert shown(api, chat)[-1]["feedback"] == {"rating": -1, "comment": "No \ufffd"}
    assert rate({"comment": "Well"}) == {"rating": None, "comment": "Well"}
    assert rate({}) == {"rating": None, "comment": None}
    assert shown(api, chat)[-1]["feedback"] is None
    assert api.changed == [chat] * 4


def test_a_message_of_the_user_is_not_written_anew(api: Api, chat: str) -> None:
    message_id = api.say(chat)["message_id"]
    for name in ("regenerate", "continue", "branch"):
        error = api.error("POST", path_of(name, chat, message_id), WITH_PARAMS[name])
        assert error[:3] == (409, None, "not_possible")


@pytest.mark.parametrize("name", [*ON_A_CONVERSATION, *ON_A_MESSAGE])
def test_another_owner_s_messages_are_as_those_that_are_not_there(api: Api, chat: str, name: str) -> None:
    sent = api.say(chat)
    before = api.get(f"/conversations/{chat}/messages")
    method, _, body = (ON_A_CONVERSATION | ON_A_MESSAGE)[name]
    foreign = api.error(method, path_of(name, chat, sent["reply_id"]), body, owner="eve")
    missing = api.error(method, path_of(name, NOBODY, NOBODY), body, owner="eve")
    assert foreign[0] == 404
    hidden = foreign[3].replace(chat, NOBODY).replace(sent["reply_id"], NOBODY)
    assert (*foreign[:3], hidden) == missing
    assert api.get(f"/conversations/{chat}/messages") == before
    assert len(api.engine.prompts) == 1
    assert api.get("/conversations", owner="eve")["conversations"] == []
