"""The chat in a terminal."""

import sys

from chat.errors import ChatError
from chat.manager import DialogueManager
from chat.turn import Snapshot, Turn
from model.errors import ModelError
from model.sampling_params import SamplingParams
from storage.errors import StorageError


def run_terminal(
    manager: DialogueManager,
    owner_id: str,
    params: SamplingParams,
    *,
    system_prompt: str | None,
    preset: str | None = None,
    recap: bool = False,
) -> None:
    """Hold one conversation on stdin and stdout, until the input ends. Ctrl-C stops a reply, not the chat."""
    conversation = None
    sys.stdout.write(f"{manager.model.name}. Ctrl-C stops a reply, Ctrl-D ends the chat.\n")
    while (text := _read_line()) is not None:
        try:
            manager.check(text, params, system_prompt=system_prompt)
            if conversation is None:
                conversation = manager.start(
                    owner_id, channel="terminal", system_prompt=system_prompt, preset=preset, recap=recap
                )
            turn = manager.send(owner_id, conversation.id, text, params)
        except (ChatError, ModelError, StorageError, ValueError) as error:
            sys.stdout.write(f"{error}\n")
        else:
            _print_reply(turn)


def _read_line() -> str | None:
    try:
        return input("> ")
    except (EOFError, KeyboardInterrupt, RuntimeError):  # the last when there is no stdin at all
        sys.stdout.write("\n")
        return None


def _print_reply(turn: Turn) -> None:
    n_printed = 0
    while True:
        try:
            for snapshot in turn.watch():
                if not n_printed:
                    _print_progress(snapshot)
                sys.stdout.write(snapshot.text[n_printed:])
                n_printed = len(snapshot.text)
                sys.stdout.write(f"\n{snapshot.error}" if snapshot.error else "")
                sys.stdout.flush()
            break
        except KeyboardInterrupt:
            turn.stop()
    sys.stdout.write("\n")


def _print_progress(snapshot: Snapshot) -> None:
    """Show what goes on before the first words, in a line that the reply overwrites; on a terminal only."""
    if sys.stdout.isatty():
        sys.stdout.write(f"\r\x1b[K{snapshot.progress or ''}")
