import json
import math
from pathlib import Path
from typing import Any

import pytest
from bench_openers import open_slow, open_torch

from chat.cli import bench
from chat.settings import Settings, SettingsError
from model.bench import comparison, machine
from model.bench.figures import Figure, Row
from model.bench.peers import Peer
from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.open import open_checkpoint

FAKES = {"llama.cpp": Peer((), "llama-cpp-python", open_slow, reads_folders=False)}


def fetch(settings: Settings) -> Checkpoint:
    return open_checkpoint(Path(settings.model))


def must_not_fetch(settings: Settings) -> Checkpoint:
    raise AssertionError("a flag that is wrong was not refused at once")


def run(path: Path, **changes: Any) -> None:
    flags = {"against": "", "json_file": None, "chart": None, "runs": 1, **changes}
    bench.run_bench(Settings(model=str(path), threads=1), flags.pop("fetch", fetch), open_torch, **flags)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bench, comparison):
        monkeypatch.setattr(module, "PEERS", FAKES)
    monkeypatch.setattr(machine, "BUFFER_BYTES", 2**24)


def test_everything_is_measured_printed_and_written(
    tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny_path, against="llama.cpp", json_file=tmp_path / "bench.json")
    printed, errors = capsys.readouterr()
    assert errors == ""
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["machine"].items() >= {"model": "tiny.gguf", "threads": 1, "runs": 1}.items()
    assert written["machine"]["computes"] == {"parley": "TorchRunner", "llama.cpp": "nothing"}
    rows = {(row["what"], row["chats"], row["tokens"], row["note"]): row for row in written["rows"]}
    assert {what for what, *_ in rows} == {"decode", "prefill", "memory", "start_up", "kl", "greedy_equal"}
    for row in rows.values():
        assert row["min"]["parley"] <= row["parley"] <= row["max"]["parley"]
        if row["llama.cpp"]:
            assert math.isclose(row["ratio"]["llama.cpp"], row["parley"] / row["llama.cpp"])
    assert rows["decode", 8, 100, ""]["llama.cpp"] == pytest.approx(0.8)
    assert abs(rows["kl", 0, 2_000, ""]["parley"]) < 1e-9 < rows["kl", 0, 2_000, ""]["llama.cpp"]
    [equal] = [row for row in written["rows"] if row["what"] == "greedy_equal"]
    assert (equal["parley"], equal["llama.cpp"], equal["unit"]) == (20, 0, "of 20")
    assert "| decode, 8 chats after 100 tokens (tok/s) " in printed
    assert "a trial, not to be published" in printed


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"against": "llama.cpp,ollama"}, "--against: expected some of llama.cpp, got 'ollama'"),
        (
            {"json_file": Path("/no/such/folder/x.json")},
            "--json: /no/such/folder/x.json cannot be written (No such file",
        ),
        ({"chart": Path("/")}, "--chart: / cannot be written (Is a directory)."),
    ],
)
def test_flags_that_cannot_be_followed_are_refused_first(tiny_path: Path, flags: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        run(tiny_path, fetch=must_not_fetch, **flags)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_what_is_not_installed_is_named(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    monkeypatch.setitem(FAKES, "llama.cpp", Peer(("llama_cpp",), "llama-cpp-python", open_slow, reads_folders=False))
    expected = (
        r"^--against llama.cpp needs the package llama_cpp, which is not installed: "
        r"python -m pip install '\.\[bench\]'$"
    )
    with pytest.raises(SettingsError, match=expected):
        run(tiny_path, fetch=must_not_fetch, against="llama.cpp")
    with pytest.raises(SettingsError, match=r"^--chart needs the package matplotlib"):
        run(tiny_path, fetch=must_not_fetch, chart=tmp_path / "chart.png")


def test_a_folder_is_refused_for_what_reads_files_only(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    from dataclasses import replace

    folder = replace(tiny_checkpoint, path=tmp_path)
    with pytest.raises(SettingsError, match=r"^--against llama.cpp: expected a GGUF file, found the folder "):
        run(tmp_path, fetch=lambda settings: folder, against="llama.cpp")


def test_the_table_has_columns_in_line_and_gaps_where_nothing_was_measured() -> None:
    rows = [
        Row(Figure("decode", "tok/s", 1, 100), {"parley": [1234.4, 1200.0, 1300.0], "llama.cpp": [100.0]}),
        Row(Figure("kl", "nats", tokens=2_000), {"parley": [1e-7], "llama.cpp": [0.0131]}),
        Row(Figure("greedy_equal", "of 20", tokens=200), {"parley": [20]}),
    ]
    lines = bench.table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "| 1,234 (1,200–1,300) " in lines[2]
    assert lines[2].split("|")[-2].strip() == "12.3"
    assert "1.0e-07" in lines[3]
    assert lines[4].split("|")[3].strip() == lines[4].split("|")[4].strip() == ""
