"""What changes the logits of a reply before a token is drawn: its parameters, and the tokens that are there already.

In the order of Hugging Face's generate: bias, repetition penalty, frequency and presence penalty, then whatever rules
tokens out, by a logit of -inf: bans, the minimum length, the constraint, the forced beginning.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from model.errors import ModelError
from model.sampling import Floats, Ints
from model.sampling_params import SamplingParams

if TYPE_CHECKING:
    from model.constraint import Constraint


class LogitsProcessors:
    """The processors of one reply, which are told each of its tokens."""

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        *,
        end_ids: Iterable[int],
        constraint: "Constraint | None" = None,
    ) -> None:
        self._params = params
        self._token_ids = array("q", prompt)  # of the prompt and the reply, as NumPy can see them without a copy
        self._n_prompt = len(prompt)
        self._bias_ids = np.array([token_id for token_id, _ in params.logit_bias], np.intp)
        self._biases = np.array([bias for _, bias in params.logit_bias])
        self._banned = np.array(params.banned_token_ids, np.intp)
        self._ends = np.array(list(end_ids), np.intp)
        self._constraint = constraint
        self._penalizes = (params.repetition_penalty, params.frequency_penalty, params.presence_penalty) != (1, 0, 0)
        self._acts_always = bool(self._penalizes or params.logit_bias or params.banned_token_ids or constraint)
        self._acts_until = max(params.min_tokens, len(params.forced_token_ids))

    def apply(self, logits: Floats) -> Floats:
        """Return the logits (V,) of the next token, given finite ones, which stay as they are.

        Raises ModelError when no token is left, as when the constraint rules out a forced one.
        """
        if not self._acts_always and self._n_completed >= self._acts_until:
            return logits
        logits = logits.copy()
        logits[self._bias_ids] += self._biases
        if self._penalizes:
            self._penalize(logits)
        logits[self._banned] = -np.inf
        if self._n_completed < self._params.min_tokens:
            logits[self._ends] = -np.inf
        if self._constraint is not None:
            logits = self._constraint.apply(logits)
        if self._n_completed < len(self._params.forced_token_ids):
            _keep_only(logits, self._params.forced_token_ids[self._n_completed])
        if not np.isfinite(logits.max()):
            raise ModelError("No token can follow: what the request forbids and what it demands leave none.")
        return logits

    def accept(self, token_id: int) -> None:
        """Take in a token that the reply goes on with; raises ModelError when the constraint gives up."""
        if self._constraint is not None:
            self._constraint.accept(token_id)
        self._token_ids.append(token_id)

    @property
    def _n_completed(self) -> int:
        return len(self._token_ids) - self._n_prompt

    def _penalize(self, logits: Floats) -> None:
        params = self._params
        token_ids = np.frombuffer(self._token_ids, np.int64)
        first = max(0, len(token_ids) - params.penalty_window) if params.penalty_window else 0
        if params.repetition_penalty != 1:
            penalize_repetition(logits, token_ids[first:], params.repetition_penalty)
        reply = token_ids[max(first, self._n_prompt) :]
        penalize_counts(logits, reply, frequency=params.frequency_penalty, presence=params.presence_penalty)


# Both change the logits (V,) in place.


def penalize_repetition(logits: Floats, token_ids: Ints, penalty: float) -> None:
    """Push the logits of the given tokens down, each once: divided if positive, multiplied if not."""
    seen = np.flatnonzero(np.bincount(token_ids) > 0)
    logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)


def penalize_counts(logits: Floats, token_ids: Ints, *, frequency: float, presence: float) -> None:
    """Lower the logits of the given tokens by OpenAI's formula: count * frequency + presence."""
    counts = np.bincount(token_ids)
    seen = np.flatnonzero(counts > 0)
    logits[seen] -= counts[seen] * frequency + presence


def _keep_only(logits: Floats, token_id: int) -> None:
    kept = logits[token_id]
    logits.fill(-np.inf)
    logits[token_id] = kept
