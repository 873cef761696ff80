"""Slots by block table: what is written where, what is seen, and that nothing else is touched."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import BLOCK_SIZE, GPTConfig
from model.kv_cache import KVCache

CONFIG = GPTConfig(
    vocab_size=8,
    n_ctx=4096,
    n_layer=2,
    n_head=2,
    n_kv_head=2,
    head_dim=3,
    n_embd=6,
    n_inner=6,
    norm_eps=1e-5,
    tied_head=True,
    rope=None,
)
N_BLOCKS = 6


def new_cache() -> KVCache:
    cache = KVCache(CONFIG, N_BLOCKS, torch.float32, torch.device("cpu"))
    cache.keys.fill_(torch.nan)
    cache.values.fill_(torch.nan)
    return cache


def random_heads(n_tokens: int) -> Tensor:
    return torch.randn(CONFIG.n_kv_head, n_tokens, CONFIG.head_dim)


tables = st.permutations(range(N_BLOCKS))


@settings(deadline=None)
@given(table=tables, first=st.integers(1, 40), second=st.integers(1, 40), layer=st.integers(0, 1))
def test_sequence_sees_what_it_wrote_in_order(table: list[int], first: int, second: int, layer: int) -> None:
    cache, keys, values = new_cache(), random_heads(first + second), random_heads(first + second)
    for start, end in ((0, first), (first, first + second)):
        view = cache.view([start], [end - start], [table])
        view.write(layer, keys[:, start:end], values[:, start:end])
    assert all(map(torch.equal, view.read(layer, 0), (keys, values)))


@settings(deadline=None)
@given(table=tables, n_blocks=st.integers(1, 5), data=st.data())
def test_sequences_of_a_step_do_not_touch_each_other(table: list[int], n_blocks: int, data: st.DataObject) -> None:
    split = [table[:n_blocks], table[n_blocks:]]
    lengths = [data.draw(st.integers(1, len(part) * BLOCK_SIZE)) for part in split]
    keys, values = random_heads(sum(lengths)), random_heads(sum(lengths))
    view = new_cache().view([0, 0], lengths, split)
    view.write(1, keys, values)
    parts = list(zip(keys.split(lengths, dim=1), values.split(lengths, dim=1), strict=True))
    assert all(all(map(torch.equal, view.read(1, i), part)) for i, part in enumerate(parts))
    assert int((~view.cache.keys.isnan()).sum()) == keys.numel()


def test_shared_blocks_are_seen_by_all_and_written_by_none() -> None:
    cache, shared = new_cache(), random_heads(BLOCK_SIZE)
    cache.view([0], [BLOCK_SIZE], [[4]]).write(0, shared, shared)
    view = cache.view([BLOCK_SIZE] * 2, [1, 1], [[4, 0], [4, 1]])
    view.write(0, *[random_heads(2)] * 2)
    assert all(torch.equal(view.read(0, i)[0][:, :BLOCK_SIZE], shared) for i in (0, 1))


def test_neighbouring_blocks_are_seen_without_a_copy() -> None:
    cache = new_cache()
    keys, values = cache.view([0], [40], [[2, 3, 4]]).read(1, 0)
    assert keys.untyped_storage().data_ptr() == cache.keys.untyped_storage().data_ptr()
    assert values.untyped_storage().data_ptr() == cache.values.untyped_storage().data_ptr()


def test_blocks_reserved_for_later_are_not_seen() -> None:
    assert new_cache().view([3], [2], [[2, 0, 5]]).read(0, 0)[0].size(1) == 5


def test_copied_block_is_equal_in_all_layers_and_the_others_stay() -> None:
    cache = new_cache()
    cache.keys.normal_()
    cache.values.normal_()
    before = [tensor.clone().unflatten(2, (N_BLOCKS, BLOCK_SIZE)) for tensor in (cache.keys, cache.values)]
    cache.copy_block(4, 1)
    for tensor, old in zip((cache.keys, cache.values), before, strict=True):
        assert torch.equal(tensor.unflatten(2, (N_BLOCKS, BLOCK_SIZE)), old[:, :, [0, 4, 2, 3, 4, 5]])


@pytest.mark.parametrize(
    ("length", "table", "sentence"),
    [
        (33, [0, 1], "33 positions do not fit into 2 blocks"),
        (5, [6], r"blocks \[6\] are not all below 6"),
        (5, [0, -1], r"blocks \[0, -1\] are not all below 6"),
    ],
)
def test_wrong_table_is_a_mistake(length: int, table: list[int], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        new_cache().view([0], [length], [table])
