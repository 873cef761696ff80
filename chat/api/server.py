"""The web server: Gradio's page behind the guard, and the health of the engine."""

from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse

from chat.api.guard import Guard
from chat.ui.page import CSS_PATH, HEAD
from model.engine.engine import Engine

LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]


def create_app(page: gr.Blocks, engine: Engine) -> FastAPI:
    """Return the application: /health, and the page everywhere else."""
    app = FastAPI(title="Parley", docs_url=None, redoc_url=None, openapi_url=None)
    # Without a CORSMiddleware of the parent Gradio adds its own, which lets any origin in.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.add_middleware(Guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_HOSTS)

    @app.get("/health")
    def health() -> JSONResponse:
        content: dict[str, Any] = {"status": "ok" if engine.healthy else "error"}
        return JSONResponse(content, status_code=200 if engine.healthy else 503)

    page.queue(default_concurrency_limit=16, max_size=64, api_open=False)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        show_error=False,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        max_file_size="1kb",  # nothing is uploaded here
        css_paths=[CSS_PATH],
        head=HEAD,
        theme=gr.themes.Default(),
    )
    return app
