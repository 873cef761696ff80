"""Conversations of any shape, as they are archived."""

from datetime import datetime
from typing import Any, get_args

from hypothesis import strategies as st

from chat.formats.archive import ArchivedConversation
from storage.tables import Channel, FinalStatus, FinishReason, Origin, TitleSource

TEXTS = st.text(max_size=40)  # any Unicode but lone surrogates, which UTF-8 cannot hold
IDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12)
COUNTS = st.none() | st.integers(0, 2**40)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2031, 1, 1)).map(  # what seconds in a double hold exactly
    lambda time: f"{time.isoformat(timespec='microseconds')}Z"
)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
OBJECTS = st.none() | st.dictionaries(
    TEXTS,
    st.recursive(st.none() | st.booleans() | NUMBERS | TEXTS, lambda inner: st.lists(inner, max_size=3)),
    max_size=3,
)


def one_of(literal: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(get_args(literal))


STATUSES = one_of(FinalStatus)


@st.composite
def feedback(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "rating": draw(st.sampled_from([None, 1, -1])),
        "comment": draw(st.none() | TEXTS),
        "created_at": draw(MOMENTS),
        "updated_at": draw(MOMENTS),
    }


@st.composite
def messages(draw: st.DrawFn) -> list[dict[str, Any]]:
    ids = draw(st.lists(IDS, unique=True, max_size=8))
    seqs = sorted(draw(st.sets(st.integers(1, 10_000), min_size=len(ids), max_size=len(ids))))
    return [
        {
            "id": message_id,
            "parent_id": draw(st.none() | st.sampled_from(ids[:place])) if place else None,
            "seq": seqs[place],
            "role": draw(st.sampled_from(["system", "user", "assistant"])),
            "content": draw(TEXTS),
            "origin": draw(one_of(Origin)),
            "origin_id": draw(st.none() | st.sampled_from(ids[:place])) if place else None,
            "status": draw(STATUSES),
            "finish_reason": draw(st.none() | one_of(FinishReason)),
            "error": draw(st.none() | TEXTS),
            "model": draw(st.none() | TEXTS),
            "model_digest": draw(st.none() | TEXTS),
            "params": draw(OBJECTS),
            "seed": draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
            "token_ids": draw(st.none() | st.lists(st.integers(0, 2**31), max_size=5)),
            "prompt_shared": draw(COUNTS),
            "prompt_ids": draw(st.none() | st.lists(st.integers(0, 2**31), max_size=5)),
            "ledger": draw(OBJECTS),
            "prompt_tokens": draw(COUNTS),
            "cached_tokens": draw(COUNTS),
            "completion_tokens": draw(COUNTS),
            "ttft_ms": draw(COUNTS),
            "duration_ms": draw(COUNTS),
            "pinned": draw(st.booleans()),
            "created_at": draw(MOMENTS),
            "feedback": draw(st.none() | feedback()),
        }
        for place, message_id in enumerate(ids)
    ]


@st.composite
def conversations(draw: st.DrawFn) -> ArchivedConversation:
    """A conversation with a tree of any shape, whose every field is anything it may be."""
    tree = draw(messages())
    return {
        "id": draw(IDS),
        "channel": draw(one_of(Channel)),
        "site_id": draw(st.none() | IDS),
        "visitor_id": draw(st.none() | IDS),
        "visitor_name": draw(st.none() | TEXTS),
        "title": draw(st.none() | TEXTS),
        "title_source": draw(st.none() | one_of(TitleSource)),
        "preset": draw(st.none() | TEXTS),
        "system_prompt": draw(st.none() | TEXTS),
        "recap": draw(st.booleans()),
        "params": draw(OBJECTS),
        "model": draw(st.none() | TEXTS),
        "active_leaf_id": draw(st.sampled_from(tree))["id"] if tree else None,
        "pinned": draw(st.booleans()),
        "archived": draw(st.booleans()),
        "created_at": draw(MOMENTS),
        "updated_at": draw(MOMENTS),
        "messages": tree,  # type: ignore[typeddict-item]
    }
