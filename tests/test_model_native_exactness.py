"""How near the default model in the native runner is to the definition of the network in PyTorch, in fp32."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from native_library import needs_compiler

from model.bench.exactness import divergence, encode_questions
from model.bench.texts import read_text, write_texts
from model.checkpoint.checkpoint import Checkpoint
from model.engine.runner import Chunk
from model.engine.torch_runner import TorchRunner
from model.gpt import GPT
from model.native.runner import KVDType, NativeRunner

pytestmark = needs_compiler

BOOK = (Path(__file__).parent / "data" / "alice.txt").read_text()

# How far logits may be from those of the reference, which reach 30, and the mean divergence in nats for each token.
# Measured over 256 tokens: 1.1e-4 and 6e-3; 1e-11 and 2e-8
TOLERANCE: dict[KVDType, float] = {"float32": 2e-4, "int16": 1e-2}
DIVERGENCE: dict[KVDType, float] = {"float32": 1e-9, "int16": 1e-6}


@pytest.fixture(scope="module")
def book(default_checkpoint: Checkpoint) -> list[int]:
    return default_checkpoint.tokenizer.encode(BOOK)[:2000]


@pytest.fixture(scope="module")
def questions(default_checkpoint: Checkpoint) -> list[list[int]]:
    return encode_questions(default_checkpoint.chat_template)


@pytest.fixture(scope="module")
def reference(default_model: GPT) -> TorchRunner:
    return TorchRunner(default_model, 128)


@pytest.fixture(scope="module")
def new_default_runner(default_checkpoint: Checkpoint) -> Callable[[KVDType], NativeRunner]:
    return cache(lambda kv_dtype: NativeRunner(default_checkpoint, 400, n_threads=2, kv_dtype=kv_dtype))


@pytest.mark.parametrize("kv_dtype", DIVERGENCE)
def test_default_model_reads_a_book_as_pytorch_does(
    new_default_runner: Callable[[KVDType], NativeRunner], reference: TorchRunner, book: list[int], kv_dtype: KVDType
) -> None:
    logits, expected = (read_text(runner, book[:256], 256) for runner in (new_default_runner(kv_dtype), reference))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE[kv_dtype])
    assert divergence(expected, logits) / 256 <= DIVERGENCE[kv_dtype]


def assert_same_replies(runner: NativeRunner, reference: TorchRunner, prompts: list[list[int]], n_tokens: int) -> None:
    """Each token of the greedy replies is the one that the reference finds most likely after all before it."""
    replies = write_texts(runner, prompts, n_tokens, lambda logits: int(logits.argmax()))
    for prompt, reply in zip(prompts, replies, strict=True):
        assert read_text(reference, [*prompt, *reply[:-1]], n_tokens).argmax(-1).tolist() == reply


def test_default_model_replies_as_pytorch_does(
    new_default_runner: Callable[[KVDType], NativeRunner], reference: TorchRunner, questions: list[list[int]]
) -> None:
    assert_same_replies(new_default_runner("int16"), reference, questions[:2], 30)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_default_model_reads_a_long_text_as_pytorch_does(
    new_default_runner: Callable[[KVDType], NativeRunner], reference: TorchRunner, book: list[int]
) -> None:
    runner, total = new_default_runner("int16"), 0.0
    for start in range(0, len(book), 250):
        chunk = Chunk(book[start : start + 250], start, range(128), 250)
        total += divergence(reference.run([chunk]), runner.run([chunk]))
    assert total / len(book) <= 1e-5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_default_model_gives_long_replies_as_pytorch_does(
    new_default_runner: Callable[[KVDType], NativeRunner], reference: TorchRunner, questions: list[list[int]]
) -> None:
    assert_same_replies(new_default_runner("int16"), reference, questions, 200)
