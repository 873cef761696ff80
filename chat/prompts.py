"""How the prompt of a reply is stored: as what it adds to the prompt and reply before it.

Each prompt repeats the conversation, so that prompts stored whole would grow with the square of its length. A reply
keeps `prompt_shared`, how many of the first tokens of the prompt and reply before it its own prompt begins with, and
`prompt_ids`, the rest of its prompt. Those before it are the prompt and the tokens, if they are stored, of the nearest
reply above on its path that has a prompt stored; without one there is nothing before it.
"""

from collections.abc import Sequence

from storage.tables import Message


def split_prompt(path: Sequence[Message], prompt: Sequence[int]) -> tuple[int, list[int]]:
    """Return `prompt_shared` and `prompt_ids` of a reply, given the path from the root to its parent."""
    n_shared = n_common(_before(path), prompt)
    return n_shared, list(prompt[n_shared:])


def join_prompt(path: Sequence[Message], reply: Message) -> list[int] | None:
    """Return the whole prompt of a reply, given the path from the root to its parent; None if it is not stored."""
    if reply.prompt_shared is None or reply.prompt_ids is None:
        return None
    return [*_before(path)[: reply.prompt_shared], *reply.prompt_ids]


def n_common(first: Sequence[object], second: Sequence[object]) -> int:
    """Return how many items two sequences have in common at their beginning."""
    n_same = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        n_same += 1
    return n_same


def _before(path: Sequence[Message]) -> list[int]:
    """Return the last stored prompt of a path and the reply to it."""
    token_ids: list[int] = []
    for message in path:
        if message.prompt_ids is not None:
            del token_ids[message.prompt_shared :]
            token_ids += message.prompt_ids
            token_ids += message.token_ids or ()
    return token_ids
