"""`parley replay`: a stored reply written again, and whether it came out the same."""

from collections.abc import Callable

import typer

from chat.data_folder import LOCAL_OWNER, open_database
from chat.engine import open_engine, plan_engine
from chat.progress import progress_bar
from chat.replay import Comparison, Mark, check_model, read_recording, replay
from chat.settings import Settings
from model.checkpoint.checkpoint import Checkpoint
from storage.conversations import ConversationStore

CONDITIONS = (
    "Replies come out the same with the same --dtype, --device, --native and --kv-dtype, on processors of one kind."
)


def run_replay(
    settings: Settings,
    fetch_checkpoint: Callable[[Settings], Checkpoint],
    digest_of: Callable[[Settings, Checkpoint], str],
    message_id: str,
) -> None:
    """Write a reply of the local owner again, and print how far it is the same; exits with 1 where it differs.

    Raises MessageNotFound, ReplayImpossible, ModelError: as far as possible before the weights are loaded.
    """
    with open_database(settings.data) as database:
        recording = read_recording(ConversationStore(database), LOCAL_OWNER, message_id)
    checkpoint = fetch_checkpoint(settings)
    check_model(recording, digest_of(settings, checkpoint))
    with (
        open_engine(settings, checkpoint, plan_engine(settings, checkpoint)) as engine,
        progress_bar("Replaying", "tokens") as progress,
    ):
        comparison = replay(engine, checkpoint, recording, owner=LOCAL_OWNER, progress=progress)
    typer.echo(describe(comparison))
    if not comparison.identical:
        raise typer.Exit(1)


def describe(comparison: Comparison) -> str:
    """Return a comparison as a line or, where the replies differ, a few."""
    extent = f"{comparison.n_same:,} {comparison.unit}"
    if comparison.stored is None or comparison.new is None:
        return f"Identical: {extent}."
    return "\n".join(
        [
            f"Different after {extent} that are the same.",
            f"stored: {_shown(comparison.stored)}",
            f"now:    {_shown(comparison.new)}",
            CONDITIONS,
        ]
    )


def _shown(mark: Mark) -> str:
    if mark.text is None:
        return "the end"
    return repr(mark.text) if mark.token_id is None else f"{mark.token_id} {mark.text!r}"
