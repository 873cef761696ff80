"""Parley's composition root and command line: settings, database, engine, dialogue manager, web app.

Whatever needs torch or Gradio is imported where it is used, so that a wrong flag or file is refused at once.
"""

import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from filelock import FileLock, Timeout
from platformdirs import user_data_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from tqdm import tqdm

from chat.context import ContextBuilder
from chat.errors import ChatError
from chat.text import check_message
from model.checkpoint.catalog import CATALOG, DEFAULT_MODEL, resolve
from model.checkpoint.gguf import Checkpoint, load_model, open_checkpoint
from model.errors import ModelError
from model.sampling import SamplingParams
from storage.errors import StorageError

if TYPE_CHECKING:
    from chat.manager import DialogueManager
    from model.engine.engine import Engine
    from model.engine.generation import Generation
    from storage.conversations import ConversationStore

LOCAL_OWNER = "local"  # whoever sits at this machine
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHUTDOWN_SECONDS = 3

logger = logging.getLogger("parley")


class SettingsError(Exception):
    """A setting that cannot be used; one line, fit for a user."""


class Settings(BaseSettings):
    """What can be configured: by PARLEY_* variables, by .env, or by flags of the same name."""

    model_config = SettingsConfigDict(env_prefix="PARLEY_", env_file=".env", extra="ignore")

    data: Path = Field(
        default_factory=lambda: user_data_path("parley"),
        description="The folder of everything that is kept: database and weights.",
    )
    model: str = Field(DEFAULT_MODEL, description="A name that `parley models` lists, or the path of a GGUF file.")
    host: str = Field("127.0.0.1", description="The address to listen on; loopback only.")
    port: int = Field(7860, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        le=1024,
        description="How many threads compute.",
    )

    @field_validator("data")
    @classmethod
    def _expand(cls, data: Path) -> Path:
        if data == Path():
            raise ValueError("must name a folder")
        return data.expanduser()


def load_settings(**flags: Path | str | int | None) -> Settings:
    """Return the settings, flags before variables before .env; raises SettingsError."""
    try:
        return Settings.model_validate({name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        where = f"--{name} or PARLEY_{name.upper()}" if name else ".env"  # a file that is not UTF-8 has no name
        raise SettingsError(f"{where}: {first['msg']}, got {first['input']!r}") from None


# What the commands are made of.


def fetch_checkpoint(settings: Settings) -> Checkpoint:
    """Open the file of weights, downloaded if it is a known one that is not here yet."""
    with progress_bar(f"Downloading {settings.model}", "B") as progress:
        path = resolve(settings.model, settings.data / "models", progress)
    return open_checkpoint(path)


@contextmanager
def open_engine(settings: Settings, checkpoint: Checkpoint) -> Iterator["Engine"]:
    """Load a checkpoint's weights and start an engine on them."""
    import torch

    from model.engine.engine import Engine
    from model.engine.runner import TorchRunner
    from model.engine.sequence import Limits
    from model.kv_cache import n_cached_positions

    torch.set_num_threads(settings.threads)
    with progress_bar(f"Loading {checkpoint.path.name}", "tensors") as progress:
        runner = TorchRunner(load_model(checkpoint, progress))
    limits = Limits(checkpoint.config.n_ctx, checkpoint.end_ids, n_cached_positions(checkpoint.config))
    engine = Engine(runner, checkpoint.tokenizer, limits)
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def open_dialogue(
    settings: Settings, *, show: Callable[[str], None]
) -> Iterator[tuple["DialogueManager", "ConversationStore", "Engine"]]:
    """Open everything that a dialogue needs: the data folder for this process alone, the database, the engine."""
    from chat.manager import DialogueManager
    from storage.conversations import ConversationStore
    from storage.database import Database

    with lock_data(settings.data):
        checkpoint = fetch_checkpoint(settings)  # a wrong file is refused before there is a database
        database = Database(settings.data / "parley.db")
        try:
            database.migrate()
            store = ConversationStore(database)
            if n_interrupted := store.interrupt_streaming():
                show(f"{n_interrupted} replies were cut off at the last end; they are marked as interrupted.")
            with open_engine(settings, checkpoint) as engine:
                builder = new_context_builder(checkpoint)
                manager = DialogueManager(store, engine, builder, model_name=name_of_model(settings))
                try:
                    yield manager, store, engine
                finally:
                    manager.close()
        finally:
            database.close()


def new_context_builder(checkpoint: Checkpoint) -> ContextBuilder:
    """Return the builder of prompts for a checkpoint."""
    return ContextBuilder(checkpoint.chat_template, checkpoint.tokenizer, checkpoint.config.n_ctx)


@contextmanager
def lock_data(data: Path) -> Iterator[None]:
    """Make the data folder and hold its lock, so that no two processes write the same conversations."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = FileLock(data / "parley.lock", timeout=0).acquire()
    except Timeout:
        raise SettingsError(
            f"The data folder {data} is in use by another Parley: end that one, or choose another with --data."
        ) from None
    except OSError as error:
        raise SettingsError(
            f"The data folder {data} cannot be used ({error.strerror}): "
            "make it a writable folder, or choose another with --data."
        ) from None
    with held:
        yield


def sampling_params(temperature: float, max_tokens: int, seed: int | None) -> SamplingParams:
    """Return the parameters that flags ask for; raises SettingsError."""
    try:
        return SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=seed)
    except ValueError as error:  # its text begins with the name of the parameter
        raise SettingsError(f"--{str(error).replace('_', '-', 1)}") from None


def name_of_model(settings: Settings) -> str:
    """Return what a model is called: its name in the catalog, or that of its file."""
    return settings.model if settings.model in CATALOG else Path(settings.model).stem


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function of (done, total) that draws a bar on stderr: from its first call on, on a terminal only."""
    with ExitStack() as stack:
        bars: list[tqdm[NoReturn]] = []

        def progress(done: int, total: int) -> None:
            if not bars:
                logger.info("%s ...", label)
                bar = tqdm(total=total, desc=label, unit=unit, unit_scale=unit == "B", leave=False, disable=None)
                bars.append(stack.enter_context(bar))
            bars[0].update(done - bars[0].n)

        yield progress


# The command line.

cli = typer.Typer(name="parley", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

DataFlag = Annotated[Path | None, typer.Option("--data", help="The folder of everything that is kept.")]
ModelFlag = Annotated[str | None, typer.Option("--model", help="A name of `parley models`, or a GGUF file.")]
HostFlag = Annotated[str | None, typer.Option("--host", help="The address to listen on.")]
PortFlag = Annotated[int | None, typer.Option("--port", help="The port to listen on; 0 takes a free one.")]
ThreadsFlag = Annotated[int | None, typer.Option("--threads", help="How many threads compute.")]
TemperatureFlag = Annotated[float, typer.Option("--temperature", help="0 is greedy.")]
MaxTokensFlag = Annotated[int, typer.Option("--max-tokens", help="The longest reply.")]
SeedFlag = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same reply.")]
SystemFlag = Annotated[str | None, typer.Option("--system", help="The system prompt.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DEFAULTS = SamplingParams()


@cli.callback(invoke_without_command=True)
def parley(context: typer.Context) -> None:
    """A chatbot you own. Without a command it serves the web app."""
    if context.invoked_subcommand is None:
        serve()


@cli.command()
def serve(
    data: DataFlag = None,
    model: ModelFlag = None,
    host: HostFlag = None,
    port: PortFlag = None,
    threads: ThreadsFlag = None,
) -> None:
    """Serve the web app until SIGINT or SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again after its own end
        signal.signal(number, lambda *_: sys.exit())
    settings = load_settings(data=data, model=model, host=host, port=port, threads=threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for name in ("alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Gradio's own files: never in a folder that others share
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(settings.data / "gradio"))
    with (
        listen(settings.host, settings.port) as listener,
        open_dialogue(settings, show=logger.info) as (manager, store, engine),
    ):
        run_server(manager, store, engine, listener)


def run_server(
    manager: "DialogueManager", store: "ConversationStore", engine: "Engine", listener: socket.socket
) -> None:
    """Serve the page on an open socket."""
    import uvicorn

    from chat.api.server import create_app
    from chat.ui.page import Page

    app = create_app(Page(manager, store, LOCAL_OWNER).build(), engine)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    host, port = listener.getsockname()[:2]
    logger.info("Parley is at http://%s:%d", f"[{host}]" if ":" in host else host, port)
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """Open the listening socket, before anything slow happens."""
    if host not in LOOPBACK:
        raise SettingsError(
            f"host: expected one of {', '.join(LOOPBACK)}, got {host!r}: "
            "there are no accounts yet, so anybody who reaches the page would read everything."
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            raise SettingsError(
                f"Port {port} of {host} cannot be used ({error.strerror}): end the program that uses it, "
                f"or choose another, for example with --port {port + 1 if port < 65535 else 7860}."
            ) from None
        yield listener


@cli.command()
def chat(
    data: DataFlag = None,
    model: ModelFlag = None,
    threads: ThreadsFlag = None,
    temperature: TemperatureFlag = DEFAULTS.temperature,
    max_tokens: MaxTokensFlag = DEFAULTS.max_tokens,
    seed: SeedFlag = None,
    system: SystemFlag = None,
) -> None:
    """Chat in the terminal; the conversation is kept beside those of the web app."""
    settings = load_settings(data=data, model=model, threads=threads)
    params = sampling_params(temperature, max_tokens, seed)
    from chat.terminal import run_terminal

    with open_dialogue(settings, show=typer.echo) as (manager, _, _):
        run_terminal(manager, LOCAL_OWNER, params, system_prompt=system)


@cli.command()
def complete(
    text: Annotated[str, typer.Argument(help="What to answer or, with --raw, to continue.")],
    data: DataFlag = None,
    model: ModelFlag = None,
    threads: ThreadsFlag = None,
    temperature: TemperatureFlag = DEFAULTS.temperature,
    max_tokens: MaxTokensFlag = DEFAULTS.max_tokens,
    seed: SeedFlag = None,
    system: SystemFlag = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text; no chat template.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Print the reply to a text, and nothing else; nothing is kept."""
    if raw and system is not None:
        raise SettingsError("--system cannot be combined with --raw: a raw text has no system prompt.")
    settings = load_settings(data=data, model=model, threads=threads)
    params = sampling_params(temperature, max_tokens, seed)
    text = check_message(text)
    checkpoint = fetch_checkpoint(settings)
    if raw:
        token_ids = checkpoint.tokenizer.encode(text)
    else:
        builder = new_context_builder(checkpoint)
        token_ids = builder.build_alone(text, system_prompt=system, max_new_tokens=max_tokens).token_ids
    with open_engine(settings, checkpoint) as engine:
        generation = engine.submit(token_ids, params, owner=LOCAL_OWNER)
        text = "".join(_echo_pieces(generation, quiet=as_json))
        if generation.error:
            raise ModelError(generation.error)
    if as_json:
        usage = asdict(generation.usage) if generation.usage else None
        reason, seed = generation.finish_reason, generation.seed
        answer = {"text": text, "finish_reason": reason, "model": name_of_model(settings), "seed": seed, "usage": usage}
        typer.echo(json.dumps(answer, ensure_ascii=False))
    else:
        typer.echo()


def _echo_pieces(generation: "Generation", *, quiet: bool) -> Iterator[str]:
    with progress_bar("Reading", "tokens") as progress:
        while generation.usage is None and generation.prefilled_tokens < generation.prompt_tokens:
            progress(generation.prefilled_tokens, generation.prompt_tokens)
            time.sleep(0.1)
    for piece in generation:
        if not quiet:
            typer.echo(piece.text, nl=False)
        yield piece.text


@cli.command()
def models(data: DataFlag = None, as_json: JsonFlag = False) -> None:
    """List the models that are known by name, and which of them are here."""
    folder = load_settings(data=data).data / "models"
    rows = [
        {
            "name": entry.name,
            "parameters": entry.n_parameters,
            "license": entry.license,
            "bytes": entry.n_bytes,
            "path": str(folder / entry.file_name) if (folder / entry.file_name).is_file() else None,
        }
        for entry in CATALOG.values()
    ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        size = f"{row['parameters']:,} parameters, {row['bytes']:,} bytes, {row['license']}"
        typer.echo(f"{row['name']}: {size}, {row['path'] or 'not here yet: downloaded when it is used'}")


def main() -> None:
    """Run the command line; every error that is a user's to mend is one line on stderr and exit code 2."""
    os.umask(0o077)  # conversations are readable for their user alone
    for stream in filter(None, (sys.stdin, sys.stdout, sys.stderr)):  # None when it has been closed
        stream.reconfigure(errors="replace")
    try:
        sys.exit(cli(standalone_mode=False))
    except (SettingsError, ChatError, ModelError, StorageError, OSError, typer.TyperException) as error:
        text = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        typer.echo(f"parley: {text}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
