"""Measurements as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from model.bench.figures import NAMES, OURS, Row

PANELS = {
    "decode": "Decoding, all chats together (tokens per second)",
    "prefill": "Reading a prompt (tokens per second)",
    "first_token": "First token of a reply (milliseconds; less is better)",
}
COLOURS = {OURS: "#2563eb", "llama.cpp": "#f59e0b", "transformers": "#9ca3af"}
WIDTH = 0.8  # of a group of bars, in units of the distance between groups


def write_chart(rows: Sequence[Row], title: str, path: Path) -> None:
    """Write a PNG: the medians of all contestants as bars from 0, with lines from the least to the most."""
    panels = {what: [row for row in rows if row.figure.what == what] for what in PANELS}
    panels = {what: rows_of_panel for what, rows_of_panel in panels.items() if rows_of_panel}
    picture = Picture(figsize=(11, 3.4 * len(panels)), layout="constrained")
    for i, (what, rows_of_panel) in enumerate(panels.items(), 1):
        axes = picture.add_subplot(len(panels), 1, i)
        axes.set_title(PANELS[what], loc="left")
        _draw(axes, rows_of_panel)
    picture.legend(*picture.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(COLOURS))
    picture.suptitle(title, x=0.01, ha="left")
    picture.savefig(path, format="png", dpi=120)


def _draw(axes: Axes, rows: Sequence[Row]) -> None:
    names = list(rows[0].values)
    for i, name in enumerate(names):
        heights = [row.median(name) for row in rows]
        below = [row.median(name) - min(row.values[name]) for row in rows]
        above = [max(row.values[name]) - row.median(name) for row in rows]
        places = [group + (i - (len(names) - 1) / 2) * WIDTH / len(names) for group in range(len(rows))]
        bars = axes.bar(
            places,
            heights,
            WIDTH / len(names),
            yerr=[below, above],
            capsize=3,
            color=COLOURS[name],
            label=NAMES.get(name, name),
        )
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=1)
    axes.set_xticks(range(len(rows)), [_group(row) for row in rows])
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def _group(row: Row) -> str:
    figure = row.figure
    chats = f"{figure.chats} chat{'s' * (figure.chats > 1)}\n" if figure.what == "decode" else ""
    return f"{chats}{figure.note + chr(10) if figure.note else ''}{figure.tokens:,} tokens"
