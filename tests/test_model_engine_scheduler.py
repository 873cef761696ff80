"""Who runs when, and on which blocks: a scheduler moved step by step, with a runner that remembers tokens."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
from fake_runner import ENDLESS, GREEDY, Babbling, Counting, Driver, reply
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint.checkpoint import Checkpoint
from model.config import BLOCK_SIZE
from model.engine import scheduler as scheduler_module
from model.engine.scheduler import MAX_RUNNING, MAX_WAITING, PREFILL_CHUNK
from model.engine.sequence import Sequence
from model.errors import EngineBusy
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer

ONE = SamplingParams(temperature=0, max_tokens=1)
LONG = SamplingParams(temperature=0, max_tokens=100)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Checkpoint) -> Tokenizer:
    return tiny_checkpoint.tokenizer


@pytest.fixture(scope="module")
def new_driver(tokenizer: Tokenizer) -> Callable[..., Driver]:
    return lambda **options: Driver(tokenizer, Counting(tokenizer.n_vocab), **options)


@pytest.fixture
def driver(new_driver: Callable[..., Driver]) -> Driver:
    return new_driver()


def places(sequences: list[Sequence]) -> list[int]:
    return [sequence.generation.queue_position for sequence in sequences]


def running(driver: Driver) -> set[str]:
    return {sequence.owner for sequence, _ in driver.step()}


# Steps.


def test_decoding_sequences_get_one_token_each_in_every_step(driver: Driver) -> None:
    sequences = [driver.ask([5 + i], LONG, f"owner {i}") for i in range(5)]
    for n_steps in range(1, 9):
        driver.step()
        assert [len(reply(sequence)) for sequence in sequences] == [n_steps] * 5


def test_prompts_share_one_chunk_of_each_step_and_hold_up_nobody(driver: Driver) -> None:
    chat = driver.ask([5], LONG, "ada")
    driver.step()
    driver.ask([6] * (2 * PREFILL_CHUNK + 9), GREEDY, "bob")
    driver.ask([7] * PREFILL_CHUNK, GREEDY, "eve")
    for n_steps in range(2, 8):
        driver.step()
        assert len(reply(chat)) == n_steps
    read = [sum(n_tokens for _, n_tokens, _ in step if n_tokens > 1) for step in driver.runner.steps[1:5]]
    assert read[:3] == [PREFILL_CHUNK] * 3


def test_prompts_are_read_for_the_least_served_owner_first(driver: Driver) -> None:
    long = driver.ask([6] * (5 * PREFILL_CHUNK), GREEDY, "bob")
    driver.step()
    short = driver.ask([7] * 10, GREEDY, "eve")
    driver.step()
    driver.step()
    assert len(reply(short)) >= 1
    assert long.generation.prefilled_tokens < 3 * PREFILL_CHUNK


@pytest.mark.parametrize("n_tokens", [PREFILL_CHUNK - 1, PREFILL_CHUNK, PREFILL_CHUNK + 1, 2 * PREFILL_CHUNK])
def test_prompt_of_whole_chunks_is_answered_once(driver: Driver, n_tokens: int) -> None:
    sequence = driver.ask([6] * n_tokens)
    driver.run()
    assert reply(sequence) == [7, 8, 9, 10, 11]
    assert driver.n_computed == n_tokens + 4
    assert sequence.generation.prefilled_tokens == n_tokens


@pytest.mark.parametrize("n_ctx", [33, 48, 49])
def test_context_is_filled_to_its_end(new_driver: Callable[..., Driver], n_ctx: int) -> None:
    driver = new_driver(n_ctx=n_ctx, n_blocks=-(-n_ctx // BLOCK_SIZE), n_draft=4)
    sequence = driver.ask([5, 6] * 10, ENDLESS)
    driver.run()
    assert (len(sequence.token_ids), sequence.generation.finish_reason) == (n_ctx, "length")


# Blocks.


def test_cancelled_within_a_step_it_is_gone_at_once(driver: Driver) -> None:
    sequence, other = driver.ask([5] * 20, LONG, "ada"), driver.ask([50] * 20, LONG, "bob")
    driver.scheduler.admit()
    step = driver.scheduler.schedule()
    driver.scheduler.cancel(sequence)
    assert (sequence.generation.finish_reason, driver.scheduler.n_running) == ("cancelled", 1)
    driver.scheduler.update(step, driver.runner.run([chunk for _, chunk in step]))
    driver.scheduler.cancel(sequence)
    assert {sequence for sequence, _ in driver.step()} == {other}
    driver.run()
    assert (reply(sequence), len(reply(other))) == ([], 100)


def test_prompt_cancelled_half_read_keeps_nothing_that_no_logits_have_proved(driver: Driver) -> None:
    sequence = driver.ask([6] * (3 * PREFILL_CHUNK))
    driver.step()
    driver.scheduler.cancel(sequence)
    again = driver.ask([6] * (3 * PREFILL_CHUNK))
    driver.run()
    assert (again.n_cached, reply(again)) == (0, [7, 8, 9, 10, 11])


def test_numbers_that_are_not_finite_are_not_kept_even_from_earlier_chunks(tokenizer: Tokenizer) -> None:
    network = Counting(tokenizer.n_vocab)
    network.bad = {99}
    driver = Driver(tokenizer, network)
    bad, good = driver.ask([99] + [5] * (2 * PREFILL_CHUNK)), driver.ask([5] * 40)
    driver.run()
    assert (bad.generation.finish_reason, good.generation.finish_reason) == ("error", "length")
    network.bad = set()
    again = driver.ask([99] + [5] * (2 * PREFILL_CHUNK))
    driver.run()
    assert (again.n_cached, again.generation.finish_reason) == (0, "length")


def test_numbers_that_are_not_finite_after_a_cached_prefix_cast_doubt_on_it(tokenizer: Tokenizer) -> None:
    network = Counting(tokenizer.n_vocab)
    driver = Driver(tokenizer, network)
    driver.ask([5] * 40)
    driver.run()
    network.bad = {5}  # as if the memory had been damaged
    bad = driver.ask([5] * 40)
    driver.run()
    network.bad = set()
    again = driver.ask([5] * 40)
    driver.run()
    assert (bad.n_cached, bad.generation.finish_reason) == (39, "error")
    assert (again.n_cached, again.generation.finish_reason) == (0, "length")


def test_not_finite_beyond_a_wrong_draft_is_nobodys_concern(tokenizer: Tokenizer) -> None:
    network = Counting(tokenizer.n_vocab)
    network.after, network.bad = {5: 6, 6: 9}, {7}
    driver = Driver(tokenizer, network, n_draft=4)
    driver.scheduler._n_draft = 0
    sequence = driver.ask([5], SamplingParams(temperature=0, max_tokens=3))
    sequence.draft = lambda n: [7]  # type: ignore[method-assign,assignment]
    driver.run()
    assert (reply(sequence), sequence.generation.finish_reason) == ([6, 9, 10], "length")


def test_system_prompt_is_shared_between_owners_and_nothing_else(driver: Driver) -> None:
    system = list(range(50, 90))  # two blocks and a half
    for owner in ("ada", "bob"):
        sequence = driver.ask([*system, 7, 8], owner=owner, n_shared=len(system))
        driver.run()
    assert sequence.n_cached == 2 * BLOCK_SIZE
    assert driver.ask([*system, 7, 8], owner="eve").n_cached == 0


def test_sequences_wait_until_all_their_blocks_are_there(new_driver: Callable[..., Driver]) -> None:
    driver = new_driver(n_blocks=8, n_ctx=128)
    first, second = driver.ask([5] * 60, GREEDY, "ada"), driver.ask([6] * 60, GREEDY, "bob")
    assert running(driver) == {"ada"}
    driver.run()
    assert (len(reply(first)), len(reply(second))) == (5, 5)


def test_large_one_is_not_overtaken_by_small_ones_that_would_fit(new_driver: Callable[..., Driver]) -> None:
    driver = new_driver(n_blocks=8, n_ctx=128)
    driver.ask([5] * 60, GREEDY, "ada")  # five blocks, of which three are left
    large = driver.ask([6] * 100, GREEDY, "bob")
    small = driver.ask([7], GREEDY, "eve")
    assert running(driver) == {"ada"}
    assert places([large, small]) == [1, 2]
    while not large.generation.prefilled_tokens:
        assert small.generation.queue_position
        driver.step()


# The order.


def test_no_more_than_max_running_run(driver: Driver) -> None:
    sequences = [driver.ask([5 + i], GREEDY, f"owner {i}") for i in range(MAX_RUNNING + 3)]
    driver.step()
    assert (driver.scheduler.n_running, driver.scheduler.n_waiting) == (MAX_RUNNING, 3)
    assert places(sequences) == [0] * MAX_RUNNING + [1, 2, 3]
    driver.run()
    assert (driver.scheduler.n_running, driver.scheduler.n_waiting) == (0, 0)
    assert places(sequences) == [0] * (MAX_RUNNING + 3)


def test_owners_take_turns_and_each_is_served_in_its_own_order(driver: Driver) -> None:
    ada = [driver.ask([5] * 10, owner="ada") for _ in range(3)]
    bob = [driver.ask([6] * 10, owner="bob") for _ in range(2)]
    assert places(ada + bob) == [1, 3, 5, 2, 4]


def test_order_goes_by_tokens_not_by_requests(driver: Driver) -> None:
    ada = [driver.ask([5] * 100, owner="ada") for _ in range(2)]
    bob = [driver.ask([6] * 10, owner="bob") for _ in range(4)]
    assert places(ada + bob) == [1, 6, 2, 3, 4, 5]


def test_cancelled_in_the_queue_it_never_starts_and_the_others_move_up(driver: Driver) -> None:
    sequences = [driver.ask([5] * 10, owner=owner) for owner in "abcd"]
    driver.scheduler.cancel(sequences[1])
    assert sequences[1].generation.finish_reason == "cancelled"
    assert places(sequences) == [1, 0, 2, 3]
    driver.run()
    assert [len(reply(sequence)) for sequence in sequences] == [5, 0, 5, 5]


def test_light_owner_beside_a_greedy_one_waits_for_one_place_and_is_read_at_once(driver: Driver) -> None:
    greedy = [driver.ask([9, i], LONG, "greedy") for i in range(20, 20 + MAX_WAITING // 2)]
    driver.step()
    greedy += [driver.ask([9, i], LONG, "greedy") for i in range(20, 20 + MAX_WAITING // 4)]
    light, n_steps = driver.ask([7] * 10, GREEDY, "light"), 0
    while not reply(light):
        driver.step()
        n_steps += 1
        assert light.generation.queue_position <= 1 or n_steps == 1
    assert n_steps <= 101  # the first of the greedy one's sixteen has ended


def test_owner_that_comes_back_has_saved_nothing_up(driver: Driver) -> None:
    driver.ask([5] * 10, LONG, "ada")
    for _ in range(50):
        driver.step()
    bob = [driver.ask([6] * 30, ONE, "bob") for _ in range(3)]
    ada = driver.ask([5] * 9, ONE, "ada")
    assert places([*bob, ada]) == [1, 3, 4, 2]


# Too many, too long.


def test_queue_is_bounded_and_half_of_it_for_one_owner(driver: Driver) -> None:
    for _ in range(MAX_WAITING // 2):
        driver.ask([5], owner="ada")
    with pytest.raises(EngineBusy, match=r"^32 of your replies are waiting already; try again in 1 s\.$"):
        driver.ask([5], owner="ada")
    for i in range(MAX_WAITING // 2):
        driver.ask([5], owner=f"owner {i}")
    with pytest.raises(EngineBusy, match=r"^64 replies are waiting already; try again in 1 s\.$") as caught:
        driver.ask([5], owner="eve")
    assert caught.value.retry_after == 1
    driver.step()
    driver.ask([5], owner="eve")


def test_retry_hint_is_the_measured_time_until_the_first_in_the_way_gets_in(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**6, 7))  # each step takes 7 s
    monkeypatch.setattr(scheduler_module, "perf_counter", lambda: next(clock))
    for i in range(4):
        driver.ask([5 + i], SamplingParams(temperature=0, max_tokens=3), "ada")
    driver.run()  # four replies in three steps: 5.25 s each
    others = [driver.ask([5], owner=f"owner {i}") for i in range(2)]
    assert [sequence.generation.wait_seconds for sequence in others] == [6, 11]
    for _ in range(MAX_WAITING // 2):
        driver.ask([5], owner="ada")
    with pytest.raises(EngineBusy) as caught:
        driver.ask([5], owner="ada")
    assert caught.value.retry_after == 16  # the third in the queue


def test_reply_that_has_waited_too_long_ends_with_an_error(driver: Driver) -> None:
    for i in range(MAX_RUNNING):
        driver.ask([5 + i], LONG, f"owner {i}")
    driver.step()
    late, patient = driver.ask([5], timeout=1e-9), driver.ask([6], timeout=60)
    assert driver.scheduler.patience() == 0
    driver.step()
    assert late.generation.finish_reason == "error"
    assert late.generation.error == ("The engine was too busy to begin within 1e-09 s; try again later.")
    assert places([patient]) == [1]
    assert 59 < (driver.scheduler.patience() or 0) < 60


def test_running_reply_may_take_longer_than_it_may_wait(driver: Driver) -> None:
    sequence = driver.ask([5], timeout=0.05)
    driver.scheduler.admit()
    while sequence.seconds_left > 0:
        pass
    driver.run()
    assert sequence.generation.finish_reason == "length"
    assert driver.scheduler.patience() is None


# Many requests.


def test_thousand_requests_of_fifty_owners_leave_nothing_behind_and_nobody_waits_thrice_the_fair_share(
    tokenizer: Tokenizer,
) -> None:
    dice = random.Random(0)
    driver = Driver(tokenizer, Babbling(tokenizer.n_vocab), n_blocks=200)
    asks = [(f"owner {i % 50}", dice.randint(1, 60), dice.randint(1, 20)) for i in range(1_000)]
    dice.shuffle(asks)
    waiting: dict[Sequence, int] = {}  # and how many tokens had been computed when it was the first of its owner
    waits: list[int] = []
    while asks or waiting:
        waiting_owners = Counter(sequence.owner for sequence in waiting)
        for ask in asks[:100]:
            owner, n_prompt, n_reply = ask
            greedy = owner in ("owner 0", "owner 1")
            if len(waiting) < MAX_WAITING and waiting_owners[owner] < (8 if greedy else 1):
                params = SamplingParams(temperature=1, seed=0, max_tokens=n_reply)
                waiting[driver.ask([dice.randint(3, 9) for _ in range(n_prompt)], params, owner)] = -1
                waiting_owners[owner] += 1
                asks.remove(ask)
        for sequence, since in waiting.items():
            first = next(other for other in waiting if other.owner == sequence.owner)
            if since < 0 and first is sequence:
                waiting[sequence] = driver.n_computed
        driver.step(check=False)
        for sequence in [sequence for sequence in waiting if not sequence.generation.queue_position]:
            waits.append(driver.n_computed - waiting.pop(sequence))
    driver.run()
    fair_round = 50 * driver.n_computed / 1_000  # each owner has one request served
    assert len(waits) == 1_000
    assert max(waits) <= 3 * fair_round
    assert driver.scheduler._blocks.n_free == 200
    assert not driver.scheduler._served


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["ask", "ask", "cancel", "step"]), st.integers(1, 90), st.sampled_from("abc")),
        max_size=60,
    ),
    n_blocks=st.integers(8, 30),
)
@settings(deadline=None)
def test_whatever_happens_no_block_is_lost_and_everybody_hears(
    new_driver: Callable[..., Driver], events: list[tuple[str, int, str]], n_blocks: int
) -> None:
    driver = new_driver(n_blocks=n_blocks, n_ctx=128, n_draft=2)
    sequences: list[Sequence] = []
    for event, number, owner in events:
        if event == "ask":
            sequences.append(driver.ask([5 + number % 2] * number, GREEDY, owner))
        elif event == "cancel" and sequences:
            driver.scheduler.cancel(sequences[number % len(sequences)])
        driver.step()
        line = sorted(place for place in places(sequences) if place)
        assert line == list(range(1, driver.scheduler.n_waiting + 1))
    driver.run()
    assert all(sequence.generation.finish_reason in ("length", "cancelled") for sequence in sequences)
    assert (driver.scheduler._blocks.n_free, driver.scheduler._served) == (n_blocks, {})
