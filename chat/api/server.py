"""The web server: the API, and Gradio's page on it, behind the guard."""

import gradio as gr
from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.staticfiles import StaticFiles

from chat.accounts import Accounts
from chat.api.accounts import account_routes
from chat.api.archive import archive_routes
from chat.api.care import care_routes
from chat.api.conversations import conversation_routes
from chat.api.embed_check import check_routes
from chat.api.errors import register_errors
from chat.api.events import event_routes
from chat.api.fence import Fence
from chat.api.gate import Gate
from chat.api.guard import Guard
from chat.api.health import health_routes
from chat.api.highlight import highlight_routes
from chat.api.hosts import Hosts
from chat.api.login import login_routes
from chat.api.messages import message_routes
from chat.api.metrics import Metrics, metrics_routes
from chat.api.model import StatusReader, model_routes
from chat.api.presets import preset_routes
from chat.api.queries import refuse_unknown_queries
from chat.api.quotas import Quotas, count_into
from chat.api.request_log import RequestLog
from chat.api.search import search_routes
from chat.api.sites import site_routes
from chat.api.tokens import token_routes
from chat.api.v1.server import create_v1
from chat.api.widget import create_widget, loader_route
from chat.limits import DailyTokens
from chat.model_host import ModelHost
from chat.secret import load_secret
from chat.sessions import Sessions
from chat.settings import Settings
from chat.ui.head import Head
from chat.ui.page import HEAD, ICON, STATIC, STATIC_PATH, STYLES, admin_head, build_page
from chat.ui.texts import I18N
from chat.workspace import Workspace


def create_app(settings: Settings, kept: Workspace, temporary: Workspace, host: ModelHost) -> FastAPI:
    """Return the application: /api, /v1, /widget, what is beside them, and the page."""
    secret = load_secret(settings.data)
    accounts, sessions = Accounts(kept.accounts), Sessions(secret)
    metrics, tokens = Metrics(host, settings.data / "parley.db"), DailyTokens(settings.tokens_per_day)
    host.call_at_end(count_into(tokens))
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=metrics.lifespan)
    register_errors(app)
    # Without a CORSMiddleware of the parent Gradio adds its own, which lets any origin in.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.add_middleware(Head, head=HEAD, admin_head=admin_head(settings))
    app.add_middleware(Fence)
    app.add_middleware(Quotas, tokens=tokens, requests_per_minute=settings.requests_per_minute)
    app.add_middleware(Gate, accounts=accounts, sessions=sessions)
    app.add_middleware(Hosts, names=settings.hosts)
    app.add_middleware(Guard)  # so far out that what the others answer has its headers too
    app.add_middleware(RequestLog, metrics=metrics)
    app.include_router(health_routes(host))
    app.include_router(metrics_routes(metrics))
    app.include_router(login_routes(accounts, sessions))
    # an application of its own, or what it has no route for would be Gradio's
    api = create_api(settings, kept, temporary, host)
    api.include_router(account_routes(accounts, sessions, kept, temporary))
    api.include_router(site_routes(kept, secret))
    api.include_router(check_routes(kept, settings))
    app.mount("/api", api)
    app.mount("/v1", create_v1(host, kept.bus))
    app.router.routes.append(loader_route())
    app.mount("/widget", create_widget(kept, secret, tokens))
    _mount_page(app, build_page())
    return app


def create_api(settings: Settings, kept: Workspace, temporary: Workspace, host: ModelHost) -> FastAPI:
    """Return the API; temporary conversations have routes of their own."""
    api = FastAPI(title="Parley", docs_url=None, redoc_url=None, dependencies=[Depends(refuse_unknown_queries)])
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


def _mount_page(app: FastAPI, page: gr.Blocks) -> None:
    app.mount(STATIC_PATH, GZipMiddleware(StaticFiles(directory=STATIC)))
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
