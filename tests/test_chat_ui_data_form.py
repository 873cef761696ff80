"""What the form of the page that looks after the data answers."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from chat.settings import Settings
from chat.ui.data_form import MAX_SHOWN, DataForm
from chat.workspace import Workspace, open_workspace
from storage.database import Database
from storage.tables import Conversation, utc_now


@pytest.fixture
def workspace(database: Database) -> Iterator[Workspace]:
    with open_workspace(database, lambda: None) as workspace:  # type: ignore[arg-type]
        yield workspace


@pytest.fixture
def form(workspace: Workspace, tmp_path: Path) -> DataForm:
    return DataForm(workspace, Settings(data=tmp_path), "ada")


def keep(workspace: Workspace, title: str, *, days: int, owner: str = "ada") -> str:
    """Keep a conversation that was last changed so many days ago."""
    chat = workspace.conversations.create(owner, channel="ui")
    workspace.conversations.update(owner, chat.id, title=title)
    with workspace.database.write() as session:
        session.get(Conversation, chat.number).updated_at = utc_now() - timedelta(days=days)
    return chat.id


def test_a_backup_says_where_it_is(form: DataForm, tmp_path: Path) -> None:
    answer = form.back_up()
    [path] = (tmp_path / "backups").iterdir()
    assert str(path) in answer


def test_what_has_expired_is_shown_as_text_and_can_be_erased_then(form: DataForm, workspace: Workspace) -> None:
    keep(workspace, "<b>old</b>", days=400)
    keep(workspace, "new", days=1)
    text, erase = form.show_expired(365, "", False)
    assert "1 conversations would be erased" in text
    assert "&lt;b&gt;old&lt;/b&gt;" in text
    assert "new" not in text
    assert erase.interactive


def test_no_more_titles_are_shown_than_can_be_read(form: DataForm, workspace: Workspace) -> None:
    for number in range(MAX_SHOWN + 3):
        keep(workspace, f"chat {number}", days=400)
    text, _ = form.show_expired(365, "", False)
    assert text.count("<li>") == MAX_SHOWN + 1
    assert "… 3 more" in text


def test_only_the_owners_own_expired_conversations_are_erased(form: DataForm, workspace: Workspace) -> None:
    keep(workspace, "old", days=400)
    others = keep(workspace, "theirs", days=400, owner="eve")
    changed: list[str | None] = []
    with workspace.bus.listening("ada", changed.append):
        text, erase = form.erase_expired(365, "", False)
    assert "Erased: 1 conversations" in text
    assert not erase.interactive
    assert len(changed) == 1
    assert workspace.conversations.get("eve", others).title == "theirs"


@pytest.mark.parametrize("days", [None, 0, -1, 1e9])
def test_a_number_of_days_that_is_none_is_refused(form: DataForm, days: float | None) -> None:
    for call in (form.show_expired, form.erase_expired):
        text, erase = call(days, "", False)
        assert 'role="alert"' in text
        assert "days: expected a whole number from 1 to 36,500" in text
        assert not erase.interactive
