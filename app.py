"""Parley's composition root and command line: settings, database, engine, dialogue manager, web app.

Whatever needs torch or Gradio is imported where it is used, so that a wrong flag or file is refused at once.
"""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chat.cli.archive import export, import_, schema
from chat.cli.bench import AgainstFlag, ChartFlag, JsonFileFlag, RunsFlag, run_bench
from chat.cli.complete import print_reply, print_reply_as_json
from chat.cli.flags import (
    ENGINE_SETTINGS,
    JsonFlag,
    MaxTokensFlag,
    ParamFlag,
    PresetFlag,
    SeedFlag,
    SystemFlag,
    TemperatureFlag,
    override,
    sampling_overrides,
    takes_settings,
)
from chat.cli.keeping import backup, erase, expire, restore
from chat.cli.models import print_models, print_models_as_json
from chat.cli.presets import choose_preset, presets_cli
from chat.cli.progress import progress_bar
from chat.cli.replay import run_replay
from chat.cli.search import search
from chat.cli.verify import verify
from chat.context import ContextBuilder
from chat.data_folder import LOCAL_OWNER, lock_data, upgrade
from chat.engine import open_engine, plan_engine
from chat.errors import ChatError
from chat.settings import Settings, SettingsError
from chat.text import check_message
from model.checkpoint.catalog import CATALOG, fetch, resolve
from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.digest import checkpoint_digest
from model.checkpoint.open import open_checkpoint
from model.errors import ModelError
from storage.errors import StorageError

if TYPE_CHECKING:
    from chat.manager import DialogueManager
    from model.engine.engine import Engine
    from model.engine.runner import Runner
    from storage.conversations import ConversationStore

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHUTDOWN_SECONDS = 3

logger = logging.getLogger("parley")

# What the commands are made of.


def fetch_checkpoint(settings: Settings) -> Checkpoint:
    """Open the file or folder of weights, downloaded if it is a known one that is not here yet."""
    with progress_bar(f"Downloading {settings.model}", "B") as progress:
        path = resolve(settings.model, settings.data / "models", progress)
    return open_checkpoint(path)


@contextmanager
def open_dialogue(
    settings: Settings, *, show: Callable[[str], None], temporary: bool = False
) -> Iterator[tuple["DialogueManager", "ConversationStore", "Engine"]]:
    """Open everything that a dialogue needs: the data folder for this process alone, the database, the engine.

    A temporary dialogue has a database in memory instead, and writes nothing of it anywhere.
    """
    from chat.manager import DialogueManager
    from storage.branches import BranchStore
    from storage.conversations import ConversationStore
    from storage.database import Database
    from storage.erasure import ErasureStore

    with nullcontext() if temporary else lock_data(settings.data):
        checkpoint = fetch_checkpoint(settings)  # a wrong file is refused before there is a database
        with closing(Database(None if temporary else settings.data / "parley.db")) as database:
            database.check()
            upgrade(database)
            ErasureStore(database).finish()
            store = ConversationStore(database)
            if n_interrupted := store.interrupt_streaming():
                show(f"{n_interrupted} replies were cut off at the last end; they are marked as interrupted.")
            plan = plan_engine(settings, checkpoint)
            with open_engine(settings, checkpoint, plan) as engine:
                manager = DialogueManager(
                    store,
                    BranchStore(database),
                    engine,
                    new_context_builder(settings, checkpoint, plan.n_ctx),
                    model_name=name_of_model(settings),
                    model_digest=digest_of(settings, checkpoint),
                    sampling_params=checkpoint.sampling_params,
                )
                with closing(manager):
                    yield manager, store, engine


def new_context_builder(settings: Settings, checkpoint: Checkpoint, n_ctx: int) -> ContextBuilder:
    """Return the builder of prompts of up to n_ctx tokens for a checkpoint."""
    template = checkpoint.chat_template.with_thinking() if settings.thinking else checkpoint.chat_template
    return ContextBuilder(template, checkpoint.tokenizer, n_ctx)


def digest_of(settings: Settings, checkpoint: Checkpoint) -> str:
    """Return the digest of a model's files; that of a known one was checked when it came."""
    if entry := CATALOG.get(settings.model):
        return entry.sha256
    with progress_bar(f"Hashing {checkpoint.path.name}", "B") as progress:
        return checkpoint_digest(checkpoint.path, progress)


def name_of_model(settings: Settings) -> str:
    """Return what a model is called: its name in the catalog, or that of its file."""
    return settings.model if settings.model in CATALOG else Path(settings.model).stem


# The command line.

cli = typer.Typer(name="parley", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
models_cli = typer.Typer(help="The models that are known by name.")
cli.add_typer(models_cli, name="models")
cli.add_typer(presets_cli, name="presets")


@cli.callback(invoke_without_command=True)
def parley(context: typer.Context) -> None:
    """A chatbot you own. Without a command it serves the web app."""
    if context.invoked_subcommand is None:
        serve()


@cli.command()
@takes_settings(*ENGINE_SETTINGS, "draft", "thinking", "host", "port")
def serve(settings: Settings) -> None:
    """Serve the web app until SIGINT or SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again after its own end
        signal.signal(number, lambda *_: sys.exit())
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
@takes_settings(*ENGINE_SETTINGS, "draft", "thinking")
def chat(
    settings: Settings,
    temperature: TemperatureFlag = None,
    max_tokens: MaxTokensFlag = None,
    seed: SeedFlag = None,
    param: ParamFlag = None,
    system: SystemFlag = None,
    preset: PresetFlag = None,
    recap: Annotated[bool, typer.Option("--recap", help="Sum up the turns that a prompt has no room for.")] = False,
    temporary: Annotated[bool, typer.Option("--temporary", help="Keep nothing of the chat.")] = False,
) -> None:
    """Chat in the terminal; the conversation is kept beside those of the web app."""
    chosen = choose_preset(settings.data, preset)
    overrides = {**chosen.params, **sampling_overrides(temperature, max_tokens, seed, param)}
    from chat.terminal import run_terminal

    with open_dialogue(settings, show=typer.echo, temporary=temporary) as (manager, _, _):
        params = override(manager.sampling_params, overrides)
        system_prompt = chosen.system_prompt if system is None else system
        run_terminal(manager, LOCAL_OWNER, params, system_prompt=system_prompt, preset=preset, recap=recap)


@cli.command()
@takes_settings(*ENGINE_SETTINGS, "draft", "thinking")
def complete(
    settings: Settings,
    text: Annotated[str, typer.Argument(help="What to answer or, with --raw, to continue.")],
    temperature: TemperatureFlag = None,
    max_tokens: MaxTokensFlag = None,
    seed: SeedFlag = None,
    param: ParamFlag = None,
    system: SystemFlag = None,
    preset: PresetFlag = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text; no chat template.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Print the reply to a text, and nothing else; nothing is kept."""
    if raw and system is not None:
        raise SettingsError("--system cannot be combined with --raw: a raw text has no system prompt.")
    if raw and preset is not None:
        raise SettingsError("--preset cannot be combined with --raw: a raw text has no system prompt.")
    chosen = choose_preset(settings.data, preset)
    overrides = {**chosen.params, **sampling_overrides(temperature, max_tokens, seed, param)}
    if not as_json and overrides.get("logprobs") is not None:
        raise SettingsError("--param logprobs cannot be shown without --json.")
    text = check_message(text)
    checkpoint = fetch_checkpoint(settings)
    plan = plan_engine(settings, checkpoint)
    params = override(checkpoint.sampling_params, overrides)
    if raw:
        token_ids = [] if checkpoint.bos_id is None else [checkpoint.bos_id]
        token_ids += checkpoint.tokenizer.encode(text)
    else:
        builder = new_context_builder(settings, checkpoint, plan.n_ctx)
        system_prompt = chosen.system_prompt if system is None else system
        context = builder.build_alone(text, system_prompt=system_prompt, max_new_tokens=params.max_tokens)
        token_ids, params = context.token_ids, context.params(params)
    with open_engine(settings, checkpoint, plan) as engine:
        try:
            generation = engine.submit(token_ids, params, owner=LOCAL_OWNER)
        except ValueError as error:  # parameters that do not suit this model
            raise SettingsError(f"--param {error}") from None
        if as_json:
            print_reply_as_json(generation, name_of_model(settings))
        else:
            print_reply(generation)


@cli.command()
@takes_settings(*ENGINE_SETTINGS, "draft")
def replay(
    settings: Settings,
    message_id: Annotated[str, typer.Argument(help="A reply, as `parley export` names it.")],
) -> None:
    """Write a stored reply again, and say whether it comes out the same; Parley may be running."""
    run_replay(settings, fetch_checkpoint, digest_of, message_id)


@models_cli.callback(invoke_without_command=True)
@takes_settings("data")
def models(settings: Settings, context: typer.Context, as_json: JsonFlag = False) -> None:
    """List the models that are known by name, and which of them are here."""
    if context.invoked_subcommand is None:
        folder = settings.data / "models"
        (print_models_as_json if as_json else print_models)(folder)


@models_cli.command()
@takes_settings("data")
def pull(settings: Settings, name: Annotated[str, typer.Argument(help="A name that `parley models` lists.")]) -> None:
    """Download a model, going on where an earlier download was cut off, and check it."""
    if name not in CATALOG:
        raise SettingsError(f"models pull: expected one of {', '.join(CATALOG)}, got {name!r}")
    with progress_bar(f"Downloading {name}", "B") as progress:
        path = fetch(CATALOG[name], settings.data / "models", progress)
    typer.echo(path)


@contextmanager
def open_for_bench(settings: Settings) -> Iterator[tuple["Engine", "Runner"]]:
    """Start an engine in a process of its own, and give its runner too; without drafts, which the peers have not."""
    settings = settings.model_copy(update={"draft": 0})
    checkpoint = fetch_checkpoint(settings)
    with open_engine(settings, checkpoint, plan_engine(settings, checkpoint)) as engine:
        yield engine, engine.runner


@cli.command()
@takes_settings(*ENGINE_SETTINGS)
def bench(
    settings: Settings,
    against: AgainstFlag = "",
    json_file: JsonFileFlag = None,
    chart: ChartFlag = None,
    runs: RunsFlag = 5,
) -> None:
    """Measure speed, memory and exactness on this machine, beside other programs if asked."""
    from app import open_for_bench as open_parley  # by the name under which another process can import it

    run_bench(settings, fetch_checkpoint, open_parley, against=against, json_file=json_file, chart=chart, runs=runs)


@cli.command()
@takes_settings("data", "dtype")
def convert(
    settings: Settings,
    model: Annotated[str, typer.Argument(help="A name of `parley models`, a GGUF file, or a Hugging Face folder.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write; it must not exist, or be empty.")],
) -> None:
    """Write a model as a Hugging Face folder, which transformers and vLLM can load."""
    checkpoint = fetch_checkpoint(settings.model_copy(update={"model": model}))
    from model.checkpoint.convert import convert as write_folder

    with progress_bar(f"Writing {folder.name}", "tensors") as progress:
        write_folder(checkpoint, folder, progress, dtype=settings.dtype)
    typer.echo(folder)


for command in (search, export, schema, verify, backup, restore, erase, expire):
    cli.command()(command)
cli.command(name="import")(import_)


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
