"""`parley verify`: whether an export with a chain of hashes is still as it was written."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from chat.errors import Unreadable
from chat.formats.chain import ChainBroken, ChainMissing
from chat.formats.chain import verify as verify_chain
from chat.formats.reading import MAX_LINE_CHARS


def verify(file: Annotated[Path, typer.Argument(help="What `parley export --chain` wrote.")]) -> None:
    """Check the hashes of an export; exit code 1 if it was changed, with the first line that does not hold."""
    try:
        with file.open("rb") as lines:
            chain = verify_chain(iter(partial(lines.readline, MAX_LINE_CHARS), b""))
    except ChainMissing as error:
        raise Unreadable(str(file), str(error)) from None
    except ChainBroken as error:
        typer.echo(f"parley: {file}: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{chain.n_conversations:,} conversations are as they were written, up to the hash {chain.hash}.")
