from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.bench.exactness import QUESTIONS, divergence, encode_questions, measure_exactness
from model.bench.figures import Figure, Figures
from model.bench.worker import Worker
from model.checkpoint.checkpoint import Checkpoint

PROMPTS = [[1, 2], [3]]


class FakeWorker:
    """Answers for a contestant whose logits are those of the reference times `scale`."""

    def __init__(self, name: str, replies: list[list[int]], scale: float = 1) -> None:
        self.name = name
        self._replies = replies
        self._scale = scale

    def call(self, verb: str, *arguments: Any) -> Any:
        if verb == "logits":
            token_ids, n_last = arguments
            return (self._scale * np.outer(token_ids[-n_last:], [0, 1, 2])).astype(np.float32)
        prompts, n_tokens = arguments
        assert prompts == PROMPTS
        return [reply[:n_tokens] for reply in self._replies]


def measure(*workers: FakeWorker, n_ctx: int = 500) -> tuple[Figures, int]:
    figures, steps = Figures(), list[None]()
    reference = FakeWorker("the reference", [list(range(200)), [7] * 200])
    measure_exactness(
        cast(list[Worker], workers),
        cast(Worker, reference),
        PROMPTS,
        figures,
        n_ctx=n_ctx,
        advance=lambda: steps.append(None),
    )
    return figures, len(steps)


def test_divergence_is_that_of_pytorch() -> None:
    right, other = np.random.default_rng(0).normal(scale=4, size=(2, 5, 99)).astype(np.float32)
    expected = F.kl_div(
        torch.tensor(other).double().log_softmax(-1),
        torch.tensor(right).double().log_softmax(-1),
        reduction="sum",
        log_target=True,
    )
    assert divergence(right, other) == pytest.approx(expected.item(), rel=1e-9)
    assert divergence(right, right) == 0


def test_replies_that_are_the_references_are_counted() -> None:
    ours = FakeWorker("parley", [list(range(200)), [7] * 200])
    peer = FakeWorker("llama.cpp", [list(range(200)), [7] * 199 + [8]])
    figures, n_steps = measure(ours, peer)
    rows = {row.figure: row.values for row in figures.rows()}
    assert rows[Figure("greedy_equal", "of 2", tokens=200)] == {"parley": [2], "llama.cpp": [1]}
    assert n_steps == 2 + len(PROMPTS)


def test_divergence_is_the_mean_over_all_positions() -> None:
    figures, _ = measure(FakeWorker("parley", [[], []]), FakeWorker("llama.cpp", [[], []], scale=1.01))
    values = {row.figure: row.values for row in figures.rows()}[Figure("kl", "nats", tokens=200)]
    texts = [[1, 2, *range(99)], [3] + [7] * 99]
    right = np.concatenate([np.outer(text[-100:], [0, 1, 2]) for text in texts]).astype(np.float32)
    assert values["parley"] == [0]
    assert values["llama.cpp"] == [pytest.approx(divergence(right, 1.01 * right) / 200, rel=1e-3)]


def test_replies_are_shorter_in_a_short_context() -> None:
    figures, _ = measure(FakeWorker("parley", [list(range(200)), [7] * 200]), n_ctx=52)
    assert {row.figure.what: row.figure.tokens for row in figures.rows()} == {"greedy_equal": 50, "kl": 2 * 50}


def test_the_questions_are_twenty_and_go_through_the_chat_template(tiny_checkpoint: Checkpoint) -> None:
    prompts = encode_questions(tiny_checkpoint.chat_template)
    assert len(set(QUESTIONS)) == len(prompts) == 20
    assert {prompt[0] for prompt in prompts} == {tiny_checkpoint.tokenizer.control_tokens["<|im_start|>"]}
