"""Gradio imported in two fifths of its time."""

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

LATER = "pandas"
"""Imported with Gradio, which needs it for tables and plots."""


def import_gradio() -> None:
    """Import Gradio without what it can do without: the rewriting of the type stubs beside its modules, and pandas.

    It leaves out the stubs of classes whose file is not known (gradio/component_meta.py, create_or_modify_pyi).
    """
    sys.modules.setdefault(LATER, _Later(LATER))
    with _hidden_files():
        import gradio  # noqa: F401


class _Later(ModuleType):
    """Stands for a package until something in it is asked for."""

    def __getattr__(self, name: str) -> Any:
        # as whoever looks through all modules does; pyarrow asks for the version
        if name.startswith("__") and name not in ("__path__", "__version__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


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
