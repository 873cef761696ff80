"""Measures what a website loads for the widget: `python -m tests.measure_widget`."""

import gzip
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = {"/widget/static/": ROOT / "chat" / "widget", "/page/": ROOT / "chat" / "ui" / "static"}
LOADER = FOLDERS["/widget/static/"] / "widget.js"
FRAME = FOLDERS["/widget/static/"] / "frame.html"
NAMED = re.compile(r"""(?:href=|src=|from |import\()["']((?:/[a-z]+/|\./)[^"']+)["']""")


def files_of_frame() -> list[Path]:
    """Return the frame's document and all that it loads, first what has to come first."""
    found = [FRAME]
    for path in found:
        for name in NAMED.findall(path.read_text()):
            folder, _, file = name.rpartition("/")
            named = FOLDERS.get(f"{folder}/", path.parent) / file
            if named not in found:
                found.append(named)
    return found


def sizes(path: Path) -> tuple[int, int]:
    """Return the bytes of a file as it is, and compressed as the server does it."""
    content = path.read_bytes()
    return len(content), len(gzip.compress(content))


def main() -> None:
    """Print a table."""
    paths = [LOADER, *files_of_frame()]
    rows = [(path.name, *sizes(path)) for path in paths]
    rows.append((f"all, {len(rows)} requests", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    for name, raw, packed in [("", "bytes", "gzip"), *rows]:
        sys.stdout.write(f"{name:<20}{raw:>8}{packed:>8}\n")


if __name__ == "__main__":
    main()
