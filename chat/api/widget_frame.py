"""What a website loads to show the chat: the script for the page, and the document for the frame in it."""

import json
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from chat.sites import EmbedRefused, parse_origin
from chat.visitors import Visitors
from storage.tables import Site

FOLDER = Path(__file__).parent.parent / "widget"
LOADER = "widget.js"

# No inline script or style, nothing of another host, and no text that could turn into HTML.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}; require-trusted-types-for 'script'"
)


class WidgetFiles(StaticFiles):
    """The scripts and styles of the widget; a browser asks each time whether they are still the same."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or that it has not changed; raises HTTPException."""
        if not path.endswith((".js", ".css")):  # the documents are templates
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


class LoaderFile(WidgetFiles):
    """The script that pages of other origins load: there is one, under any path."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the script, or that it has not changed."""
        response = await super().get_response(LOADER, scope)
        response.headers["Cache-Control"] = "public, max-age=300"
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        return response


def frame_routes(visitors: Visitors) -> APIRouter:
    """Return the route of the frame's document, whether it shows the chat or why it does not."""
    routes = APIRouter()
    documents = Environment(loader=FileSystemLoader(FOLDER), autoescape=True)
    frame, refused = documents.get_template("frame.html"), documents.get_template("refused.html")

    @routes.get("/{key}")
    def show(request: Request, key: str, origin: str = "") -> HTMLResponse:
        """Only a page of an origin of the site can have the chat in a frame; any other learns why it cannot."""
        try:
            site = visitors.door(key, origin, own_origin(request))
        except EmbedRefused as error:
            page = refused.render(reason=error.reason, origin=_spelled(origin))
            return _document(page, 403, ancestors="* file:")
        page = frame.render(site=site.key, origin=origin, appearance=json.dumps(appearance_of(site)))
        return _document(page, 200, ancestors=" ".join(["'self'", *site.origins]))

    return routes


def own_origin(request: Request) -> str:
    """Return the origin under which a browser has asked."""
    return f"{request.url.scheme}://{request.headers.get('host', '').lower()}"


def appearance_of(site: Site) -> dict[str, str]:
    """Return how the chat of a site looks, as its owner has it."""
    return {name: str(value) for name, value in site.appearance.items()}


def _document(page: str, status: int, *, ancestors: str) -> HTMLResponse:
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": POLICY.format(ancestors=ancestors),
        # without these two, pages that isolate themselves could not show it
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Resource-Policy": "cross-origin",
    }
    return HTMLResponse(page, status, headers)


def _spelled(origin: str) -> str:
    """Return an origin that a message can be sent to, or nothing."""
    try:
        return origin if parse_origin(origin) == origin else ""
    except ValueError:
        return ""
