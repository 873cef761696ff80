"""From logits to the next token id.

In NumPy, not PyTorch: one row of a vocabulary is small, and every runner can hand out a NumPy view of its logits.

The order is that of Hugging Face's generate. First, in model.logits_processors: bias, repetition, frequency and
presence penalty, bans, minimum length, constraint, forced tokens. Then, here: temperature, top-k, top-p, min-p,
typical-p, draw. Each filter sees the probabilities that the one before it has left, scaled to add up to 1.
"""

import numpy as np
import numpy.typing as npt

from model.sampling_params import SamplingParams

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.intp]

NEGLIGIBLE = 60.0  # in natural logarithms: e**-60 of the most likely
ROUNDING = 1e-9  # sums of probabilities are wrong by less


def sample(logits: Floats, params: SamplingParams, *, generator: np.random.Generator) -> int:
    """Choose a token id, given logits (V,) of which the largest is finite; those that are -inf are never drawn.

    Takes one number from the generator, none at temperature 0.
    """
    if params.temperature == 0:
        return int(logits.argmax())  # of equals, the lower id
    token_ids, probabilities = softmax(logits, params.temperature)
    number = generator.random()
    order = rank_head(probabilities, params, number)
    return int(token_ids[order[_draw(apply_filters(probabilities[order], params), number)]])


def sample_by_sorting(logits: Floats, params: SamplingParams, *, generator: np.random.Generator) -> int:
    """Choose what `sample` chooses, always: the readable reference, which sorts all tokens."""
    if params.temperature == 0:
        return int(logits.argmax())
    token_ids, probabilities = softmax(logits, params.temperature)
    order = rank(probabilities)
    return int(token_ids[order[_draw(apply_filters(probabilities[order], params), generator.random())]])


def softmax(logits: Floats, temperature: float) -> tuple[Ints, Floats]:
    """Return the ids (n,) of the tokens that a draw can reach, in rising order, and their probabilities in fp64.

    The others are e**-60 times as likely as the first, or less: a million of them stay below the 2**-53 that a
    random number resolves. At low temperatures that spares most of the work.
    """
    largest_logit = float(logits.max())
    token_ids = np.flatnonzero(logits >= largest_logit - NEGLIGIBLE * temperature)
    probabilities = logits[token_ids].astype(np.float64)  # from here on in place: it may be the whole vocabulary
    probabilities -= largest_logit  # first of all, so that a tiny temperature overflows nothing
    probabilities /= temperature
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum()
    return token_ids, probabilities


def rank(values: Floats) -> Ints:
    """Return the places of all values (n,), the largest first; of equals, the lower place."""
    return np.argsort(-values, kind="stable")


def largest(values: Floats, k: int) -> Ints:
    """Return the first k of `rank(values)` without sorting the rest; k is 1 or more."""
    n_groups = max(4 * k, 512)  # wide enough to be fast, and few of the k fall into the same group
    if n_groups >= values.size:
        return rank(values)[:k]
    # the k largest of the groups' maxima are values themselves: the k largest values lie no lower
    maxima = values[: values.size // n_groups * n_groups].reshape(-1, n_groups).max(axis=0)
    floor = np.partition(maxima, n_groups - k)[n_groups - k]
    return _rank_above(values, floor)[:k]


def rank_head(probabilities: Floats, params: SamplingParams, number: float) -> Ints:
    """Return the beginning of `rank(probabilities)`, as far as the filters or a draw with this number may reach."""
    if params.top_k:
        return largest(probabilities, params.top_k)
    return _rank_above(probabilities, _floor(probabilities, params, number))


def _floor(probabilities: Floats, params: SamplingParams, number: float) -> float:
    """Return a probability such that no token below it can be drawn."""
    if params.top_p < 1:
        return _floor_of_share(probabilities, params.top_p)
    if params.min_p:
        return params.min_p * float(probabilities.max())
    if params.typical_p < 1:
        return 0.0  # rare tokens may be the typical ones
    return _floor_of_share(probabilities, number)


def _floor_of_share(probabilities: Floats, share: float) -> float:
    """Return a probability such that the tokens above it reach a share together.

    Of n tokens, those below spare / 2n add up to less than half of what is to spare: they may go. What is to spare
    among the others gives a higher floor; after three rounds little is gained.
    """
    floor = 0.0
    for _ in range(3):
        spare = float(probabilities.sum()) - share
        if spare < ROUNDING:
            break
        floor = max(floor, spare / (2 * probabilities.size))
        probabilities = probabilities[probabilities >= floor]
    return floor


def _rank_above(values: Floats, floor: float) -> Ints:
    places = np.flatnonzero(values >= floor)
    return places[rank(values[places])]


# Each filter takes probabilities in falling order and returns them, the first few or some as 0, adding up to 1.


def apply_filters(probabilities: Floats, params: SamplingParams) -> Floats:
    """Apply all filters that are on."""
    if params.top_k:
        probabilities = apply_top_k(probabilities, params.top_k)
    if params.top_p < 1:
        probabilities = apply_top_p(probabilities, params.top_p)
    if params.min_p:
        probabilities = apply_min_p(probabilities, params.min_p)
    if params.typical_p < 1:
        probabilities = apply_typical_p(probabilities, params.typical_p)
    return probabilities


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


def apply_typical_p(probabilities: Floats, typical_p: float) -> Floats:
    """Keep the fewest that reach typical_p together, those first whose surprise is closest to the expected one.

    Locally typical sampling (Meister et al. 2022). The probabilities are above 0; of equals, the lower place counts
    as closer.
    """
    surprise = -np.log(probabilities)
    distance = np.abs(surprise - (probabilities * surprise).sum())
    order = np.argsort(distance, kind="stable")
    n_kept = int(np.searchsorted(np.cumsum(probabilities[order]), typical_p)) + 1
    kept = np.zeros_like(probabilities)
    kept[order[:n_kept]] = probabilities[order[:n_kept]]
    return _renormalize(kept)


def _renormalize(probabilities: Floats) -> Floats:
    return probabilities / probabilities.sum()


def _draw(probabilities: Floats, number: float) -> int:
    """Return the place that a number from [0, 1) falls to, each taking its share."""
    edges = np.cumsum(probabilities)
    last = np.searchsorted(edges, edges[-1])  # rounding may leave the sum just below 1
    return int(min(np.searchsorted(edges, number, side="right"), last))
