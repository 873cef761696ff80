"""A bar for whatever takes its time."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NoReturn

from tqdm import tqdm

Progress = Callable[[int, int], None]  # takes how much is done, and of how much
ProgressBar = Callable[[str, str], AbstractContextManager[Progress]]  # takes a label and a unit

logger = logging.getLogger("parley")


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Progress]:
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
