"""Parquet has a row for each message, with types, and is written a row group at a time."""

import sys
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from itertools import chain
from typing import Any

import pytest
from archives import conversations
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.formats import parquet
from chat.formats.archive import ArchivedConversation
from chat.formats.linear import shown_path

NEEDED = "pyarrow is not installed: pip install -e '.[parquet]'"


def table(several: list[ArchivedConversation]) -> Any:
    reader = pytest.importorskip("pyarrow.parquet", reason=NEEDED)
    return reader.ParquetFile(BytesIO(b"".join(parquet.write(several))))


@settings(deadline=None, max_examples=50)
@given(several=st.lists(conversations(), max_size=3))
def test_every_message_is_a_row_with_what_it_says(several: list[ArchivedConversation]) -> None:
    rows = table(several).read().to_pylist()
    messages = list(chain.from_iterable(each["messages"] for each in several))
    for name in ("role", "content", "model", "seed", "token_ids", "prompt_tokens", "duration_ms", "parent_id"):
        assert [row[name] for row in rows] == [message[name] for message in messages]  # type: ignore[literal-required]
    assert [row["created_at"] for row in rows] == [datetime.fromisoformat(each["created_at"]) for each in messages]
    assert [row["rating"] for row in rows] == [each["feedback"] and each["feedback"]["rating"] for each in messages]
    assert sum(row["is_shown"] for row in rows) == sum(len(shown_path(each)) for each in several)


@settings(deadline=None, max_examples=5)
@given(several=st.lists(conversations(), min_size=3, max_size=3))
def test_row_groups_leave_as_soon_as_they_are_full(several: list[ArchivedConversation]) -> None:
    pytest.importorskip("pyarrow", reason=NEEDED)
    n_taken = 0

    def taken() -> Iterator[ArchivedConversation]:
        nonlocal n_taken
        for n_taken, each in enumerate(several, start=1):  # noqa: B007
            yield each

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "MAX_ROWS", 1)
        pieces = parquet.write(taken())
        first = next(pieces)
        n_before = next((number for number, each in enumerate(several, start=1) if each["messages"]), len(several))
        assert n_taken == n_before
        written = b"".join([first, *pieces])
    assert pytest.importorskip("pyarrow.parquet").ParquetFile(BytesIO(written)).num_row_groups == sum(
        len(each["messages"]) for each in several
    )


def test_without_its_library_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(parquet.ParquetMissing) as refused:
        next(parquet.write([]))
    assert str(refused.value).endswith("which is not installed: python -m pip install pyarrow")
