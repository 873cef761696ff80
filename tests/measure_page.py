"""How fast the page is in a real browser, on a real server: python -m tests.measure_page [FOLDER]

A data folder, or else a temporary one; a database of 10,000 conversations and 200,000 messages is made in it, if it
has none. The first table is of a process of its own with an empty database; the rest is measured in this process, so
that the server's moments and the page's are told by one clock. Nothing else should run meanwhile.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from inspect import iscoroutinefunction
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Thread
from time import perf_counter, sleep, time
from typing import Any, NamedTuple
from unittest.mock import patch
from weakref import WeakSet

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from app import listen, open_kept, open_memory
from chat.api.events import _Watcher
from chat.model_host import ModelHost
from chat.opening import open_model
from chat.settings import load_settings
from chat.ui.quick_import import import_gradio
from chat.workspace import open_workspace
from model.checkpoint.catalog import DEFAULT_MODEL, resolve
from model.engine.generation import Generation, Piece
from storage.conversations import ConversationStore
from tests.big_database import OWNER, write
from tests.chromium import CHROMIUM
from tests.measured_page import (
    BOX,
    COUNT_TEXTS,
    LONG,
    N_MESSAGES,
    PATIENCE,
    REPLY,
    SCROLL_LIST,
    SCROLL_UP,
    WAIT_FOR_MODEL,
    WAIT_FOR_REPLY,
    forget,
    new_window,
    open_long,
    open_page,
    send,
    send_long,
    stop,
)

ROOT = Path(__file__).parent.parent
N_CONVERSATIONS = 10_000
RUNS = 3  # of a cold start
N_FIRST_TOKENS = 10
N_KEYS, KEY_MS = 100, 20
SECONDS_WATCHED = 10.0
N_ROWS = 1000


class Row(NamedTuple):
    """What was measured, and what it must not exceed, if anything."""

    what: str
    measured: str
    value: float = 0.0
    most: float | None = None
    unit: str = "ms"
    least: float = 0.0

    def cells(self) -> tuple[str, str, str, str]:
        """Return what is printed of it."""
        if self.most is None:
            return self.what, self.measured, "", ""
        target = f"{self.least:g} to {self.most:g} {self.unit}" if self.least else f"<= {self.most:g} {self.unit}"
        return self.what, self.measured, target, "ok" if self.least <= self.value <= self.most else "missed"


def spread(values: list[float]) -> str:
    """Return the median and the longest of times in milliseconds, as text."""
    return f"{median(values):.0f} ({max(values):.0f}) ms" if values else "none"


def print_table(title: str, rows: Iterable[Row]) -> None:
    """Print rows as they come, in Markdown."""
    sys.stdout.write(f"| {title} | measured | target | |\n| --- | --- | --- | --- |\n")
    for row in rows:
        sys.stdout.write(f"| {' | '.join(row.cells())} |\n")
        sys.stdout.flush()
    sys.stdout.write("\n")


def long_tasks(page: Page, what: str) -> Row:
    """Return how many tasks have kept a page from anything else for more than 50 ms, and the longest."""
    durations: list[float] = page.evaluate("probe.longTasks")
    return Row(f"{what}: long tasks", f"{len(durations)}, the longest {max(durations, default=0):.0f} ms")


# A server in a process of its own.


def cold_starts(browser: Browser, models: Path) -> Iterator[Row]:
    """Measure from the start of the process, in a window that has nothing cached, and again in the same one."""
    cold, warm = [], []
    with TemporaryDirectory() as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        (Path(name) / "models").symlink_to(models)
        for _ in range(RUNS):
            with new_window(browser) as context:
                cold.append(cold_start(context, Path(name), port))
                warm.append(cold_start(context, Path(name), port))
    for what, times in (("nothing cached", cold), ("cached by the browser", warm)):
        usable, ready = (list(column) for column in zip(*times, strict=True))
        yield Row(f"until the box can be written in, {what}", spread(usable), median(usable), 6000)
        yield Row(f"until a message can be sent, {what}", spread(ready))


def cold_start(context: BrowserContext, data: Path, port: int) -> tuple[float, float]:
    """Start a server and end it; return after how long its page can be written in, and a message sent."""
    page = context.new_page()
    command = [sys.executable, str(ROOT / "app.py"), "serve", "--data", str(data), "--port", str(port)]
    begun = 1000 * time()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            sleep(0.02)  # the page is asked for once: asking again and again would slow the start
        page.goto(f"http://127.0.0.1:{port}", wait_until="commit")
        usable, ready = page.evaluate("probe.first.box"), page.evaluate(WAIT_FOR_MODEL)
        page.fill(BOX, "Hello")
    finally:
        page.close()
        process.terminate()
        process.wait()
    return usable - begun, ready - begun


# A server in this process.


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a data folder in a thread, until the end; yields the page's URL, once there is a model."""
    import uvicorn

    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(folder / "gradio"))
    import_gradio()
    from chat.api.server import create_app

    settings = load_settings().model_copy(update={"data": folder, "model": DEFAULT_MODEL})
    with (
        listen(settings.host, 0) as listener,
        open_kept(settings, show=lambda text: None) as database,
        open_memory() as memory,
        closing(ModelHost(lambda name, bar: open_model(settings, bar))) as host,
        open_workspace(database, host.model) as kept,
        open_workspace(memory, host.model) as temporary,
    ):
        seed(kept.conversations)
        host.load(settings.model)
        host.wait()
        app = create_app(settings, kept, temporary, host)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning", access_log=False))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for workspace in (kept, temporary):
                workspace.bus.close()
            server.should_exit = True
            thread.join()


def seed(store: ConversationStore) -> None:
    """Store a conversation of 300 messages, with lists, tables and code, at the top of the list."""
    conversation = store.create(OWNER, channel="ui")
    parent_id = None
    for turn in range(N_MESSAGES // 2):
        _, reply = store.begin_turn(
            OWNER,
            conversation.id,
            content=f"Question {turn}: how is a list of numbers sorted, and how long does it take?",
            parent_id=parent_id,
            model=DEFAULT_MODEL,
            params={},
            seed=turn,
            title=LONG,
        )
        parent_id = reply.id
        content = f"There are **{turn + 2}** ways; `sorted` is the *simplest*.\n\n- It is stable.\n- It is short.\n"
        if turn % 3 == 0:
            content += "\n```python\ndef smallest(numbers: list[int]) -> int:\n    return sorted(numbers)[0]\n```\n"
        if turn % 5 == 0:
            content += "\n| numbers | seconds |\n| --- | --- |\n| 1,000 | 0.001 |\n| 1,000,000 | 1.2 |\n"
        content += "\n" + "It takes longer the more numbers there are, though not by much. " * (turn % 7)
        store.finish_reply(OWNER, reply.id, content=content, status="complete", finish_reason="stop")
    store.update(OWNER, conversation.id, pinned=True)


@contextmanager
def first_tokens() -> Iterator[list[float]]:
    """Note when generations have their first text, in milliseconds."""
    begun: WeakSet[Generation] = WeakSet()
    moments: list[float] = []
    emit = Generation.emit

    def note(generation: Generation, piece: Piece) -> None:
        if piece.text and generation not in begun:
            begun.add(generation)
            moments.append(1000 * time())
        emit(generation, piece)

    with patch.object(Generation, "emit", note):
        yield moments


def first_token(context: BrowserContext, url: str) -> Iterator[Row]:
    """Measure from the engine's first token to its paint, in new conversations and then in one that goes on."""
    page = open_page(context, url)
    with first_tokens() as moments:

        def delay(n_replies: int) -> float:
            page.evaluate(WAIT_FOR_REPLY, n_replies)
            send(page, "Say hello.", max_tokens=30, min_tokens=30)
            painted: float = page.evaluate("probe.reply")
            expect(page.locator(".parley-growing")).to_have_count(0)
            return painted - moments[-1]

        new = []
        for _ in range(N_FIRST_TOKENS):
            page.click(".parley-new-chat")
            expect(page.locator(REPLY)).to_have_count(0)
            new.append(delay(1))
        yield Row("from the first token to its paint, new conversations", spread(new), max(new), 100)
        later = [delay(2 + n) for n in range(N_FIRST_TOKENS)]
        yield Row("from the first token to its paint, one that goes on", spread(later), max(later), 100)
    page.close()


@contextmanager
def timed(owner: type, name: str) -> Iterator[list[float]]:
    """Note how long each call of a method takes, in milliseconds."""
    times: list[float] = []
    method = getattr(owner, name)

    @contextmanager
    def clock() -> Iterator[None]:
        begun = perf_counter()
        yield
        times.append(1000 * (perf_counter() - begun))

    def call(*args: Any, **kwargs: Any) -> Any:
        with clock():
            return method(*args, **kwargs)

    async def wait(*args: Any, **kwargs: Any) -> Any:
        with clock():
            return await method(*args, **kwargs)

    with patch.object(owner, name, wait if iscoroutinefunction(method) else call):
        yield times


def long_conversation(context: BrowserContext, url: str) -> Iterator[Row]:
    """Measure opening the conversation of 300 messages, and scrolling it from its end to its start."""
    page = open_page(context, url)
    forget(page)
    open_long(page)
    opened = page.evaluate("probe.opened.then((moment) => moment - probe.clicked)")
    yield Row(f"opening {N_MESSAGES} messages, from the click to the paint", f"{opened:.0f} ms")
    yield long_tasks(page, "opening")
    forget(page)
    gaps: list[float] = page.evaluate(SCROLL_UP)
    yield Row("scrolling them to the start: frames", spread(gaps))
    yield long_tasks(page, "scrolling")
    page.close()


def updates(context: BrowserContext, url: str) -> Iterator[Row]:
    """Measure what the server does for each update of a reply after 300 messages, and how many reach the page."""
    page = open_page(context, url)
    open_long(page)
    send_long(page, "dragon")
    page.evaluate(COUNT_TEXTS)
    forget(page)
    with timed(ConversationStore, "flush_reply") as flushes, timed(_Watcher, "_tell") as events:
        page.wait_for_timeout(1000 * SECONDS_WATCHED)
    moments: list[float] = page.evaluate("probe.texts")
    per_second = 1000 * (len(moments) - 1) / (moments[-1] - moments[0])
    longest = max(flushes) + max(events)
    yield Row(f"an update after {N_MESSAGES} messages: stored", spread(flushes))
    yield Row(f"an update after {N_MESSAGES} messages: told", spread(events))
    yield Row("both", f"{median(flushes) + median(events):.0f} ({longest:.0f}) ms", longest, 50)
    yield Row("updates that the page sees", f"{per_second:.1f} a second", per_second, 20, "a second", 10)
    yield long_tasks(page, "updates")
    stop(page)
    page.close()


def typed(browser: Browser, url: str) -> Iterator[Row]:
    """Measure how soon keys are seen in one window while replies are written in two others."""
    with new_window(browser) as one, new_window(browser) as two, new_window(browser) as three:
        writing = [open_page(context, url) for context in (one, two)]
        page = open_page(three, url)
        for other, animal in zip(writing, ("horse", "parrot"), strict=True):
            send_long(other, animal)
        for what, prepare in (("a new chat", lambda page: None), (f"{N_MESSAGES} messages", open_long)):
            yield from type_in(page, what, prepare)
        assert all(other.locator(".parley-growing").count() for other in writing), "a reply was over too soon"
        for other in writing:
            stop(other)


def type_in(page: Page, what: str, prepare: Callable[[Page], None]) -> Iterator[Row]:
    """Measure each key of a text that is typed."""
    prepare(page)
    page.click(BOX)
    forget(page)
    page.keyboard.type("lorem " * (N_KEYS // 6) + "x" * (N_KEYS % 6), delay=KEY_MS)
    page.evaluate("probe.painted()")
    keys = sorted(page.evaluate("probe.keys"))
    assert len(keys) == N_KEYS
    measured = f"{median(keys):.0f} ms, 95 of 100 within {keys[N_KEYS * 95 // 100 - 1]:.0f}, all within {keys[-1]:.0f}"
    yield Row(f"a key's paint while two others are answered, {what}", measured, keys[-1], 100)
    yield long_tasks(page, "typing")
    page.fill(BOX, "")


def many_conversations(context: BrowserContext, url: str) -> Iterator[Row]:
    """Measure the list of 10,000 conversations."""
    page = context.new_page()
    page.goto(url)
    loaded = page.evaluate("probe.first.row.then((moment) => moment - performance.timeOrigin)")
    yield Row("from the page's start to the first row of its list", f"{loaded:.0f} ms")
    page.evaluate(WAIT_FOR_MODEL)
    forget(page)
    seconds = page.evaluate(SCROLL_LIST, N_ROWS) / 1000
    yield Row(f"scrolling the list until {N_ROWS:,} rows are loaded", f"{seconds:.1f} s")
    yield long_tasks(page, "scrolling")
    devtools = context.new_cdp_session(page)
    devtools.send("HeapProfiler.collectGarbage")
    n_bytes = devtools.send("Runtime.getHeapUsage")["usedSize"]
    yield Row("JavaScript's memory then", f"{n_bytes / 1e6:.1f} MB")
    page.close()


def main(folder: Path) -> None:
    """Make the database, if there is none, and measure."""
    models = load_settings().data / "models"
    resolve(DEFAULT_MODEL, models, lambda done, total: None)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "parley.db").exists():
        write(folder / "parley.db", N_CONVERSATIONS).close()
    if not (folder / "models").exists():
        (folder / "models").symlink_to(models)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        print_table("a process of its own: median (longest)", cold_starts(browser, models))
        with serve(folder) as url, new_window(browser) as window:
            for measure in (first_token, long_conversation, updates, many_conversations):
                print_table(measure.__name__.replace("_", " "), measure(window, url))
            print_table("typing", typed(browser, url))
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with TemporaryDirectory() as name:
            main(Path(name))
