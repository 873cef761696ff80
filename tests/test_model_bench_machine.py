from pathlib import Path

import pytest
from families import FAMILIES
from gguf_files import write_gguf

from model.bench import machine
from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.open import open_checkpoint


def test_bandwidth_is_that_of_a_real_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BUFFER_BYTES", 2**26)
    assert 1e8 < machine.measure_bandwidth(2) < 1e13


def test_the_machine_has_a_name_and_versions() -> None:
    described = machine.describe_machine(["torch", "no-such-package"])
    assert described["cpu"]
    assert described["cores"] >= 1
    assert described["versions"]["torch"]
    assert described["versions"]["no-such-package"] is None


def test_a_token_needs_all_weights_as_they_are_in_the_file(default_checkpoint: Checkpoint) -> None:
    beside = default_checkpoint.path.stat().st_size - machine.bytes_per_token(default_checkpoint)
    assert 1e6 < beside < 2e6  # the vocabulary


def test_a_table_of_embeddings_beside_the_head_is_not_read(tmp_path: Path) -> None:
    model = FAMILIES["llama2"].make()
    checkpoint = open_checkpoint(write_gguf(model, tmp_path / "model.gguf"))
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert machine.bytes_per_token(checkpoint) == 4 * (n_parameters - model.get_input_embeddings().weight.numel())
