"""The replies to one request: they begin together, and none outlives the request."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from chat.api.errors import PARAMS, InvalidField
from chat.api.v1.schemas import CompletionUsage, Timings
from chat.loaded_model import LoadedModel
from model.engine.generation import Generation
from model.errors import CheckpointError, PromptTooLong
from model.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a reply is written to."""

    token_ids: list[int]
    n_shared: int = 0  # of the first tokens, the same for all owners


@contextmanager
def blaming(param: str) -> Iterator[None]:
    """Turn what the model says of a prompt or of parameters into errors that name a field of the request."""
    try:
        yield
    except PromptTooLong as error:
        raise InvalidField(param, f"{param}: {error}", "context_length_exceeded") from None
    except CheckpointError as error:
        raise InvalidField(param, f"{param}: {error}") from None
    except ValueError as error:  # its text begins with the name of what is wrong
        name = str(error).partition(" ")[0].partition(".")[0].rstrip(":")
        if name not in PARAMS:
            raise
        raise InvalidField(name, str(error)) from None


class Replies:
    """The generations of one request: `n` to each prompt, in the order of their choices."""

    def __init__(self, model: LoadedModel, owner: str, prompts: Sequence[Prompt], params: SamplingParams, n: int):
        """Have them begin, all or none: of the replies to a prompt, each has the next seed, if there is one.

        Raises ValueError, PromptTooLong, EngineBusy, EngineStopped.
        """
        self.model = model
        self.created = int(time.time())
        self.generations: list[Generation] = []
        self._n = n
        try:
            for prompt in prompts:
                for number in range(n):
                    self.generations.append(_submit(model, owner, prompt, _seeded(params, number)))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """End them all; those that have ended stay as they are. All have their usage afterwards."""
        for generation in self.generations:
            generation.cancel()

    def usage(self) -> CompletionUsage:
        """Return what they have cost, once all have ended."""
        usages = [generation.usage for generation in self.generations if generation.usage]
        n_prompt = sum(usage.prompt_tokens for usage in usages[:: self._n])
        n_completion = sum(usage.completion_tokens for usage in usages)
        return CompletionUsage(
            prompt_tokens=n_prompt,
            completion_tokens=n_completion,
            total_tokens=n_prompt + n_completion,
            prompt_tokens_details={"cached_tokens": sum(usage.cached_tokens for usage in usages[:: self._n])},
        )

    def timings(self) -> Timings | None:
        """Return where the time went, if there is one reply, which has ended: those of several overlap."""
        if len(self.generations) != 1 or (usage := self.generations[0].usage) is None:
            return None
        n_prompt = usage.prompt_tokens - usage.cached_tokens
        return Timings(
            cache_n=usage.cached_tokens,
            prompt_n=n_prompt,
            prompt_ms=usage.prefill_ms,
            prompt_per_second=_per_second(n_prompt, usage.prefill_ms),
            predicted_n=usage.completion_tokens,
            predicted_ms=usage.decode_ms,
            predicted_per_second=_per_second(usage.completion_tokens, usage.decode_ms),
            draft_n=usage.drafted_tokens,
            draft_n_accepted=usage.accepted_tokens,
        )


def _submit(model: LoadedModel, owner: str, prompt: Prompt, params: SamplingParams) -> Generation:
    return model.engine.submit(prompt.token_ids, params, owner=owner, n_shared=prompt.n_shared)


def _seeded(params: SamplingParams, number: int) -> SamplingParams:
    return params if params.seed is None else replace(params, seed=(params.seed + number) % 2**63)


def _per_second(n: int, milliseconds: float) -> float:
    return 1000 * n / milliseconds if milliseconds else 0.0
