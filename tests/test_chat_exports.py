"""What is exported, and under which name."""

from datetime import UTC, datetime

import pytest
from conftest import ask
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import NothingSelected, UnknownFormat
from chat.exports import InvalidExport, choose, find_selected, find_write, name_file, narrow, read_selected
from chat.redaction import Counts
from storage.archive import ArchiveStore, Selection
from storage.conversations import ConversationStore
from storage.database import Database
from storage.errors import ConversationNotFound
from storage.search import SearchStore

EVERYTHING = Selection()


@pytest.fixture
def archive(database: Database) -> ArchiveStore:
    return ArchiveStore(database)


def test_nothing_is_chosen_by_accident() -> None:
    with pytest.raises(InvalidExport) as refused:
        choose([], False, channel=None, site_id=None, since=None, until=None, rating=None)
    assert refused.value.field == "ids"
    assert choose([], True, channel=None, site_id=None, since=None, until=None, rating=None) == EVERYTHING
    assert choose([], False, channel="ui", site_id=None, since=None, until=None, rating=None) == Selection(channel="ui")


def test_what_is_not_there_is_not_selected(archive: ArchiveStore, store: ConversationStore) -> None:
    chat = ask(store, "One?")
    assert find_selected(archive, "local", Selection(ids=[chat])) == [chat]
    with pytest.raises(ConversationNotFound, match=r"^There is no conversation x\.$"):
        find_selected(archive, "local", Selection(ids=[chat, "x"]))
    with pytest.raises(ConversationNotFound):
        find_selected(archive, "eve", Selection(ids=[chat]))
    with pytest.raises(NothingSelected):
        find_selected(archive, "eve", EVERYTHING)


def test_what_is_read_is_redacted_and_counted_if_it_is_to_be(archive: ArchiveStore, store: ConversationStore) -> None:
    ask(store, "Is ada@example.com yours?")
    counts = Counts()
    [as_it_is] = read_selected(archive, "local", EVERYTHING, None)
    [redacted] = read_selected(archive, "local", EVERYTHING, counts)
    assert as_it_is["messages"][0]["content"] == "Is ada@example.com yours?"
    assert (redacted["messages"][0]["content"], counts) == ("Is [e-mail] yours?", {"e-mail": 1})


def test_a_search_selects_together_with_all_else(
    archive: ArchiveStore, store: ConversationStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ask(store, "One?"), ask(store, "Two?")
    search = SearchStore(database)

    def found(query: str, selection: Selection = EVERYTHING) -> list[str]:
        return archive.ids("local", narrow(selection, search, "local", query))

    assert found("one") == [first]
    assert found("yes") == [first, second]
    assert found("yes", Selection(ids=[second])) == [second]
    assert found("yes", Selection(channel="widget")) == []
    assert found("three") == found("") == []
    store.update("local", first, trashed=True)
    assert found("yes") == [second]
    monkeypatch.setattr("chat.exports.N_RANKED", 1)
    with pytest.raises(InvalidExport, match=r"^query: expected words that fewer than 1 messages have"):
        found("yes")


@pytest.mark.parametrize(("name", "zipped"), [("html", False), ("parley", True)])
def test_a_chain_is_of_the_lines_of_one_file(name: str, zipped: bool) -> None:
    with pytest.raises(InvalidExport, match="^chain: expected the format parley and no zip file"):
        find_write(name, chained=True, zipped=zipped)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UnknownFormat):
        find_write("docx", chained=False, zipped=False)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Fjords & valleys", "Fjords-valleys.md"),
        ("../../etc/passwd", "etc-passwd.md"),
        ("Größe 中文", "Größe-中文.md"),
        ('a"b\r\nSet-Cookie: c', "a-b-Set-Cookie-c.md"),
        ("🦜", "Untitled.md"),
        ("", "Untitled.md"),
        (None, "Untitled.md"),
    ],
)
def test_the_file_of_a_conversation_has_its_title(title: str | None, name: str) -> None:
    assert name_file([title], ".md") == name


@pytest.mark.parametrize("titles", [[], ["a", "b"]])
def test_the_file_of_several_has_the_date(titles: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat.exports.utc_now", lambda: datetime(2026, 1, 31, tzinfo=UTC))
    assert name_file(titles, ".zip") == "parley-2026-01-31.zip"


@given(title=st.text())
def test_the_name_of_a_file_is_one_of_letters_and_digits(title: str) -> None:
    stem = name_file([title], ".md").removesuffix(".md")
    assert 1 <= len(stem.encode()) <= 80
    assert not set(stem) & set('/\\:*?"<>|. \r\n\0')
