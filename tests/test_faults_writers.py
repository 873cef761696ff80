"""Many who write at once: nobody meets a locked database, nothing is lost, and each conversation has one order."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from child_process import ChildProcess
from child_work import N_TURNS, hold_the_folder, write_on_word, write_turns
from conftest import ScriptedEngine
from sound_database import check_sound

from chat.data_folder import LOCAL_OWNER, lock_data, open_database
from chat.manager import DialogueManager
from chat.settings import SettingsError
from model.engine.generation import Generation
from model.sampling_params import SamplingParams
from storage.archive import ArchiveStore, Selection
from storage.conversations import ConversationStore
from storage.database import Database
from storage.errors import ConversationMoved

N_THREADS = 32
PARAMS = SamplingParams(seed=5)


def check_order(database: Database, chat: str, names: list[str]) -> None:
    """Check that a conversation has all turns of some writers, in one order, each writer's in its own."""
    [tree] = ArchiveStore(database).trees(LOCAL_OWNER, Selection(ids=[chat]))
    assert [message["seq"] for message in tree.messages] == list(range(1, len(names) * N_TURNS * 2 + 1))
    for name in names:
        contents = [message["content"] for message in tree.messages if message["content"].startswith(f"{name}.")]
        assert contents == [f"{name}.{number}" for number in range(N_TURNS)]


def test_32_threads_write_at_once(database: Database, store: ConversationStore) -> None:
    chats = [store.create(LOCAL_OWNER, channel="api").id for _ in range(4)]
    names = [str(number) for number in range(N_THREADS)]
    seconds: list[float] = []
    with ThreadPoolExecutor(N_THREADS) as pool:
        writers = [pool.submit(write_turns, store, chats[n % 4], names[n], seconds.append) for n in range(N_THREADS)]
    for writer in writers:
        writer.result()
    for number, chat in enumerate(chats):
        check_order(database, chat, names[number::4])
    check_sound(database)
    median, p99 = np.quantile(seconds, [0.5, 0.99]) * 1000
    sys.stdout.write(f"{N_THREADS} threads, {len(seconds)} turns: median {median:.0f} ms, p99 {p99:.0f} ms, ")
    sys.stdout.write(f"max {max(seconds) * 1000:.0f} ms\n")


def test_each_writer_has_its_turn_while_others_write_on(store: ConversationStore) -> None:
    end = time.monotonic() + 2

    def write(chat: str) -> int:
        n_written = 0
        while time.monotonic() < end:
            store.begin_turn(LOCAL_OWNER, chat, content="hello", parent_id=None, model="m", params={}, seed=0)
            n_written += 1
        return n_written

    with ThreadPoolExecutor(N_THREADS) as pool:
        written = list(pool.map(write, [store.create(LOCAL_OWNER, channel="api").id for _ in range(N_THREADS)]))
    assert min(written) > max(written) / 2


# Another process


def test_two_processes_write_at_once_while_a_third_reads(tmp_path: Path) -> None:
    with open_database(tmp_path) as database:
        chat = ConversationStore(database).create(LOCAL_OWNER, channel="api").id
        children = [ChildProcess(write_on_word, tmp_path, chat, name) for name in "ab"]
        assert [child.pipe.recv() for child in children] == ["ready", "ready"]
        for child in children:
            child.pipe.send("go")
        while any(child.alive for child in children):
            [tree] = ArchiveStore(database).trees(LOCAL_OWNER, Selection(ids=[chat]))
            assert len(tree.messages) % 2 == 0, "a turn is seen as a whole"
        for child in children:
            child.join()
        check_order(database, chat, ["a", "b"])
        check_sound(database)


def test_a_data_folder_has_one_writer_until_that_one_ends_even_by_kill_9(tmp_path: Path) -> None:
    holder = ChildProcess(hold_the_folder, tmp_path)
    assert holder.pipe.recv() == "held"
    with pytest.raises(SettingsError, match="in use by another Parley"), lock_data(tmp_path):
        pass
    holder.kill_after(0)
    with lock_data(tmp_path):
        pass


# Two tabs with one conversation


@pytest.fixture
def quick(engine: ScriptedEngine) -> ScriptedEngine:
    """The manager's engine, made to answer at once."""
    submit = engine.submit

    def answer(*arguments: object, **options: object) -> Generation:
        generation = submit(*arguments, **options)  # type: ignore[arg-type]
        engine.say("Fine.")
        engine.end()
        return generation

    engine.submit = answer  # type: ignore[method-assign]
    return engine


@pytest.mark.parametrize("n_rounds", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_of_two_tabs_that_send_at_once_one_is_told_and_both_messages_are_kept(
    manager: DialogueManager, store: ConversationStore, database: Database, quick: ScriptedEngine, n_rounds: int
) -> None:
    barrier = threading.Barrier(2)

    def send(chat: str, message: str) -> bool:
        """Send as a tab that has seen the conversation's end, and return whether it was refused."""
        path = store.path("ada", chat)
        barrier.wait()
        try:
            manager.send("ada", chat, message, PARAMS, seen_leaf_id=path[-1].id if path else None)
        except ConversationMoved:
            return True
        return False

    with ThreadPoolExecutor(2) as pool:
        for number in range(n_rounds):
            if number % 10 == 0:
                chat = manager.start("ada", channel="ui").id
            messages = [f"{number}, left", f"{number}, right"]
            refused = list(pool.map(send, [chat] * 2, messages))
            wait_until_idle(manager, chat)
            assert sorted(refused) == [False, True]
            manager.send("ada", chat, messages[refused.index(True)], PARAMS).join()
            path = store.path("ada", chat)
            assert {message.content for message in path[-4::2]} == set(messages)
            assert [message.seq for message in path] == list(range(1, len(path) + 1))
    check_sound(database)


def wait_until_idle(manager: DialogueManager, chat: str) -> None:
    if turn := manager.turn("ada", chat):
        turn.join()
