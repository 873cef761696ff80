"""The web server: Gradio's page behind the guard, and the health of the engine."""

import gradio as gr
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse

from chat.api.guard import Guard
from chat.ui.page import CSS_PATH, HEAD
from model.engine.engine import Engine

MAX_EVENTS = 256
"""Handlers that Gradio runs at once: a page that watches a reply is one of them all the while."""
LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]


def create_app(page: gr.Blocks, engine: Engine) -> FastAPI:
    """Return the application: /health, and the page everywhere else."""
    app = FastAPI(title="Parley", docs_url=None, redoc_url=None, openapi_url=None)
    # Without a CORSMiddleware of the parent Gradio adds its own, which lets any origin in.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.add_middleware(Guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_HOSTS)

    app.add_api_route("/health", lambda: health(engine))
    page.max_threads = MAX_EVENTS
    page.queue(default_concurrency_limit=16, max_size=64, api_open=False)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        show_error=False,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        css_paths=[CSS_PATH],
        head=HEAD,
        theme=gr.themes.Default(),
    )
    return app


def health(engine: Engine) -> JSONResponse:
    """Tell whether replies can be written; 503 once they cannot."""
    status, code = ("ok", 200) if engine.healthy else ("error", 503)
    return JSONResponse({"status": status}, status_code=code)
