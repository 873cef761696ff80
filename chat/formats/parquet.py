"""Parquet: a row for each message of all branches, with types, for pandas, DuckDB and their like.

It needs pyarrow, of the extra `parquet`. Feedback and what is known of the conversation stand in the row; sampling
parameters are JSON. The ledger and the ids of prompts are left out: Parley's own format loses nothing.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from chat.errors import ChatError
from chat.formats.archive import ArchivedConversation
from chat.formats.json_text import dump_json
from chat.formats.linear import shown_path
from chat.formats.sink import Sink

MAX_ROWS = 4_000  # of a row group, which is held in memory
MAX_CHARS = 16 * 2**20  # of the texts of one, but for its last row


class ParquetMissing(ChatError):
    """The library that writes Parquet is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "--format parquet needs the package pyarrow, which is not installed: python -m pip install pyarrow"
        )


def write(conversations: Iterable[ArchivedConversation]) -> Iterator[bytes]:
    """Yield a file, a row group at a time; raises ParquetMissing."""
    try:
        import pyarrow as arrow
        from pyarrow.parquet import ParquetWriter
    except ModuleNotFoundError:
        raise ParquetMissing from None
    sink, schema = Sink(), _schema(arrow)
    with ParquetWriter(sink, schema, compression="zstd") as writer:
        for rows in _groups(_rows(conversations)):
            writer.write_table(arrow.Table.from_pylist(rows, schema))
            yield sink.take()
    yield sink.take()


def _schema(arrow: Any) -> Any:
    text, count, time = arrow.string(), arrow.int64(), arrow.timestamp("us", tz="UTC")
    name = arrow.dictionary(arrow.int32(), text)  # of few values, such as roles
    types = {
        **{"conversation_id": text, "conversation_title": text, "channel": name, "system_prompt": text},
        **{"message_id": text, "parent_id": text, "is_shown": arrow.bool_(), "pinned": arrow.bool_(), "seq": count},
        **{"role": name, "content": text, "created_at": time, "origin": name, "status": name, "finish_reason": name},
        **{"error": text, "model": name, "params": text, "seed": count, "token_ids": arrow.list_(count)},
        **dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "ttft_ms", "duration_ms"), count),
        **{"rating": arrow.int8(), "comment": text},
    }
    return arrow.schema(list(types.items()))


def _rows(conversations: Iterable[ArchivedConversation]) -> Iterator[dict[str, Any]]:
    for conversation in conversations:
        shown = {message["id"] for message in shown_path(conversation)}
        for message in conversation["messages"]:
            feedback = message["feedback"]
            yield {
                **message,
                "conversation_id": conversation["id"],
                "conversation_title": conversation["title"],
                "channel": conversation["channel"],
                "system_prompt": conversation["system_prompt"],
                "message_id": message["id"],
                "is_shown": message["id"] in shown,
                "created_at": datetime.fromisoformat(message["created_at"]),
                "params": None if message["params"] is None else dump_json(message["params"]),
                "rating": feedback and feedback["rating"],
                "comment": feedback and feedback["comment"],
            }


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    n_chars = 0
    for row in rows:
        group.append(row)
        n_chars += len(row["content"]) + len(row["system_prompt"] or "")
        if len(group) == MAX_ROWS or n_chars >= MAX_CHARS:
            yield group
            group, n_chars = [], 0
    if group:
        yield group
