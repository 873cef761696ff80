"""`parley replay` says whether a stored reply comes out the same, by a line and by its exit code."""

from pathlib import Path

import pytest
import typer

from chat.cli.replay import CONDITIONS, describe, run_replay
from chat.context import ContextBuilder
from chat.loaded_model import LoadedModel
from chat.manager import DialogueManager
from chat.replay import Comparison, Mark, ReplayImpossible
from chat.settings import Settings
from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.digest import checkpoint_digest
from model.checkpoint.open import open_checkpoint
from model.engine.engine import Engine
from model.sampling_params import SamplingParams
from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.database import Database
from storage.errors import MessageNotFound
from storage.tables import Message


@pytest.fixture
def reply(store: ConversationStore, branches: BranchStore, tiny_engine: Engine, tiny_checkpoint: Checkpoint) -> Message:
    """A reply of the tiny model, in the database of a data folder."""
    params = SamplingParams(temperature=0, max_tokens=8, banned_token_ids=(0, 1), seed=1)
    builder = ContextBuilder(tiny_checkpoint.chat_template, tiny_checkpoint.tokenizer, tiny_checkpoint.config.n_ctx)
    model = LoadedModel("tiny", checkpoint_digest(tiny_checkpoint.path), tiny_engine, builder, params)
    manager = DialogueManager(store, branches, lambda: model)
    chat = manager.start("local", channel="ui").id
    manager.send("local", chat, "hello", params).join()
    reply = store.path("local", chat)[-1]
    assert reply.token_ids
    return reply


def run(data: Path, model: Path, message_id: str) -> None:
    settings = Settings(data=data, model=str(model), native="off", threads=1)
    run_replay(
        settings,
        lambda settings: open_checkpoint(Path(settings.model)),
        lambda settings, checkpoint: checkpoint_digest(checkpoint.path),
        message_id,
    )


def test_an_identical_reply_is_one_line(
    tmp_path: Path, tiny_path: Path, reply: Message, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, tiny_path, reply.id)
    assert capsys.readouterr().out == f"Identical: {len(reply.token_ids or ())} tokens.\n"


def test_a_reply_that_differs_exits_with_1_and_names_the_token(
    tmp_path: Path, tiny_path: Path, reply: Message, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    token_ids = [*(reply.token_ids or ())]
    changed = [*token_ids[:2], token_ids[2] % 200 + 3, *token_ids[3:]]
    with database.write() as session:
        session.get_one(Message, reply.number).token_ids = changed
    with pytest.raises(typer.Exit) as exit_:
        run(tmp_path, tiny_path, reply.id)
    assert exit_.value.exit_code == 1
    first, stored, now, conditions = capsys.readouterr().out.splitlines()
    assert (first, conditions) == ("Different after 2 tokens that are the same.", CONDITIONS)
    assert stored.startswith(f"stored: {changed[2]} ")
    assert now.startswith(f"now:    {token_ids[2]} ")


def test_what_is_wrong_is_said_before_the_weights_are_loaded(
    tmp_path: Path, tiny_path: Path, reply: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat.cli.replay.open_engine", None)
    with pytest.raises(MessageNotFound, match=r"^There is no message unknown\.$"):
        run(tmp_path, tiny_path, "unknown")
    with pytest.raises(ReplayImpossible, match="A message of the user"):
        run(tmp_path, tiny_path, str(reply.parent_id))


def test_another_model_is_refused(tmp_path: Path, tiny_path: Path, reply: Message) -> None:
    content = bytearray(tiny_path.read_bytes())
    content[-1] ^= 1
    other = tmp_path / "other.gguf"
    other.write_bytes(content)
    with pytest.raises(ReplayImpossible, match="The reply was written by tiny with the digest"):
        run(tmp_path, other, reply.id)


def test_ends_and_characters_are_described() -> None:
    assert "\nstored: the end\nnow:    9 ' a'\n" in describe(Comparison("tokens", 1, Mark(), Mark(9, " a")))
    assert "\nstored: '\\n'\nnow:    'b'\n" in describe(Comparison("characters", 1, Mark(text="\n"), Mark(text="b")))
