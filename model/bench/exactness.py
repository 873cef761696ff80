"""How far a contestant's answers are from those of the fp32 reference, on ordinary questions.

Two measures. The mean KL divergence of the next token's distribution, over replies that the reference has drawn at
temperature 1: an average over what the reference itself says estimates the divergence of whole replies without bias,
needs no text that suits every model, and has none of the loops of greedy replies. And the number of greedy replies that
are, token for token, the reference's.
"""

from collections.abc import Callable, Sequence

import numpy as np

from model.bench.contestant import Tokens
from model.bench.figures import Figure, Figures
from model.bench.worker import Worker
from model.chat_template import ChatMessage, ChatTemplate
from model.sampling import Floats

N_DRAWN, N_GREEDY = 100, 200  # tokens of each reply

QUESTIONS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "How do I boil an egg?",
    "Write a short poem about the sea.",
    "What is the difference between a virus and a bacterium?",
    "Give me three tips for sleeping better.",
    "Translate 'good morning' into Spanish.",
    "Who wrote Romeo and Juliet?",
    "What is 17 times 23?",
    "Explain photosynthesis to a child.",
    "Write a Python function that reverses a string.",
    "What should I pack for a week in the mountains?",
    "Tell me a story about a lost dog.",
    "How does a bicycle stay upright?",
    "What are the planets of the solar system?",
    "Write a polite email to ask for a day off.",
    "What causes the seasons?",
    "Name five fruits that are red.",
    "How can I learn to play the guitar?",
    "What happened in the year 1969?",
)


def encode_questions(chat_template: ChatTemplate) -> list[list[int]]:
    """Return the prompts of all questions."""
    return [chat_template.encode([ChatMessage("user", question)]) for question in QUESTIONS]


def measure_exactness(
    workers: Sequence[Worker],
    reference: Worker,
    prompts: Sequence[Tokens],
    figures: Figures,
    *,
    n_ctx: int,
    advance: Callable[[], None],
) -> None:
    """Measure all workers by the reference.

    Replies are shorter than N_DRAWN and N_GREEDY if `n_ctx` leaves less room. Calls `advance` after each of
    `len(workers) + len(prompts)` steps.
    """
    room = n_ctx - max(map(len, prompts))
    n_drawn, n_greedy = min(N_DRAWN, room), min(N_GREEDY, room)
    expected = reference.call("greedy", prompts, n_greedy)
    for worker in workers:
        replies = worker.call("greedy", prompts, n_greedy)
        figure = Figure("greedy_equal", f"of {len(prompts)}", tokens=n_greedy)
        figures.add(figure, worker.name, sum(map(list.__eq__, replies, expected)))
        advance()
    divergences = dict.fromkeys(workers, 0.0)
    for prompt, reply in zip(prompts, reference.call("sample", prompts, n_drawn), strict=True):
        text = [*prompt, *reply[:-1]]
        right = reference.call("logits", text, n_drawn)
        for worker in workers:
            divergences[worker] += divergence(right, worker.call("logits", text, n_drawn))
        advance()
    n_positions = len(prompts) * n_drawn
    for worker, total in divergences.items():
        figures.add(Figure("kl", "nats", tokens=n_positions), worker.name, total / n_positions)


def divergence(right: Floats, logits: Floats) -> float:
    """Return the KL divergence of two distributions in nats, computed in fp64, summed over all rows (T, V)."""
    log_right, log_other = _log_softmax(right), _log_softmax(logits)
    return float((np.exp(log_right) * (log_right - log_other)).sum())


def _log_softmax(logits: Floats) -> Floats:
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return logits
