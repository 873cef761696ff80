import json

import pytest

from model.bench.figures import Figure, Figures, Row

DECODE = Figure("decode", "tok/s", 8, 100)


def test_values_come_together_by_figure_and_name() -> None:
    figures = Figures()
    for value in (3.0, 1.0, 2.0):
        figures.add(DECODE, "parley", value)
        figures.add(Figure("decode", "tok/s", 8, 100), "llama.cpp", value / 2)
    [row] = figures.rows()
    assert row.values == {"parley": [3.0, 1.0, 2.0], "llama.cpp": [1.5, 0.5, 1.0]}


def test_a_row_for_a_program_has_medians_ratios_and_ends() -> None:
    row = Row(DECODE, {"parley": [4.0, 6.0, 5.0], "llama.cpp": [2.0, 1.0, 9.0], "transformers": [0.0]})
    assert json.loads(json.dumps(row.as_json())) == {
        "what": "decode",
        "chats": 8,
        "tokens": 100,
        "unit": "tok/s",
        "note": "",
        "parley": 5.0,
        "llama.cpp": 2.0,
        "transformers": 0.0,
        "ratio": {"llama.cpp": 2.5},  # none to 0, which JSON could not hold
        "min": {"parley": 4.0, "llama.cpp": 1.0, "transformers": 0.0},
        "max": {"parley": 6.0, "llama.cpp": 9.0, "transformers": 0.0},
    }


@pytest.mark.parametrize(
    ("figure", "label"),
    [
        (DECODE, "decode, 8 chats after 100 tokens (tok/s)"),
        (Figure("decode", "tok/s", 1, 2_000), "decode, 1 chat after 2,000 tokens (tok/s)"),
        (Figure("first_token", "ms", 1, 608, "turn 10"), "first token after 608 tokens, turn 10 (ms)"),
        (Figure("start_up", "s"), "start-up (s)"),
    ],
)
def test_labels_say_it_in_words(figure: Figure, label: str) -> None:
    assert figure.label == label
