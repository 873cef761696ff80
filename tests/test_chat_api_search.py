"""GET /search finds an owner's words, whatever is asked, and names the filter that makes no sense."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from route_client import client_of, no_model

from chat.api.search import search_routes
from chat.workspace import open_workspace
from storage.conversations import ConversationStore
from storage.database import Database


@pytest.fixture
def client(database: Database) -> Iterator[TestClient]:
    with open_workspace(database, no_model) as workspace:
        yield client_of(search_routes(workspace))


@pytest.fixture
def chat(store: ConversationStore) -> str:
    return ask(store, "local")


def ask(store: ConversationStore, owner: str) -> str:
    chat = store.create(owner, channel="ui").id
    _, reply = store.begin_turn(
        owner, chat, content="What is a fjord?", parent_id=None, model="m", params={}, seed=1, title="Fjords"
    )
    store.finish_reply(owner, reply.id, content="A drowned valley.", status="complete", finish_reason="stop")
    return chat


def test_a_hit_tells_where_it_is_and_what_matches(client: TestClient, chat: str, store: ConversationStore) -> None:
    reply = store.path("local", chat)[-1]
    assert client.get("/api/search", params={"q": "valley "}).json() == {
        "hits": [
            {
                "conversation_id": chat,
                "title": "Fjords",
                "message_id": reply.id,
                "role": "assistant",
                "created_at": reply.created_at.isoformat().replace("+00:00", "Z"),
                "snippet": [["A drowned ", False], ["valley", True], [".", False]],
            }
        ]
    }


def test_another_owners_words_are_not_found(client: TestClient, store: ConversationStore) -> None:
    ask(store, "eve")
    assert client.get("/api/search", params={"q": "valley"}).json() == {"hits": []}


def test_pages_follow_each_other(client: TestClient, chat: str) -> None:
    pages = [client.get("/api/search", params={"q": "fjord", "limit": 1, "offset": i}).json()["hits"] for i in range(3)]
    assert [[hit["role"] for hit in page] for page in pages] == [[None], ["user"], []]


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("role", "assistant", "user"),
        ("model", "m", "another"),
        ("channel", "ui", "api"),
        ("since", "2000-01-01", "2999-01-01"),
        ("until", "2999-01-01T00:00:00+14:00", "2000-01-01"),
        ("pinned", "false", "true"),
        ("archived", "0", "1"),
    ],
)
def test_a_filter_leaves_out_what_is_not_so(client: TestClient, chat: str, name: str, right: str, wrong: str) -> None:
    assert len(client.get("/api/search", params={"q": "valley", name: right}).json()["hits"]) == 1
    assert client.get("/api/search", params={"q": "valley", name: wrong}).json() == {"hits": []}


def test_only_what_is_rated_so_is_found(client: TestClient, chat: str) -> None:
    assert client.get("/api/search", params={"q": "valley", "rating": "-1"}).json() == {"hits": []}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("role", "tool"),
        ("channel", "fax"),
        ("rating", "5"),
        ("rating", "1.0"),
        ("since", "yesterday"),
        ("since", ""),
        ("since", "0001-01-01T00:00:00+14:00"),
        ("until", "9999-12-31T23:59:59-14:00"),
        ("pinned", "perhaps"),
        ("limit", "0"),
        ("limit", "101"),
        ("offset", "-1"),
        ("offset", str(2**70)),
        ("colour", "red"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(client: TestClient, name: str, value: str) -> None:
    answer = client.get("/api/search", params={"q": "x", name: value})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, name)
    assert error["message"].startswith(f"{name}: ")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=50) | st.text('"*:^+-(){}~NEAROTD\0', max_size=20))
def test_any_text_can_be_looked_for(client: TestClient, query: str) -> None:
    assert client.get("/api/search", params={"q": query}).json() == {"hits": []}


def test_no_text_finds_nothing(client: TestClient, chat: str) -> None:
    assert client.get("/api/search").json() == {"hits": []}
