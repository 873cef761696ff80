"""Pages that embed a widget, loaded by a real browser: which of them may run its script, and show its frame."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from conftest import SECONDS
from playwright.sync_api import Browser, Frame, Route
from web_host import Answer, WebHost, serve_web

KEY = "pub_0123456789abcdefghijkl"
FAR = "http://parley.test"  # a Parley that is not on this machine, and has no https

SCRIPT = """
const { src, dataset: { site, target } } = document.currentScript;
const server = new URL(src).origin;
const told = document.documentElement.dataset;
told.script = 'ran';
addEventListener('message', ({ origin }) => {
  if (origin === server) told.frame = 'shown';
});
const frame = document.createElement('iframe');
frame.src = `${server}/widget/${site}?origin=${encodeURIComponent(location.origin)}`;
frame.onload = () => setTimeout(() => { told.end = 'loaded'; }); // whatever it shows; what it has said was sent before
const place = () => {
  try {
    return target === undefined ? document.body : document.querySelector(target);
  } catch {
    return null; // no selector
  }
};
if (place()) place().append(frame);
else told.end = 'no place';
"""
FRAME = "<!doctype html><script>parent.postMessage('here', '*')</script>"
SCRIPT_HEADERS = [("Content-Type", "text/javascript"), ("Cross-Origin-Resource-Policy", "cross-origin")]
FRAME_HEADERS = [
    ("Content-Type", "text/html"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
]
OUTCOME = "(({ script, frame, end }) => [!!script, !!frame, !script || !!end])(document.documentElement.dataset)"


@dataclass(frozen=True)
class Embedding:
    """A page: its headers, its head, and what its tag says beside src and data-site; {parley} stands for the origin."""

    headers: Sequence[tuple[str, str]] = ()
    tag: str = ""
    before: str = ""
    after: str = ""
    host: str = "127.0.0.1"  # how the page calls Parley, or FAR
    tls: bool = False

    def answer(self, origin: str) -> Answer:
        def filled(text: str) -> str:
            return text.replace("{parley}", origin)

        tag = f'<script src="{origin}/widget.js" data-site="{KEY}" defer {self.tag}></script>'
        html = f"<!doctype html><html><head>{filled(self.before)}{tag}{filled(self.after)}</head><body></body></html>"
        headers = [(name, filled(value)) for name, value in self.headers]
        return Answer(html, [("Content-Type", "text/html"), *headers])


def with_policy(policy: str, **rest: str) -> Embedding:
    return Embedding([("Content-Security-Policy", policy)], **rest)


def meta(policy: str) -> str:
    return f'<meta http-equiv="Content-Security-Policy" content="{policy}">'


@dataclass
class Web:
    """Servers: of pages, with https and without, and a Parley."""

    plain: WebHost
    secure: WebHost
    parley: WebHost
    urls: list[str] = field(default_factory=list)

    def serve(self, embeddings: Sequence[Embedding]) -> list[str]:
        """Serve pages, and return their addresses."""
        urls = []
        for number, embedding in enumerate(embeddings):
            origin = FAR if embedding.host == FAR else f"http://{embedding.host}:{self.parley.port}"
            host = self.secure if embedding.tls else self.plain
            host.answers[f"/{number}"] = embedding.answer(origin)
            urls.append(f"{host.url}/{number}")
        return urls

    def load(self, browser: Browser, urls: Sequence[str]) -> list[tuple[bool, bool]]:
        """Load pages in a browser, all at once; returns of each whether the script ran and the frame was shown."""
        self.plain.answers["/"] = Answer("".join(f'<iframe src="{url}"></iframe>' for url in urls))
        context = browser.new_context(ignore_https_errors=True)
        context.route(f"{FAR}/**", self._answer_from_afar)
        page = context.new_page()
        page.goto(f"{self.plain.url}/")
        frames = {frame.url: frame for frame in page.main_frame.child_frames}
        seen = [outcome(frames[url]) for url in urls]
        context.close()
        return seen

    def _answer_from_afar(self, route: Route) -> None:
        is_script = route.request.url.endswith("/widget.js")
        headers = dict(SCRIPT_HEADERS if is_script else FRAME_HEADERS)
        route.fulfill(body=SCRIPT if is_script else FRAME, headers=headers)


def outcome(frame: Frame) -> tuple[bool, bool]:
    """Return of a page that is loaded whether its script ran, and whether that has shown its frame, once it tells."""
    deadline = time.monotonic() + SECONDS / 1000
    while time.monotonic() < deadline:
        has_run, is_shown, is_over = frame.evaluate(OUTCOME)
        if is_over:
            return has_run, is_shown
        frame.page.wait_for_timeout(20)
    raise AssertionError(f"{frame.url} has loaded no frame in {SECONDS} ms")


@contextmanager
def serve_pages() -> Iterator[Web]:
    with serve_web() as plain, serve_web(tls=True) as secure, serve_web() as parley:
        ancestors = f"frame-ancestors 'self' {plain.url} {secure.url}"
        parley.answers["/widget.js"] = Answer(SCRIPT, SCRIPT_HEADERS)
        parley.answers[f"/widget/{KEY}"] = Answer(FRAME, [*FRAME_HEADERS, ("Content-Security-Policy", ancestors)])
        yield Web(plain, secure, parley)
