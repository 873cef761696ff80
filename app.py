"""Parley's composition root and command line: settings, database, engine, dialogue manager, web app.

Whatever needs torch or Gradio is imported where it is used, so that a wrong flag or file is refused at once.
"""

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from threading import Timer
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from chat.cli.archive import export, import_, schema
from chat.cli.bench import AgainstFlag, ChartFlag, JsonFileFlag, RunsFlag, run_bench
from chat.cli.complete import print_reply, print_reply_as_json
from chat.cli.flags import (
    ENGINE_SETTINGS,
    SERVER_SETTINGS,
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
from chat.cli.keys import keys_cli
from chat.cli.models import print_models, print_models_as_json
from chat.cli.presets import choose_preset, presets_cli
from chat.cli.replay import run_replay
from chat.cli.search import search
from chat.cli.sites import sites_cli
from chat.cli.users import users_cli
from chat.cli.verify import verify
from chat.data_folder import LOCAL_OWNER, lock_data, upgrade
from chat.engine import open_engine, plan_engine
from chat.errors import ChatError
from chat.loaded_model import LoadedModel
from chat.opening import digest_of, fetch_checkpoint, name_of_model, new_context_builder, open_model
from chat.progress import ProgressBar, progress_bar
from chat.reach import check_reach
from chat.settings import Settings, SettingsError
from chat.text import check_message
from model.checkpoint.catalog import CATALOG, fetch
from model.errors import ModelError
from storage.errors import StorageError

if TYPE_CHECKING:
    from chat.model_host import ModelHost
    from chat.workspace import Workspace
    from model.engine.engine import Engine
    from model.engine.runner import Runner
    from storage.database import Database

HEAD_START_SECONDS = 1.5  # of the page before the model

logger = logging.getLogger("parley")

# What the commands are made of.


def refuse_wrong_model(settings: Settings) -> None:
    """Raise ModelError for a file that cannot be used, before there is a database or a page."""
    if settings.model not in CATALOG:
        fetch_checkpoint(settings)


@contextmanager
def open_kept(settings: Settings, *, show: Callable[[str], None]) -> Iterator["Database"]:
    """Open the database of the data folder, which is this process's alone, ready to be chatted in."""
    from storage.conversations import ConversationStore
    from storage.database import Database
    from storage.erasure import ErasureStore

    with lock_data(settings.data), closing(Database(settings.data / "parley.db")) as database:
        database.check()
        upgrade(database)
        ErasureStore(database).finish()
        if n_interrupted := ConversationStore(database).interrupt_streaming():
            show(f"{n_interrupted} replies were cut off at the last end; they are marked as interrupted.")
        yield database


@contextmanager
def open_memory() -> Iterator["Database"]:
    """Open a database in memory, of which nothing is ever written anywhere."""
    from storage.database import Database

    with closing(Database(None)) as database:
        database.migrate()
        yield database


@contextmanager
def open_dialogue(settings: Settings, *, show: Callable[[str], None], temporary: bool = False) -> Iterator["Workspace"]:
    """Open the model and everything that a dialogue needs; nothing of a temporary one is kept."""
    from chat.workspace import open_workspace

    refuse_wrong_model(settings)
    with (
        open_memory() if temporary else open_kept(settings, show=show) as database,
        open_model(settings) as model,
        open_workspace(database, lambda: model) as workspace,
    ):
        yield workspace


# The command line.

cli = typer.Typer(name="parley", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
models_cli = typer.Typer(help="The models that are known by name.")
cli.add_typer(models_cli, name="models")
cli.add_typer(presets_cli, name="presets")
cli.add_typer(sites_cli, name="site")
cli.add_typer(users_cli, name="user")
cli.add_typer(keys_cli, name="key")


@cli.callback(invoke_without_command=True)
def parley(context: typer.Context) -> None:
    """A chatbot you own. Without a command it serves the web app."""
    if context.invoked_subcommand is None:
        serve()


@cli.command()
@takes_settings(*ENGINE_SETTINGS, "draft", "thinking", *SERVER_SETTINGS)
def serve(settings: Settings) -> None:
    """Serve the web app until SIGINT or SIGTERM."""
    end_on_signals()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Gradio's own files: never in a folder that others share
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(settings.data / "gradio"))
    from chat.model_host import ModelHost
    from chat.retention import retaining
    from chat.workspace import open_workspace

    def open_named(name: str, bar: ProgressBar) -> AbstractContextManager[LoadedModel]:
        return open_model(settings.model_copy(update={"model": name}), bar)

    check_reach(settings)
    refuse_wrong_model(settings)
    with (
        listen(settings.host, settings.port) as listener,
        open_kept(settings, show=logger.info) as database,
        open_memory() as memory,
        closing(ModelHost(open_named)) as host,
        open_workspace(database, host.model) as kept,
        open_workspace(memory, host.model) as temporary,
        retaining(kept),
    ):
        run_server(settings, kept, temporary, host, listener)


def end_on_signals() -> None:
    """End in order at the first SIGINT or SIGTERM, and at once at the second: what readers have seen is stored."""

    def end(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda number, frame: os._exit(128 + number))
        sys.exit()

    for each in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again after its own end
        signal.signal(each, end)


def run_server(
    settings: Settings, kept: "Workspace", temporary: "Workspace", host: "ModelHost", listener: socket.socket
) -> None:
    """Serve the page and the API on an open socket; an engine that dies ends the process with exit code 1."""
    from chat.ui.quick_import import import_gradio

    gc.disable()  # what is loaded now stays: looking for garbage in it takes a tenth of the start
    import_gradio()
    from chat.api.server import create_app
    from chat.api.web_server import WebServer

    app = create_app(settings, kept, temporary, host)
    gc.freeze()
    gc.enable()
    # the page first: whoever opens it sees it sooner, and can write at about the same time
    load_later = Timer(HEAD_START_SECONDS, host.load, [settings.model])
    load_later.daemon = True  # an end before that does not wait for it
    load_later.start()
    address, port = listener.getsockname()[:2]
    logger.info("Parley is at http://%s:%d", f"[{address}]" if ":" in address else address, port)
    if not WebServer(app, settings, host, [kept.bus, temporary.bus]).serve_on(listener):
        sys.exit(1)


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """Open the listening socket, before anything slow happens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio has connections send at once (TCP_NODELAY) only if their socket names its protocol
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
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

    with open_dialogue(settings, show=typer.echo, temporary=temporary) as workspace:
        params = override(workspace.manager.model.sampling_params, overrides)
        system_prompt = chosen.system_prompt if system is None else system
        run_terminal(workspace.manager, LOCAL_OWNER, params, system_prompt=system_prompt, preset=preset, recap=recap)


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
            print_reply_as_json(generation, name_of_model(settings.model))
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
