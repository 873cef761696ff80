"""A chain of hashes shows whatever was changed, removed, moved or added, and is imported like any other file."""

import json

import jsonschema
import pytest
from archives import conversations
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.errors import Unreadable
from chat.formats import parley
from chat.formats.archive import VERSION, ArchivedConversation
from chat.formats.chain import ChainBroken, ChainMissing, _linked, verify, write

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
    **dict.fromkeys(("site_id", "visitor_id", "visitor_name", "title", "title_source", "preset", "system_prompt")),
    **dict.fromkeys(("params", "model")),
    "active_leaf_id": None,
    "created_at": "2026-01-01T00:00:00.000000Z",
    "updated_at": "2026-01-01T00:00:00.000000Z",
}


def changed_lines() -> dict[str, list[bytes]]:
    """Files of two conversations whose chain does not hold."""
    lines = list(write([CONVERSATION, CONVERSATION]))
    plain = [line.encode() for line in parley.write([CONVERSATION])]
    forged = {"format": "parley", "version": VERSION, "previous": json.loads(lines[1])["hash"], "conversations": 7}
    return {
        "line 1: it was changed": [lines[0].replace(b'"pinned":false', b'"pinned":true'), *lines[1:]],
        "line 2: it does not follow": [lines[0], *lines[2:]],
        "line 3: the line that closes the chain is missing": lines[:2],
        "line 3: it closes a chain of another number of conversations than 2": [*lines[:2], _linked(forged)[0]],
        "line 2: it has a hash, and lines before it have none": [*plain, *lines],
        "line 2: it has no hash": [lines[0], *plain, *lines[1:]],
        "line 1: it has no hash": [json.dumps(json.loads(line)).encode() + b"\n" for line in lines],
        "line 1: it ends in CRLF": [line[:-1] + b"\r\n" for line in lines],
    }


@pytest.mark.parametrize(("reason", "lines"), changed_lines().items())
def test_a_chain_that_does_not_hold_is_not_read(reason: str, lines: list[bytes]) -> None:
    with pytest.raises(Unreadable) as refused:
        list(parley.read(line.decode() for line in lines))
    assert str(refused.value).startswith(reason)
    with pytest.raises(ChainBroken):
        verify(lines)


def test_a_file_of_which_some_lines_have_lost_their_hashes_is_broken() -> None:
    lines = list(write([CONVERSATION, CONVERSATION]))
    for changed in (
        [_without_hash(lines[0]), *lines[1:]],
        [lines[0], *map(_without_hash, lines[1:])],
        list(map(_without_hash, lines)),
    ):
        with pytest.raises(ChainBroken, match="it has no hash at its end"):
            verify(changed)


def _without_hash(line: bytes) -> bytes:
    return line.partition(b',"hash":')[0] + b"}\n"
