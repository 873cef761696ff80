"""The choice of what computes, and of how much memory it has."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from chat.engine import Plan, free_memory, open_engine, plan_engine
from chat.settings import Settings, SettingsError, load_settings
from model.checkpoint.checkpoint import Checkpoint
from model.config import BLOCK_SIZE
from model.engine.engine import Engine
from model.engine.scheduler import MAX_RUNNING
from model.native.build import BuildError
from model.sampling_params import SamplingParams


@contextmanager
def opened(settings: Settings, checkpoint: Checkpoint) -> Iterator[Engine]:
    with open_engine(settings, checkpoint, plan_engine(settings, checkpoint)) as engine:
        yield engine


def reply(engine: Engine) -> list[int]:
    params = SamplingParams(temperature=0, max_tokens=5, min_tokens=5)
    return [token_id for piece in engine.submit([3, 4], params, owner="ada") for token_id in piece.token_ids]


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise BuildError("no C compiler was found")

    monkeypatch.setattr("model.native.runner.native_library", refuse)


@pytest.mark.parametrize(
    ("flags", "runner"),
    [
        ({}, "NativeRunner"),
        ({"kv_dtype": "float32"}, "NativeRunner"),
        ({"native": "off"}, "TorchRunner"),
        ({"dtype": "bfloat16"}, "TorchRunner"),
        ({"dtype": "float16"}, "TorchRunner"),
        ({"device": "cpu"}, "NativeRunner"),
    ],
)
def test_settings_choose_the_runner(tiny_checkpoint: Checkpoint, flags: dict[str, str], runner: str) -> None:
    with opened(load_settings(**flags), tiny_checkpoint) as engine:
        assert type(engine.runner).__name__ == runner
        reply(engine)


def test_both_runners_give_the_same_reply(tiny_checkpoint: Checkpoint) -> None:
    with (
        opened(load_settings(), tiny_checkpoint) as native,
        opened(load_settings(native="off"), tiny_checkpoint) as torch,
    ):
        assert reply(native) == reply(torch)


def test_without_a_compiler_pytorch_computes_and_one_line_says_so(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_compiler(monkeypatch)
    with caplog.at_level(logging.WARNING), opened(load_settings(), tiny_checkpoint) as engine:
        assert type(engine.runner).__name__ == "TorchRunner"
    assert [record.getMessage() for record in caplog.records] == [
        "The native kernels cannot be used, so PyTorch computes, more slowly: no C compiler was found"
    ]


def test_native_off_asks_for_no_compiler(tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.native.runner.native_library", lambda: pytest.fail("it was asked"))
    assert not plan_engine(load_settings(native="off"), tiny_checkpoint).native


@pytest.mark.parametrize(
    ("flags", "n_draft"), [({}, 4), ({"draft": 0}, 0), ({"native": "off"}, 0), ({"native": "off", "draft": 2}, 2)]
)
def test_drafts_are_made_where_they_pay_or_are_asked_for(
    tiny_checkpoint: Checkpoint, flags: dict[str, Any], n_draft: int
) -> None:
    with opened(load_settings(**flags), tiny_checkpoint) as engine:
        assert engine._scheduler._n_draft == n_draft


def test_device_that_is_not_there_is_refused(tiny_checkpoint: Checkpoint) -> None:
    refused = pytest.raises(SettingsError, match=r"^--device: nowhere cannot be used: .*$")
    with refused, opened(load_settings(device="nowhere"), tiny_checkpoint):
        pass


@pytest.mark.parametrize(("flags", "bytes_of_a_block"), [({}, 380_160), ({"native": "off"}, 737_280)])
def test_memory_for_keys_and_values_is_kept_to(
    default_checkpoint: Checkpoint, flags: dict[str, str], bytes_of_a_block: int
) -> None:
    plan = plan_engine(load_settings(kv_memory=100, **flags), default_checkpoint)
    assert plan.n_blocks == 100 * 2**20 // bytes_of_a_block
    assert plan.n_ctx == plan.n_blocks * BLOCK_SIZE


def test_a_quarter_of_what_is_free_is_the_default(
    default_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat.engine.free_memory", lambda: 4 * 380_160_000)
    assert plan_engine(load_settings(), default_checkpoint).n_blocks == 1000


def test_no_more_blocks_are_reserved_than_can_ever_be_used(tiny_checkpoint: Checkpoint) -> None:
    n_ctx = tiny_checkpoint.config.n_ctx
    plan = plan_engine(load_settings(kv_memory=4096), tiny_checkpoint)
    assert plan == Plan(native=True, n_blocks=MAX_RUNNING * -(-n_ctx // BLOCK_SIZE), n_ctx=n_ctx)


def test_free_memory_is_that_of_this_machine() -> None:
    assert 2**20 < free_memory() < 2**50
