"""The engine that the settings ask for: which runner computes, in how much memory, on which weights."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chat.progress import ProgressBar, progress_bar
from chat.settings import Settings, SettingsError
from model.checkpoint.checkpoint import ITEM_BYTES, Checkpoint, load_model
from model.config import BLOCK_SIZE, GPTConfig
from model.engine.scheduler import MAX_RUNNING
from model.errors import ModelError

if TYPE_CHECKING:
    from model.engine.engine import Engine
    from model.engine.runner import Runner

MIN_CONTEXT = 128  # tokens; with fewer there is no conversation
NATIVE_DRAFT = 4  # tokens; measured: replies to questions come 1.23 times as fast, texts that are repeated 1.5 times
SHARE_OF_MEMORY = 4  # a quarter of what is free is for keys and values, unless the settings say how much

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a checkpoint will be computed, known before its weights are loaded."""

    native: bool  # by the kernels of decode.c, else by PyTorch
    n_blocks: int  # of keys and values
    n_ctx: int  # tokens of one conversation


def plan_engine(settings: Settings, checkpoint: Checkpoint) -> Plan:
    """Choose the runner and share out the memory; raises SettingsError where it holds no conversation."""
    native = _native_works(settings, checkpoint.config)
    position_bytes = _position_bytes(settings, checkpoint.config, native=native)
    n_blocks = _memory_for_cache(settings) // (BLOCK_SIZE * position_bytes)
    n_blocks = min(n_blocks, MAX_RUNNING * -(-checkpoint.config.n_ctx // BLOCK_SIZE))  # more would never be used
    n_ctx = min(checkpoint.config.n_ctx, n_blocks * BLOCK_SIZE)
    if n_ctx < min(checkpoint.config.n_ctx, MIN_CONTEXT):
        raise SettingsError(f"--kv-memory: expected enough for {MIN_CONTEXT} tokens, found enough for {n_ctx}.")
    return Plan(native, n_blocks, n_ctx)


@contextmanager
def open_engine(
    settings: Settings, checkpoint: Checkpoint, plan: Plan, bar: ProgressBar = progress_bar
) -> Iterator["Engine"]:
    """Load a checkpoint's weights and start an engine on them."""
    from model.engine.engine import Engine
    from model.engine.sequence import Limits

    if plan.n_ctx < checkpoint.config.n_ctx:
        logger.info(
            "A conversation may have %s of %s tokens; --kv-memory says how many.", plan.n_ctx, checkpoint.config.n_ctx
        )
    try:
        runner = _open_runner(settings, checkpoint, plan, bar)
        limits = Limits(plan.n_ctx, checkpoint.end_ids)
        n_draft = (NATIVE_DRAFT if plan.native else 0) if settings.draft is None else settings.draft
        engine = Engine(runner, checkpoint.tokenizer, limits, n_draft=n_draft)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):  # PyTorch has no error of its own for this
            raise
        raise ModelError(
            f"{checkpoint.path}: expected memory for the weights and --kv-memory, found too little."
        ) from None
    try:
        yield engine
    finally:
        engine.close()


def _native_works(settings: Settings, config: GPTConfig) -> bool:
    """Whether the native kernels can compute this; says in one line why not, if it is not a matter of settings."""
    if settings.native == "off" or settings.device != "cpu" or settings.dtype != "float32":
        return False
    from model.native.build import BuildError
    from model.native.runner import native_library, unsupported

    try:
        missing = unsupported(config)
        if missing is None:
            native_library()
    except BuildError as error:
        missing = str(error)
    if missing is not None:
        logger.warning("The native kernels cannot be used, so PyTorch computes, more slowly: %s", missing)
    return missing is None


def _open_runner(settings: Settings, checkpoint: Checkpoint, plan: Plan, bar: ProgressBar) -> "Runner":
    with bar(f"Loading {checkpoint.path.name}", "tensors") as progress:
        if plan.native:
            from model.native.runner import NativeRunner

            logger.info("The native kernels compute, in %d threads.", settings.threads)
            return NativeRunner(
                checkpoint, plan.n_blocks, n_threads=settings.threads, kv_dtype=settings.kv_dtype, progress=progress
            )
        import torch

        from model.engine.torch_runner import TorchRunner
        from model.packed_linear import pack_linears

        logger.info("PyTorch computes, on the device %s in %s.", settings.device, settings.dtype)
        torch.set_num_threads(settings.threads)
        model = load_model(checkpoint, progress, dtype=settings.dtype)
        try:
            model = model.to(settings.device)
        except (RuntimeError, AssertionError) as error:  # PyTorch says in several lines what it was built without
            reason = str(error).partition("\n")[0]
            raise SettingsError(f"--device: {settings.device} cannot be used: {reason}") from None
        pack_linears(model)
        return TorchRunner(model, plan.n_blocks)


def _position_bytes(settings: Settings, config: GPTConfig, *, native: bool) -> int:
    """Return how many bytes the keys and values of one position take."""
    if not native:
        return config.n_cached * ITEM_BYTES[settings.dtype]
    from model.native.runner import position_bytes

    return position_bytes(config, settings.kv_dtype)


def _memory_for_cache(settings: Settings) -> int:
    if settings.kv_memory is not None:
        return settings.kv_memory * 2**20
    return free_memory() // SHARE_OF_MEMORY


def free_memory() -> int:
    """Return how many bytes this process may still use: of the machine, or of its control group if that has less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2]
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            limits = [int(line.split()[1]) * 1024]
    group = Path("/sys/fs/cgroup")
    for limit, used in zip(_lines(group / "memory.max"), _lines(group / "memory.current"), strict=False):
        if limit.isdigit():  # else "max"
            limits.append(int(limit) - int(used))
    return max(0, min(limits))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # another system
        return []
