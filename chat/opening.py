"""How the model that the settings ask for is opened: from its file to an engine that writes replies."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chat.context import ContextBuilder
from chat.engine import open_engine, plan_engine
from chat.loaded_model import LoadedModel
from chat.progress import ProgressBar, progress_bar
from chat.settings import Settings
from model.checkpoint.catalog import CATALOG, resolve
from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.digest import checkpoint_digest
from model.checkpoint.open import open_checkpoint


@contextmanager
def open_model(settings: Settings, bar: ProgressBar = progress_bar) -> Iterator[LoadedModel]:
    """Open the model of the settings, downloaded if it is a known one that is not here yet; raises ModelError."""
    checkpoint = fetch_checkpoint(settings, bar)
    plan = plan_engine(settings, checkpoint)
    digest = digest_of(settings, checkpoint, bar)
    with open_engine(settings, checkpoint, plan, bar) as engine:
        builder = new_context_builder(settings, checkpoint, plan.n_ctx)
        name, params = name_of_model(settings.model), checkpoint.sampling_params
        yield LoadedModel(name, digest, engine, builder, params, checkpoint.bos_id)


def fetch_checkpoint(settings: Settings, bar: ProgressBar = progress_bar) -> Checkpoint:
    """Open the file or folder of weights, downloaded if it is a known one that is not here yet."""
    with bar(f"Downloading {settings.model}", "B") as progress:
        path = resolve(settings.model, settings.data / "models", progress)
    return open_checkpoint(path)


def new_context_builder(settings: Settings, checkpoint: Checkpoint, n_ctx: int) -> ContextBuilder:
    """Return the builder of prompts of up to n_ctx tokens for a checkpoint."""
    template = checkpoint.chat_template.with_thinking() if settings.thinking else checkpoint.chat_template
    return ContextBuilder(template, checkpoint.tokenizer, n_ctx)


def digest_of(settings: Settings, checkpoint: Checkpoint, bar: ProgressBar = progress_bar) -> str:
    """Return the digest of a model's files; that of a known one was checked when it came."""
    if entry := CATALOG.get(settings.model):
        return entry.sha256
    with bar(f"Hashing {checkpoint.path.name}", "B") as progress:
        return checkpoint_digest(checkpoint.path, progress)


def name_of_model(model: str) -> str:
    """Return what a model of the settings is called: its name in the catalog, or that of its file or folder."""
    return model if model in CATALOG else Path(model).stem
