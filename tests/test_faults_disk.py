"""A disk that is full or fails: what was stored stays whole, the reason is told, and all goes on once it can."""

import os
import random
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from big_database import write as write_big_database
from child_process import ChildProcess
from child_work import N_TURNS, Refused, Shown, ask_often, dialogue_settings, ignore, write_on_word
from conftest import ScriptedEngine, write_tiny_gguf
from sound_database import check_kept, check_sound, replies
from sqlalchemy import text

from app import open_dialogue
from chat.data_folder import LOCAL_OWNER, open_database
from chat.formats.archive import from_tree
from chat.imports import Importer
from chat.manager import DialogueManager
from chat.turn import Snapshot
from model.sampling_params import SamplingParams
from storage.archive import ArchiveStore, Selection
from storage.backup import back_up
from storage.conversations import ConversationStore
from storage.database import Database
from storage.erasure import ErasureStore
from storage.errors import DatabaseUnusable
from storage.tables import Message

PARAMS = SamplingParams(seed=5)
FULL = r"the disk is full; free some space\.$|reading or writing it failed; check the disk\.$"
CANARY = "canary-7f3a"
N_FAULTY = 4  # processes whose calls fail, for each kind of failure


# Disks that can be full


@dataclass(frozen=True, slots=True)
class Disk:
    """A folder, and how long it has no room for anything more."""

    folder: Path
    full: Callable[[], AbstractContextManager[None]]


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Take all that is free of a small file system."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        assert shutil.disk_usage(folder).free == 0
        yield
    finally:
        filler.unlink()


@contextmanager
def limited(folder: Path) -> Iterator[None]:
    """Let no file grow beyond what the largest one of a folder is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(file.stat().st_size for file in folder.iterdir()), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=["small disk", "limited files"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limited files":
        yield Disk(folder, partial(limited, folder))
        return
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"no small disk: {mount.stderr.strip()}")
    yield Disk(folder, partial(filled, folder))
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def database(disk: Disk) -> Iterator[Database]:
    with closing(Database(disk.folder / "parley.db")) as database:
        database.migrate()
        yield database


@pytest.fixture
def chat(manager: DialogueManager) -> str:
    return manager.start("ada", channel="ui").id


@pytest.fixture
def path(store: ConversationStore, chat: str) -> Callable[[], list[Message]]:
    return lambda: store.path("ada", chat)


@pytest.fixture
def ask(manager: DialogueManager, engine: ScriptedEngine, chat: str) -> Callable[..., Snapshot]:
    """A function that sends a message, has it answered, and returns what a reader sees at the end."""

    def ask(message: str, answer: str = "Fine.") -> Snapshot:
        turn = manager.send("ada", chat, message, PARAMS)
        engine.say(answer)
        engine.end()
        return list(turn.watch())[-1]

    return ask


def questions(path: list[Message]) -> list[str]:
    return [message.content for message in path if message.role == "user"]


def test_on_a_full_disk_a_message_is_refused_with_the_reason_until_there_is_space(
    disk: Disk, database: Database, ask: Callable[..., Snapshot], path: Callable[[], list[Message]]
) -> None:
    kept = ["before"]
    ask("before")

    def chat_on() -> None:
        for number in range(1_000):
            ask(f"{number}", "y" * 9_000)
            kept.append(f"{number}")

    with disk.full():
        with pytest.raises(DatabaseUnusable, match=FULL):
            chat_on()
        assert questions(path()) == kept, "what is there can be read"
    assert ask("after").status == "complete"
    assert questions(path()) == [*kept, "after"]
    assert {message.status for message in path()} <= {"complete", "error"}
    check_sound(database)


def test_a_reply_that_finds_no_space_keeps_what_was_shown_and_ends_with_the_reason(
    disk: Disk,
    database: Database,
    manager: DialogueManager,
    engine: ScriptedEngine,
    chat: str,
    ask: Callable[..., Snapshot],
    path: Callable[[], list[Message]],
) -> None:
    turn = manager.send("ada", chat, "hello", PARAMS)
    engine.say("Seen.")
    next(snapshot for snapshot in turn.watch() if snapshot.text)
    with disk.full():
        engine.say("x" * 10_000_000)
        engine.end()
        last = list(turn.watch())[-1]
        assert (last.text, last.status) == ("Seen.", "error")
        assert re.search(FULL, last.error or "")
        assert path()[-1].content == "Seen."
    assert ask("again").status == "complete"
    assert [(message.content, message.status) for message in path()[1::2]] == [
        ("Seen.", "error"),
        ("Fine.", "complete"),
    ]
    check_sound(database)


def test_an_erasure_that_finds_no_space_says_so_and_is_finished_when_there_is(
    disk: Disk, database: Database, manager: DialogueManager, chat: str, ask: Callable[..., Snapshot]
) -> None:
    ask(CANARY)
    erasure = ErasureStore(database)
    with disk.full(), pytest.raises(DatabaseUnusable, match=FULL):
        erasure.erase("ada", [chat])
    erasure.finish()  # as at the next start
    with database.read() as session:
        is_left = session.scalar(text("SELECT count(*) FROM conversations"))
    if is_left:
        erasure.erase("ada", [chat])
    assert not any(CANARY.encode() in file.read_bytes() for file in disk.folder.iterdir())
    check_sound(database)


def test_a_start_on_a_full_disk_works_or_says_why_it_cannot(disk: Disk, database: Database, chat: str) -> None:
    turn: dict[str, Any] = {"content": "hello", "parent_id": None, "model": "tiny", "params": {}, "seed": 1}
    ConversationStore(database).begin_turn("ada", chat, **turn)
    database.close()

    def start() -> int:
        with closing(Database(database.path)) as started:
            started.check()
            started.migrate()
            return ConversationStore(started).interrupt_streaming()

    n_interrupted, reasons = 0, []
    with disk.full():
        try:
            n_interrupted = start()
        except DatabaseUnusable as error:
            reasons.append(str(error))
    assert all(re.search(FULL, reason) for reason in reasons)
    assert n_interrupted + start() == 1
    check_sound(database)


def test_an_import_that_finds_no_space_adds_nothing(disk: Disk, database: Database, tmp_path: Path) -> None:
    with closing(write_big_database(tmp_path / "big.db", 200)) as big:
        conversations = [from_tree(tree) for tree in ArchiveStore(big).trees(LOCAL_OWNER, Selection())]
    importer = Importer(ArchiveStore(database))
    with disk.full(), pytest.raises(DatabaseUnusable, match=FULL):
        importer.run("ada", conversations)
    assert ConversationStore(database).recent("ada") == []
    check_sound(database)
    assert importer.run("ada", conversations[-20:]).conversations == 20


@pytest.mark.parametrize("disk", ["small disk"], indirect=True)
def test_a_backup_that_finds_no_space_leaves_nothing(disk: Disk, database: Database, chat: str) -> None:
    with disk.full(), pytest.raises((DatabaseUnusable, OSError), match=f"{FULL}|No space left"):
        back_up(database.path, lambda done, total: None)
    assert [*(disk.folder / "backups").iterdir()] == []
    assert back_up(database.path, lambda done, total: None).exists()


# Calls of the system that fail, by strace


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", n_ctx=65_536)


@contextmanager
def traced(child: ChildProcess, log: Path, *options: str) -> Iterator[None]:
    """Have strace at a child that waits for the word, and give that word."""
    if shutil.which("strace") is None:
        assert "CI" not in os.environ, "strace is missing: .ci/run installs it"
        pytest.skip("no strace")
    command = ["strace", "-f", "-y", "-o", str(log), "-p", str(child.pid), *options]
    assert child.pipe.recv() == "ready"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        if "attached" not in (line := strace.stderr.readline()):
            child.kill_after(0)
            pytest.skip(f"strace cannot be used here: {line.strip()}")
        child.pipe.send("go")
        yield


@pytest.mark.parametrize(
    ("calls", "error", "spacing"),  # the last is of calls that fail, in each thread
    [("fsync,fdatasync", "EIO", 6), ("write,pwrite64", "EIO", 60), ("write,pwrite64", "ENOSPC", 60)],
)
def test_where_the_disk_fails_no_acknowledged_message_is_lost_and_the_reason_is_told(
    calls: str, error: str, spacing: int, model: Path, tmp_path: Path
) -> None:
    with open_database(tmp_path) as database:
        ConversationStore(database).create(LOCAL_OWNER, channel="ui")
    shown: dict[str, Shown] = {}
    n_faults, reasons = 0, Counter[str]()
    for number in range(N_FAULTY):
        child, log = ChildProcess(ask_often, tmp_path, model, 10), tmp_path / f"strace{number}"
        when = f"{random.randint(1, spacing)}+{random.randint(spacing // 2, spacing * 2)}"
        files = [option for suffix in ("", "-wal") for option in ("-P", str(tmp_path / f"parley.db{suffix}"))]
        inject = f"inject={calls}:error={error}:when={when}"
        with traced(child, log, "-e", f"trace={calls}", "-e", inject, *files):
            sent = child.join()
        n_faults += log.read_text().count("(INJECTED)")
        shown |= {seen.message: seen for seen in sent if isinstance(seen, Shown)}
        errors = [told.reason if isinstance(told, Refused) else told.error for told in sent]
        reasons.update(error.replace(str(tmp_path), "…") for error in errors if error)
    with open_dialogue(dialogue_settings(tmp_path, model), show=ignore):
        pass
    with closing(Database(tmp_path / "parley.db")) as database:
        check_sound(database)
        check_kept(shown.values(), replies(database))
    sys.stdout.write(f"{calls} {error}: {n_faults} faults, {len(shown)} messages acknowledged, {dict(reasons)}\n")
    assert shown
    assert n_faults >= N_FAULTY
    assert all(re.search(FULL, reason) for reason in reasons)


def test_a_message_is_on_the_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    with open_database(tmp_path) as database:
        chat = ConversationStore(database).create(LOCAL_OWNER, channel="ui").id
    child, log = ChildProcess(write_on_word, tmp_path, chat, "a"), tmp_path / "strace"
    with traced(child, log, "-e", "trace=fsync,fdatasync,write"):
        n_acknowledged = len(child.join())
    calls = "".join(
        "s" if re.search(r"sync\(\d+<.*parley\.db-wal>", line) else "a"
        for line in log.read_text().splitlines()
        if re.search(r"sync\(\d+<.*parley\.db-wal>|write\(\d+<(socket|UNIX|pipe):", line)
    )
    assert n_acknowledged == N_TURNS
    assert re.fullmatch(rf"(s+a){{{N_TURNS}}}.*", calls)
