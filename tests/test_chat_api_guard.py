"""The guard, in front of anything."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse

from chat.api.guard import MAX_BODY_BYTES, MAX_IMPORT_BYTES, Guard


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.add_middleware(Guard)
    methods = ["GET", "POST", "DELETE"]
    app.add_api_route("/{path:path}", lambda: PlainTextResponse("in"), methods=methods)
    return TestClient(app)


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/api/import", MAX_IMPORT_BYTES),
        ("/api/import/", MAX_BODY_BYTES),
        ("/api/importer", MAX_BODY_BYTES),
        ("/api/export", MAX_BODY_BYTES),
        ("/gradio_api/queue/join", MAX_BODY_BYTES),
    ],
)
def test_only_an_import_may_be_large(client: TestClient, path: str, limit: int) -> None:
    def post(n_bytes: int) -> int:
        return client.post(path, headers={"Content-Length": str(n_bytes)}).status_code

    assert (post(limit), post(limit + 1)) == (200, 413)


def test_a_request_without_a_body_needs_no_length(client: TestClient) -> None:
    assert client.delete("/api/presets/x").status_code == 200


def test_a_body_of_unknown_length_is_refused(client: TestClient) -> None:
    assert client.post("/api/import", content=iter([b"{}"])).status_code == 411
    assert client.post("/api/import", headers={"Content-Length": "many"}).status_code == 411


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403, "forbidden"),
        ({"Content-Length": "8000001"}, 413, "request_entity_too_large"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
    ],
)
def test_the_api_refuses_in_its_own_form(client: TestClient, headers: dict[str, str], status: int, code: str) -> None:
    answer = client.post("/api/export", headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (status, "invalid_request_error", None)
    assert error["code"] == code
    assert client.post("/other", headers=headers).text == error["message"]
