"""A page that is measured: what is done with it, and the scripts by which it notes what happens, and when."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect

N_MESSAGES = 300
LONG = f"The conversation of {N_MESSAGES} messages"
PATIENCE = 120_000  # milliseconds, until the measuring is given up
BOX = ".parley-composer-text"
REPLY = ".parley-assistant .parley-body"

PROBE = """
(() => {
  const now = () => performance.timeOrigin + performance.now();
  // The moment when the next frame has been handed over to be shown.
  const painted = () => new Promise((done) => requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port2.onmessage = () => done(now());
    port1.postMessage(null);
  }));
  // The moment when something that is true of the document is seen.
  const seen = (isTrue) => new Promise((done) => {
    const look = () => {
      if (!isTrue()) return;
      observer.disconnect();
      done(painted());
    };
    const observer = new MutationObserver(look);
    observer.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
    look();
  });
  const keys = [];
  addEventListener('keydown', async ({ timeStamp }) => keys.push(await painted() - performance.timeOrigin - timeStamp),
    { capture: true });
  const longTasks = [];
  const tasks = new PerformanceObserver((list) => longTasks.push(...list.getEntries().map(({ duration }) => duration)));
  tasks.observe({ type: 'longtask' });
  const has = (selector) => () => document.querySelector(selector) !== null;
  const first = {
    box: seen(has('.parley-composer-text')),
    row: seen(has('.parley-row')),
  };
  globalThis.probe = { now, painted, seen, keys, longTasks, first };
})();
"""
WAIT_FOR_MODEL = """async () => {
  await probe.first.box;
  const { session } = await import('/page/session.js');
  while (session.model?.state !== 'ready') {
    await new Promise((done) => session.addEventListener('model', done, { once: true }));
  }
  return probe.painted();
}"""
WAIT_FOR_REPLY = """(count) => {
  const { seen } = probe;
  probe.reply = seen(() => {
    const replies = document.querySelectorAll('.parley-assistant .parley-body');
    return replies.length === count && replies[count - 1].textContent !== '';
  });
}"""
COUNT_TEXTS = """async () => {
  const { session } = await import('/page/session.js');
  probe.texts = [];
  session.addEventListener('text', () => probe.texts.push(probe.now()));
}"""
SET_PARAMS = "(params) => import('/page/session.js').then(({ session }) => { session.params = params; })"
WAIT_FOR_MESSAGES = """(count) => {
  addEventListener('click', () => { probe.clicked = probe.now(); }, { capture: true, once: true });
  const messages = document.getElementsByClassName('parley-message');
  probe.opened = probe.seen(() => messages.length >= count);
}"""
SCROLL_UP = """async () => {
  const scroller = document.querySelector('.parley-transcript .parley-scroll');
  const gaps = [];
  let before = await probe.painted();
  while (scroller.scrollTop > 0) {
    scroller.scrollTop -= 400;
    const now = await probe.painted();
    gaps.push(now - before);
    before = now;
  }
  return gaps;
}"""
SCROLL_LIST = """async (count) => {
  const begun = probe.now();
  const rows = document.getElementsByClassName('parley-row');
  const scroller = document.querySelector('parley-sidebar .parley-scroll');
  while (rows.length < count) {
    scroller.scrollTop = scroller.scrollHeight;
    await probe.painted();
  }
  return await probe.painted() - begun;
}"""


@contextmanager
def new_window(browser: Browser) -> Iterator[BrowserContext]:
    """Open a window that has nothing cached, whose pages tell what they do and when."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE)
    context.add_init_script(PROBE)
    yield context
    context.close()


def open_page(context: BrowserContext, url: str) -> Page:
    """Open a page, ready to be written in."""
    page = context.new_page()
    page.goto(url)
    page.evaluate(WAIT_FOR_MODEL)
    return page


def forget(page: Page) -> None:
    """Let a page's long tasks and keys be counted from now on."""
    page.evaluate("() => { probe.longTasks.length = probe.keys.length = 0; }")


def send(page: Page, text: str, **params: Any) -> None:
    """Send a message, its reply drawn with sampling parameters."""
    page.evaluate(SET_PARAMS, params)
    page.fill(BOX, text)
    page.press(BOX, "Enter")


def send_long(page: Page, animal: str) -> None:
    """Send a message whose reply goes on until it is stopped, and wait for its first words."""
    n_replies = page.locator(REPLY).count() + 1
    page.evaluate(WAIT_FOR_REPLY, n_replies)
    send(page, f"Write a very long story about a {animal}.", min_tokens=4000, max_tokens=4000)
    page.evaluate("probe.reply")


def stop(page: Page) -> None:
    """Stop the reply."""
    page.click(".parley-stop")
    expect(page.locator(".parley-growing")).to_have_count(0)


def open_long(page: Page) -> None:
    """Open the conversation of 300 messages by a click in the list, and wait until it is shown."""
    page.evaluate(WAIT_FOR_MESSAGES, N_MESSAGES)
    page.locator("parley-sidebar .parley-row-link", has_text=LONG).first.click()
    page.evaluate("probe.opened")
