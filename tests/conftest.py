"""Fixtures that several test files share: a tiny checkpoint made here, and the default one, fetched once."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, cast

import gguf
import httpx
import hypothesis
import numpy as np
import pytest
import torch
from alembic import command
from alembic.config import Config
from chromium import CHROMIUM, launch
from new_database import new_database
from playwright.sync_api import Browser, sync_playwright
from real_engine import WatchedRunner, new_engine, open_runner
from sqlalchemy.orm import Session

from chat.context import ContextBuilder
from chat.loaded_model import LoadedModel
from chat.manager import DialogueManager
from model.checkpoint.catalog import DEFAULT_MODEL, resolve
from model.checkpoint.checkpoint import Checkpoint, load_model
from model.checkpoint.open import open_checkpoint
from model.engine.engine import Engine
from model.engine.generation import FinishReason, Generation, Piece, Usage
from model.engine.sequence import Limits
from model.engine.torch_runner import TorchRunner
from model.errors import ModelError
from model.gpt import GPT
from model.sampling_params import SamplingParams
from model.tokenizer import byte_alphabet
from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.database import Database

if TYPE_CHECKING:
    from api_client import Api, Served
    from page_driver import Tabs

# On a busy machine examples take long to draw, which says nothing of what is tested.
hypothesis.settings.register_profile("thorough", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None)
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("thorough"), max_examples=40)
hypothesis.settings.load_profile("quick")  # of tests that say no number; make test-all loads the other one

# Two processes test at a time: two threads in each would wait for each other's turn.
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
SECONDS = 60_000  # milliseconds that a page may take on a busy machine
CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ t", "Ġt he"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_vocabulary() -> list[str]:
    return [*CONTROL_TOKENS, *byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES)]


def write_tiny_gguf(path: Path, *, n_ctx: int = 256, seed: int = 0, **changes: str) -> Path:
    """Write a real GGUF file of a random model: 2 layers, 32 wide; `changes` replace string keys (_ for .)."""
    n_embd, n_inner, n_head, n_kv_head = 32, 48, 4, 2
    tokens = tiny_vocabulary()
    writer = gguf.GGUFWriter(path, changes.get("general_architecture", "llama"))
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(2)
    writer.add_feed_forward_length(n_inner)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_kv_head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model(changes.get("tokenizer_ggml_model", "gpt2"))
    writer.add_tokenizer_pre(changes.get("tokenizer_ggml_pre", "smollm"))
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(CONTROL_TOKENS) + [1] * (len(tokens) - len(CONTROL_TOKENS)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(changes.get("tokenizer_chat_template", CHAT_TEMPLATE))
    random = np.random.default_rng(seed)

    def add(name: str, *shape: int) -> None:
        weights = random.normal(scale=0.3, size=shape) if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(name, weights.astype(np.float32))

    add("token_embd.weight", len(tokens), n_embd)
    n_kv = n_kv_head * n_embd // n_head
    for i in range(2):
        add(f"blk.{i}.attn_norm.weight", n_embd)
        add(f"blk.{i}.attn_q.weight", n_embd, n_embd)
        add(f"blk.{i}.attn_k.weight", n_kv, n_embd)
        add(f"blk.{i}.attn_v.weight", n_kv, n_embd)
        add(f"blk.{i}.attn_output.weight", n_embd, n_embd)
        add(f"blk.{i}.ffn_norm.weight", n_embd)
        add(f"blk.{i}.ffn_gate.weight", n_inner, n_embd)
        add(f"blk.{i}.ffn_up.weight", n_inner, n_embd)
        add(f"blk.{i}.ffn_down.weight", n_embd, n_inner)
    add("output_norm.weight", n_embd)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class ScriptedEngine:
    """An engine whose replies the test writes: `say` and `end` act on the newest generation."""

    def __init__(self) -> None:
        self.healthy = True
        self.failure: ModelError | ValueError | None = None
        self.generations: list[Generation] = []
        self.prompts: list[list[int]] = []
        self.params: list[SamplingParams] = []

    def submit(
        self, token_ids: list[int], params: SamplingParams, *, owner: str, n_shared: int = 0, timeout: float = 60
    ) -> Generation:
        if self.failure:
            raise self.failure
        self.prompts.append(token_ids)
        self.params.append(params)
        self.generations.append(Generation(len(token_ids), params.seed or 0))
        return self.generations[-1]

    def say(self, *texts: str) -> None:
        for text in texts:
            self.generations[-1].emit(Piece(text, (3,)))

    def end(self, reason: FinishReason = "stop", error: str | None = None) -> None:
        self.generations[-1].finish(reason, Usage(7, 2, 3, 10.4, 99.6), error)

    def close(self) -> None:
        for generation in self.generations:
            if generation.finish_reason is None:
                generation.finish("cancelled", Usage(7, 2, 3, None, 99.6))


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def manager(
    store: ConversationStore, branches: BranchStore, engine: ScriptedEngine, tiny_checkpoint: Checkpoint
) -> Iterator[DialogueManager]:
    builder = ContextBuilder(tiny_checkpoint.chat_template, tiny_checkpoint.tokenizer, tiny_checkpoint.config.n_ctx)
    model = LoadedModel("tiny", "abc", cast(Engine, engine), builder, SamplingParams())
    manager = DialogueManager(store, branches, lambda: model)
    yield manager
    engine.close()
    manager.close()


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_path: Path) -> Checkpoint:
    return open_checkpoint(tiny_path)


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Checkpoint) -> GPT:
    return load_model(tiny_checkpoint)


@pytest.fixture
def tiny_engine(tiny_checkpoint: Checkpoint, tiny_model: GPT) -> Iterator[Engine]:
    limits = Limits(tiny_checkpoint.config.n_ctx, tiny_checkpoint.end_ids)
    engine = Engine(TorchRunner(tiny_model, 300), tiny_checkpoint.tokenizer, limits)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def default_path() -> Path:
    """The default weights, in the user's data folder as for `make run`: 98 MB are fetched only once."""
    from chat.settings import load_settings

    return resolve(DEFAULT_MODEL, load_settings().data / "models", lambda done, total: None)


@pytest.fixture(scope="session")
def default_checkpoint(default_path: Path) -> Checkpoint:
    return open_checkpoint(default_path)


@pytest.fixture(scope="session")
def real_runner(default_checkpoint: Checkpoint) -> WatchedRunner:
    """The default weights in the native kernels."""
    return open_runner(default_checkpoint)


@pytest.fixture
def real_engine(real_runner: WatchedRunner, default_checkpoint: Checkpoint) -> Iterator[Engine]:
    with new_engine(real_runner, default_checkpoint) as engine:
        yield engine


@pytest.fixture(scope="session")
def default_model(default_checkpoint: Checkpoint) -> GPT:
    return load_model(default_checkpoint)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(new_database(tmp_path / "parley.db")) as database:
        yield database


def upgrade(session: Session, revision: str) -> None:
    """Bring a database to an old schema, as an earlier Parley left it."""
    config = Config(attributes={"connection": session.connection()})
    config.set_main_option("script_location", "storage:migrations")
    command.upgrade(config, revision)


@pytest.fixture
def store(database: Database) -> ConversationStore:
    return ConversationStore(database)


def ask(store: ConversationStore, text: str) -> str:
    """Store a question with its answer, and return the conversation's id."""
    chat = store.create("local", channel="ui").id
    _, reply = store.begin_turn("local", chat, content=text, parent_id=None, model="m", params={}, seed=1, title=text)
    store.finish_reply("local", reply.id, content="Yes.", status="complete", finish_reason="stop")
    return chat


@pytest.fixture
def branches(database: Database) -> BranchStore:
    return BranchStore(database)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Iterator["Served"]:
    """Routes of the API over one database, for all tests of a module."""
    from api_client import serve_api

    with serve_api(tmp_path_factory.mktemp("api") / "parley.db", tiny_checkpoint) as served:
        yield served


@pytest.fixture
def api(served: "Served") -> Iterator["Api"]:
    """The API as one test sees it."""
    with served.test() as api:
        yield api


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        assert "CI" not in os.environ, f"{CHROMIUM} is missing: .ci/run installs it"
        pytest.skip(f"no browser at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def tabs(browser: Browser) -> Iterator["Tabs"]:
    """The pages that a test opens."""
    from page_driver import Tabs

    tabs = Tabs(browser)
    yield tabs
    tabs.close()


class Server:
    """A real `parley serve`, a process of its own."""

    program = [str(ROOT / "app.py")]

    def __init__(self, data: Path, model: Path, port: int = 0, *flags: str) -> None:
        command = [sys.executable, *self.program, "serve"]
        command += ["--data", str(data), "--model", str(model), "--port", str(port), *flags]
        self._log: list[str] = []
        environment = {**os.environ, "PARLEY_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=data, env=environment)
        assert self.process.stderr is not None
        found = None
        while found is None:
            line = self.process.stderr.readline()
            assert line, f"the server ended: {''.join(self._log)}"
            self._log.append(line)
            found = re.search(r"Parley is at (http://127\.0\.0\.1:(\d+))", line)
        self.url, self.port = found[1], int(found[2])
        self._reader = threading.Thread(target=self._log.extend, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        self._wait_for_model()

    def _wait_for_model(self) -> None:
        deadline = time.monotonic() + 60
        while httpx.get(f"{self.url}/health", timeout=60).status_code != 200:
            assert time.monotonic() < deadline, f"no model: {self.log}"
            time.sleep(0.05)

    @property
    def log(self) -> str:
        return "".join(self._log)

    def end(self, signal_number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.process.send_signal(signal_number)
        exit_code = self.process.wait(timeout=20)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return exit_code


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """A function that starts a server on this test's data folder; what it started ends with the test."""
    servers: list[Server] = []

    def start(model: Path, port: int = 0, *flags: str, kind: type[Server] = Server) -> Server:
        servers.append(kind(tmp_path, model, port, *flags))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)
