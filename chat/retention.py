"""What the visitors of a site have said is kept for as long as its owner says, and then erased."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from chat.workspace import Workspace
from storage.erasure import Rule
from storage.errors import StorageError
from storage.tables import Site, utc_now

FIRST_SECONDS = 60.0  # after the start, which has enough to do
ROUND_SECONDS = 86_400.0

logger = logging.getLogger(__name__)


@contextmanager
def retaining(workspace: Workspace) -> Iterator[None]:
    """Erase what has been kept for long enough: soon after the start, and then once a day."""
    over = threading.Event()
    thread = threading.Thread(target=_work, args=(workspace, over), name="retention", daemon=True)
    thread.start()
    try:
        yield
    finally:  # an erasure that has begun is finished at the next start, if it is not by the end of the process
        over.set()


def erase_old(workspace: Workspace) -> int:
    """Erase what the owners of sites no longer keep, and count it; raises StorageError.

    An erasure writes the whole file anew: once for each owner, and only where there is something to erase. One that
    fails is logged, and keeps nobody else's from being made.
    """
    rules: dict[str, list[Rule]] = {}
    for site in workspace.sites.retaining():
        rules.setdefault(site.owner_id, []).append(_rule(site))
    return sum(_try_to_erase(workspace, owner_id, own) for owner_id, own in rules.items())


def _rule(site: Site) -> Rule:
    assert site.retention_days is not None, "only these sites are asked for"
    return Rule(utc_now() - timedelta(days=site.retention_days), channel="widget", site_id=site.id)


def _try_to_erase(workspace: Workspace, owner_id: str, rules: Sequence[Rule]) -> int:
    try:
        return _erase(workspace, owner_id, rules)
    except StorageError as error:  # tried again on the next day
        logger.warning("what visitors of sites of %s have said could not be erased: %s", owner_id, error)
        return 0


def _erase(workspace: Workspace, owner_id: str, rules: Sequence[Rule]) -> int:
    expired = [conversation.id for rule in rules for conversation in workspace.erasure.expired(owner_id, rule)]
    if not expired:
        return 0
    try:
        return len(workspace.erasure.erase_expired(owner_id, *rules).conversation_ids)
    finally:  # their rows may be gone though their traces are not
        for conversation_id in expired:
            workspace.bus.publish(owner_id, conversation_id)


def _work(workspace: Workspace, over: threading.Event) -> None:
    seconds = FIRST_SECONDS
    while not over.wait(seconds):
        seconds = ROUND_SECONDS
        try:
            if n_erased := erase_old(workspace):
                logger.info("%d conversations of visitors were erased: they had been kept for long enough", n_erased)
        except StorageError as error:  # tried again on the next day
            logger.warning("what visitors have said could not be erased: %s", error)
