"""The native runner computes what PyTorch does, and the same bits whatever else is in a step."""

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from chunks import Chat, random_ids
from families import FAMILIES, LENGTHS, VOCAB_SIZE, one_thread, texts, whole_logits, write_hf_folder
from gguf_files import rewrite_gguf, write_gguf
from hf_folders import change_tensors, copy_in_one_file
from hypothesis import given, settings
from hypothesis import strategies as st
from native_library import needs_compiler

from model.checkpoint.checkpoint import Checkpoint, load_model
from model.checkpoint.open import open_checkpoint
from model.config import BLOCK_SIZE
from model.engine.runner import Chunk
from model.native import build
from model.native.build import BuildError
from model.native.runner import KVDType, NativeRunner, native_library, unsupported
from model.sampling import Floats

pytestmark = needs_compiler

KV_DTYPES: list[KVDType] = ["int16", "float32"]
N_BLOCKS = 48

# How far logits may be from those of PyTorch in fp32; they have a standard deviation of 1.5 to 7
TOLERANCE: dict[KVDType, float] = {"float32": 1e-4, "int16": 1e-2}
REQUANTIZED = 0.04  # their mean distance in standard deviations, for types that are not computed with as they are

Open = Callable[[str, str], Checkpoint]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def open_family(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """A function that opens the model of a family, its matrices stored in some type, as a GGUF file or a folder."""

    @cache
    def open_family(name: str, kind: str) -> Checkpoint:
        folder, model = tmp_path_factory.mktemp(name), FAMILIES[name].make()
        if kind == "folder":
            return open_checkpoint(write_hf_folder(model, folder / "x"))
        if kind == "folder in bfloat16":
            path = copy_in_one_file(write_hf_folder(model, folder / "sharded"), folder / "x")
            change_tensors(path, lambda tensors: tensors.update({n: t.bfloat16() for n, t in tensors.items()}))
            return open_checkpoint(path)
        path = write_gguf(model, folder / "x.gguf")
        return open_checkpoint(path if kind == "F32" else store_as(kind, path, folder / f"{kind}.gguf"))

    return open_family


def store_as(kind: str, source: Path, target: Path) -> Path:
    """Write a file again with all matrices in a type."""
    number = gguf.GGMLQuantizationType[kind]
    matrices = {tensor.name: tensor.data for tensor in gguf.GGUFReader(source).tensors if tensor.data.ndim == 2}
    return rewrite_gguf(source, target, {}, **{n: (gguf.quantize(d, number), number) for n, d in matrices.items()})


def new_runner(checkpoint: Checkpoint, kv_dtype: KVDType = "int16", n_threads: int = 1) -> NativeRunner:
    """A runner whose memory is full of what must never be read."""
    runner = NativeRunner(checkpoint, N_BLOCKS, n_threads=n_threads, kv_dtype=kv_dtype)
    poison(runner, list(range(N_BLOCKS)))
    return runner


def poison(runner: NativeRunner, blocks: list[int]) -> None:
    model, together = runner._weights.model, 16  # blocks whose keys and values of a head lie together
    numbers = runner._keys_and_values.view(np.float32)
    numbers = numbers.reshape(-(-N_BLOCKS // together), model.n_layer * model.n_kv_head, together, -1)
    for block in blocks:
        numbers[block // together, :, block % together] = np.nan


def run(runner: NativeRunner, *chunks: Chunk) -> Floats:
    return runner.run(chunks).copy()


def whole(runner: NativeRunner, token_ids: list[int]) -> Floats:
    """The logits (T, V) of a text alone in one step."""
    table = range(N_BLOCKS)[::-1]
    return run(runner, Chunk(token_ids, 0, table, len(token_ids)))


def assert_same_bits(actual: Floats, expected: Floats) -> None:
    np.testing.assert_array_equal(actual.view(np.int32), expected.view(np.int32))


# ---- The same numbers as PyTorch


def logits_of_texts(runner: NativeRunner) -> Floats:
    """The logits of four texts of unequal lengths: first the halves of all in one step, then the rest."""
    chats = [Chat(text.tolist(), list(range(i, N_BLOCKS, len(LENGTHS)))) for i, text in enumerate(texts())]
    halves = [-(-length // 2) for length in LENGTHS]
    first = run(runner, *(chat.next(n, n) for chat, n in zip(chats, halves, strict=True)))
    rest = [length - half for length, half in zip(LENGTHS, halves, strict=True)]
    second = run(runner, *(chat.next(n, n) for chat, n in zip(chats, rest, strict=True)))
    pairs = zip(np.split(first, np.cumsum(halves)[:-1]), np.split(second, np.cumsum(rest)[:-1]), strict=True)
    return np.concatenate([half for pair in pairs for half in pair])


def expected_logits(checkpoint: Checkpoint) -> Floats:
    return torch.cat(whole_logits(load_model(checkpoint))).numpy()


@pytest.mark.parametrize("kind", ["F32", "folder"])
@pytest.mark.parametrize("name", FAMILIES)
def test_family_has_the_logits_of_pytorch(open_family: Open, name: str, kind: str) -> None:
    checkpoint = open_family(name, kind)
    expected = expected_logits(checkpoint)
    for kv_dtype, tolerance in TOLERANCE.items():
        logits = logits_of_texts(new_runner(checkpoint, kv_dtype))
        np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "F16", "BF16", "folder in bfloat16"])
@pytest.mark.parametrize("name", ["gpt2", "smollm2", "qwen3"])
def test_type_of_weights_has_the_logits_of_pytorch(open_family: Open, name: str, kind: str) -> None:
    checkpoint = open_family(name, kind)
    logits = logits_of_texts(new_runner(checkpoint, "float32"))
    np.testing.assert_allclose(logits, expected_logits(checkpoint), rtol=0, atol=TOLERANCE["float32"])


@pytest.mark.parametrize("name", ["gpt2", "smollm2", "qwen3"])
def test_type_that_is_requantized_stays_close_to_pytorch(open_family: Open, name: str) -> None:
    checkpoint = open_family(name, "Q5_1")
    expected = expected_logits(checkpoint)
    logits = logits_of_texts(new_runner(checkpoint, "float32"))
    assert np.abs(logits - expected).mean() < REQUANTIZED * expected.std()


def test_only_heads_whose_size_is_no_multiple_of_4_are_left_to_pytorch(open_family: Open) -> None:
    assert not any(unsupported(open_family(name, "F32").config) for name in FAMILIES)
    assert "(6)" in (unsupported(replace(open_family("smollm2", "F32").config, head_dim=6)) or "")


# ---- The same bits whatever else is in a step


@pytest.fixture(scope="module", params=["smollm3", "mistral", "gpt2", "qwen3"])
def checkpoint(request: pytest.FixtureRequest, open_family: Open) -> Checkpoint:
    """Five layers, of which one does not rotate; windows of 16; LayerNorm, biases and GELU; heads of 24."""
    return open_family(request.param, "Q4_1")


@pytest.fixture(scope="module", params=KV_DTYPES)
def runner(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> NativeRunner:
    """A runner for texts alone, or for those who write to all blocks before they read."""
    return new_runner(checkpoint, request.param)


@pytest.fixture
def poisoned(runner: NativeRunner) -> NativeRunner:
    poison(runner, list(range(N_BLOCKS)))
    return runner


@settings(deadline=None, max_examples=30)
@given(
    blocks=st.permutations(range(N_BLOCKS)),
    lengths=st.lists(st.integers(1, 96), min_size=1, max_size=4),
    data=st.data(),
)
def test_any_mixture_of_chunks_has_the_bits_of_whole_texts(
    runner: NativeRunner, blocks: list[int], lengths: list[int], data: st.DataObject
) -> None:
    chats = [Chat(random_ids(n, i), blocks[6 * i : 6 * i + 6]) for i, n in enumerate(lengths)]
    rows = {id(chat): whole(runner, chat.token_ids) for chat in chats}
    poison(runner, list(range(N_BLOCKS)))
    while going := [chat for chat in chats if chat.start < len(chat.token_ids)]:
        chunks, expected = [], []
        for chat in data.draw(st.lists(st.sampled_from(going), min_size=1, unique_by=id)):
            length = data.draw(st.integers(1, len(chat.token_ids) - chat.start))
            n_logits = data.draw(st.integers(0, length))
            chunks.append(chat.next(length, n_logits))
            expected.append(rows[id(chat)][chat.start - n_logits : chat.start])
        assert_same_bits(run(runner, *chunks), np.concatenate(expected))


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("name", ["llama3", "mistral"])
def test_long_text_in_chunks_has_the_bits_of_the_whole(open_family: Open, name: str, kv_dtype: KVDType) -> None:
    runner, token_ids = new_runner(open_family(name, "Q8_0"), kv_dtype), random_ids(600)
    expected = whole(runner, token_ids)
    chat = Chat(token_ids, np.random.default_rng(0).permutation(N_BLOCKS).tolist())
    lengths = [1, 254, 1, 1, 3, 200, 51, 1, 1, 40, 47]
    assert sum(lengths) == len(token_ids)
    poison(runner, list(range(N_BLOCKS)))
    assert_same_bits(np.concatenate([run(runner, chat.next(n, n)) for n in lengths]), expected)


def test_token_by_token_has_the_bits_of_the_whole(poisoned: NativeRunner) -> None:
    chat = Chat(random_ids(96), [5, 3, 9, 0, 1, 2])
    logits = [run(poisoned, chat.next(1, 1)) for _ in chat.token_ids]
    assert_same_bits(np.concatenate(logits), whole(poisoned, chat.token_ids))


@pytest.mark.parametrize("n_chats", [2, 3, 8, 9, 16])
def test_chats_together_have_the_bits_of_each_alone(poisoned: NativeRunner, n_chats: int) -> None:
    chats = [Chat(random_ids(20 + i, i), [3 * i, 3 * i + 1, 3 * i + 2]) for i in range(n_chats)]
    run(poisoned, *(chat.next(12 + i, 0) for i, chat in enumerate(chats)))
    together = [run(poisoned, *(chat.next(1, 1) for chat in chats)) for _ in range(8)]
    for i, chat in enumerate(chats):
        assert_same_bits(np.stack([step[i] for step in together]), whole(poisoned, chat.token_ids)[12 + i :])


def test_prefill_decoding_and_a_draft_share_a_step(poisoned: NativeRunner) -> None:
    chats = [Chat(random_ids(50, i), list(range(4 * i, 4 * i + 4))) for i in range(4)]
    run(poisoned, chats[1].next(30, 0), chats[2].next(40, 0), chats[3].next(20, 0))
    logits = run(poisoned, chats[0].next(33, 0), chats[1].next(1, 1), chats[2].next(5, 5), chats[3].next(30, 1))
    rows = [whole(poisoned, chat.token_ids[: chat.start]) for chat in chats]
    assert_same_bits(logits, np.concatenate([rows[1][-1:], rows[2][-5:], rows[3][-1:]]))


@pytest.mark.parametrize("n_draft", [1, 2, 7, 9])
def test_verified_draft_has_the_bits_of_step_by_step(poisoned: NativeRunner, n_draft: int) -> None:
    chat, again = (Chat(random_ids(40), blocks) for blocks in ([2, 0, 1], [7, 9, 8]))
    run(poisoned, chat.next(20, 0), again.next(20, 0))
    steps = [run(poisoned, again.next(1, 1)) for _ in range(1 + n_draft)]
    assert_same_bits(run(poisoned, chat.next(1 + n_draft, 1 + n_draft)), np.concatenate(steps))


def test_rejected_draft_leaves_no_trace(poisoned: NativeRunner) -> None:
    chat = Chat(random_ids(40), [2, 0, 1])
    run(poisoned, chat.next(20, 0))
    run(poisoned, Chunk([*chat.token_ids[20:22], 7, 7, 7], 20, chat.blocks, 5))
    chat.start = 22
    assert_same_bits(run(poisoned, chat.next(18, 18)), whole(poisoned, chat.token_ids)[22:])


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("name", ["smollm3", "gpt2"])
def test_any_number_of_threads_gives_the_same_bits(open_family: Open, name: str, kv_dtype: KVDType) -> None:
    expected: list[Floats] = []
    for n_threads in (1, 2, 3, 4):
        runner = new_runner(open_family(name, "Q4_1"), kv_dtype, n_threads)
        logits = logits_of_texts(runner)
        expected = expected or [logits]
        assert_same_bits(logits, expected[0])


# ---- Blocks


def test_freed_blocks_never_leak_into_another_text(runner: NativeRunner) -> None:
    run(runner, Chunk(random_ids(60, 1), 0, [3, 1, 2, 0], 1))
    poison(runner, [0, 1, 2, 3])
    chat = Chat(random_ids(40, 2), [1, 3, 0])
    logits = [run(runner, chat.next(n, n)) for n in (17, 1, 22)]
    assert_same_bits(np.concatenate(logits), whole(runner, chat.token_ids))


def test_copied_block_goes_on_as_the_one_it_came_from(poisoned: NativeRunner) -> None:
    token_ids = random_ids(30)
    run(poisoned, Chunk(token_ids[:24], 0, [4, 5], 0))
    poisoned.copy_block(5, 11)
    first = run(poisoned, Chunk(token_ids[24:], 24, [4, 5], 6))
    assert_same_bits(run(poisoned, Chunk(token_ids[24:], 24, [4, 11], 6)), first)


def test_shared_prefix_serves_two_texts_at_once(poisoned: NativeRunner) -> None:
    prefix, ends = random_ids(32), [random_ids(9, 1), random_ids(20, 2)]
    run(poisoned, Chunk(prefix, 0, [8, 6], 0))
    logits = run(poisoned, Chunk(ends[0], 32, [8, 6, 1], 9), Chunk(ends[1], 32, [8, 6, 0, 2], 20))
    rows = [whole(poisoned, prefix + end)[32:] for end in ends]
    assert_same_bits(logits, np.concatenate(rows))


def test_step_without_wanted_logits_returns_none(poisoned: NativeRunner) -> None:
    logits = poisoned.run([Chunk([1, 2, 3], 0, [7], 0)])
    assert logits.shape == (0, VOCAB_SIZE)
    assert logits.dtype == "float32"


# ---- What is no number stays where it is


def run_three(runner: NativeRunner, before: Callable[[], None]) -> list[Floats]:
    """The next logits of three texts that share each step; calls `before` ahead of the last one."""
    chats = [Chat([10 + i, *random_ids(29, i)], [2 * i, 2 * i + 1]) for i in range(3)]
    for chat in chats:
        chat.token_ids = [token_id if token_id != 5 else 6 for token_id in chat.token_ids]
    run(runner, *(chat.next(27, 0) for chat in chats))
    before()
    return list(run(runner, *(chat.next(3, 3) for chat in chats)).reshape(3, 3, -1))


def test_keys_that_are_no_numbers_spoil_their_own_text_alone(poisoned: NativeRunner) -> None:
    expected = run_three(poisoned, lambda: None)
    poison(poisoned, list(range(N_BLOCKS)))
    logits = run_three(poisoned, lambda: poison(poisoned, [3]))  # of the second text's last positions
    assert np.isnan(logits[1]).all()
    for i in (0, 2):
        assert_same_bits(logits[i], expected[i])


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_weights_that_are_no_numbers_spoil_texts_with_their_token_alone(open_family: Open, kv_dtype: KVDType) -> None:
    runner = new_runner(open_family("llama2", "F32"), kv_dtype)
    expected = run_three(runner, lambda: None)
    wte = runner._weights.model.wte
    row = (ctypes.c_float * (2 * 32 * 32)).from_address(wte.data)  # tokens 0 to 31, two blocks of 32 columns
    np.ctypeslib.as_array(row).reshape(2, 32, 32)[:, :, 11] = np.nan  # the first token of the second text
    logits = run_three(runner, lambda: None)
    assert np.isnan(logits[1]).all()
    for i in (0, 2):
        assert_same_bits(logits[i], expected[i])


# ---- What cannot be had


def test_machine_without_compiler_and_library_says_so(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    monkeypatch.setattr(build, "user_cache_path", lambda name: tmp_path / name)
    native_library.cache_clear()
    with pytest.raises(BuildError, match="^no C compiler found: tried"):
        NativeRunner(tiny_checkpoint, 8, n_threads=1)


def test_cache_that_no_machine_has_is_refused(tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(MemoryError, match=r"^too little memory for [\d,]+ bytes of keys and values \("):
        NativeRunner(tiny_checkpoint, 2**31 - 1, n_threads=1)


def test_progress_counts_every_tensor(tiny_checkpoint: Checkpoint) -> None:
    seen: list[tuple[int, int]] = []
    NativeRunner(tiny_checkpoint, 8, n_threads=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 20) for i in range(1, 21)]


NONSENSE = {
    "more tokens than blocks": Chunk([1] * (BLOCK_SIZE + 1), 0, [0], 1),
    "a start beyond the blocks": Chunk([1], 1_000, [0], 1),
    "a start before the beginning": Chunk([1], -1, [0], 1),
    "no tokens": Chunk([], 0, [0], 0),
    "more logits than tokens": Chunk([1], 0, [0], 3),
    "fewer logits than none": Chunk([1], 0, [0], -1),
    "a block that does not exist": Chunk([1], 0, [N_BLOCKS], 1),
    "a token that does not exist": Chunk([VOCAB_SIZE], 0, [0], 1),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_chunks_that_make_no_sense_are_refused(open_family: Open, name: str) -> None:
    runner = NativeRunner(open_family("smollm2", "F32"), N_BLOCKS, n_threads=1)
    with pytest.raises(ValueError, match=r"must "):
        runner.run([Chunk([1], 0, [1], 1), NONSENSE[name]])


def test_positions_beyond_those_that_a_model_has_learned_are_refused(open_family: Open) -> None:
    checkpoint = open_family("gpt2", "F32")
    n_ctx = checkpoint.config.n_ctx
    n_blocks = n_ctx // BLOCK_SIZE + 2
    runner = NativeRunner(checkpoint, n_blocks, n_threads=1)
    with pytest.raises(ValueError, match=rf"positions must lie below {n_ctx}, got 1 from {n_ctx} on"):
        runner.run([Chunk([1], n_ctx, range(n_blocks), 1)])


@pytest.mark.parametrize(("source", "target"), [(0, N_BLOCKS), (N_BLOCKS, 0), (-1, 0)])
def test_blocks_that_do_not_exist_are_not_copied(open_family: Open, source: int, target: int) -> None:
    runner = NativeRunner(open_family("smollm2", "F32"), N_BLOCKS, n_threads=1)
    with pytest.raises(ValueError, match=f"blocks must lie between 0 and {N_BLOCKS - 1}"):
        runner.copy_block(source, target)


def test_a_draft_that_is_not_finite_is_nobody_else_s_concern(open_family: Open, tmp_path: Path) -> None:
    folder = copy_in_one_file(write_hf_folder(FAMILIES["smollm2"].make(), tmp_path / "sharded"), tmp_path / "x")
    checkpoint = open_checkpoint(folder)
    runner = NativeRunner(checkpoint, N_BLOCKS, n_threads=1)
    embedding = runner._weights.model.wte
    assert embedding.kind == 4  # fp32, in groups of 32 rows
    row = (ctypes.c_float * (32 * 32)).from_address(embedding.data)
    row[11] = float("nan")  # the first number of token 11
    alone = runner.run([Chunk([24], 0, [0], 1)]).copy()
    beside = runner.run([Chunk([24, 11], 0, [1], 2)])
    assert np.isfinite(np.delete(alone[0], 11)).all()  # the logit of token 11 is made from its embedding too
    np.testing.assert_array_equal(beside[0], alone[0])
    assert not np.isfinite(beside[1]).any()
