"""Takes the pictures of the README anew: `python -m tests.take_screenshots`.

A real server with the default model answers; the pictures are as it answers.
"""

import sys
import tempfile
from contextlib import closing
from io import BytesIO
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, Frame, Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parent))

from chromium import launch
from conftest import ROOT, SECONDS, Server
from page_driver import BOX, open_panel, row, send, tool, wait_for_end
from widget_host import Website, Window

from chat.settings import load_settings
from model.checkpoint.catalog import DEFAULT_MODEL, resolve

FOLDER = ROOT / ".readme"
EARLIER = ["Give me three names for a tea house.", "What is the capital of France?"]
QUESTION = "Write a Python function that reverses the words of a sentence, and explain it."
ON_SITE = ["What is the capital of France?", "Tell me about the Seine in two sentences."]
SITE = """<style>body { font: 18px/1.6 Georgia, serif; max-width: 44rem; margin: 3rem auto; padding: 0 2rem; }</style>
<h1>The little atlas</h1><p>Cities, rivers and mountains, told in short.</p>"""
PHONE = (360, 740)
FRAME_MS = 120


def main() -> None:
    """Write all pictures."""
    model = resolve(DEFAULT_MODEL, load_settings().data / "models", lambda done, total: None)
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        expect.set_options(timeout=SECONDS)
        server = Server(Path(data), model)
        browser = launch(playwright)
        try:
            _take(browser, server.url)
            _take_widget(browser, server.url)
        finally:
            browser.close()
            server.end()


def _take(browser: Browser, url: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(url)
    page.wait_for_selector(BOX)
    for text in EARLIER:
        page.get_by_role("button", name="New chat").first.click()
        send(page, text, temperature=0, max_tokens=80)
        wait_for_end(page)
    page.get_by_role("button", name="New chat").first.click()
    _film(page, QUESTION).save(FOLDER / "chat.gif", save_all=True)
    open_panel(page, "Context")
    page.wait_for_timeout(500)
    page.screenshot(path=FOLDER / "chat.png")
    page.click(".parley-meter")
    tool(page, "Show tokens")
    page.locator(".parley-token").nth(12).click()
    page.screenshot(path=FOLDER / "tokens.png")
    phone = browser.new_page(viewport={"width": 360, "height": 740}, device_scale_factor=2)
    phone.goto(page.url)
    phone.wait_for_selector(".parley-assistant")
    phone.wait_for_timeout(1000)
    phone.screenshot(path=FOLDER / "phone.png")
    _take_site(page, url)


def _take_widget(browser: Browser, url: str) -> None:
    """Pages of another origin, with the chat opened on them: on a desk, and in the dark on a phone."""
    httpx.put(f"{url}/api/presets/greedy", json={"system_prompt": None, "params": {"temperature": 0}})
    with closing(Website()) as website:
        look = {"title": "Ask the atlas", "greeting": "Hello! Which place would you like to know about?"}
        new = {"name": "Atlas", "origins": [website.origin], "preset": "greedy", "appearance": look}
        key = httpx.post(f"{url}/api/sites", json=new).json()["key"]
        tag = f'<script src="{url}/widget.js" data-site="{key}" defer'
        _take_chat(Window(browser, device_scale_factor=2), website.show(f"{SITE}{tag}></script>"), "widget")
        dark = f'{SITE}{tag} data-theme="dark" data-accent="#f59e0b"></script>'
        phone = Window(browser, PHONE, device_scale_factor=2, is_mobile=True, has_touch=True)
        _take_chat(phone, website.show(dark), "widget_phone")


def _take_chat(window: Window, url: str, name: str) -> None:
    visit = window.open(url).open()
    for i, text in enumerate(ON_SITE):
        visit.send(text)
        expect(visit.tool("Good reply")).to_have_count(i + 1)
    visit.page.screenshot(path=FOLDER / f"{name}.png")
    window.close()


def _take_site(page: Page, url: str) -> None:
    """Take the panel with a site, whose chat has been asked something in the preview."""
    appearance = {"title": "Travel help", "greeting": "Hello! Where would you like to go?", "accent": "#0f766e"}
    site = {"name": "The travel agency", "origins": ["https://travel.example"], "appearance": appearance}
    page.request.post(f"{url}/api/sites", data=site)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(url)
    page.wait_for_selector(BOX)
    open_panel(page, "Sites")
    with page.expect_event("framenavigated", predicate=_is_widget):
        page.get_by_role("button", name="The travel agency").click()
    page.get_by_label("Open at once").check()
    frame = page.wait_for_event("framenavigated", predicate=_is_widget)
    frame.get_by_role("textbox").fill("What is the capital of France?")
    frame.get_by_role("textbox").press("Enter")
    row(page, "Capital of France").click()
    wait_for_end(page)
    page.wait_for_timeout(500)
    page.screenshot(path=FOLDER / "sites.png")


def _is_widget(frame: Frame) -> bool:
    return "/widget/pub_" in frame.url


def _film(page: Page, text: str) -> "Film":
    """Send a text and return what is seen until its reply has ended."""
    film = Film()
    page.type(BOX, text[:30])
    film.add(page)
    page.type(BOX, text[30:])
    film.add(page)
    page.press(BOX, "Enter")
    while len(film.frames) < 80:
        page.wait_for_timeout(FRAME_MS)
        film.add(page)
        if len(film.frames) > 5 and not page.locator(".parley-growing").count():
            break
    return film


class Film:
    """Pictures of a page, one after another."""

    def __init__(self) -> None:
        self.frames: list[Image.Image] = []

    def add(self, page: Page) -> None:
        """Take one more."""
        picture = Image.open(BytesIO(page.screenshot())).convert("RGB").resize((960, 600), Image.Resampling.LANCZOS)
        self.frames.append(picture.quantize(64, dither=Image.Dither.NONE))

    def save(self, path: Path, **options: bool) -> None:
        """Write them as an animation that begins anew after a while."""
        durations = [FRAME_MS] * (len(self.frames) - 1) + [3_000]
        first, *rest = self.frames
        first.save(path, append_images=rest, duration=durations, loop=0, optimize=True, **options)


if __name__ == "__main__":
    main()
