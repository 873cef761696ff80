"""The model in use, and another that is being loaded behind it."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from chat.errors import ChatError, ModelNotReady, NotPossible
from chat.loaded_model import LoadedModel
from chat.opening import name_of_model
from chat.progress import ProgressBar, progress_bar
from chat.settings import SettingsError
from model.engine.generation import Generation
from model.errors import ModelError

State = Literal["loading", "ready", "failed"]
OpenModel = Callable[[str, ProgressBar], AbstractContextManager[LoadedModel]]

IDLE_SECONDS = 0.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What the host holds and does: `state` is that of the model in use, `next` another that is being loaded."""

    state: State
    name: str | None  # of the model in use; of the one that is, or was to be, loaded while there is none
    next: str | None = None
    label: str = ""  # what is being done to the next one
    done: int = 0
    total: int = 0
    error: str | None = None  # why the last one that was to be loaded is not here


class _Closed(Exception):
    """Nothing is to be loaded any more."""


class ModelHost:
    """Loads models in a thread of its own; those who chat go on with the old one until the new one is ready."""

    def __init__(self, open_model: OpenModel) -> None:
        """Load by a function of a model's name that opens it, and shows its progress by the bars that it is given."""
        self._open_model = open_model
        self._lock = threading.Lock()
        self._model: LoadedModel | None = None
        self._opened = ExitStack()  # what is to be closed with the model in use
        self._status = ModelStatus("loading", None)
        self._listeners: list[Callable[[], None]] = []
        self._end_listeners: list[Callable[[str, Generation], None]] = []
        self._loader = threading.Thread(target=lambda: None)
        self._closed = False

    def model(self) -> LoadedModel:
        """Return the model in use; raises ModelNotReady."""
        with self._lock:
            model, status = self._model, self._status
        if model is None:
            raise ModelNotReady(status.error)
        return model

    def look(self) -> tuple[ModelStatus, LoadedModel | None]:
        """Return what the host does at this moment, and the model in use."""
        with self._lock:
            return self._status, self._model

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call a listener at each change of the status; it must not wait for anything."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)

    def call_at_end(self, listener: Callable[[str, Generation], None]) -> None:
        """Call a listener with the owner and the generation whenever one of a model's that is loaded later has ended.

        It must not wait for anything.
        """
        self._end_listeners.append(listener)

    def load(self, name: str) -> None:
        """Begin to load a model, unless the host is closed; raises NotPossible while another one is being loaded."""
        with self._lock:
            if self._closed:
                return
            if self._status.next:
                raise NotPossible(f"The model {self._status.next} is being loaded: wait until it is here.")
            path = os.path.expanduser(name)  # what errors quote
            self._loader = threading.Thread(target=self._load, args=(path,), name="model loader", daemon=True)
            called = name_of_model(name)  # everybody sees it: where it is on this machine is for nobody
            shown = self._status.name if self._model else called
            self._status = replace(self._status, name=shown, next=called, label="", done=0, total=0, error=None)
            if self._model is None:
                self._status = replace(self._status, state="loading")
        self._tell()
        self._loader.start()

    def wait(self) -> LoadedModel:
        """Wait for the model that is being loaded and return it; raises ModelNotReady if it cannot be used."""
        self._loader.join()
        return self.model()

    def close(self) -> None:
        """Close the model in use, which ends all its replies; what is being loaded is given up at its next step."""
        with self._lock:
            self._closed, self._model = True, None
            opened, self._opened = self._opened, ExitStack()
        opened.close()

    # The thread.

    def _load(self, name: str) -> None:
        opened = ExitStack()
        try:
            model = opened.enter_context(self._open_model(name, self._bar))
            for listener in self._end_listeners:
                model.engine.call_at_end(listener)
            self._replace(model, opened)
        except _Closed:
            opened.close()
        except (ChatError, ModelError, SettingsError, OSError) as error:
            self._fail(str(error).replace(name, name_of_model(name)))
        except Exception:  # whatever it is: those who wait must hear of it
            logger.exception("the model %s could not be loaded", name)
            self._fail(f"The model {name_of_model(name)} could not be loaded; Parley's log says why.")

    def _replace(self, model: LoadedModel, opened: ExitStack) -> None:
        with self._lock:
            if self._closed:
                raise _Closed
            old, self._model = self._model, model
            old_opened, self._opened = self._opened, opened
            self._status = ModelStatus("ready", model.name)
        logger.info("The model %s is ready.", model.name)
        self._tell()
        while old and (old.engine.n_running or old.engine.n_waiting):  # who is being answered is answered to the end
            time.sleep(IDLE_SECONDS)
        old_opened.close()

    def _fail(self, reason: str) -> None:
        logger.error("%s", reason)
        with self._lock:
            state: State = "ready" if self._model else "failed"
            self._status = replace(self._status, state=state, next=None, error=reason)
        self._tell()

    @contextmanager
    def _bar(self, label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
        with progress_bar(label, unit) as draw:

            def progress(done: int, total: int) -> None:
                draw(done, total)
                with self._lock:
                    if self._closed:
                        raise _Closed
                    self._status = replace(self._status, label=label, done=done, total=total)
                self._tell()

            yield progress

    def _tell(self) -> None:
        with self._lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener()
