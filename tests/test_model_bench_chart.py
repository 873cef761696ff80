from pathlib import Path

import pytest

from model.bench.figures import Figure, Row


def test_the_chart_is_a_png_whatever_its_name(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -e '.[bench]'")
    from model.bench.chart import write_chart

    rows = [
        Row(Figure("decode", "tok/s", n_chats, 100), {"parley": [9.0, 8.0, 10.0], "llama.cpp": [5.0]})
        for n_chats in (1, 2)
    ]
    rows.append(Row(Figure("kl", "nats", tokens=2_000), {"parley": [1e-7], "llama.cpp": [0.01]}))
    write_chart(rows, "a model", tmp_path / "chart")
    data = (tmp_path / "chart").read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    assert len(data) > 10_000
