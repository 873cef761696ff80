"""Print all routes of the program as JSON, with a data folder of their own: `python -m tests.list_routes FOLDER`."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastapi.routing import APIRoute, _IncludedRouter
from starlette.routing import BaseRoute, Mount, Route

from app import open_kept, open_memory
from chat.errors import ModelNotReady
from chat.loaded_model import LoadedModel
from chat.model_host import ModelHost
from chat.opening import open_model
from chat.settings import load_settings
from chat.ui.quick_import import import_gradio
from chat.workspace import open_workspace


def walk(routes: Iterable[BaseRoute], prefix: str) -> Iterator[str]:
    """Yield routes as METHOD path, those of what is mounted too; of a folder of files, one for all."""
    for route in routes:
        if isinstance(route, Mount):
            yield from walk(route.routes, prefix + route.path) if route.routes else [f"GET {prefix}{route.path}/file"]
        elif isinstance(route, _IncludedRouter):
            yield from walk(route.original_router.routes, prefix + route.include_context.prefix)
        elif isinstance(route, Route | APIRoute):
            for method in sorted((route.methods or {"GET"}) - {"HEAD", "OPTIONS"}):
                yield f"{method} {prefix}{route.path}".replace(":path}", "}")
        else:
            raise TypeError(f"neither a route nor a mount: {route}")


def no_model() -> LoadedModel:
    """Raise ModelNotReady."""
    raise ModelNotReady


def main(folder: Path) -> None:
    """Print them."""
    import_gradio()
    from chat.api.server import create_app

    settings = load_settings(data=folder)
    host = ModelHost(lambda name, bar: open_model(settings, bar))
    with (
        open_kept(settings, show=lambda text: None) as database,
        open_memory() as memory,
        open_workspace(database, no_model) as kept,
        open_workspace(memory, no_model) as temporary,
    ):
        print(json.dumps(list(walk(create_app(settings, kept, temporary, host).routes, ""))))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
