"""The tokens of stored replies, measured by the model in use."""

from collections.abc import Iterator

import pytest
import torch

from chat.context import ContextBuilder
from chat.errors import NotPossible
from chat.loaded_model import LoadedModel
from chat.manager import DialogueManager
from chat.prompts import join_prompt
from chat.token_view import N_ALTERNATIVES, ViewedToken, view_tokens
from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.gpt import GPT
from model.sampling_params import SamplingParams
from storage.branches import BranchStore
from storage.conversations import ConversationStore
from storage.errors import MessageNotFound
from storage.tables import Message

PARAMS = SamplingParams(temperature=1, top_p=1, max_tokens=12, min_tokens=12, seed=3, banned_token_ids=(0, 1))


@pytest.fixture
def model(tiny_engine: Engine, tiny_checkpoint: Checkpoint) -> LoadedModel:
    builder = ContextBuilder(tiny_checkpoint.chat_template, tiny_checkpoint.tokenizer, tiny_checkpoint.config.n_ctx)
    return LoadedModel("tiny", "abc", tiny_engine, builder, PARAMS)


@pytest.fixture
def manager(store: ConversationStore, branches: BranchStore, model: LoadedModel) -> Iterator[DialogueManager]:
    manager = DialogueManager(store, branches, lambda: model)
    yield manager
    manager.close()


@pytest.fixture
def reply(manager: DialogueManager, store: ConversationStore) -> Message:
    chat = manager.start("ada", channel="ui").id
    manager.send("ada", chat, "hello", PARAMS).join()
    return store.path("ada", chat)[-1]


def spelled(tokens: list[ViewedToken]) -> str:
    return "".join(token.text for token in tokens)


def test_the_texts_of_the_tokens_are_the_reply(store: ConversationStore, model: LoadedModel, reply: Message) -> None:
    tokens = view_tokens(store, model, "ada", reply.id)
    assert [token.token_id for token in tokens] == reply.token_ids
    assert spelled(tokens) == reply.content


def test_the_probabilities_are_those_of_the_reference_without_a_cache(
    store: ConversationStore, model: LoadedModel, tiny_model: GPT, reply: Message
) -> None:
    prompt = join_prompt(store.path("ada", reply.conversation_id)[:-1], reply)
    assert prompt
    assert reply.token_ids
    token_ids = torch.tensor([*prompt, *reply.token_ids])
    with torch.no_grad():
        probabilities = tiny_model(token_ids, [len(token_ids)]).softmax(-1)[len(prompt) - 1 : -1]
    for row, token in zip(probabilities, view_tokens(store, model, "ada", reply.id), strict=True):
        assert token.probability == pytest.approx(row[token.token_id].item(), rel=1e-3)
        best = row.topk(N_ALTERNATIVES)
        assert [one.probability for one in token.alternatives] == pytest.approx(best.values.tolist(), rel=1e-3)


def test_a_reply_that_its_reader_edited_is_measured_too(
    manager: DialogueManager, store: ConversationStore, model: LoadedModel, reply: Message
) -> None:
    edited = manager.edit_reply("ada", reply.id, "hello, the héllo")
    tokens = view_tokens(store, model, "ada", edited.id)
    assert spelled(tokens) == "hello, the héllo"


def test_a_reply_of_another_model_is_measured_after_a_prompt_made_anew(
    store: ConversationStore, model: LoadedModel, reply: Message
) -> None:
    other = LoadedModel("other", "def", model.engine, model.context_builder, PARAMS)
    assert view_tokens(store, other, "ada", reply.id) == view_tokens(store, model, "ada", reply.id)


def test_only_written_replies_have_tokens_to_look_at(
    store: ConversationStore, model: LoadedModel, reply: Message
) -> None:
    assert reply.parent_id
    with pytest.raises(NotPossible, match="^Only a reply that has been written can be looked at token by token"):
        view_tokens(store, model, "ada", reply.parent_id)


def test_a_stranger_sees_no_token(store: ConversationStore, model: LoadedModel, reply: Message) -> None:
    with pytest.raises(MessageNotFound):
        view_tokens(store, model, "eve", reply.id)


def test_a_reply_branches_at_a_token(manager: DialogueManager, store: ConversationStore, reply: Message) -> None:
    assert reply.token_ids
    other = 5 if reply.token_ids[3] != 5 else 6
    manager.branch_at("ada", reply.id, 3, other, PARAMS).join()
    branched = store.path("ada", reply.conversation_id)[-1]
    assert branched.parent_id == reply.parent_id
    assert (branched.token_ids or [])[:4] == [*reply.token_ids[:3], other]


def test_a_branch_begins_within_the_reply(manager: DialogueManager, reply: Message) -> None:
    with pytest.raises(NotPossible, match=r"^place: expected less than the reply's 12 tokens, got 12$"):
        manager.branch_at("ada", reply.id, 12, 5, PARAMS)
