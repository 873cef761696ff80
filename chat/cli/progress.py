"""A bar for whatever takes its time."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NoReturn

from tqdm import tqdm

logger = logging.getLogger("parley")


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function of (done, total) that draws a bar on stderr: from its first call on, on a terminal only."""
    with ExitStack() as stack:
        bars: list[tqdm[NoReturn]] = []

        def progress(done: int, total: int) -> None:
            if not bars:
                logger.info("%s ...", label)
                bar = tqdm(total=total, desc=label, unit=unit, unit_scale=unit == "B", leave=False, disable=None)
                bars.append(stack.enter_context(bar))
            bars[0].update(done - bars[0].n)

        yield progress
