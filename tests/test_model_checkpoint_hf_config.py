"""config.json: what transformers takes from one is what we take from it, and what GPT does not do is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from model.checkpoint.hf_config import read_config, write_config
from model.checkpoint.hf_families import FAMILIES
from model.checkpoint.json_file import JsonObject, parse_json
from model.config import GPTConfig, LinearScaling, Llama3Scaling, Rope, YarnScaling
from model.errors import CheckpointError
from model.rope import rope_magnitude
from model.rotation import frequencies_of

ROPE_FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "smollm3"]
WINDOWED_FAMILIES = ROPE_FAMILIES[1:]
SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def read(model_type: str, **values: Any) -> GPTConfig:
    return read_config(JsonObject("config.json", {"model_type": model_type, **values}))


def oracle(model_type: str, **values: Any) -> PreTrainedConfig:
    return CONFIG_MAPPING[model_type](**json.loads(json.dumps(values)))


def refusal(model_type: str, **values: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(model_type, **values)
    text = str(caught.value)
    assert text.startswith("config.json: ")
    assert text.isprintable()
    return text.removeprefix("config.json: ")


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_missing_keys_mean_what_they_mean_to_transformers(model_type: str) -> None:
    ours, theirs = read(model_type), oracle(model_type)
    n_head = theirs.num_attention_heads
    assert (ours.vocab_size, ours.n_ctx) == (theirs.vocab_size, theirs.max_position_embeddings)
    assert (ours.n_layer, ours.n_head, ours.n_embd) == (theirs.num_hidden_layers, n_head, theirs.hidden_size)
    assert ours.n_kv_head == getattr(theirs, "num_key_value_heads", n_head)
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // n_head)
    assert ours.n_inner == getattr(theirs, "intermediate_size", 4 * theirs.hidden_size)
    assert ours.norm_eps == (theirs.layer_norm_epsilon if model_type == "gpt2" else theirs.rms_norm_eps)
    assert ours.tied_head == theirs.tie_word_embeddings
    assert (ours.rope is None) == (model_type == "gpt2")
    assert ours.rope is None or ours.rope == Rope(theirs.rope_parameters["rope_theta"])


WINDOWS = [
    (ROPE_FAMILIES, {"sliding_window": None}),
    (ROPE_FAMILIES, {"no_rope_layer_interval": 2}),
    (WINDOWED_FAMILIES, {"sliding_window": 5}),
    (WINDOWED_FAMILIES, {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 2}),
    (WINDOWED_FAMILIES, {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 99}),
    (WINDOWED_FAMILIES, {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": -1}),
    (WINDOWED_FAMILIES, {"sliding_window": 5, "use_sliding_window": False, "max_window_layers": 2}),
    (WINDOWED_FAMILIES, {"sliding_window": 5, "use_sliding_window": True, "no_rope_layers": [1, 0, 0, 1, 1, 0, 0, 0]}),
    (
        ["qwen2", "qwen3", "smollm3"],
        {"sliding_window": 3, "use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"] * 3},
    ),
]


@pytest.mark.parametrize(("model_type", "values"), [(name, values) for names, values in WINDOWS for name in names])
def test_windows_and_layers_without_rope_are_those_of_transformers(model_type: str, values: dict[str, Any]) -> None:
    ours, theirs = read(model_type, **{**SIZES, **values}), oracle(model_type, **{**SIZES, **values})
    types = getattr(theirs, "layer_types", None) or ["sliding_attention"] * 6
    window = getattr(theirs, "sliding_window", None)
    assert [ours.window_of(i) for i in range(6)] == [window if kind == "sliding_attention" else None for kind in types]
    rotated = theirs.no_rope_layers[:6] if model_type == "smollm3" else [1] * 6
    assert [ours.rotates(i) for i in range(6)] == [bool(flag) for flag in rotated]
    assert ours.n_kv_head == theirs.num_key_value_heads


numbers = st.floats(1.0, 64.0) | st.integers(1, 64)
contexts = {"original_max_position_embeddings": st.integers(16, 1024)}
rope_parameters = st.one_of(
    st.fixed_dictionaries({"rope_type": st.just("default")}),
    st.fixed_dictionaries({"rope_type": st.just("linear"), "factor": numbers}),
    st.fixed_dictionaries(
        {
            "rope_type": st.just("llama3"),
            "factor": numbers,
            "low_freq_factor": st.floats(0.5, 2.0),
            "high_freq_factor": st.floats(2.5, 8.0),
        },
        optional=contexts,
    ),
    st.fixed_dictionaries(
        {"rope_type": st.just("yarn"), "factor": numbers},
        optional={
            **contexts,
            "attention_factor": st.none() | st.floats(0.5, 2.0),
            "mscale": st.none() | st.floats(0.0, 2.0),
            "mscale_all_dim": st.none() | st.floats(0.0, 2.0),
            "beta_fast": st.none() | st.floats(8.0, 64.0),
            "beta_slow": st.none() | st.floats(0.5, 4.0),
            "truncate": st.booleans(),
        },
    ),
)


@st.composite
def rope_keys(draw: st.DrawFn) -> dict[str, Any]:
    """What says in config.json how to rotate: as transformers 5 writes it, or as those before did."""
    parameters, base = draw(rope_parameters), draw(st.floats(500.0, 1e6))
    outer = draw(st.fixed_dictionaries({}, optional=contexts))
    if draw(st.booleans()):
        parameters["type"] = parameters.pop("rope_type")
    new = {"rope_parameters": {"rope_theta": base, **parameters}, **outer}
    old = {"rope_scaling": parameters, "rope_theta": base, **outer}
    both = {**old, "rope_parameters": {"rope_type": "linear", "rope_theta": 123.0, "factor": 7.0}}
    return draw(st.sampled_from([new, old, both]))


SCALES = {"factor": 8.0, "mscale": 0.7, "mscale_all_dim": 1.3, "attention_factor": None, "beta_slow": None}


@example({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 32, **SCALES}}, "llama")
@example({"rope_scaling": {"type": "yarn", "factor": 8.0, "mscale": 0.7, "mscale_all_dim": 0.0}}, "qwen2")
@given(rope_keys(), st.sampled_from(ROPE_FAMILIES))
def test_rotary_positions_are_those_of_transformers(keys: dict[str, Any], model_type: str) -> None:
    ours, theirs = read(model_type, **SIZES, head_dim=16, **keys), oracle(model_type, **SIZES, head_dim=16, **keys)
    kind = theirs.rope_parameters["rope_type"]
    assert ours.rope is not None
    if kind == "default":
        assert ours.rope == Rope(theirs.rope_parameters["rope_theta"])
    else:
        frequencies, magnitude = ROPE_INIT_FUNCTIONS[kind](theirs, torch.device("cpu"))
        torch.testing.assert_close(frequencies_of(ours.rope, 16), frequencies, rtol=1e-6, atol=0)
        assert rope_magnitude(ours.rope) == pytest.approx(magnitude, rel=1e-12)


LINEAR = {"rope_type": "linear", "factor": 2.0}
REFUSED = [
    ("llama", {"hidden_size": "x"}, "hidden_size: expected a whole number, found 'x'"),
    ("llama", {"hidden_size": 64.0}, "hidden_size: expected a whole number, found 64.0"),
    ("llama", {"hidden_size": None}, "hidden_size: expected a whole number, found null"),
    ("llama", {"num_hidden_layers": True}, "num_hidden_layers: expected a whole number, found true"),
    ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers: expected at most 4,096, found 1000000000"),
    ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps: expected a number, found '1e-5'"),
    ("llama", {"tie_word_embeddings": 0}, "tie_word_embeddings: expected true or false, found 0"),
    ("llama", {"hidden_act": ["silu"]}, "hidden_act: expected a text, found a list of 1"),
    (
        "llama",
        {"hidden_act": "relu"},
        "hidden_act: expected one of silu, gelu, gelu_pytorch_tanh, gelu_new, found 'relu'",
    ),
    ("llama", {"num_key_value_heads": 3}, "n_head must be a multiple of n_kv_head, got 4 and 3"),
    ("llama", {"num_attention_heads": 0}, "n_head must be between 1 and 2,147,483,648, got 0"),
    ("llama", {"rms_norm_eps": 0}, "norm_eps must be positive, got 0.0"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config: expected null, found an object of 1"),
    ("llama", {"per_layer_config": {"0": {}}}, "per_layer_config: expected null, found an object of 1"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: expected 1, found 0.5"),
    ("llama", {"is_causal": False}, "is_causal: expected true, found false"),
    ("llama", {"sliding_window": 4}, "sliding_window: expected null, found 4"),
    ("mistral", {"layer_types": ["full_attention"]}, "layer_types: expected null, found a list of 1"),
    (
        "qwen2",
        {"layer_types": ["sliding_attention"] * 6},
        "layer_types: expected full_attention for each of 6 layers, found a list of 6",
    ),
    (
        "qwen3",
        {"layer_types": ["linear_attention"] * 6, "use_sliding_window": True},
        "layer_types: expected full_attention or sliding_attention for each of 6 layers, found a list of 6",
    ),
    (
        "qwen3",
        {"layer_types": ["full_attention"]},
        "layer_types: expected full_attention for each of 6 layers, found a list of 1",
    ),
    ("qwen2", {"use_sliding_window": "yes"}, "use_sliding_window: expected true or false, found 'yes'"),
    (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 0, "max_window_layers": 0},
        "window must be at least 1, got 0",
    ),
    (
        "smollm3",
        {"no_rope_layers": [1, 0]},
        "no_rope_layers: expected a number for each of 6 layers, found a list of 2",
    ),
    ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval: expected at least 1, found 0"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights: expected true, found false"),
    (
        "gpt2",
        {"scale_attn_by_inverse_layer_idx": True},
        "scale_attn_by_inverse_layer_idx: expected false, found true",
    ),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention: expected false, found true"),
    ("gpt2", {"hidden_size": 64}, "hidden_size: expected null, found 64"),
    ("llama", {"rope_scaling": "linear"}, "rope_scaling: expected an object, found 'linear'"),
    (
        "llama",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        "rope_scaling: type: expected one of default, linear, llama3, yarn, found 'dynamic'",
    ),
    (
        "llama",
        {"rope_parameters": {"rope_type": "longrope"}},
        "rope_parameters: rope_type: expected one of default, linear, llama3, yarn, found 'longrope'",
    ),
    ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling: factor: expected a number, found nothing"),
    ("llama", {"rope_scaling": {**LINEAR, "factor": 0}}, "rope factor must be positive, got 0.0"),
    (
        "llama",
        {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.25}},
        "rope_parameters: partial_rotary_factor: expected 1, found 0.25",
    ),
    (
        "qwen3",
        {"rope_parameters": {"full_attention": LINEAR, "sliding_attention": LINEAR}},
        "rope_parameters: full_attention: expected one set of parameters for all layers, found an object of 2",
    ),
    ("llama", {"rope_theta": 1}, "rope base - 1 must be positive, got 0.0"),
    (
        "qwen2",
        {"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": -1.0}},
        "rope_scaling: mscale: expected a number, 0 or more, found -1.0",
    ),
]


@pytest.mark.parametrize(("model_type", "values", "expected"), REFUSED)
def test_what_gpt_does_not_do_is_refused(model_type: str, values: dict[str, Any], expected: str) -> None:
    sizes = {} if model_type == "gpt2" else SIZES
    assert refusal(model_type, **{**sizes, **values}) == expected


@pytest.mark.parametrize(("model_type", "found"), [("mamba", "'mamba'"), (None, "null"), (3, "3")])
def test_other_families_are_refused(model_type: Any, found: str) -> None:
    text = refusal(model_type)
    assert text.startswith("model_type: expected ")
    assert text.endswith(f", found {found}")


@pytest.mark.parametrize(
    "values",
    [
        {"rope_scaling": {}, "rope_theta": 7e4},
        {"mlp_bias": None, "attention_dropout": 0.5, "use_cache": False, "torch_dtype": "bfloat16"},
        {"no_rope_layers": [0] * 6, "rope_interleaved": True, "partial_rotary_factor": 1.0},
    ],
)
def test_what_transformers_ignores_is_ignored(values: dict[str, Any]) -> None:
    base = values.get("rope_theta", 10_000.0)
    assert read("mistral", **SIZES, **values) == replace(read("mistral", **SIZES), rope=Rope(base))


MISTRAL = read("mistral", **SIZES, head_dim=24, sliding_window=5)
NETWORKS = {
    "llama": [
        read("llama", **SIZES),
        read("llama", **SIZES, attention_bias=True, mlp_bias=True, hidden_act="gelu_pytorch_tanh"),
        replace(MISTRAL, windowed_layers=frozenset()),
        read("llama", rope_scaling=LINEAR, rope_theta=5e5),
        replace(read("llama"), rope=Rope(5e5, Llama3Scaling(8.0, 1.0, 4.0, 8192))),
        replace(read("llama"), rope=Rope(1e6, YarnScaling(4.0, 4096, 1.25, beta_fast=16.0, truncate=False))),
    ],
    "mistral": [MISTRAL],
    "qwen2": [
        read("qwen2", **SIZES, tie_word_embeddings=True),
        read("qwen2", **SIZES, use_sliding_window=True, max_window_layers=2, sliding_window=9),
    ],
    "qwen3": [read("qwen3", **SIZES), read("qwen3", **SIZES, attention_bias=True)],
    "smollm3": [
        read("smollm3", **SIZES),
        read("smollm3", **SIZES, use_sliding_window=True, sliding_window=7, no_rope_layers=[1, 0, 0, 1, 1, 0]),
    ],
    "gpt2": [read("gpt2"), read("gpt2", n_inner=9, activation_function="gelu")],
}


@pytest.mark.parametrize(("model_type", "config"), [(name, c) for name, cs in NETWORKS.items() for c in cs])
def test_written_config_is_read_as_the_same_network(model_type: str, config: GPTConfig) -> None:
    family, values = write_config(config)
    assert (values["model_type"], values["architectures"]) == (model_type, [family.architecture])
    again = read_config(parse_json(json.dumps(values).encode(), "config.json"))
    assert again == (config if config.windowed_layers else replace(config, window=None))


def test_rotary_positions_are_written_for_old_and_new_readers() -> None:
    _, values = write_config(replace(read("llama"), rope=Rope(5e5, LinearScaling(2.0))))
    assert (values["rope_theta"], values["rope_scaling"]) == (5e5, LINEAR)
    assert values["rope_parameters"] == {"rope_theta": 5e5, **LINEAR}


def test_network_of_no_family_is_refused() -> None:
    with pytest.raises(CheckpointError) as caught:
        write_config(replace(read("gpt2"), gated=True))
    assert str(caught.value) == (
        "expected a network of one of the families llama, mistral, qwen2, qwen3, smollm3, gpt2, "
        "found one that differs from gpt2 in gated"
    )
