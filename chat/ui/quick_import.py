"""Gradio imported in half of its time."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def import_gradio() -> None:
    """Import Gradio without its rewriting of the type stubs beside its modules, which is what takes longest.

    It leaves out the stubs of classes whose file is not known (gradio/component_meta.py, create_or_modify_pyi).
    """
    with _hidden_files():
        import gradio  # noqa: F401


@contextmanager
def _hidden_files() -> Iterator[None]:
    getfile = inspect.getfile

    def hide(thing: Any) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError("hidden")
        return getfile(thing)

    inspect.getfile = hide  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getfile = getfile
