"""Sites are their owners', and a visitor's conversations are theirs alone."""

from datetime import timedelta

import pytest
from conftest import ask
from sqlalchemy import event, text

from storage.conversations import ConversationStore, Visitor
from storage.database import Database
from storage.errors import ConversationNotFound, MessageNotFound
from storage.sites import SiteNotFound, SiteStore, SiteValues, TooManySites
from storage.tables import Site, utc_now

VALUES: SiteValues = {
    "name": "Shop",
    "origins": ["https://shop.example"],
    "enabled": True,
    "appearance": {"title": "Hi", "accent": "#000000"},
    "preset": None,
    "system_prompt": None,
    "messages_per_visitor": 20,
    "messages_per_address": 60,
    "tokens_per_day": 1000,
    "retention_days": 30,
}


@pytest.fixture
def sites(database: Database) -> SiteStore:
    return SiteStore(database)


@pytest.fixture
def shop(sites: SiteStore) -> Site:
    return sites.create("ada", "pub_shop", limit=9, **VALUES)


def begin(store: ConversationStore, visitor: Visitor, owner: str = "ada", text: str = "Hello") -> tuple[str, str]:
    """Store a visitor's question with its answer, and return the ids of the conversation and of the answer."""
    chat = store.create(owner, channel="widget", visitor=visitor).id
    _, reply = store.begin_turn(owner, chat, content=text, parent_id=None, model="m", params={}, seed=1, title=text)
    counts = {"prompt_tokens": 7, "completion_tokens": 3}
    store.finish_reply(owner, reply.id, content="Yes.", status="complete", finish_reason="stop", **counts)
    return chat, reply.id


def test_what_is_created_comes_back(sites: SiteStore, shop: Site) -> None:
    [found] = sites.of("ada")
    assert (found.id, found.key, found.name, found.origins) == (shop.id, "pub_shop", "Shop", ["https://shop.example"])
    assert found.appearance == VALUES["appearance"]
    assert sites.with_key("pub_shop").id == shop.id  # type: ignore[union-attr]
    assert sites.with_key("pub_other") is None


def test_what_is_not_named_stays_in_the_appearance_too(sites: SiteStore, shop: Site) -> None:
    changed = sites.update("ada", shop.id, appearance={"accent": "#ffffff"}, enabled=False)
    assert (changed.appearance, changed.enabled, changed.name) == ({"title": "Hi", "accent": "#ffffff"}, False, "Shop")
    assert changed.updated_at > shop.updated_at


def test_there_are_no_more_than_the_limit(sites: SiteStore, shop: Site) -> None:
    with pytest.raises(TooManySites, match="^There are 1 sites already"):
        sites.create("ada", "pub_2", limit=1, **VALUES)
    assert len(sites.of("ada")) == 1
    sites.create("eve", "pub_2", limit=1, **VALUES)


def test_another_owner_finds_no_site(sites: SiteStore, shop: Site) -> None:
    for touch in (
        lambda: sites.get("eve", shop.id),
        lambda: sites.update("eve", shop.id, name="Mine"),
        lambda: sites.rotate("eve", shop.id, "pub_eve"),
        lambda: sites.delete("eve", shop.id),
    ):
        with pytest.raises(SiteNotFound, match=f"^There is no site {shop.id}.$"):
            touch()
    assert sites.of("eve") == []
    [found] = sites.of("ada")
    assert (found.name, found.key) == ("Shop", "pub_shop")


def test_a_visitor_sees_their_own_conversations_alone(sites: SiteStore, store: ConversationStore, shop: Site) -> None:
    me, other = Visitor(shop.id, "me"), Visitor(shop.id, "other")
    mine, my_reply = begin(store, me)
    theirs, their_reply = begin(store, other)
    owners = ask(store, "The owner's own")
    assert [chat.id for chat in sites.conversations(me, limit=9)] == [mine]
    assert sites.conversation(me, mine).id == mine
    assert sites.message(me, my_reply).id == my_reply
    for hidden in (theirs, owners):
        with pytest.raises(ConversationNotFound):
            sites.conversation(me, hidden)
    with pytest.raises(MessageNotFound):
        sites.message(me, their_reply)


def test_the_same_visitor_of_another_site_sees_nothing(sites: SiteStore, store: ConversationStore, shop: Site) -> None:
    begin(store, Visitor(shop.id, "me"))
    other = sites.create("ada", "pub_other", limit=9, **VALUES)
    assert sites.conversations(Visitor(other.id, "me"), limit=9) == []


def test_what_another_owner_says_is_of_the_site_is_not_seen(
    sites: SiteStore, store: ConversationStore, shop: Site
) -> None:
    forged, _ = begin(store, Visitor(shop.id, "me"), owner="eve")
    with pytest.raises(ConversationNotFound):
        sites.conversation(Visitor(shop.id, "me"), forged)
    assert sites.n_tokens(shop.id, utc_now() - timedelta(days=1)) == 0
    assert sites.n_conversations("ada") == {}


def test_what_is_in_the_trash_is_not_seen(sites: SiteStore, store: ConversationStore, shop: Site) -> None:
    me = Visitor(shop.id, "me")
    chat, reply = begin(store, me)
    store.update("ada", chat, trashed=True)
    assert sites.conversations(me, limit=9) == []
    with pytest.raises(MessageNotFound):
        sites.message(me, reply)
    store.update("ada", chat, trashed=False)
    assert sites.conversation(me, chat).id == chat


def test_the_last_used_conversation_is_listed_first(sites: SiteStore, store: ConversationStore, shop: Site) -> None:
    me = Visitor(shop.id, "me")
    chats = [begin(store, me, text=str(n))[0] for n in range(3)]
    assert [chat.id for chat in sites.conversations(me, limit=2)] == chats[:0:-1]


def test_tokens_are_summed_over_all_visitors_since_a_time(
    sites: SiteStore, store: ConversationStore, shop: Site
) -> None:
    start = utc_now()
    begin(store, Visitor(shop.id, "me"))
    begin(store, Visitor(shop.id, "other"))
    assert sites.n_tokens(shop.id, start) == 20
    assert sites.n_tokens(shop.id, utc_now()) == 0


def test_a_deleted_sites_conversations_stay_and_no_visitor_sees_them(
    sites: SiteStore, store: ConversationStore, shop: Site
) -> None:
    me = Visitor(shop.id, "me")
    chat, _ = begin(store, me)
    assert sites.n_conversations("ada") == {shop.id: 1}
    sites.delete("ada", shop.id)
    assert store.get("ada", chat).site_id == shop.id
    assert sites.conversations(me, limit=9) == []


def test_what_is_asked_for_each_message_is_found_by_indexes(
    database: Database, sites: SiteStore, store: ConversationStore, shop: Site
) -> None:
    begin(store, Visitor(shop.id, "me"))
    asked: list[tuple[str, object]] = []
    engine = database._reader
    event.listen(engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    sites.n_tokens(shop.id, utc_now() - timedelta(days=1))
    sites.sent(Visitor(shop.id, "me"), "key")
    sites.in_flight(Visitor(shop.id, "me"))
    sites.conversations(Visitor(shop.id, "me"), limit=9)
    plans = []
    with database.read() as session:
        for statement, parameters in [*asked]:
            cursor = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
            plans += [row[3] for row in cursor]
        session.execute(text("SELECT 1"))
    assert len(asked) >= 4
    assert [line for line in plans if line.startswith("SCAN") and line != "SCAN CONSTANT ROW"] == []
