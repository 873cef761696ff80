"""The three descriptions of the API: complete, and held to by the server whatever schemathesis sends."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Server

from chat.accounts import SCOPES, Accounts
from chat.data_folder import LOCAL_OWNER, open_database
from chat.limits import DailyTokens
from chat.secret import load_secret
from chat.sites import NewSite, Sites
from chat.visitors import Visitors
from chat.workspace import open_workspace
from tests.list_routes import no_model

APIS = ("/api", "/v1", "/widget/api")
ORIGIN = "https://shop.example"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


class Described:
    """A running server, and what its programs and visitors show to it."""

    def __init__(self, data: Path, model: Path) -> None:
        with open_database(data) as database, open_workspace(database, no_model) as kept:
            _, self.key = Accounts(kept.accounts).add_key(LOCAL_OWNER, "test", SCOPES)
            many = NewSite(name="Shop", origins=[ORIGIN], messages_per_visitor=100_000, messages_per_address=100_000)
            site = Sites(kept.sites, kept.presets).create(LOCAL_OWNER, many)
            visitors = Visitors(kept, load_secret(data), DailyTokens(None))
            self.visitor = visitors.enter(site.key, ORIGIN, "http://own", address="::1", token=None, user=None)
        self.server = Server(data, model)
        self.specs = {api: httpx.get(f"{self.server.url}{api}/openapi.json").json() for api in APIS}

    def operations(self, api: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the operations of one of the descriptions, each with its method and path."""
        for path, operations in self.specs[api]["paths"].items():
            for method, operation in operations.items():
                yield f"{method.upper()} {path}", operation


@pytest.fixture(scope="module")
def described(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Described]:
    described = Described(tmp_path_factory.mktemp("described"), tiny_path)
    yield described
    assert described.server.end() == 0
    assert "Traceback" not in described.server.log, described.server.log


@pytest.mark.parametrize("api", APIS)
def test_every_operation_says_what_it_does_and_how_it_may_fail(described: Described, api: str) -> None:
    silent = [
        name
        for name, operation in described.operations(api)
        if not operation.get("summary") or not operation.get("description") or "default" not in operation["responses"]
    ]
    assert silent == []


@pytest.mark.parametrize("api", APIS)
def test_every_operation_says_what_it_must_be_shown(described: Described, api: str) -> None:
    schemes = described.specs[api]["components"]["securitySchemes"]
    for name, operation in described.operations(api):
        if name != "POST /session":
            shown = [scheme for choice in operation["security"] for scheme in choice]
            assert shown, name
            assert schemes.keys() >= set(shown), name


@pytest.mark.parametrize("api", APIS)
def test_every_field_has_an_example_or_says_itself_what_it_may_be(described: Described, api: str) -> None:
    speaking = {"$ref", "anyOf", "enum", "const", "default", "examples", "items", "format", "description"}
    mute = [
        f"{name}.{field}"
        for name, schema in described.specs[api]["components"]["schemas"].items()
        for field, rule in schema.get("properties", {}).items()
        if not speaking & rule.keys() and rule.get("type") not in ("boolean", "integer", "number", "null")
    ]
    assert mute == []


@pytest.mark.parametrize("api", ["/api", "/widget/api"])
def test_what_a_query_may_have_is_what_is_described(described: Described, api: str) -> None:
    token = {"/api": described.key, "/widget/api": described.visitor}[api]
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, base_url=described.server.url + api) as client:
        for name, operation in described.operations(api):
            method, path = name.split(" ")
            answer = client.request(method, path, params={"colour": "red"})
            known = [place["name"] for place in operation.get("parameters", []) if place["in"] == "query"]
            expected = f"one of {', '.join(known)}" if known else "no query"
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, "colour"), name
            assert error["message"] == f"colour: expected {expected}", name


def has_example(rule: dict[str, Any], schemas: dict[str, Any]) -> bool:
    """Tell whether a schema, or one that it is made of, has an example; none of them holds itself."""
    if "$ref" in rule:
        return has_example(schemas[rule["$ref"].rpartition("/")[2]], schemas)
    parts = [*rule.get("properties", {}).values(), *rule.get("anyOf", []), *rule.get("oneOf", [])]
    parts += [rule["items"]] if "items" in rule else []
    return "examples" in rule or any(has_example(part, schemas) for part in parts)


@pytest.mark.parametrize("api", APIS)
def test_every_body_and_every_answer_in_json_has_an_example(described: Described, api: str) -> None:
    schemas = described.specs[api]["components"]["schemas"]
    bare = []
    for name, operation in described.operations(api):
        answers = {status: answer for status, answer in operation["responses"].items() if status.startswith("2")}
        for place, given in {"body": operation.get("requestBody", {}), **answers}.items():
            shown = given.get("content", {}).get("application/json", {}).get("schema")
            if shown and not has_example(shown, schemas):
                bare.append(f"{name} {place}")
    assert bare == []


def schemathesis(described: Described, api: str, folder: Path, *flags: str, token: str | None = None) -> str:
    """Have schemathesis call what a description describes; returns what it says if something is wrong."""
    token = token or (described.visitor if api == "/widget/api" else described.key)
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{described.server.url}{api}/openapi.json"]
    command += ["--checks", CHECKS, "--header", f"Authorization: Bearer {token}", "--request-timeout", "20"]
    command += ["--exclude-path-regex", "/events$|^/temporary", "--generation-deterministic", "--no-color", *flags]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder, timeout=290)
    return "" if done.returncode == 0 else done.stdout[-20_000:] + done.stderr


@pytest.mark.parametrize("api", APIS)
def test_schemathesis_gets_only_answers_that_are_described(described: Described, api: str, tmp_path: Path) -> None:
    assert schemathesis(described, api, tmp_path, "--phases", "examples,coverage") == ""


def test_schemathesis_gets_only_answers_that_are_described_as_a_person_either(
    described: Described, tmp_path: Path
) -> None:
    only = "^/(account|keys|backups|model|sites/.*/identity-secret)"
    # a token of nobody: without accounts, that is the local owner
    flags = ("--phases", "examples,coverage", "--include-path-regex", only)
    assert schemathesis(described, "/api", tmp_path, *flags, token="none") == ""


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_schemathesis_finds_no_fault_in_minutes_either(described: Described, api: str, tmp_path: Path) -> None:
    flags = ("--phases", "fuzzing", "--max-examples", "200", "--max-time", "240")
    assert schemathesis(described, api, tmp_path, *flags) == ""
