"""A step of any mixture has the logits that each text has alone, computed whole and without a cache."""

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from chunks import Chat, random_ids
from families import FAMILIES, VOCAB_SIZE, one_thread
from gguf_files import write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from model.checkpoint.checkpoint import Checkpoint, DType, load_model
from model.checkpoint.open import open_checkpoint
from model.config import BLOCK_SIZE
from model.engine.runner import Chunk
from model.engine.torch_runner import TorchRunner
from model.gpt import GPT
from model.packed_linear import pack_linears

N_BLOCKS = 24
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}  # fp32; sums of another length are rounded otherwise


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module", params=["tiny", "packed", "mistral"])  # the last one sees 16 positions
def model(request: pytest.FixtureRequest, tiny_model: GPT, tmp_path_factory: pytest.TempPathFactory) -> GPT:
    if request.param == "mistral":
        path = write_gguf(FAMILIES["mistral"].make(), tmp_path_factory.mktemp("mistral") / "tiny.gguf")
        return load_model(open_checkpoint(path))
    model = deepcopy(tiny_model)
    if request.param == "packed":
        pack_linears(model)
    return model


def new_runner(model: GPT) -> TorchRunner:
    """A runner whose memory is full of what must never be read."""
    runner = TorchRunner(model, N_BLOCKS)
    poison(runner, list(range(N_BLOCKS)))
    return runner


def poison(runner: TorchRunner, blocks: list[int]) -> None:
    for slots in (runner._cache.keys, runner._cache.values):
        slots.unflatten(2, (N_BLOCKS, BLOCK_SIZE))[:, :, blocks] = torch.nan


@torch.inference_mode()
def whole(model: GPT, token_ids: list[int]) -> Tensor:
    """The logits (T, V) without a cache."""
    return model(torch.tensor(token_ids), [len(token_ids)]).float()


def run(runner: TorchRunner, *chunks: Chunk) -> Tensor:
    return torch.from_numpy(runner.run(chunks).copy())


@settings(deadline=None, max_examples=40)
@given(
    blocks=st.permutations(range(N_BLOCKS)),
    lengths=st.lists(st.integers(1, 96), min_size=1, max_size=4),
    data=st.data(),
)
def test_any_mixture_of_chunks_has_the_logits_of_whole_texts(
    model: GPT, blocks: list[int], lengths: list[int], data: st.DataObject
) -> None:
    runner = new_runner(model)
    chats = [Chat(random_ids(n, i), blocks[6 * i : 6 * i + 6]) for i, n in enumerate(lengths)]
    rows = {id(chat): whole(model, chat.token_ids) for chat in chats}
    while going := [chat for chat in chats if chat.start < len(chat.token_ids)]:
        chunks, expected = [], []
        for chat in data.draw(st.lists(st.sampled_from(going), min_size=1, unique_by=id)):
            length = data.draw(st.integers(1, len(chat.token_ids) - chat.start))
            n_logits = data.draw(st.integers(0, length))
            chunks.append(chat.next(length, n_logits))
            expected.append(rows[id(chat)][chat.start - n_logits : chat.start])
        assert_close(run(runner, *chunks), torch.cat(expected), **TOLERANCE)


@settings(deadline=None, max_examples=30)
@given(length=st.integers(2, 96), data=st.data())
def test_cached_logits_equal_uncached_for_any_split(model: GPT, length: int, data: st.DataObject) -> None:
    split = data.draw(st.integers(1, length - 1))
    chat, runner = Chat(random_ids(length), list(range(6))), new_runner(model)
    logits = [run(runner, chat.next(n, n)) for n in (split, length - split)]
    assert_close(torch.cat(logits), whole(model, chat.token_ids), **TOLERANCE)


def test_token_by_token_equals_uncached(model: GPT) -> None:
    chat, runner = Chat(random_ids(96), [5, 3, 9, 0, 1, 2]), new_runner(model)
    logits = [run(runner, chat.next(1, 1)) for _ in chat.token_ids]
    assert_close(torch.cat(logits), whole(model, chat.token_ids), **TOLERANCE)


def test_prefill_decoding_and_a_draft_share_a_step(model: GPT) -> None:
    runner = new_runner(model)
    chats = [Chat(random_ids(50, i), list(range(4 * i, 4 * i + 4))) for i in range(4)]
    run(runner, chats[1].next(30, 0), chats[2].next(40, 0), chats[3].next(20, 0))
    logits = run(runner, chats[0].next(33, 0), chats[1].next(1, 1), chats[2].next(5, 5), chats[3].next(30, 1))
    expected = [whole(model, chat.token_ids[: chat.start]) for chat in chats]
    assert_close(logits, torch.cat([expected[1][-1:], expected[2][-5:], expected[3][-1:]]), **TOLERANCE)


def test_step_without_wanted_logits_returns_none(model: GPT) -> None:
    logits = new_runner(model).run([Chunk([1, 2, 3], 0, [7], 0)])
    assert logits.shape == (0, VOCAB_SIZE)
    assert logits.dtype == "float32"


def test_rejected_draft_leaves_no_trace(model: GPT) -> None:
    runner, chat = new_runner(model), Chat(random_ids(40), [2, 0, 1])
    run(
        runner,
        chat.next(20, 0),
    )
    run(runner, Chunk([*chat.token_ids[20:22], 7, 7, 7], 20, chat.blocks, 5))
    chat.start = 22
    assert_close(run(runner, chat.next(18, 18)), whole(model, chat.token_ids)[22:], **TOLERANCE)


def test_freed_blocks_never_leak_into_another_text(model: GPT) -> None:
    runner = new_runner(model)
    run(runner, Chunk(random_ids(60, 1), 0, [3, 1, 2, 0], 1))
    poison(runner, [0, 1, 2, 3])
    chat = Chat(random_ids(40, 2), [1, 3, 0])
    logits = [run(runner, chat.next(n, n)) for n in (17, 1, 22)]
    assert_close(torch.cat(logits), whole(model, chat.token_ids), **TOLERANCE)


def test_copied_block_goes_on_as_the_one_it_came_from(model: GPT) -> None:
    runner, token_ids = new_runner(model), random_ids(30)
    run(runner, Chunk(token_ids[:24], 0, [4, 5], 0))
    runner.copy_block(5, 11)
    first = run(runner, Chunk(token_ids[24:], 24, [4, 5], 6))
    assert torch.equal(run(runner, Chunk(token_ids[24:], 24, [4, 11], 6)), first)


def test_shared_prefix_serves_two_texts_at_once(model: GPT) -> None:
    runner, prefix, ends = new_runner(model), random_ids(32), [random_ids(9, 1), random_ids(20, 2)]
    run(runner, Chunk(prefix, 0, [8, 6], 0))
    logits = run(runner, Chunk(ends[0], 32, [8, 6, 1], 9), Chunk(ends[1], 32, [8, 6, 0, 2], 20))
    expected = [whole(model, prefix + end)[32:] for end in ends]
    assert_close(logits, torch.cat(expected), **TOLERANCE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_numbers_run_and_stay_close_to_uncached(tiny_checkpoint: Checkpoint, dtype: DType) -> None:
    model = load_model(tiny_checkpoint, dtype=dtype)
    runner, chats = new_runner(model), [Chat(random_ids(50, i), [3 * i, 20 + i, 9 + i, i + 14]) for i in range(3)]
    assert runner._cache.keys.dtype == getattr(torch, dtype)
    run(runner, *(chat.next(20, 0) for chat in chats))
    logits = run(runner, *(chat.next(30, 30) for chat in chats))
    expected = torch.cat([whole(model, chat.token_ids)[20:] for chat in chats])
    assert (logits - expected).abs().mean() < {"bfloat16": 0.05, "float16": 0.005}[dtype] * expected.std()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_has_the_logits_of_the_cpu(tiny_model: GPT) -> None:
    runner, chat = new_runner(deepcopy(tiny_model).cuda()), Chat(random_ids(40), [5, 2, 9])
    logits = [run(runner, chat.next(n, n)) for n in (25, 1, 14)]
    assert_close(torch.cat(logits), whole(tiny_model, chat.token_ids), atol=1e-3, rtol=0)
