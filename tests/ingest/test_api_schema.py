"""The OpenAPI schema is complete, free of warnings, and true: real answers are held against it."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import call_command
from drf_spectacular.generators import SchemaGenerator
from jsonschema import Draft202012Validator

from ingest.api_schema import SOURCE_CONFIGURATION
from ingest.configuration import SourceConfiguration, parse_configuration
from tests.ingest.clients import call_as
from tests.ingest.factories import (
    FetchErrorFactory,
    JobFactory,
    RecordFactory,
    RunFactory,
    ServerErrorFactory,
    SourceFactory,
    UserFactory,
    finish_run,
)

DESIGN_EXAMPLE: dict[str, Any] = {
    "slug": "cities",
    "name": "Cities",
    "request": {
        "url": "https://api.example.org/cities/{id}",
        "method": "GET",
        "headers": {},
        "params": {},
        "timeout_seconds": 30,
        "proxies": [{"http": "http://proxy.example.org", "https": "http://proxy.example.org"}],
        "api_key": {"in": "header", "name": "X-Api-Key", "secret": "write-only"},
    },
    "plan": {"type": "range", "name": "id", "start": 1, "stop": 10000},
    "records": {
        "path": "data", "key": "id", "title": "name", "body": ["text"],
        "occurred_at": "updated_at", "weight": None, "schema": {},
    },
    "limits": {
        "per_second": 5, "concurrency": 5, "window": None, "batch": None, "quota": None,
        "deadline_seconds": 3600, "max_body_bytes": 10000000,
    },
    "retry": {
        "attempts": 5, "base_seconds": 1, "cap_seconds": 60, "sweeps": 1,
        "missing": False, "accept": [],
    },
    "block": {
        "patience": 5, "markers": ["banned", "blocked", "denied"],
        "patience_429": 50, "patience_5xx": 50,
    },
    "schedule": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    generator: Any = SchemaGenerator
    generated: dict[str, Any] = _as_json_schema(generator().get_schema(request=None, public=True))
    return generated


def _as_json_schema(node: Any) -> Any:
    """OpenAPI 3.0 spells null as `nullable`; JSON Schema as a type."""
    if isinstance(node, list):
        return [_as_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {name: _as_json_schema(item) for name, item in node.items() if name != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain


def _problems(schema: dict[str, Any], path: str, status: int, body: Any) -> list[str]:
    answers = schema["paths"][path]["get"]["responses"]
    expected = answers[str(status)]["content"]["application/json"]["schema"]
    validator = Draft202012Validator({**expected, "components": schema["components"]})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)]


def test_the_schema_is_made_without_a_warning(tmp_path: Any) -> None:
    call_command("spectacular", "--fail-on-warn", "--validate", file=str(tmp_path / "schema.yml"))


@pytest.mark.django_db
def test_real_answers_are_what_the_schema_says(schema: dict[str, Any]) -> None:
    owner = UserFactory(is_staff=True)
    client = call_as(owner)
    assert client.post("/api/sources/", DESIGN_EXAMPLE, format="json").status_code == 201
    source = SourceFactory(slug="rivers", owner=owner)
    run = finish_run(source, ["delivered", "failed", "empty"])
    RunFactory(source__owner=owner)
    record = RecordFactory(source=source)
    error = FetchErrorFactory(request=run.requests.get(outcome="failed"))
    ServerErrorFactory(user=owner)
    job = JobFactory(user=owner, run=run)
    for path, values in (
        ("/api/sources/", {}),
        ("/api/sources/{slug}/", {"slug": "cities"}),
        ("/api/runs/", {}),
        ("/api/runs/{run_id}/", {"run_id": run.pk}),
        ("/api/runs/{run_id}/requests/", {"run_id": run.pk}),
        ("/api/runs/{run_id}/reconciliation/", {"run_id": run.pk}),
        ("/api/records/", {}),
        ("/api/records/{record_id}/", {"record_id": record.pk}),
        ("/api/errors/", {}),
        ("/api/errors/{error_id}/", {"error_id": error.pk}),
        ("/api/jobs/", {}),
        ("/api/jobs/{job_id}/", {"job_id": job.pk}),
    ):
        response = client.get(path.format(**values))
        assert response.status_code == 200, path
        assert _problems(schema, path, 200, response.json()) == [], path
        if "results" in response.json():
            assert response.json()["results"], f"{path} shows nothing to check"
        described = _described_keys(schema, path)
        shown = response.json().get("results", [response.json()])[0]
        assert set(shown) == described, path


def _described_keys(schema: dict[str, Any], path: str) -> set[str]:
    answers = schema["paths"][path]["get"]["responses"]
    node = answers["200"]["content"]["application/json"]["schema"]
    node = _resolve(schema, node)
    if "results" in node["properties"]:
        node = _resolve(schema, node["properties"]["results"]["items"])
    return set(node["properties"])


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        found: dict[str, Any] = schema["components"]["schemas"][node["$ref"].rpartition("/")[2]]
        return found
    return node


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "address", "status"),
    [
        ("/api/runs/", "/api/runs/?state=x", 400),
        ("/api/runs/{run_id}/", "/api/runs/7/", 404),
        ("/api/records/", "/api/records/?since=x", 400),
    ],
)
def test_errors_are_what_the_schema_says(
    schema: dict[str, Any], path: str, address: str, status: int
) -> None:
    response = call_as(UserFactory()).get(address)
    assert response.status_code == status
    assert _problems(schema, path, status, response.json()) == []
    anonymous = call_as().get(address)
    assert _problems(schema, path, 401, anonymous.json()) == []


def test_the_example_of_the_documentation_is_valid_both_ways() -> None:
    validator = Draft202012Validator(_as_json_schema(SOURCE_CONFIGURATION))
    assert list(validator.iter_errors(DESIGN_EXAMPLE)) == []
    assert parse_configuration(DESIGN_EXAMPLE).slug == "cities"


def test_the_schema_of_a_configuration_knows_every_key_of_the_real_one() -> None:
    documented = SOURCE_CONFIGURATION["properties"]
    for name, field in SourceConfiguration.model_fields.items():
        assert name in documented
        part: Any = field.annotation
        if name != "plan" and hasattr(part, "model_fields"):
            real = {inner.alias or key for key, inner in part.model_fields.items()}
            assert set(documented[name]["properties"]) == real
    assert set(documented) == set(SourceConfiguration.model_fields)
