"""Which blocks of keys and values running sequences have, and which prefixes are kept for later ones.

Only ids of blocks are known here; a runner owns the memory. The prefixes form a tree of blocks, in which a sequence
looks for its own tokens, one by one, within what it may see: the blocks of its owner, and those that everybody shares.
"""

from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from model.config import BLOCK_SIZE

Tokens = tuple[int, ...]
Scope = str | None  # the owner, who alone may find a block; None: everybody


@dataclass(eq=False, slots=True)
class Block:
    """A block that can be found, a node of the tree: the tokens it holds come after those of its parents."""

    id: int
    parent: "Block | None"  # None: this is the root, which holds nothing
    scope: Scope
    token_ids: Tokens  # BLOCK_SIZE of them; fewer only where a sequence ended, in an idle block without children
    n_users: int = 0  # running sequences; an idle block has none
    children: "dict[Scope, list[Block]]" = field(default_factory=dict)  # sorted by their tokens; none begins another

    def find(self, scope: Scope, token_ids: Tokens) -> "Block | None":
        """Return the child that begins with these tokens."""
        children = self.children.get(scope, [])
        at = _place(children, token_ids)
        if at < len(children) and children[at].token_ids[: len(token_ids)] == token_ids:
            return children[at]
        return None

    def closest(self, scope: Scope, token_ids: Tokens) -> "tuple[int, Block | None]":
        """Return with how many of these tokens a child begins at most, and that child if it is one at least."""
        children = self.children.get(scope, [])
        at = _place(children, token_ids)
        n_best, best = 0, None
        for child in children[max(at - 1, 0) : at + 1]:  # no other of a sorted list has more in common
            if (n_tokens := _n_common(child.token_ids, token_ids)) > n_best:
                n_best, best = n_tokens, child
        return n_best, best

    def attach(self, child: "Block") -> None:
        """Add a child."""
        children = self.children.setdefault(child.scope, [])
        children.insert(_place(children, child.token_ids), child)

    def detach(self) -> None:
        """Leave the tree."""
        assert self.parent is not None, "the root has no parent"
        siblings = self.parent.children[self.scope]
        del siblings[_place(siblings, self.token_ids)]
        if not siblings:
            del self.parent.children[self.scope]

    def descendants(self) -> "list[Block]":
        """Return all blocks below this one, each after its parent."""
        found = [self]
        for block in found:  # which grows on the way
            for children in block.children.values():
                found += children
        return found[1:]


@dataclass(eq=False, slots=True)
class BlockTable:
    """The blocks of one running sequence."""

    owner: str
    n_shared: int  # tokens at its beginning that everybody shares
    block_ids: list[int] = field(default_factory=list)  # in order of position
    n_cached: int = 0  # tokens of the prompt that were there when it was opened
    n_reserved: int = 0  # blocks that it may still take
    path: list[Block] = field(default_factory=list)  # its first blocks, as far as they can be found

    def scope(self, start: int) -> Scope:
        """Return who may find the block that begins there: everybody, if all its tokens are shared."""
        return None if start + BLOCK_SIZE <= self.n_shared else self.owner

    def next_block(self, token_ids: Sequence[int]) -> tuple[Scope, Tokens]:
        """Return the scope and the tokens of the block after the path."""
        start = len(self.path) * BLOCK_SIZE
        return self.scope(start), tuple(token_ids[start : start + BLOCK_SIZE])


class BlockManager:
    """Gives blocks to sequences, and keeps those of finished ones until others need the room.

    A sequence is admitted only if all it may ever need can be reserved, so that no running one is ever short of blocks.
    """

    def __init__(self, n_blocks: int, copy_block: Callable[[int, int], None]) -> None:
        """Manage the blocks from 0 to `n_blocks` - 1; `copy_block(source, target)` copies what one holds."""
        self.n_blocks = n_blocks
        self._copy_block = copy_block
        self._root = Block(-1, None, None, ())
        self._free = list(range(n_blocks))[::-1]  # the one freed last is used first: its memory is in use already
        self._idle: OrderedDict[int, Block] = OrderedDict()  # by id, least recently used first, children before parents
        self._tables: set[BlockTable] = set()

    @property
    def n_free(self) -> int:
        """How many blocks hold nothing, or an idle prefix, and are not reserved."""
        tables = tuple(self._tables)  # at once: other threads may ask
        return len(self._free) + len(self._idle) - sum(table.n_reserved for table in tables)

    def open(self, token_ids: Sequence[int], *, owner: str, n_shared: int, max_length: int) -> BlockTable | None:
        """Begin a sequence with the longest prefix of it that is there; None, and nothing changes, if it does not fit.

        The prefix leaves at least one token to compute. `n_shared` tokens at the beginning are the same for everybody;
        `max_length` is how many the sequence may grow to.
        """
        assert 0 < len(token_ids) <= max_length, f"{len(token_ids)} tokens cannot grow to {max_length}"
        table = BlockTable(owner, n_shared)
        path = self._find_path(table, token_ids)
        n_needed = _n_blocks(max_length) - len(path)
        if n_needed > self.n_free - sum(not block.n_users for block in path):
            return None
        self._tables.add(table)
        table.n_reserved = n_needed
        for block in path:
            self._use(table, block)
            table.block_ids.append(block.id)
        table.n_cached = len(table.path) * BLOCK_SIZE + self._copy_beginning(table, token_ids)
        return table

    def extend(self, table: BlockTable, n_tokens: int) -> None:
        """Make a table long enough for so many tokens, within what is reserved for it."""
        while len(table.block_ids) * BLOCK_SIZE < n_tokens:
            table.block_ids.append(self._take(table))

    def commit(self, table: BlockTable, token_ids: Sequence[int]) -> None:
        """Let other sequences find the full blocks of a running one.

        `token_ids` are its tokens from position 0 whose keys and values are computed and sound. Where an equal block is
        there already, the table stays as it is, and its blocks from there on can be found once it is closed.
        """
        self._check_length(table, token_ids)
        while len(table.path) < len(token_ids) // BLOCK_SIZE:
            if self._find_next(table, token_ids):
                return
            self._register_next(table, token_ids)

    def close(self, table: BlockTable, token_ids: Sequence[int]) -> None:
        """End a sequence, and keep the blocks of its tokens that are computed and sound, also a partly filled last one.

        What it had committed, or found, beyond them is forgotten, with all that follows in the tree, unless another
        running sequence uses it.
        """
        self._check_length(table, token_ids)
        self._forget_beyond(table, len(token_ids) // BLOCK_SIZE)
        while len(table.path) < _n_blocks(len(token_ids)):
            if found := self._find_next(table, token_ids):
                self._use(table, found)
            else:
                self._register_next(table, token_ids)
        self._tables.remove(table)
        kept = {block.id for block in table.path}
        self._free += [block_id for block_id in table.block_ids if block_id not in kept]
        for block in reversed(table.path):
            self._release(block)

    def _find_path(self, table: BlockTable, token_ids: Sequence[int]) -> list[Block]:
        """Return the full blocks that hold the beginning of the tokens, but not the last of them."""
        path = [self._root]
        for start in range(0, len(token_ids) - BLOCK_SIZE, BLOCK_SIZE):
            block = path[-1].find(table.scope(start), tuple(token_ids[start : start + BLOCK_SIZE]))
            if block is None:
                break
            path.append(block)
        return path[1:]

    def _copy_beginning(self, table: BlockTable, token_ids: Sequence[int]) -> int:
        """Copy the block that begins most like what follows the path, and return how many tokens that gives."""
        start = len(table.path) * BLOCK_SIZE
        wanted = tuple(token_ids[start : min(start + BLOCK_SIZE, len(token_ids) - 1)])
        parent = self._end(table)
        own = parent.closest(table.owner, wanted)
        shared = parent.closest(None, wanted[: max(table.n_shared - start, 0)])
        n_tokens, source = max(own, shared, key=lambda match: match[0])
        if source is None:
            return 0
        if not source.n_users:
            self._idle.move_to_end(source.id)  # so that it is the last to be evicted for its own copy
        target = self._take(table)
        if target != source.id:  # else there was no other block left, and this one still holds what it did
            self._copy_block(source.id, target)
        table.block_ids.append(target)
        return n_tokens

    def _find_next(self, table: BlockTable, token_ids: Sequence[int]) -> Block | None:
        """Return a block of the tree that holds what the one after the path of a table does."""
        return self._end(table).find(*table.next_block(token_ids))

    def _register_next(self, table: BlockTable, token_ids: Sequence[int]) -> None:
        """Put the block after the path of a table into the tree; a partly filled one that it continues goes."""
        parent, (scope, block_tokens) = self._end(table), table.next_block(token_ids)
        n_common, closest = parent.closest(scope, block_tokens)
        if closest is not None and n_common == len(closest.token_ids):
            self._evict(closest)
        block = Block(table.block_ids[len(table.path)], parent, scope, block_tokens, n_users=1)
        parent.attach(block)
        table.path.append(block)

    def _forget_beyond(self, table: BlockTable, n_blocks: int) -> None:
        """Take the later blocks of a table out of the tree, with what follows, unless another sequence uses them."""
        while len(table.path) > n_blocks and table.path[-1].n_users == 1:
            block = table.path.pop()
            for descendant in reversed(block.descendants()):
                self._evict(descendant)
            block.detach()

    def _end(self, table: BlockTable) -> Block:
        return table.path[-1] if table.path else self._root

    def _use(self, table: BlockTable, block: Block) -> None:
        table.path.append(block)
        block.n_users += 1
        self._idle.pop(block.id, None)

    def _release(self, block: Block) -> None:
        block.n_users -= 1
        if not block.n_users:
            self._idle[block.id] = block

    def _take(self, table: BlockTable) -> int:
        assert table.n_reserved > 0, "a sequence takes no more blocks than were reserved for it"
        table.n_reserved -= 1
        if not self._free:
            self._evict(next(iter(self._idle.values())))
        return self._free.pop()

    def _evict(self, block: Block) -> None:
        del self._idle[block.id]
        block.detach()
        self._free.append(block.id)

    def _check_length(self, table: BlockTable, token_ids: Sequence[int]) -> None:
        assert table in self._tables, "the sequence is over already"
        n_positions = len(table.block_ids) * BLOCK_SIZE
        assert len(token_ids) <= n_positions, f"{len(token_ids)} tokens in blocks for {n_positions}"

    def check(self) -> None:
        """Check that every block is in one place, and that the tree, the idle blocks and the tables agree."""
        blocks = self._root.descendants()
        private = [block_id for table in self._tables for block_id in table.block_ids[len(table.path) :]]
        ids = self._free + private + [block.id for block in blocks]
        assert sorted(ids) == list(range(self.n_blocks)), "a block is lost, or in two places"
        assert self.n_free >= 0, "more blocks are reserved than there are"
        n_users = Counter(block for table in self._tables for block in table.path)
        for block in blocks:
            assert block.n_users == n_users[block], f"block {block.id} has {n_users[block]} users, not {block.n_users}"
        idle = {block.id for block in blocks if not block.n_users}
        assert set(self._idle) == idle, f"blocks {set(self._idle) ^ idle} are idle, or in use, by one account only"
        for table in self._tables:
            for block, parent, block_id in zip(table.path, [self._root, *table.path], table.block_ids, strict=False):
                assert (block.parent, block.id) == (parent, block_id), f"block {block_id} is not where the tree has it"
        for block in [self._root, *blocks]:
            _check_children(block)
        places: dict[Block | None, int] = {block: place for place, block in enumerate(self._idle.values())}
        for block in self._idle.values():
            assert places[block] < places.get(block.parent, len(places)), f"block {block.id} goes after its parent"


def _check_children(block: Block) -> None:
    for scope, children in block.children.items():
        assert children, f"block {block.id} has an empty list of children"
        assert len(block.token_ids) in (0, BLOCK_SIZE), f"block {block.id} has children and is not full"
        for child in children:
            assert (child.parent, child.scope) == (block, scope), f"block {child.id} is in the wrong place"
            assert child.n_users == 0 or len(child.token_ids) == BLOCK_SIZE, f"block {child.id} is shared unfilled"
        for child, following in zip(children, children[1:], strict=False):
            assert child.token_ids < following.token_ids[: len(child.token_ids)], f"block {child.id} begins another"


_token_ids = attrgetter("token_ids")


def _place(blocks: list[Block], token_ids: Tokens) -> int:
    """Return where tokens are, or would be, in a sorted list."""
    return bisect_left(blocks, token_ids, key=_token_ids)


def _n_common(a: Tokens, b: Tokens) -> int:
    """Return how many tokens two beginnings have in common."""
    for n_tokens, (token_a, token_b) in enumerate(zip(a, b, strict=False)):
        if token_a != token_b:
            return n_tokens
    return min(len(a), len(b))


def _n_blocks(n_tokens: int) -> int:
    return -(-n_tokens // BLOCK_SIZE)
