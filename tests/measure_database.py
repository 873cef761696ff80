"""How long a large database takes for what pages and commands ask of it: python -m tests.measure_database FOLDER

A data folder; a database of 10,000 conversations and 200,000 messages is made in it, if it has none. All is done 20
times after a first time that does not count, and times are printed in milliseconds: the median, and in brackets the
longest. Each kind of query is combined with each kind of filter.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from time import perf_counter

from sqlalchemy import func, select

from chat.ledger import join_ledger
from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.database import Database
from storage.feedback import FeedbackStore
from storage.search import Filters, SearchStore
from storage.tables import Conversation, Message
from tests.big_database import BEGIN, LONG_ID, OWNER, write

N_CONVERSATIONS = 10_000
RUNS = 20
DAY, MIDDLE, END = timedelta(days=1), BEGIN + timedelta(days=1000), BEGIN + timedelta(days=2083)

QUERIES = {
    "a rare word": "zupenu ",
    "the most common word": "ba ",
    "one letter": "b",
    "two beginnings of words": "b* d",
    "a phrase": '"ba be"',
    "ten common words": "ba be bi bo bu da de di do du ",
    "two Chinese characters": "一丁",
}
FILTERS = {
    "all": Filters(),
    "the first day": Filters(until=BEGIN + DAY),
    "a day in the middle": Filters(since=MIDDLE, until=MIDDLE + DAY),
    "the last day": Filters(since=END),
    "the first half": Filters(until=MIDDLE),
    "the last half": Filters(since=MIDDLE),
    "a day, and rated": Filters(since=MIDDLE, until=MIDDLE + DAY, rating=-1),
    "rated 1": Filters(rating=1),
    "rated -1": Filters(rating=-1),
    "pinned": Filters(pinned=True),
    "not pinned": Filters(pinned=False),
    "archived": Filters(archived=True),
    "not archived": Filters(archived=False),
    "by one of two models": Filters(model="small"),
    "by no such model": Filters(model="none"),
    "of one of three channels": Filters(channel="ui"),
    "of no such channel": Filters(channel="terminal"),
    "the user's": Filters(role="user"),
    "of no such role": Filters(role="system"),
}


def measure(task: Callable[[], object]) -> str:
    """Return a task's median time and its longest, as text."""
    task()
    times = []
    for _ in range(RUNS):
        started_at = perf_counter()
        task()
        times.append(1000 * (perf_counter() - started_at))
    return f"{median(times):.1f} ({max(times):.1f})"


def lists(database: Database) -> Iterator[Sequence[str]]:
    """Measure the list of conversations: its first page, the next, and one far down."""
    store = ConversationStore(database)
    for what, n_before in (("first 100", 0), ("next 100", 100), ("100 after 9,000", 9_000)):
        before = store.recent(OWNER, limit=n_before)
        task = partial(store.recent, OWNER, after=before[-1] if before else None)
        yield f"list of conversations: {what}", measure(task)


def chat(database: Database) -> Iterator[Sequence[str]]:
    """Measure opening a long conversation, as a page shows it."""
    store, branches, feedback = ConversationStore(database), BranchStore(database), FeedbackStore(database)

    def show() -> None:
        path = store.path(OWNER, LONG_ID)
        branches.siblings(OWNER, path)
        feedback.of(OWNER, path)

    yield "a conversation of 500 messages, with versions and ratings", measure(show)

    def account() -> None:
        *path, reply = store.path(OWNER, LONG_ID, ledgers=True)
        assert join_ledger(path, reply)

    yield "the account of its last reply's prompt", measure(account)


def searches(database: Database) -> Iterator[Sequence[str]]:
    """Measure each query with each filter."""
    search = SearchStore(database).search
    for filter_name, filters in FILTERS.items():
        yield filter_name, *(measure(partial(search, OWNER, query, filters=filters)) for query in QUERIES.values())


def export(folder: Path, n_messages: int) -> Sequence[str]:
    """Measure `parley export --all`, from its start to its end."""
    output = folder / "measured.jsonl"
    command = [sys.executable, "app.py", "export", "--all", "--data", str(folder), "--output", str(output)]
    started_at = perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)  # which tells the memory of this process alone
    seconds = perf_counter() - started_at
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, "the export failed"
    output.unlink()
    n_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return "export of all", f"{n_messages / seconds:,.0f} messages/s, {n_bytes / 1e6:.0f} MB of memory"


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows as they come, in Markdown."""
    for row in chain([head, ["---"] * len(head)], rows):
        sys.stdout.write(f"| {' | '.join(row)} |\n")
        sys.stdout.flush()
    sys.stdout.write("\n")


def main(folder: Path) -> None:
    """Make the database, if there is none, and measure."""
    path = folder / "parley.db"
    folder.mkdir(parents=True, exist_ok=True)
    database = Database(path) if path.exists() else write(path, N_CONVERSATIONS)
    with database.read() as session:
        not_trashed = select(Conversation.id).where(Conversation.trashed_at.is_(None))
        query = select(func.count()).select_from(Message).where(Message.conversation_id.in_(not_trashed))
        n_messages = session.scalar(query) or 0
    print_table(["what", "median (longest), ms"], chain(lists(database), chat(database)))
    print_table(["search", *QUERIES], searches(database))
    database.close()
    print_table(["what", "how fast"], [export(folder, n_messages)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
