"""What processes are at when tests kill them, break their disk or set them against each other.

Whatever is imported here, each of them imports at its start, unless the server that forks them has it.
"""

import threading
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from child_process import Failure

from app import open_dialogue
from chat.cli.archive import import_file
from chat.data_folder import LOCAL_OWNER, lock_data, open_database
from chat.manager import DialogueManager
from chat.settings import Settings, load_settings
from model.sampling_params import SamplingParams
from storage.archive import ArchiveStore
from storage.conversations import ConversationStore
from storage.database import Database
from storage.errors import StorageError
from storage.tables import Status, new_id

N_CHATS = 6  # that are held at once
N_TURNS = 25  # that are written into one conversation
LONG = SamplingParams(temperature=0, max_tokens=1_000)
SHORT = SamplingParams(temperature=0, max_tokens=20)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a reader sees of a reply, and so knows: the message that it answers has been stored."""

    message: str  # no other has the same text
    text: str
    status: Status
    error: str | None
    at: float  # on the monotonic clock, which all processes share


@dataclass(frozen=True, slots=True)
class Refused:
    """What a user is told instead."""

    reason: str


def dialogue_settings(data: Path, model: Path) -> Settings:
    """Return what the app is started with."""
    return load_settings(data=data, model=str(model), threads=1, kv_memory=64)


def ignore(line: str) -> None:
    """Show nothing of what the app says at its start."""


def hold_chats(data: Path, model: Path, pipe: Connection) -> None:
    """Go on with the conversations that were used last, or begin some, and tell all that is shown, until killed."""
    lock = threading.Lock()

    def tell(shown: object) -> None:
        with lock:
            pipe.send(shown)

    with open_dialogue(dialogue_settings(data, model), show=ignore) as workspace:
        chats = [conversation.id for conversation in workspace.conversations.recent(LOCAL_OWNER, limit=N_CHATS)]
        chats += [workspace.manager.start(LOCAL_OWNER, channel="ui").id for _ in range(N_CHATS - len(chats))]
        threads = [threading.Thread(target=_hold, args=(workspace.manager, chat, tell)) for chat in chats]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _hold(manager: DialogueManager, chat: str, tell: Callable[[object], None]) -> None:
    try:
        while True:
            _ask(manager, chat, LONG, tell)
    except Exception:
        tell(Failure(traceback.format_exc()))


def _ask(manager: DialogueManager, chat: str, params: SamplingParams, tell: Callable[[object], None]) -> None:
    message = f"Question {new_id()}"
    turn = manager.send(LOCAL_OWNER, chat, message, params)
    for snapshot in turn.watch():
        tell(Shown(message, snapshot.text, snapshot.status, snapshot.error, time.monotonic()))


def ask_often(data: Path, model: Path, n_messages: int, pipe: Connection) -> None:
    """Wait for the word; then send messages to the newest conversation, and tell what is shown and what is refused."""
    pipe.send("ready")
    pipe.recv()
    try:
        with open_dialogue(dialogue_settings(data, model), show=ignore) as workspace:
            for _ in range(n_messages):
                try:
                    [chat] = workspace.conversations.recent(LOCAL_OWNER, limit=1)
                    _ask(workspace.manager, chat.id, SHORT, pipe.send)
                except StorageError as error:
                    pipe.send(Refused(str(error)))
    except StorageError as error:
        pipe.send(Refused(str(error)))


def take_in(data: Path, file: Path, pipe: Connection) -> None:
    """Import a file."""
    with open_database(data, alone=True) as database:
        import_file(ArchiveStore(database), LOCAL_OWNER, file)
        pipe.send("done")


def migrate(data: Path, pipe: Connection) -> None:
    """Bring a database to the newest schema."""
    with closing(Database(data / "parley.db")) as database:
        database.migrate()
        pipe.send("done")


def write_turns(store: ConversationStore, chat: str, name: str, written: Callable[[float], None]) -> None:
    """Write turns into a conversation, and tell how many seconds each took."""
    for number in range(N_TURNS):
        start = time.perf_counter()
        store.begin_turn(
            LOCAL_OWNER, chat, content=f"{name}.{number}", parent_id=None, model="m", params={}, seed=number
        )
        written(time.perf_counter() - start)


def write_on_word(data: Path, chat: str, name: str, pipe: Connection) -> None:
    """Wait for the word; then write turns, each told once it is stored."""
    with open_database(data) as database:
        pipe.send("ready")
        pipe.recv()
        write_turns(ConversationStore(database), chat, name, pipe.send)


def hold_the_folder(data: Path, pipe: Connection) -> None:
    """Hold a data folder's lock until killed."""
    with lock_data(data):
        pipe.send("held")
        pipe.recv()
