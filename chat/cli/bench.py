"""Measuring this machine: what `parley bench` checks, has done and prints."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chat.engine import plan_engine
from chat.progress import progress_bar
from chat.settings import Settings, SettingsError
from model.bench.comparison import Comparison
from model.bench.figures import NAMES, OURS, Row
from model.bench.machine import bytes_per_token, describe_machine, measure_bandwidth
from model.bench.peers import PEERS
from model.bench.workload import CHATS, cases
from model.checkpoint.checkpoint import Checkpoint
from model.config import BLOCK_SIZE

if TYPE_CHECKING:
    from model.engine.engine import Engine
    from model.engine.runner import Runner

AgainstFlag = Annotated[
    str, typer.Option("--against", metavar="NAMES", help=f"Measure these too: {', '.join(PEERS)}; with commas between.")
]
JsonFileFlag = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")]
ChartFlag = Annotated[Path | None, typer.Option("--chart", metavar="FILE", help="Write a chart, a PNG.")]
RunsFlag = Annotated[int, typer.Option("--runs", min=1, help="How often each thing is measured.")]

Rows = Sequence[Row]

ENOUGH_RUNS = 5  # for figures that are fit to be shown to others
INSTALL = "python -m pip install '.[bench]'"
MEASURED_ONCE = ("kl", "greedy_equal")


def run_bench(
    settings: Settings,
    fetch_checkpoint: Callable[[Settings], Checkpoint],
    open_engine: Callable[[Settings], AbstractContextManager[tuple["Engine", "Runner"]]],
    *,
    against: str,
    json_file: Path | None,
    chart: Path | None,
    runs: int,
) -> None:
    """Measure Parley and its peers, and print the machine and a table, in Markdown.

    `open_engine` is called in another process, and must have a name that one can import. Raises SettingsError for
    whatever of all this cannot be done, before anything is measured; ModelError when a program fails.
    """
    peers = _read_peers(against)
    _check_files(json_file, chart)
    checkpoint = fetch_checkpoint(settings)
    _check_readable(checkpoint, peers)
    plan = plan_engine(settings, checkpoint)
    n_positions = (plan.n_blocks - max(CHATS)) * BLOCK_SIZE  # the last block of each chat may be nearly empty
    if chart and not cases(plan.n_ctx, n_positions):
        raise SettingsError(f"--chart: a context of {plan.n_ctx} tokens is too short for any speed to be measured.")
    machine = describe_machine(["parley", "torch", *(PEERS[name].distribution for name in peers)])
    machine |= {"model": checkpoint.path.name, "threads": settings.threads, "runs": runs}
    machine["bytes_per_second"] = measure_bandwidth(settings.threads)
    with progress_bar("Measuring", "steps") as progress:
        comparison = Comparison(
            checkpoint,
            partial(open_engine, settings),
            peers,
            n_ctx=plan.n_ctx,
            n_positions=n_positions,
            n_threads=settings.threads,
            n_runs=runs,
            progress=progress,
        )
        result = comparison.run()
    # neighbours may have used it too: the higher is nearer to what it can do
    machine["bytes_per_second"] = max(machine["bytes_per_second"], measure_bandwidth(settings.threads))
    machine |= {"computes": result.descriptions, **_share_of_bandwidth(result.rows, checkpoint, machine)}
    typer.echo(f"{machine_as_text(machine)}\n\n{table(result.rows)}\n\n{_notes(runs)}")
    if json_file:
        rows = [row.as_json() for row in result.rows]
        json_file.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1, ensure_ascii=False) + "\n")
    if chart:
        from model.bench.chart import write_chart

        write_chart(result.rows, f"{_title(machine)}, {machine['cpu']}", chart)


def _read_peers(against: str) -> tuple[str, ...]:
    peers = tuple(dict.fromkeys(name.strip() for name in against.split(",") if name.strip()))
    for name in peers:
        if name not in PEERS:
            raise SettingsError(f"--against: expected some of {', '.join(PEERS)}, got {name!r}")
        for module in PEERS[name].modules:
            _check_installed(f"--against {name}", module)
    return peers


def _check_files(json_file: Path | None, chart: Path | None) -> None:
    for flag, path in (("--json", json_file), ("--chart", chart)):
        if path is not None:
            try:
                path.open("ab").close()
            except OSError as error:
                raise SettingsError(f"{flag}: {path} cannot be written ({error.strerror}).") from None
    if chart is not None:
        _check_installed("--chart", "matplotlib")


def _check_installed(flag: str, module: str) -> None:
    if find_spec(module) is None:
        raise SettingsError(f"{flag} needs the package {module}, which is not installed: {INSTALL}")


def _check_readable(checkpoint: Checkpoint, peers: Sequence[str]) -> None:
    for name in peers:
        if checkpoint.path.is_dir() and not PEERS[name].reads_folders:
            raise SettingsError(f"--against {name}: expected a GGUF file, found the folder {checkpoint.path}")


def _share_of_bandwidth(rows: Rows, checkpoint: Checkpoint, machine: dict[str, Any]) -> dict[str, float]:
    """Return how many bytes of weights a token of one chat needs, and how close that brings its speed to memory's."""
    n_bytes = bytes_per_token(checkpoint)
    alone = min(
        (row for row in rows if row.figure.what == "decode" and row.figure.chats == 1),
        key=lambda row: row.figure.tokens,
        default=None,
    )
    if alone is None:  # the model's context is too short for it
        return {"bytes_per_token": n_bytes}
    share = n_bytes * alone.median(OURS) / machine["bytes_per_second"]
    return {"bytes_per_token": n_bytes, "share_of_bandwidth": share}


# What is printed.


def machine_as_text(machine: dict[str, Any]) -> str:
    """Return what the machine is, line by line."""
    versions = ", ".join(f"{name} {number or 'not installed'}" for name, number in machine["versions"].items())
    lines = [
        _title(machine),
        f"CPU: {machine['cpu']}, {machine['cores']} cores; {', '.join(machine['caches']) or 'caches unknown'}",
        f"System: {machine['system']}; compiler: {machine['compiler'] or 'none'}",
        f"Versions: {versions}",
        *(f"{NAMES.get(name, name)} computes with: {what}" for name, what in machine["computes"].items()),
        f"Memory is read at {machine['bytes_per_second'] / 1e9:.1f} GB/s.",
    ]
    if "share_of_bandwidth" in machine:
        lines[-1] += (
            f" One chat's token needs {machine['bytes_per_token'] / 1e6:.1f} MB of weights as they are in the file: "
            f"Parley reaches {machine['share_of_bandwidth']:.0%} of that."
        )
    return "\n".join(lines)


def _title(machine: dict[str, Any]) -> str:
    return f"{machine['model']}, {machine['threads']} thread{'s' * (machine['threads'] > 1)}"


def table(rows: Rows) -> str:
    """Return the rows as a table in Markdown, with columns in line."""
    names = list(rows[0].values)
    peers = [name for name in names if name != OURS]
    lines = [["", *(NAMES.get(name, name) for name in names), *(f"Parley / {name}" for name in peers)]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for row in rows:
        ratios = row.ratios()
        values = [_spread(row, name) for name in names]
        lines.append([row.figure.label, *values, *(number(ratios[name]) if name in ratios else "" for name in peers)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def number(value: float) -> str:
    """Return a number with as many digits as are worth reading."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.1e}"


def _spread(row: Row, name: str) -> str:
    if name not in row.values:
        return ""
    middle = row.median(name)
    if row.figure.what == "greedy_equal":
        return f"{middle:.0f}"
    if row.figure.what in MEASURED_ONCE:
        return number(middle)
    return f"{number(middle)} ({number(min(row.values[name]))}–{number(max(row.values[name]))})"


def _notes(runs: int) -> str:
    text = f"Medians of {runs} runs, the programs taking turns, with the least and the most."
    return text if runs >= ENOUGH_RUNS else f"{text} Fewer than {ENOUGH_RUNS}: a trial, not to be published."
