"""What visitors have said is erased once its site's owner keeps it no longer."""

import logging
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from event_readers import eventually
from route_client import no_model
from sqlalchemy import update

from chat import retention
from chat.retention import erase_old, retaining
from chat.sites import NewSite, SiteChange, Sites
from chat.workspace import Workspace, open_workspace
from storage.conversations import Visitor
from storage.database import Database
from storage.erasure import ErasureUnfinished, Receipt, Rule
from storage.errors import ConversationNotFound, StorageError
from storage.tables import Conversation, utc_now


@pytest.fixture
def workspace(database: Database) -> Iterator[Workspace]:
    with open_workspace(database, no_model) as workspace:
        yield workspace


@pytest.fixture
def sites(workspace: Workspace) -> Sites:
    return Sites(workspace.sites, workspace.presets)


def say(workspace: Workspace, site_id: str | None, *, days_ago: int, owner: str = "ada", pinned: bool = False) -> str:
    """Keep what a visitor said so long ago, or what the owner said if there is no site; returns its id."""
    visitor = Visitor(site_id, "bob") if site_id else None
    store = workspace.conversations
    chat = store.create(owner, channel="widget" if site_id else "ui", visitor=visitor).id
    store.begin_turn(owner, chat, content="Secret", parent_id=None, model="m", params={}, seed=1)
    store.interrupt_streaming()
    changed = {"updated_at": utc_now() - timedelta(days=days_ago), "pinned": pinned}
    with workspace.database.write() as session:
        session.execute(update(Conversation).where(Conversation.id == chat).values(changed))
    return chat


def is_kept(workspace: Workspace, chat: str, owner: str = "ada") -> bool:
    try:
        workspace.conversations.get(owner, chat)
    except ConversationNotFound:
        return False
    return True


def test_what_is_older_than_the_site_says_is_erased(workspace: Workspace, sites: Sites) -> None:
    month = sites.create("ada", NewSite(name="Month"))
    week = sites.create("ada", NewSite(name="Week", retention_days=7))
    ever = sites.create("ada", NewSite(name="Ever", retention_days=None))
    told: list[str | None] = []
    kept = [
        say(workspace, month.id, days_ago=29),
        say(workspace, week.id, days_ago=6),
        say(workspace, ever.id, days_ago=9999),
        say(workspace, week.id, days_ago=99, pinned=True),
        say(workspace, None, days_ago=99),
        say(workspace, "a site that was deleted", days_ago=99),
    ]
    old = [say(workspace, month.id, days_ago=31), say(workspace, week.id, days_ago=8)]
    with workspace.bus.listening("ada", told.append):
        assert erase_old(workspace) == 2
    assert [is_kept(workspace, chat) for chat in [*kept, *old]] == [True] * len(kept) + [False, False]
    assert sorted(filter(None, told)) == sorted(old)
    sites.change("ada", month.id, SiteChange(retention_days=1))
    assert erase_old(workspace) == 1


def test_each_owners_conversations_are_erased_by_their_own_word(workspace: Workspace, sites: Sites) -> None:
    site = sites.create("ada", NewSite(name="Shop"))
    hers = say(workspace, site.id, days_ago=99, owner="eve")  # who says it is of ada's site
    also = sites.create("eve", NewSite(name="Hers", retention_days=1))
    old = say(workspace, also.id, days_ago=2, owner="eve")
    assert erase_old(workspace) == 1
    assert is_kept(workspace, hers, "eve")
    assert not is_kept(workspace, old, "eve")


def test_an_erasure_that_fails_keeps_nobody_elses_from_being_made(
    workspace: Workspace, sites: Sites, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = {}
    for owner in ("ada", "ben", "eve"):
        site = sites.create(owner, NewSite(name="Shop"))
        old[owner] = say(workspace, site.id, days_ago=99, owner=owner)
    erase = workspace.erasure.erase_expired

    def fail_for_ada(owner_id: str, *rules: Rule) -> Receipt:
        receipt = erase(owner_id, *rules)
        if owner_id == "ada":
            raise ErasureUnfinished(workspace.database.path)  # its rows are gone
        return receipt

    monkeypatch.setattr(workspace.erasure, "erase_expired", fail_for_ada)
    told: list[str | None] = []
    with workspace.bus.listening("ada", told.append):
        assert erase_old(workspace) == 2
    assert told == [old["ada"]]
    assert not any(is_kept(workspace, chat, owner) for owner, chat in old.items())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "what visitors of sites of ada have said could not be erased" in caplog.text


def test_no_byte_of_it_is_left(workspace: Workspace, sites: Sites) -> None:
    site = sites.create("ada", NewSite(name="Shop"))
    say(workspace, site.id, days_ago=99)
    assert erase_old(workspace) == 1
    files = workspace.database.path.parent.glob("parley.db*")
    assert not any(b"Secret" in file.read_bytes() for file in files)


def test_the_file_is_not_written_anew_for_nothing(
    workspace: Workspace, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = sites.create("ada", NewSite(name="Shop"))
    say(workspace, site.id, days_ago=1)
    monkeypatch.setattr(type(workspace.erasure), "finish", lambda self: pytest.fail("the file is written anew"))
    assert erase_old(workspace) == 0


def test_a_round_is_made_again_and_again_until_the_end(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, retention.__name__)
    rounds: list[int] = []

    def erase(_: Workspace) -> int:
        rounds.append(1)
        if len(rounds) == 1:
            raise StorageError("The disk is full.")
        return 3

    monkeypatch.setattr(retention, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(retention, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(retention, "erase_old", erase)
    with retaining(workspace):
        eventually(lambda: len(rounds) > 2)
        [thread] = [thread for thread in threading.enumerate() if thread.name == "retention"]
        assert thread.daemon
    thread.join(20)
    assert not thread.is_alive()
    assert caplog.messages[0] == "what visitors have said could not be erased: The disk is full."
    assert caplog.messages[1] == "3 conversations of visitors were erased: they had been kept for long enough"
