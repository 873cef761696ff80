"""The models that are known by name, printed."""

import json
from pathlib import Path

import typer

from model.checkpoint.catalog import CATALOG, find


def print_models(folder: Path) -> None:
    """Print a line for each model of the catalog, and whether its file is in `folder`."""
    for entry in CATALOG.values():
        where = find(entry, folder) or f"not here yet: {entry.source}"
        size = f"{entry.n_parameters:,} parameters, {entry.n_bytes:,} bytes, {entry.license}"
        typer.echo(f"{entry.name}: {size}, {where}")


def print_models_as_json(folder: Path) -> None:
    """Print the catalog for a program."""
    rows = [
        {
            "name": entry.name,
            "parameters": entry.n_parameters,
            "license": entry.license,
            "bytes": entry.n_bytes,
            "sha256": entry.sha256,
            "source": str(entry.source),
            "path": str(path) if (path := find(entry, folder)) else None,
        }
        for entry in CATALOG.values()
    ]
    typer.echo(json.dumps(rows))
