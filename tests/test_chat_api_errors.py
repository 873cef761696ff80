"""Every error has one form: what went wrong, in one line, and which field is to blame."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from api_client import Served
from fastapi import FastAPI, Query
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict

from chat.api.errors import InvalidField, register_errors
from chat.errors import (
    BlankMessage,
    MessageTooLong,
    ModelNotReady,
    NothingSelected,
    NotPossible,
    PromptFailed,
    UnknownFormat,
    UnknownPreset,
    Unreadable,
)
from chat.presets import InvalidPreset
from model.errors import CheckpointError, EngineBusy, EngineStopped, PromptTooLong
from model.sampling_params import SamplingParams
from storage.backup import BackupExists
from storage.erasure import ErasureUnfinished
from storage.errors import ConversationBusy, ConversationMoved, ConversationNotFound, DatabaseUnusable, MessageNotFound
from storage.presets import PresetNotFound

PATH = Path("parley.db")

ERRORS: list[tuple[Exception, int, str, str | None, str]] = [
    (ConversationNotFound("5"), 404, "not_found_error", None, "conversation_not_found"),
    (MessageNotFound("5"), 404, "not_found_error", None, "message_not_found"),
    (PresetNotFound("5"), 404, "not_found_error", None, "preset_not_found"),
    (ConversationBusy(), 409, "conflict_error", None, "conversation_busy"),
    (ConversationMoved(), 409, "conflict_error", None, "conversation_moved"),
    (NotPossible("No."), 409, "conflict_error", None, "not_possible"),
    (ErasureUnfinished(PATH), 409, "conflict_error", None, "erasure_unfinished"),
    (BackupExists(PATH), 409, "conflict_error", None, "backup_exists"),
    (BlankMessage(), 400, "invalid_request_error", "content", "blank_message"),
    (MessageTooLong(5, 4, "tokens"), 400, "invalid_request_error", "content", "message_too_long"),
    (PromptTooLong(5, 4), 400, "invalid_request_error", "content", "prompt_too_long"),
    (PromptFailed("No."), 400, "invalid_request_error", None, "prompt_failed"),
    (CheckpointError("No."), 400, "invalid_request_error", None, "checkpoint_error"),
    (UnknownPreset("x", ["y"]), 400, "invalid_request_error", "preset", "unknown_preset"),
    (UnknownFormat("x", ["y"]), 400, "invalid_request_error", "format", "unknown_format"),
    (NothingSelected(), 400, "invalid_request_error", None, "nothing_selected"),
    (Unreadable("line 1", "no"), 400, "invalid_request_error", None, "unreadable"),
    (InvalidPreset("No."), 400, "invalid_request_error", None, "invalid_preset"),
    (InvalidField("after", "No."), 400, "invalid_request_error", "after", "invalid_field"),
    (DatabaseUnusable(PATH, "the disk is full"), 503, "unavailable_error", None, "database_unusable"),
]


class Nested(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    sizes: list[int]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    nested: Nested | None = None


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    register_errors(app)
    app.add_api_route("/read", lambda limit: limit, methods=["GET"])

    def read(limit: Annotated[int, Query(ge=1)] = 1) -> int:
        return limit

    def write(body: Body) -> Body:
        return body

    app.add_api_route("/limited", read, methods=["GET"])
    app.add_api_route("/write", write, methods=["POST"])
    return app


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def failing(app: FastAPI, client: TestClient) -> Callable[[Exception], Any]:
    """A function that returns the answer of a route in which an error is raised."""

    def answer(error: Exception) -> Any:
        def fail() -> None:
            raise error

        app.add_api_route("/fail", fail)
        return client.get("/fail")

    return answer


@pytest.mark.parametrize(("error", "status", "kind", "param", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_an_expected_error_has_its_status_its_field_and_its_code(
    failing: Callable[[Exception], Any], error: Exception, status: int, kind: str, param: str | None, code: str
) -> None:
    answer = failing(error)
    assert answer.status_code == status
    assert answer.json() == {"error": {"message": str(error), "type": kind, "param": param, "code": code}}
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize(
    ("error", "kind", "code", "seconds"),
    [
        (EngineBusy("The queue is full.", 7), "overloaded_error", "engine_busy", "7"),
        (ModelNotReady(), "unavailable_error", "model_not_ready", "1"),
        (EngineStopped("Closed."), "unavailable_error", "engine_stopped", "1"),  # a supervisor starts anew
    ],
)
def test_what_passes_says_when_to_try_again(
    failing: Callable[[Exception], Any], error: Exception, kind: str, code: str, seconds: str
) -> None:
    answer = failing(error)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, seconds)
    assert (answer.json()["error"]["type"], answer.json()["error"]["code"]) == (kind, code)


@pytest.mark.parametrize(
    ("params", "param"), [({"temperature": 101}, "params.temperature"), ({"stop": ("",)}, "params.stop")]
)
def test_a_sampling_parameter_is_named(failing: Callable[[Exception], Any], params: dict[str, Any], param: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        SamplingParams(**params)
    error = failing(caught.value).json()["error"]
    assert (error["param"], error["code"], error["message"]) == (param, "invalid_field", str(caught.value))


@pytest.mark.parametrize(
    "error", [ValueError("secret"), KeyError("secret"), RuntimeError("seed: secret"), ValueError()]
)
def test_what_nobody_expects_is_not_told(failing: Callable[[Exception], Any], error: Exception) -> None:
    answer = failing(error)
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "message": "Parley has a fault; its log says more.",
        "type": "server_error",
        "param": None,
        "code": "internal_server_error",
    }


def test_what_nobody_expects_reaches_the_server_which_logs_it(app: FastAPI) -> None:
    def fail() -> None:
        raise KeyError("the cause")

    app.add_api_route("/fail", fail)
    with pytest.raises(KeyError, match="the cause"):
        TestClient(app).get("/fail")


@pytest.mark.parametrize(
    ("body", "param", "code", "message"),
    [
        (b"{", None, "invalid_json", "The body must be JSON: Expecting property name enclosed in double quotes"),
        (b"[" * 100_000, None, "invalid_json", "The body must be JSON: it is nested too deeply"),
        (
            b'{"name": ' + b"1" * 10_000 + b"}",
            None,
            "invalid_json",
            "The body must be JSON: a whole number has more than 4,300 digits",
        ),
        (b'{"name": "\xff"}', None, "invalid_json", "The body must be JSON: expected UTF-8, got 0xff at byte 10"),
        (b"", "body", "invalid_field", "body: field required"),
        (b"null", "body", "invalid_field", "body: input should be an object, got None"),
        (
            b"3",
            "body",
            "invalid_field",
            "body: input should be an object, got 3",
        ),
        (b"{}", "name", "invalid_field", "name: field required"),
        (b'{"name": 1e400}', "name", "invalid_field", "name: input should be a valid string, got inf"),
        (b'{"name": "", "x": 1}', "x", "invalid_field", "x: extra inputs are not permitted, got 1"),
        (
            b'{"name": "", "nested": {"sizes": [1, "2"]}}',
            "nested.sizes.1",
            "invalid_field",
            "nested.sizes.1: input should be a valid integer, got '2'",
        ),
    ],
)
def test_a_body_that_does_not_suit_is_told_with_its_field_rule_and_value(
    client: TestClient, body: bytes, param: str | None, code: str, message: str
) -> None:
    answer = client.post("/write", content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["param"], error["code"]) == (param, code)
    assert error["message"].startswith(message)


def test_a_body_of_another_type_is_refused(client: TestClient) -> None:
    answer = client.post("/write", content=b'{"name": "x"}', headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "body")


def test_a_query_that_does_not_suit_is_told_with_its_field(client: TestClient) -> None:
    error = client.get("/limited?limit=0").json()["error"]
    assert (error["param"], error["message"]) == (
        "limit",
        "limit: input should be greater than or equal to 1, got '0'",
    )


@pytest.mark.parametrize(
    "body", [{"name": ["x" * 10**6] * 2}, {"name": "", "y" * 10**6: 1}, {"name": "", "\ud800": "\udfff"}]
)
def test_an_error_is_short_and_can_be_encoded_whatever_it_quotes(client: TestClient, body: Any) -> None:
    content = json.dumps(body).encode()
    answer = client.post("/write", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert len(answer.content) < 2000


def test_an_error_is_one_line_whatever_it_quotes(failing: Callable[[Exception], Any]) -> None:
    error = failing(Unreadable("a\nb\u2028c.json", "expected JSON")).json()["error"]
    assert error["message"] == "a b c.json: expected JSON"


def test_an_unknown_route_and_another_method_are_told_in_the_same_form(client: TestClient) -> None:
    missing, wrong = client.get("/nowhere"), client.put("/write")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    assert missing.json()["error"]["code"] == "not_found"
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


def test_an_application_under_another_has_its_own_form_and_leaves_that_alone(app: FastAPI) -> None:
    root = FastAPI()
    root.mount("/api", app)
    root.mount("/", FastAPI())
    client = TestClient(root)
    assert client.get("/api/nowhere").json()["error"]["message"] == "GET /api/nowhere: Not Found"
    assert client.put("/api/write").status_code == 405
    assert client.get("/nowhere").json() == {"detail": "Not Found"}


def test_every_route_is_documented_with_its_errors(served: Served) -> None:
    paths = served.app.openapi()["paths"]
    operations = [(method, path, operation) for path, methods in paths.items() for method, operation in methods.items()]
    assert len(operations) == 21
    for method, path, operation in operations:
        assert operation["summary"], path
        assert operation["description"], path
        responses = operation["responses"]
        assert {"400", "503", "default"} <= responses.keys(), (method, path)
        assert "422" not in responses
        assert ("{" in path) <= ("404" in responses), (method, path)
        for status, response in responses.items():
            if status == "default" or status >= "400":
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorModel"}


def test_what_a_request_takes_is_documented_with_examples(served: Served) -> None:
    schemas = served.app.openapi()["components"]["schemas"]
    for name in ("NewMessage", "ConversationsChange", "FeedbackChange", "MessageEdit", "ErrorDetail"):
        assert any("examples" in field for field in schemas[name]["properties"].values()), name
