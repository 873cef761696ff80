"""The list of parameters that readers work from is that of the network itself."""

from dataclasses import replace

import pytest
import torch

from model.config import GPTConfig, Rope
from model.gpt import GPT
from model.parameters import parameter_shapes

LLAMA = GPTConfig(
    vocab_size=50,
    n_ctx=16,
    n_layer=2,
    n_head=4,
    n_kv_head=2,
    head_dim=6,
    n_embd=20,
    n_inner=28,
    norm_eps=1e-5,
    tied_head=False,
    rope=Rope(10_000.0),
)
GPT2 = replace(
    LLAMA,
    n_kv_head=4,
    rope=None,
    norm="layer",
    activation="gelu_tanh",
    gated=False,
    qkv_bias=True,
    proj_bias=True,
    mlp_bias=True,
)


@pytest.mark.parametrize(
    "config",
    [LLAMA, replace(LLAMA, tied_head=True), replace(LLAMA, qkv_bias=True), replace(LLAMA, qk_norm=True), GPT2],
    ids=["llama", "tied", "biased", "normed", "gpt2"],
)
def test_parameters_are_those_of_the_network(config: GPTConfig) -> None:
    with torch.device("meta"):
        network = GPT(config)
    assert dict(parameter_shapes(config)) == {name: tuple(p.shape) for name, p in network.named_parameters()}
