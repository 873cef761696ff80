"""How much a website loads for the widget."""

import re

import pytest
from measure_widget import LOADER, files_of_frame, sizes

KB = 1024


def test_the_loader_has_5_kb_as_it_is() -> None:
    assert sizes(LOADER)[0] <= 5 * KB


def test_all_together_has_30_kb_compressed() -> None:
    assert sum(sizes(path)[1] for path in [LOADER, *files_of_frame()]) <= 30 * KB


def test_a_visitor_who_does_not_open_it_loads_less_than_a_third() -> None:
    closed = {"widget.js", "frame.html", "frame.css", "frame.js", "appearance.js", "words.js"}
    paths = [LOADER, *files_of_frame()]
    assert closed <= {path.name for path in paths}
    assert sum(sizes(path)[1] for path in paths if path.name in closed) <= 10 * KB


def test_no_script_of_the_widget_is_left_over() -> None:
    used = {LOADER, *files_of_frame(), LOADER.parent / "refused.html", LOADER.parent / "refused.js"}
    assert {path for path in LOADER.parent.iterdir() if path.is_file()} <= used


@pytest.mark.parametrize(
    "word", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]
)
def test_no_script_makes_markup_or_code_of_a_text(word: str) -> None:
    scripts = [path for path in [LOADER, *files_of_frame()] if path.suffix == ".js"]
    assert [path.name for path in scripts if word in path.read_text()] == []


def test_nothing_comes_from_another_host() -> None:
    texts = [re.sub(r"http://www\.w3\.org/2000/svg", "", path.read_text()) for path in [LOADER, *files_of_frame()]]
    assert [re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]{2,}", text) for text in texts] == [[]] * len(texts)
