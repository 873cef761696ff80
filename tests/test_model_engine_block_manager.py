"""Blocks: what a sequence finds, what it may never see, and that none is lost; held to a memory that remembers all."""

import copy
import random
from dataclasses import dataclass
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model.config import BLOCK_SIZE
from model.engine.block_manager import BlockManager, BlockTable

Cell = tuple[str, tuple[int, ...]] | None  # who computed a position, and from which tokens; None: rubbish


@dataclass(eq=False)
class Running:
    """A sequence as the scheduler sees it."""

    token_ids: list[int]
    owner: str
    n_shared: int
    table: BlockTable
    n_computed: int


class Cache:
    """A block manager over a memory whose positions remember what they were computed from."""

    def __init__(self, n_blocks: int = 100) -> None:
        self.cells: list[list[Cell]] = [[None] * BLOCK_SIZE for _ in range(n_blocks)]
        self.blocks = BlockManager(n_blocks, self._copy)
        self.running: list[Running] = []

    def _copy(self, source: int, target: int) -> None:
        assert source != target
        self.cells[target] = list(self.cells[source])

    def open(
        self, token_ids: list[int], owner: str = "ann", *, n_shared: int = 0, max_length: int | None = None
    ) -> Running | None:
        longest = max_length or len(token_ids)
        table = self.blocks.open(token_ids, owner=owner, n_shared=n_shared, max_length=longest)
        if table is None:
            return None
        self._poison(table, table.n_cached)
        sequence = Running(list(token_ids), owner, n_shared, table, table.n_cached)
        self.running.append(sequence)
        self.check()
        self._write(sequence, len(table.path) * BLOCK_SIZE, table.n_cached)  # a copy is its own, whoever's the source
        return sequence

    def compute(self, sequence: Running, *more: int) -> None:
        """Compute the prompt, or what has been added to it, as the engine does."""
        sequence.token_ids += more
        n_before = len(sequence.table.block_ids) * BLOCK_SIZE
        self.blocks.extend(sequence.table, len(sequence.token_ids))
        self._poison(sequence.table, n_before)
        self._write(sequence, sequence.n_computed, len(sequence.token_ids))
        sequence.n_computed = len(sequence.token_ids)
        self.blocks.commit(sequence.table, sequence.token_ids)
        self.check()

    def close(self, sequence: Running, n_tokens: int | None = None) -> None:
        self.running.remove(sequence)
        self.blocks.close(sequence.table, sequence.token_ids[: sequence.n_computed][:n_tokens])
        self.check()

    def run(self, token_ids: list[int], owner: str = "ann", *, n_shared: int = 0) -> int:
        """Take a sequence from beginning to end; returns how much of it was there."""
        sequence = self.open(token_ids, owner, n_shared=n_shared)
        assert sequence is not None
        self.compute(sequence)
        self.close(sequence)
        return sequence.table.n_cached

    def check(self) -> None:
        """Each position of each sequence holds what its own tokens give, computed for its owner or shared by all."""
        self.blocks.check()
        for sequence in self.running:
            for position in range(sequence.n_computed):
                cell = self.cells[sequence.table.block_ids[position // BLOCK_SIZE]][position % BLOCK_SIZE]
                assert cell is not None, "rubbish"
                assert cell[1] == tuple(sequence.token_ids[: position + 1])
                assert cell[0] == sequence.owner or position < sequence.n_shared

    def _write(self, sequence: Running, start: int, end: int) -> None:
        for position in range(start, end):
            cell = sequence.owner, tuple(sequence.token_ids[: position + 1])
            self.cells[sequence.table.block_ids[position // BLOCK_SIZE]][position % BLOCK_SIZE] = cell

    def _poison(self, table: BlockTable, start: int) -> None:
        for position in range(start, len(table.block_ids) * BLOCK_SIZE):
            self.cells[table.block_ids[position // BLOCK_SIZE]][position % BLOCK_SIZE] = None


@pytest.fixture
def cache() -> Cache:
    return Cache()


def opened(cache: Cache, token_ids: list[int], owner: str = "ann", **options: int) -> Running:
    sequence = cache.open(token_ids, owner, **options)
    assert sequence is not None, "refused"
    return sequence


def text(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(50_000), k=length)


def n_found(cache: Cache, token_ids: list[int], owner: str = "ann", *, n_shared: int = 0) -> int:
    """How many of these tokens are there: asked of a copy, in which the running sequences make room."""
    cache = copy.deepcopy(cache)
    for sequence in cache.running[:]:
        cache.close(sequence, 0)
    return opened(cache, [*token_ids, -1], owner, n_shared=n_shared).table.n_cached


def n_common(a: list[int], b: list[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


# What is found.


@pytest.mark.parametrize("length", [1, 15, 16, 17, 40, 48])
def test_second_turn_computes_only_its_new_tokens(cache: Cache, length: int) -> None:
    cache.run(text(length))
    assert cache.run([*text(length), *text(20, seed=1)]) == length


@pytest.mark.parametrize("length", [1, 2, 16, 17, 32, 33, 100])
def test_same_prompt_twice_leaves_one_token_to_compute(cache: Cache, length: int) -> None:
    cache.run(text(length))
    assert cache.run(text(length)) == length - 1


@pytest.mark.parametrize("place", [0, 1, 15, 16, 37, 47, 48, 49])
def test_edit_keeps_all_before_it_and_the_original(cache: Cache, place: int) -> None:
    cache.run(text(50))
    edited = [*text(50)[:place], -1, *text(50)[place + 1 :]]
    assert cache.run(edited) == place
    assert cache.run([*text(50), 7]) == 50


def test_regenerated_reply_finds_the_prompt_but_its_last_token(cache: Cache) -> None:
    cache.run([*text(40), *text(30, seed=1)])
    assert cache.run([*text(40), *text(30, seed=2)]) == 40
    assert cache.run(text(40)) == 39


def test_full_blocks_are_found_while_their_sequence_runs(cache: Cache) -> None:
    first = opened(cache, text(40))
    cache.compute(first)
    second = opened(cache, [*text(40), 7])
    assert second.table.n_cached == 32
    assert second.table.block_ids == first.table.block_ids[:2]


def test_tokens_not_yet_computed_are_not_found(cache: Cache) -> None:
    opened(cache, text(40))
    assert opened(cache, text(40)).table.n_cached == 0


def test_of_many_continuations_the_most_alike_is_found() -> None:
    cache, draw = Cache(120), random.Random(0)
    known = [[*text(16), *draw.choices(range(3), k=draw.randrange(1, 16))] for _ in range(100)]
    for token_ids in known:
        cache.run(token_ids)
    for _ in range(30):
        wanted = [*text(16), *draw.choices(range(3), k=15)]
        assert n_found(cache, wanted) == max(n_common(wanted, token_ids) for token_ids in known)


# Who finds it.


def test_other_owner_finds_nothing(cache: Cache) -> None:
    cache.run(text(100), "ann")
    assert cache.run(text(100), "bob") == 0
    assert cache.run(text(100), "ann") == 99


@pytest.mark.parametrize(("n_shared", "n_found"), [(15, 0), (16, 16), (40, 32), (48, 48), (1_000, 99)])
def test_system_prompt_is_shared_up_to_the_last_full_block(cache: Cache, n_shared: int, n_found: int) -> None:
    cache.run(text(100), "ann", n_shared=n_shared)
    assert cache.run(text(100), "bob", n_shared=n_shared) == n_found


def test_beginning_of_a_shared_block_is_copied_for_other_owners(cache: Cache) -> None:
    cache.run(text(64), "ann", n_shared=48)
    assert cache.run([*text(64)[:37], *text(20, seed=1)], "bob", n_shared=48) == 37


def test_shared_block_is_seen_only_as_far_as_the_own_prompt_is_shared(cache: Cache) -> None:
    cache.run(text(64), "ann", n_shared=48)
    assert cache.run(text(64), "bob", n_shared=40) == 40
    assert cache.run(text(64), "eve", n_shared=0) == 0


def test_owner_of_any_name_is_not_everybody(cache: Cache) -> None:
    cache.run(text(64), "ann", n_shared=64)
    assert [cache.run(text(64), owner) for owner in ("", "None", "ann")] == [0, 0, 0]


# What fits.


def test_sequence_grows_to_its_longest_whatever_else_runs() -> None:
    cache = Cache(6)
    sequences = [opened(cache, text(10, seed), str(seed), max_length=48) for seed in range(2)]
    assert cache.blocks.n_free == 0
    for token_id in range(38):
        for sequence in sequences:
            cache.compute(sequence, token_id)
    assert [len(sequence.table.block_ids) for sequence in sequences] == [3, 3]


def test_sequence_waits_until_another_ends() -> None:
    cache = Cache(6)
    first = opened(cache, text(10), max_length=64)
    assert cache.open(text(10), "bob", max_length=33) is None
    cache.close(first)
    assert cache.open(text(10), "bob", max_length=96) is not None


def test_sequence_that_finds_its_beginning_reserves_only_the_rest() -> None:
    cache = Cache(4)
    cache.compute(opened(cache, text(40)))
    assert cache.open(text(40), "bob") is None
    assert cache.open(text(40), "ann") is not None


def test_idle_blocks_that_a_sequence_uses_itself_are_no_room_for_it() -> None:
    cache = Cache(4)
    cache.run(text(48))
    assert cache.open(text(48), max_length=65) is None
    assert cache.open(text(48), max_length=64) is not None


def test_refusal_changes_nothing() -> None:
    cache = Cache(4)
    for owner in ("old", "young"):
        cache.run(text(16), owner)
    cache.compute(opened(cache, text(16), "ann"))
    assert cache.open(text(17), "old", max_length=64) is None
    assert cache.blocks.n_free == 3
    cache.compute(opened(cache, text(32), "bob"))  # takes a free block, and the oldest
    assert [n_found(cache, text(16), owner) for owner in ("old", "young")] == [0, 16]


def test_chat_that_fills_the_cache_goes_on_in_its_own_last_block() -> None:
    cache = Cache(2)
    cache.run(text(20))
    sequence = opened(cache, [*text(20), 1, 2, 3], max_length=32)
    assert sequence.table.n_cached == 20


def test_more_than_was_reserved_is_an_error(cache: Cache) -> None:
    sequence = opened(cache, text(10), max_length=16)
    with pytest.raises(AssertionError, match="no more blocks than were reserved"):
        cache.blocks.extend(sequence.table, 17)


# What goes, and what stays.


def test_least_recently_used_prefix_goes_first() -> None:
    cache = Cache(6)
    for owner in ("ann", "bob", "eve"):
        cache.run(text(32), owner)
    cache.close(opened(cache, text(32), "ann"))
    cache.compute(opened(cache, text(32), "new"))
    assert [n_found(cache, text(32), owner) for owner in ("ann", "bob", "eve")] == [32, 0, 32]


def test_end_of_a_prefix_goes_before_its_beginning() -> None:
    cache = Cache(5)
    cache.run(text(64))
    for n_left in (64, 48, 32, 16, 0):
        cache.compute(opened(cache, text(16), str(n_left)))
        assert n_found(cache, text(64)) == n_left


def test_shared_prompt_outlives_the_chats_after_it() -> None:
    cache = Cache(6)
    for owner in ("ann", "bob", "eve"):
        cache.run([*text(16), *text(48, seed=1)], owner, n_shared=16)
    assert [n_found(cache, text(64), owner, n_shared=16) for owner in ("ann", "new")] == [16, 16]


def test_sequences_that_run_alike_keep_their_blocks_and_leave_them_once() -> None:
    cache = Cache(5)
    twins = [opened(cache, text(32)) for _ in range(2)]
    for twin in twins:
        cache.compute(twin)
    assert not set(twins[0].table.block_ids) & set(twins[1].table.block_ids)
    for twin in twins:
        cache.close(twin)
    cache.compute(opened(cache, text(48), "bob"))  # takes all but two
    assert n_found(cache, text(32)) == 32


def test_prefix_that_has_grown_is_kept_once() -> None:
    cache = Cache(4)
    for length in range(1, 17):
        cache.run(text(length))
    cache.compute(opened(cache, text(48), "bob"))  # takes all but one
    assert n_found(cache, text(16)) == 16


@pytest.mark.parametrize("n_kept", [0, 5, 16, 20, 32, 40])
def test_tokens_after_those_that_are_sound_are_forgotten(cache: Cache, n_kept: int) -> None:
    sequence = opened(cache, text(60))
    cache.compute(sequence)
    cache.close(sequence, n_kept)
    assert cache.run(text(60)) == n_kept


def test_forgotten_tokens_take_along_what_was_built_on_them(cache: Cache) -> None:
    cache.run(text(100))
    cache.close(opened(cache, text(40)), 16)
    assert cache.run(text(100)) == 16


def test_tokens_that_another_sequence_uses_are_not_forgotten(cache: Cache) -> None:
    first = opened(cache, text(60))
    cache.compute(first)
    second = opened(cache, text(60))
    cache.close(first, 0)
    cache.compute(second)
    assert second.table.n_cached == 48
    assert cache.run(text(60)) == 48


def test_block_freed_last_is_used_first(cache: Cache) -> None:
    used = set()
    for seed in range(20):
        sequence = opened(cache, text(40, seed))
        cache.compute(sequence)
        used.update(sequence.table.block_ids)
        cache.close(sequence, 0)
    assert len(used) == 3


def test_thousand_requests_of_fifty_owners_leave_every_block_free() -> None:
    cache, draw = Cache(20), random.Random(0)
    for _ in range(1_000):
        prompt = text(draw.randrange(1, 60), seed=draw.randrange(3))
        if sequence := cache.open(prompt, str(draw.randrange(50)), n_shared=20):
            cache.compute(sequence)
        else:
            cache.close(draw.choice(cache.running))
    for sequence in cache.running[:]:
        cache.close(sequence)
    assert cache.blocks.n_free == 20


# Errors of the caller, and of the manager.


def test_sequence_is_closed_once(cache: Cache) -> None:
    sequence = opened(cache, text(10))
    cache.close(sequence)
    with pytest.raises(AssertionError, match="over already"):
        cache.blocks.close(sequence.table, [])


def test_tokens_without_blocks_cannot_have_been_computed(cache: Cache) -> None:
    sequence = opened(cache, text(100))
    with pytest.raises(AssertionError, match="100 tokens in blocks for 0"):
        cache.blocks.commit(sequence.table, text(100))


@pytest.mark.parametrize(("length", "max_length"), [(0, 10), (11, 10)])
def test_prompt_of_no_tokens_or_too_many_is_an_error(cache: Cache, length: int, max_length: int) -> None:
    with pytest.raises(AssertionError, match=f"{length} tokens cannot grow to 10"):
        cache.blocks.open(text(length), owner="ann", n_shared=0, max_length=max_length)


def test_check_notices_what_is_wrong(cache: Cache) -> None:
    cache.run(text(100))
    sequence = opened(cache, text(100))
    sequence.table.path[0].n_users += 1
    with pytest.raises(AssertionError, match="has 1 users, not 2"):
        cache.blocks.check()
    sequence.table.path[0].n_users -= 1
    sequence.table.block_ids.append(sequence.table.block_ids[0])
    with pytest.raises(AssertionError, match="a block is lost, or in two places"):
        cache.blocks.check()


# Anything at all.

TAILS = st.lists(st.integers(0, 1), min_size=1, max_size=40)
LONG = st.integers(0, 100)


@given(turns=st.lists(st.tuples(st.sampled_from("ab"), LONG, LONG, TAILS), max_size=12), n_shared=LONG)
@settings(max_examples=80, deadline=None)
def test_longest_prefix_that_an_owner_may_see_is_found(
    turns: list[tuple[str, int, int, list[int]]], n_shared: int
) -> None:
    cache, known = Cache(200), [("", text(70))]
    for owner, place, cut, tail in turns:
        token_ids = [*known[place % len(known)][1][:cut], *tail]
        seen = [other if whose == owner else other[: n_shared // BLOCK_SIZE * BLOCK_SIZE] for whose, other in known[1:]]
        expected = max((n_common(token_ids[:-1], other) for other in seen), default=0)
        assert cache.run(token_ids, owner, n_shared=n_shared) == expected
        known.append((owner, token_ids))


class Anything(RuleBasedStateMachine):
    """Sequences of three owners in a small cache: opened, computed bit by bit, cut short and closed in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache(12)
        self.known = [text(70)]

    @rule(place=LONG, cut=LONG, tail=TAILS, growth=st.integers(0, 60), owner=st.sampled_from("abc"), n_shared=LONG)
    def open(self, place: int, cut: int, tail: list[int], growth: int, owner: str, n_shared: int) -> None:
        token_ids = [*self.known[place % len(self.known)][:cut], *tail]
        self.known.append(token_ids)
        n_free = self.cache.blocks.n_free
        if self.cache.open(token_ids, owner, n_shared=n_shared, max_length=len(token_ids) + growth) is None:
            assert self.cache.blocks.n_free == n_free
            assert n_free * BLOCK_SIZE < len(token_ids) + growth

    @precondition(lambda self: self.cache.running)
    @rule(place=LONG, more=TAILS)
    def compute(self, place: int, more: list[int]) -> None:
        sequence = self.cache.running[place % len(self.cache.running)]
        room = (len(sequence.table.block_ids) + sequence.table.n_reserved) * BLOCK_SIZE - len(sequence.token_ids)
        self.cache.compute(sequence, *more[:room])

    @precondition(lambda self: self.cache.running)
    @rule(place=LONG, n_tokens=st.none() | LONG)
    def close(self, place: int, n_tokens: int | None) -> None:
        self.cache.close(self.cache.running[place % len(self.cache.running)], n_tokens)

    @invariant()
    def nothing_is_lost(self) -> None:
        reserved = sum(sequence.table.n_reserved for sequence in self.cache.running)
        used = {block_id for sequence in self.cache.running for block_id in sequence.table.block_ids}
        assert self.cache.blocks.n_free == 12 - len(used) - reserved

    def teardown(self) -> None:
        for sequence in self.cache.running[:]:
            self.cache.close(sequence)
        assert self.cache.blocks.n_free == 12


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
