"""From logits to the next token id.

In NumPy, not PyTorch: one row of a vocabulary is small, every runner can hand out a NumPy view of its logits,
and nothing that only wants to name parameters has to import torch.

The order is that of Hugging Face's generate: repetition penalty, temperature, top-k, top-p, min-p, draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens and when to stop. The defaults are those of SmolLM2's model card."""

    temperature: float = 0.2
    """0 takes the most likely token always (greedy)."""
    top_k: int = 0
    """Draw among the k most likely tokens, exactly k even where they tie; 0 is off."""
    top_p: float = 0.9
    """Draw among the fewest most likely tokens that together reach this probability; 1 is off."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one; 0 is off."""
    repetition_penalty: float = 1.0
    """Above 1, tokens of the prompt and of the reply become less likely (Keskar et al. 2019); 1 is off."""
    stop: tuple[str, ...] = ()
    """The reply ends before the first of these strings."""
    max_tokens: int = 1024
    """The reply ends after so many tokens."""
    seed: int | None = None
    """The same seed gives the same reply; None draws a new one each time."""

    def __post_init__(self) -> None:
        self._check("temperature", 0 <= self.temperature <= 100, "between 0 and 100")
        self._check("top_k", isinstance(self.top_k, int) and self.top_k >= 0, "a whole number, 0 or more")
        self._check("top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        self._check("min_p", 0 <= self.min_p <= 1, "between 0 and 1")
        self._check("repetition_penalty", 0.01 <= self.repetition_penalty <= 100, "between 0.01 and 100")
        self._check("stop", "" not in self.stop, "strings that are not empty")
        self._check(
            "max_tokens", isinstance(self.max_tokens, int) and self.max_tokens >= 1, "a whole number, 1 or more"
        )
        seed_holds = self.seed is None or (isinstance(self.seed, int) and 0 <= self.seed < 2**63)
        self._check("seed", seed_holds, "a whole number between 0 and 2**63 - 1")

    def _check(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}")


def apply_repetition_penalty(logits: Floats, token_ids: Sequence[int], penalty: float) -> Floats:
    """Return logits (V,) with those of the given tokens pushed down: divided if positive, multiplied if not."""
    seen = np.unique(np.asarray(token_ids, dtype=np.int64))
    penalized = logits.copy()
    penalized[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    return penalized


# Each filter takes probabilities in falling order and returns the first few of them, scaled to add up to 1.


def apply_top_k(probabilities: Floats, top_k: int) -> Floats:
    """Keep the k most likely."""
    return _renormalize(probabilities[:top_k])


def apply_top_p(probabilities: Floats, top_p: float) -> Floats:
    """Keep the fewest that reach top_p together (nucleus sampling, Holtzman et al. 2019)."""
    n_kept = int(np.searchsorted(np.cumsum(probabilities), top_p)) + 1
    return _renormalize(probabilities[:n_kept])


def apply_min_p(probabilities: Floats, min_p: float) -> Floats:
    """Keep those at least min_p times as likely as the first (Nguyen et al. 2024)."""
    n_kept = int(np.count_nonzero(probabilities >= min_p * probabilities[0]))
    return _renormalize(probabilities[:n_kept])


def _renormalize(probabilities: Floats) -> Floats:
    return probabilities / probabilities.sum()


def sample(logits: Floats, params: SamplingParams, *, token_ids: Sequence[int], generator: np.random.Generator) -> int:
    """Choose the id that follows token_ids, given finite logits (V,); takes one number from the generator."""
    if params.repetition_penalty != 1:
        logits = apply_repetition_penalty(logits, token_ids, params.repetition_penalty)
    if params.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")  # of equals, the lower id comes first
    probabilities = _softmax(logits[order].astype(np.float64), params.temperature)
    if params.top_k:
        probabilities = apply_top_k(probabilities, params.top_k)
    if params.top_p < 1:
        probabilities = apply_top_p(probabilities, params.top_p)
    if params.min_p:
        probabilities = apply_min_p(probabilities, params.min_p)
    rank = int(np.searchsorted(np.cumsum(probabilities), generator.random(), side="right"))
    return int(order[min(rank, probabilities.size - 1)])  # rounding may leave the sum just below 1


def _softmax(logits: Floats, temperature: float) -> Floats:
    # the maximum goes first, so that a tiny temperature overflows only to exp(-inf), which is 0
    with np.errstate(over="ignore"):
        return _renormalize(np.exp((logits - logits.max()) / temperature))
