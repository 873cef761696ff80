"""A chain of hashes shows whatever was changed, removed, moved or added, and is imported like any other file."""

import json

import jsonschema
import pytest
from archives import conversations
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.formats import parley
from chat.formats.archive import ArchivedConversation
from chat.formats.chain import ChainBroken, ChainMissing, verify, write

SEVERAL = st.lists(conversations(), max_size=4)


@settings(deadline=None)  # the schema is what takes the time
@given(several=SEVERAL)
def test_what_is_written_holds_and_is_read_like_any_file(several: list[ArchivedConversation]) -> None:
    lines = list(write(several))
    chain = verify(lines)
    assert chain.n_conversations == len(several)
    assert json.loads(lines[-1])["hash"] == chain.hash
    assert list(parley.read(line.decode() for line in lines)) == several
    for line in lines:
        jsonschema.validate(json.loads(line), parley.schema())


@given(several=SEVERAL.filter(bool), data=st.data())
def test_any_change_of_a_byte_is_found_in_its_line(several: list[ArchivedConversation], data: st.DataObject) -> None:
    lines = list(write(several))
    number = data.draw(st.integers(0, len(lines) - 1))
    place = data.draw(st.integers(0, len(lines[number]) - 1))
    new = data.draw(st.binary(max_size=2).filter(lambda new: new != lines[number][place : place + 1]))
    lines[number] = lines[number][:place] + new + lines[number][place + 1 :]
    with pytest.raises(ChainBroken, match=rf"^line {number + 1}: it "):
        verify(lines)


@given(several=st.lists(conversations(), min_size=3, max_size=4))
def test_lines_that_are_missing_moved_or_added_are_found(several: list[ArchivedConversation]) -> None:
    lines = list(write(several))
    for number in range(len(lines) - 1):
        with pytest.raises(ChainBroken, match=rf"^line {number + 1}: it does not follow"):
            verify(lines[:number] + lines[number + 1 :])
        with pytest.raises(ChainBroken, match=rf"^line {number + 2}: it does not follow"):
            verify(lines[: number + 1] + lines[number:])
    with pytest.raises(ChainBroken, match=r"^line 1: it does not follow"):
        verify([lines[1], lines[0], *lines[2:]])
    with pytest.raises(ChainBroken, match=rf"^line {len(lines) + 1}: it comes after the line that closes the chain"):
        verify([*lines, *lines])
    [alone] = parley.write(several[:1])
    for number in range(len(lines)):
        with pytest.raises(ChainBroken, match=rf"^line {number + 1}: it has no hash"):
            verify([*lines[:number], alone.encode(), *lines[number:]])


@given(several=SEVERAL.filter(bool), data=st.data())
def test_a_file_that_is_cut_off_is_found(several: list[ArchivedConversation], data: st.DataObject) -> None:
    content = b"".join(write(several))
    end = data.draw(st.integers(content.index(b"\n") + 1, len(content) - 1))
    with pytest.raises(ChainBroken, match=r": (the line that closes the chain is missing|it has no hash)"):
        verify(content[:end].splitlines(keepends=True))


@given(several=SEVERAL)
def test_a_file_without_a_chain_is_none(several: list[ArchivedConversation]) -> None:
    with pytest.raises(ChainMissing):
        verify(line.encode() for line in parley.write(several))


def test_the_hash_that_closes_a_chain_stands_for_all_of_it() -> None:
    chains = [verify(write(several)).hash for several in ([], [CONVERSATION], [CONVERSATION, CONVERSATION])]
    assert len(set(chains)) == 3


CONVERSATION: ArchivedConversation = {
    **{"id": "c", "channel": "ui", "pinned": False, "archived": False, "recap": False, "messages": []},
    **dict.fromkeys(("site_id", "title", "title_source", "preset", "system_prompt", "params", "model")),
    "active_leaf_id": None,
    "created_at": "2026-01-01T00:00:00.000000Z",
    "updated_at": "2026-01-01T00:00:00.000000Z",
}
