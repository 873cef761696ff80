"""Everything that a dialogue needs, over one database."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from chat.bus import Bus
from chat.loaded_model import LoadedModel
from chat.manager import DialogueManager
from storage.accounts import AccountStore
from storage.archive import ArchiveStore
from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.database import Database
from storage.erasure import ErasureStore
from storage.feedback import FeedbackStore
from storage.presets import PresetStore
from storage.search import SearchStore
from storage.sites import SiteStore


@dataclass(frozen=True, slots=True)
class Workspace:
    """The stores of a database, the dialogue on it, and who hears of its changes."""

    database: Database
    conversations: ConversationStore
    branches: BranchStore
    feedback: FeedbackStore
    search: SearchStore
    archive: ArchiveStore
    erasure: ErasureStore
    presets: PresetStore
    sites: SiteStore
    accounts: AccountStore
    manager: DialogueManager
    bus: Bus


@contextmanager
def open_workspace(database: Database, model: Callable[[], LoadedModel]) -> Iterator[Workspace]:
    """Open a dialogue on a database, with the model that a function returns; at the end all its replies end."""
    conversations, branches, bus = ConversationStore(database), BranchStore(database), Bus()
    with closing(DialogueManager(conversations, branches, model, bus)) as manager:
        yield Workspace(
            database=database,
            conversations=conversations,
            branches=branches,
            feedback=FeedbackStore(database),
            search=SearchStore(database),
            archive=ArchiveStore(database),
            erasure=ErasureStore(database),
            presets=PresetStore(database),
            sites=SiteStore(database),
            accounts=AccountStore(database),
            manager=manager,
            bus=bus,
        )
