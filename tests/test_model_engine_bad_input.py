"""What the engine refuses, at once and in one line, and what it takes twice; after each it goes on answering."""

import math
from typing import Any

import pytest
from real_engine import N_CTX, TALE, WatchedRunner, ask, read

from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.engine.sequence import Limits
from model.errors import EngineStopped, PromptTooLong
from model.sampling_params import SamplingParams


@pytest.mark.parametrize(
    ("token_ids", "fields", "text"),
    [
        ([5] * N_CTX, {}, "The text has 2,300 tokens; at most 2,299 fit into the model's context."),
        ([5] * 1_000_000, {}, "The text has 1,000,000 tokens; at most 2,299 fit into the model's context."),
        ([], {}, "token_ids must have at least one token, got none"),
        ([5, 49152], {}, "token_ids must lie between 0 and 49151, got 5 to 49152"),
        ([5, 2**64], {}, f"token_ids must lie between 0 and 49151, got 5 to {2**64}"),
        ([5, -1], {}, "token_ids must lie between 0 and 49151, got -1 to 5"),
        ([5, 1.5], {}, "token_ids must be whole numbers, got 1.5"),
        ([math.nan], {}, "token_ids must be whole numbers, got nan"),
        ([5, None], {}, "token_ids must be whole numbers, got None"),
        (["5"], {}, "token_ids must be whole numbers, got '5'"),
        ([5], {"max_tokens": 0}, "max_tokens must be a whole number, 1 or more, got 0"),
        ([5], {"max_tokens": -1}, "max_tokens must be a whole number, 1 or more, got -1"),
        *[
            ([5], {"temperature": value}, f"temperature must be between 0 and 100, got {value}")
            for value in (math.nan, math.inf, -math.inf, -0.1)
        ],
        *[
            ([5], {"top_p": value}, f"top_p must be above 0 and at most 1, got {value}")
            for value in (math.nan, math.inf, -1)
        ],
        *[
            ([5], {"repetition_penalty": value}, f"repetition_penalty must be between 0.01 and 100, got {value}")
            for value in (math.nan, math.inf, -1)
        ],
        ([5], {"top_k": -1}, "top_k must be a whole number, 0 or more, got -1"),
        ([5], {"stop": ("x",) * 10_000}, "stop must be at most 32 strings, got 10000"),
        ([5], {"stop_token_ids": (49152,)}, "stop_token_ids must be token ids between 0 and 49151, got 49152"),
    ],
)
def test_bad_input_is_refused_at_once_and_the_engine_goes_on_answering(
    real_engine: Engine, token_ids: list[int], fields: dict[str, Any], text: str
) -> None:
    with pytest.raises((ValueError, PromptTooLong)) as caught:
        real_engine.submit(token_ids, SamplingParams(**fields), owner="ada")
    assert str(caught.value) == text
    assert (real_engine.n_waiting, real_engine.n_running) == (0, 0)
    assert len(read(real_engine.submit([5], SamplingParams(max_tokens=1), owner="ada"))) == 1


def test_reply_for_nobody_is_refused(real_engine: Engine) -> None:
    with pytest.raises(ValueError, match="^owner must be a text, got None$"):
        real_engine.submit([5], SamplingParams(), owner=None)  # type: ignore[arg-type]


def test_cancelling_twice_or_too_late_changes_nothing(real_engine: Engine, default_checkpoint: Checkpoint) -> None:
    asked = default_checkpoint.tokenizer.encode(TALE), {"temperature": 0, "max_tokens": 5}
    cancelled, finished = ask(real_engine, asked), ask(real_engine, asked)
    cancelled.cancel()
    reply = read(finished)
    for generation in (cancelled, finished) * 2:
        generation.cancel()
    assert (cancelled.finish_reason, finished.finish_reason) == ("cancelled", "length")
    assert (real_engine.n_waiting, real_engine.n_running) == (0, 0)
    assert read(ask(real_engine, asked)) == reply


def test_closed_engine_refuses_and_has_ended_what_ran(
    real_runner: WatchedRunner, default_checkpoint: Checkpoint
) -> None:
    real_engine = Engine(real_runner, default_checkpoint.tokenizer, Limits(N_CTX, default_checkpoint.end_ids))
    running = ask(real_engine, (default_checkpoint.tokenizer.encode(TALE), {"max_tokens": 2_000}))
    real_engine.close()
    with pytest.raises(EngineStopped, match=r"^The engine has been closed\.$"):
        ask(real_engine, ([5], {}))
    read(running)
    running.cancel()
    assert (running.finish_reason, real_engine.n_waiting, real_engine.n_running) == ("cancelled", 0, 0)
