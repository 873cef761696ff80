"""What a page is asked to note while it is measured, in JavaScript; `probe` is there before anything of its own."""

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
    ready: seen(has('.parley-send:not(.parley-stop)[aria-disabled=false]')),
    row: seen(has('.parley-row')),
  };
  globalThis.probe = { now, painted, seen, keys, longTasks, first };
})();
"""
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
  probe.opened = probe.seen(() => messages.length === count);
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
