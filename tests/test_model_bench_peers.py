"""The fp32 reference and the peers compute the same network: each is the other's oracle."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from families import FAMILIES, VOCAB_SIZE
from gguf_files import write_gguf

from model.bench.contestant import Contestant
from model.bench.peers import PEERS
from model.bench.reference import Reference

END_IDS = (2,)
PROMPTS = [[1, 70, 80, 90, 100], [1, 33, 44]]
Opener: TypeAlias = Callable[[], Contestant]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(FAMILIES["smollm2"].make(), tmp_path_factory.mktemp("bench") / "model.gguf")


@pytest.fixture(scope="module")
def reference(path: Path) -> Reference:
    return Reference(path, 1, 20)


@pytest.fixture(scope="module", params=PEERS)
def peer(request: pytest.FixtureRequest, path: Path) -> Contestant:
    for module in PEERS[request.param].modules:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install -e '.[bench]'")
    return PEERS[request.param].open(path, 1, 128, END_IDS)


@pytest.fixture(scope="module")
def ending(reference: Reference) -> list[int]:
    """A prompt that the model would answer with an end token at once."""
    for seed in range(50):
        text: list[int] = np.random.default_rng(seed).integers(3, VOCAB_SIZE, 100).tolist()
        likeliest = reference.logits(text, len(text)).argmax(-1).tolist()
        if END_IDS[0] in likeliest:
            return text[: likeliest.index(END_IDS[0]) + 1]
    raise AssertionError("no text is one that the model would end")


def test_greedy_replies_are_equal(peer: Contestant, reference: Reference, ending: list[int]) -> None:
    replies = peer.greedy([*PROMPTS, ending], 15)
    assert replies == reference.greedy([*PROMPTS, ending], 15)
    assert not set(END_IDS).intersection(*replies)


def test_logits_are_close(peer: Contestant, reference: Reference) -> None:
    ours, theirs = reference.logits(PROMPTS[0], 3), peer.logits(PROMPTS[0], 3)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=0.05)  # llama.cpp's cache is fp16


def test_everything_takes_time(peer: Contestant) -> None:
    assert peer.describe()
    assert peer.prefill(PROMPTS[0]) > 0
    assert peer.decode([PROMPTS[1], PROMPTS[1]], 4) > 0
    seconds = peer.chat([PROMPTS[0], PROMPTS[1], PROMPTS[1]], 4)
    assert len(seconds) == 3
    assert min(seconds) > 0


def test_drawn_replies_are_the_same_each_time_and_do_not_end(reference: Reference) -> None:
    drawn: Sequence[list[int]] = reference.sample(PROMPTS, 50)
    assert drawn == reference.sample(PROMPTS, 50)
    assert [len(reply) for reply in drawn] == [50, 50]
    assert len(set(drawn[0])) > 5
    assert not set(END_IDS).intersection(*drawn)
