"""The reply to one text, printed."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import typer

from chat.progress import progress_bar
from model.engine.generation import Generation, Piece
from model.errors import ModelError


def print_reply(generation: Generation) -> None:
    """Print a reply as it comes; raises ModelError when it ends in an error."""
    for piece in _read(generation):
        typer.echo(piece.text, nl=False)
    typer.echo()


def print_reply_as_json(generation: Generation, model_name: str) -> None:
    """Print a reply with its figures, once it has ended; raises ModelError when it ends in an error."""
    pieces = list(_read(generation))
    answer: dict[str, Any] = {
        "text": "".join(piece.text for piece in pieces),
        "finish_reason": generation.finish_reason,
        "model": model_name,
        "seed": generation.seed,
        "usage": asdict(generation.usage) if generation.usage else None,
    }
    if logprobs := [asdict(logprob) for piece in pieces for logprob in piece.logprobs]:
        answer["logprobs"] = logprobs
    typer.echo(json.dumps(answer, ensure_ascii=False))


def _read(generation: Generation) -> Iterator[Piece]:
    with progress_bar("Reading", "tokens") as progress:
        while generation.usage is None and generation.prefilled_tokens < generation.prompt_tokens:
            progress(generation.prefilled_tokens, generation.prompt_tokens)
            time.sleep(0.1)
    yield from generation
    if generation.error:
        raise ModelError(generation.error)
