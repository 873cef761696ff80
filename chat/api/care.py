"""/backups, /expiry and /trash: what is kept, and what is kept no longer."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from fastapi import APIRouter
from pydantic import Field

from chat.api.errors import documented
from chat.api.identity import Admin, Owner
from chat.api.schemas import Id, Response
from chat.given import Given
from chat.workspace import Workspace
from storage.backup import back_up
from storage.database import backups_of
from storage.erasure import Receipt, Rule
from storage.tables import Channel, utc_now


class BackupModel(Response):
    """A copy of the whole database."""

    name: str = Field(
        description="Of the file, in the folder `backups` of the data folder.", examples=["parley-20261129-170000.db"]
    )
    bytes: int
    made_at: datetime


class Backups(Response):
    """All backups in the data folder, the newest first."""

    backups: list[BackupModel]


class Expiry(Given):
    """Which conversations have been kept for long enough; pinned ones stay."""

    older_than_days: int = Field(ge=1, le=36_500, description="Days since their last change.", examples=[365])
    channel: Channel | None = None
    archived: bool | None = Field(None, description="Only archived ones, or only others.")
    dry_run: bool = Field(False, description="Only tell what would be erased.")


class ExpiringModel(Response):
    """A conversation that has been kept for long enough."""

    id: Id
    title: str | None
    channel: Channel
    archived: bool
    updated_at: datetime


class CopyModel(Response):
    """A file that an erasure does not reach, and that may still have what was erased."""

    name: str = Field(description="In the data folder.", examples=["backups/parley-20261129-170000.db"])
    made_at: datetime


class ReceiptModel(Response):
    """What was erased so that no byte of it is left in the database."""

    conversation_ids: list[str]
    n_messages: int
    n_bytes: int = Field(description="Of the messages' text.")
    erased_at: datetime
    copies: list[CopyModel]


class Expired(Response):
    """What would be erased, or the receipt for what was."""

    conversations: list[ExpiringModel] = Field(description="After a dry run: what would be erased, the oldest first.")
    receipt: ReceiptModel | None = Field(description="Null after a dry run.")


def care_routes(workspace: Workspace) -> APIRouter:
    """Return the routes that back up and erase; the workspace's database must be a file."""
    routes = APIRouter(tags=["data care"])
    path = workspace.database.path

    @routes.get("/backups", summary="List the backups", responses=documented(403))
    def list_backups(admin: Admin) -> Backups:
        """Those that are in the data folder, the newest first."""
        return Backups(backups=[_backup(backup) for backup in reversed(backups_of(path))])

    @routes.post(
        "/backups",
        status_code=201,
        summary="Copy the database as it is now",
        responses=documented(403, 409),
    )
    def make_backup(admin: Admin) -> BackupModel:
        """The copy is checked before it has its name."""
        return _backup(back_up(path, lambda done, total: None))

    @routes.post(
        "/expiry",
        summary="Erase what has been kept for long enough",
        responses=documented(409),
    )
    def expire(owner: Owner, expiry: Expiry) -> Expired:
        """Those in which a reply is being written stay. With `dry_run`, nothing is erased."""
        unchanged_since = utc_now() - timedelta(days=expiry.older_than_days)
        rule = Rule(unchanged_since, expiry.channel, expiry.archived)
        if expiry.dry_run:
            found = workspace.erasure.expired(owner, rule)
            return Expired(conversations=[ExpiringModel.model_validate(one) for one in found], receipt=None)
        return Expired(conversations=[], receipt=told(owner, workspace.erasure.erase_expired(owner, rule)))

    @routes.post("/trash/empty", summary="Erase what is in the trash", responses=documented(409))
    def empty_trash(owner: Owner) -> ReceiptModel:
        """All of it or, while a reply is being written in one of them, nothing."""
        return told(owner, workspace.erasure.empty_trash(owner))

    def told(owner: str, receipt: Receipt) -> ReceiptModel:
        for conversation_id in receipt.conversation_ids:
            workspace.bus.publish(owner, conversation_id)
        return ReceiptModel(
            conversation_ids=list(receipt.conversation_ids),
            n_messages=receipt.n_messages,
            n_bytes=receipt.n_bytes,
            erased_at=receipt.erased_at,
            copies=[
                CopyModel(name=str(copy.path.relative_to(path.parent)), made_at=copy.made_at) for copy in receipt.copies
            ],
        )

    return routes


def _backup(path: Path) -> BackupModel:
    kept = path.stat()
    return BackupModel(name=path.name, bytes=kept.st_size, made_at=datetime.fromtimestamp(kept.st_mtime, UTC))
