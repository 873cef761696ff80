"""The web server: the API, and Gradio's page on it, behind the guard."""

import gradio as gr
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from chat.api.archive import archive_routes
from chat.api.care import care_routes
from chat.api.conversations import conversation_routes
from chat.api.errors import register_errors
from chat.api.events import event_routes
from chat.api.gate import Gate
from chat.api.guard import Guard
from chat.api.highlight import highlight_routes
from chat.api.messages import message_routes
from chat.api.model import StatusReader, model_routes
from chat.api.presets import preset_routes
from chat.api.search import search_routes
from chat.api.tokens import token_routes
from chat.data_folder import LOCAL_OWNER
from chat.model_host import ModelHost
from chat.settings import Settings
from chat.ui.head import Head
from chat.ui.page import HEAD, ICON, STATIC, STATIC_PATH, STYLES, build_page
from chat.ui.texts import I18N
from chat.workspace import Workspace

LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]


def create_app(settings: Settings, kept: Workspace, temporary: Workspace, host: ModelHost) -> FastAPI:
    """Return the application: /health, the API under /api, and the page everywhere else."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Without a CORSMiddleware of the parent Gradio adds its own, which lets any origin in.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.add_middleware(Head, head=HEAD)
    app.add_middleware(Gate)
    app.add_middleware(Guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_HOSTS)
    app.add_api_route("/health", lambda: health(host))
    # an application of its own, or what it has no route for would be Gradio's
    app.mount("/api", create_api(settings, kept, temporary, host))
    _mount_page(app, build_page(kept, settings, LOCAL_OWNER))
    return app


def create_api(settings: Settings, kept: Workspace, temporary: Workspace, host: ModelHost) -> FastAPI:
    """Return the API; temporary conversations have routes of their own."""
    api = FastAPI(title="Parley", docs_url=None, redoc_url=None)
    register_errors(api)
    status = StatusReader(host)
    for workspace, prefix in ((kept, ""), (temporary, "/temporary")):
        for make_routes in (conversation_routes, message_routes, token_routes):
            api.include_router(make_routes(workspace), prefix=prefix)
        api.include_router(event_routes(workspace, status), prefix=prefix)
    for routes in (
        search_routes(kept),
        archive_routes(kept, settings.data),
        preset_routes(kept),
        care_routes(kept),
        model_routes(host, settings.data / "models"),
        highlight_routes(),
    ):
        api.include_router(routes)
    return api


def health(host: ModelHost) -> JSONResponse:
    """Tell whether replies can be written; 503 while they cannot."""
    status, model = host.look()
    if model and not model.engine.healthy:
        return JSONResponse({"status": "error"}, status_code=503)
    return JSONResponse({"status": "ok" if model else status.state}, status_code=200 if model else 503)


def _mount_page(app: FastAPI, page: gr.Blocks) -> None:
    app.mount(STATIC_PATH, StaticFiles(directory=STATIC))
    page.queue(default_concurrency_limit=16, max_size=64, api_open=False)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        show_error=False,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        pwa=True,
        favicon_path=str(ICON),
        i18n=I18N,
        head=STYLES,
        theme=gr.themes.Default(primary_hue="blue", secondary_hue="blue", neutral_hue="slate"),
    )
