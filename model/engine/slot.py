"""A place for one sequence at a time, which keeps its cache for the next sequence that begins alike."""

from itertools import takewhile
from typing import TYPE_CHECKING

from model.engine.sequence import Sequence

if TYPE_CHECKING:
    from model.engine.runner import TorchRunner
    from model.kv_cache import KVCache
    from model.sampling import Floats


class Slot:
    """A KV cache, the tokens it holds, and whose they are."""

    def __init__(self, cache: "KVCache") -> None:
        self.sequence: Sequence | None = None  # None: free
        self.last_used = 0
        self.token_ids: list[int] = []  # what the cache holds
        self._n_touched = 0  # positions whose memory has been written to, or soon may be
        self._cache = cache
        self._owner = ""

    def shared_prefix(self, sequence: Sequence) -> int:
        """Return how many tokens need not be computed again: compared one by one, never those of another owner.

        One token at least is left to compute, for its logits.
        """
        if self._owner != sequence.owner:
            return 0
        pairs = zip(self.token_ids, sequence.token_ids[:-1], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    @property
    def size(self) -> int:
        """How many positions of the cache take up memory."""
        return self._n_touched

    def release(self, cache: "KVCache") -> None:
        """Give the memory back, and go on with a cache that has none yet."""
        self._cache = cache
        self.token_ids = []
        self._n_touched = 0

    def start(self, sequence: Sequence, donor: "Slot") -> None:
        """Take in a sequence, with what it shares with a donor: this slot itself, or one that is left as it is."""
        sequence.n_cached = donor.shared_prefix(sequence)
        if donor is self:
            self._cache.truncate(sequence.n_cached)
        else:
            self._cache.copy_prefix(donor._cache, sequence.n_cached)
        self.token_ids = donor.token_ids[: sequence.n_cached]
        self._n_touched = max(self._n_touched, sequence.max_length)
        self._owner, self.sequence = sequence.owner, sequence

    def forget(self) -> None:
        """Give up what the cache holds, after numbers that no reply may build on."""
        self.token_ids.clear()

    def pending(self) -> list[int]:
        """Return the tokens of the sequence that are not in the cache yet."""
        assert self.sequence is not None, "a free slot has nothing to compute"
        return self.sequence.token_ids[len(self.token_ids) :]

    def run(self, runner: "TorchRunner", token_ids: list[int]) -> "Floats":
        """Compute the next tokens into the cache; returns the logits (V,) after them."""
        logits = runner.run(token_ids, self._cache)
        self.token_ids += token_ids
        return logits
