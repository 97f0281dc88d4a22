"""Sources over JSON: what is stored, what is refused and by which path."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rest_framework.test import APIClient

from ingest.models import Source
from tests.ingest.clients import call_as
from tests.ingest.factories import RunFactory, SourceFactory, UserFactory

pytestmark = pytest.mark.django_db

SMALLEST: dict[str, Any] = {
    "slug": "rivers",
    "request": {"url": "https://api.example.org/rivers/{id}"},
    "plan": {"type": "range", "name": "id", "start": 1, "stop": 5},
}


@pytest.fixture
def owner() -> Any:
    return UserFactory()


@pytest.fixture
def client(owner: Any) -> APIClient:
    return call_as(owner)


def test_the_smallest_configuration_gets_every_default(client: APIClient) -> None:
    response = client.post("/api/sources/", SMALLEST, format="json")
    assert response.status_code == 201
    assert response.headers["Location"] == "/api/sources/rivers/"
    source = response.json()
    assert source["name"] == "rivers"
    assert source["limits"]["per_second"] == 5
    assert source["records"] == {
        "path": None, "key": "id", "title": None, "body": None,
        "occurred_at": None, "weight": None, "schema": {},
    }  # fmt: skip
    assert client.get("/api/sources/rivers/").json() == source


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"limits": {"per_second": -1}}, "limits.per_second"),
        ({"colour": "red"}, "colour"),
        ({"request": {"url": "https://api.example.org/{id}", "verb": "GET"}}, "request.verb"),
        ({"plan": {"type": "guess"}}, "plan.type"),
        ({"slug": "No Spaces"}, "slug"),
        ({"name": "a\x00b"}, "name"),
        ({"records": {"schema": {"deep": ["\ud800"]}}}, "records.schema.deep.0"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(
    client: APIClient, change: dict[str, Any], path: str
) -> None:
    body = json.dumps({**SMALLEST, **change})
    response = client.post("/api/sources/", body, content_type="application/json")
    assert response.status_code == 400
    assert path in response.json()["error"]["fields"]
    assert not Source.objects.exists()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ("", 400),
        ("[]", 400),
        ("null", 400),
        ('"text"', 400),
        ('{"limits": {"per_second": NaN}}', 400),
        ('{"limits": {"per_second": 1e999}}', 400),
        ("[" * 100_000 + "]" * 100_000, 400),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, 400),
        (b"\xff\xfe", 400),
        ('{"n": ' + "9" * 5000 + "}", 400),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_body_that_is_no_json_object_is_a_clear_400(
    client: APIClient, body: str | bytes, status: int
) -> None:
    response = client.post("/api/sources/", body, content_type="application/json")
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_a_number_beyond_a_double_is_named_by_its_path(client: APIClient) -> None:
    response = client.post(
        "/api/sources/", '{"limits": {"per_second": 1e999}}', content_type="application/json"
    )
    assert list(response.json()["error"]["fields"]) == ["limits.per_second"]


def test_a_form_is_not_read_as_json(client: APIClient) -> None:
    response = client.post("/api/sources/", {"slug": "rivers"}, format=None)
    assert response.status_code in (400, 415)
    response = client.post(
        "/api/sources/", "slug=rivers", content_type="application/x-www-form-urlencoded"
    )
    assert response.status_code == 415
    assert response.json()["error"]["status"] == 415


def test_a_slug_is_taken_once(client: APIClient) -> None:
    SourceFactory(slug="rivers")
    response = client.post("/api/sources/", SMALLEST, format="json")
    assert response.status_code == 400
    assert list(response.json()["error"]["fields"]) == ["slug"]


@pytest.mark.parametrize("media_type", ["application/json", "application/merge-patch+json"])
def test_a_patch_merges_and_null_brings_the_default_back(
    owner: Any, client: APIClient, media_type: str
) -> None:
    client.post(
        "/api/sources/",
        {**SMALLEST, "limits": {"per_second": 2, "concurrency": 9}, "records": {"title": "name"}},
        format="json",
    )
    response = client.patch(
        "/api/sources/rivers/",
        '{"limits": {"per_second": 7.5, "concurrency": null}, "name": "Rivers"}',
        content_type=media_type,
    )
    assert response.status_code == 200
    source = response.json()
    assert source["name"] == "Rivers"
    assert source["limits"]["per_second"] == 7.5
    assert source["limits"]["concurrency"] == 5
    assert source["records"]["title"] == "name"


def test_a_patch_that_breaks_the_configuration_changes_nothing(client: APIClient) -> None:
    client.post("/api/sources/", SMALLEST, format="json")
    before = client.get("/api/sources/rivers/").json()
    response = client.patch("/api/sources/rivers/", {"plan": None}, format="json")
    assert response.status_code == 400
    assert list(response.json()["error"]["fields"]) == ["plan"]
    assert client.get("/api/sources/rivers/").json() == before


def test_a_patch_leaves_secrets_alone_unless_it_sends_them(client: APIClient) -> None:
    key = {"in": "header", "name": "X-Key", "secret": "first"}
    request = {**SMALLEST["request"], "api_key": key}
    client.post("/api/sources/", {**SMALLEST, "request": request}, format="json")
    sealed = bytes(Source.objects.get().sealed_secrets)
    response = client.patch("/api/sources/rivers/", {"name": "Rivers"}, format="json")
    assert response.json()["request"]["api_key"]["secret"] == {"set": True}
    assert Source.objects.get().sealed_secrets != b""
    client.patch(
        "/api/sources/rivers/", {"request": {"api_key": {"secret": "second"}}}, format="json"
    )
    assert bytes(Source.objects.get().sealed_secrets) != sealed


def test_a_source_with_an_active_run_is_not_deleted(owner: Any, client: APIClient) -> None:
    run = RunFactory(source=SourceFactory(slug="rivers", owner=owner))
    response = client.delete("/api/sources/rivers/")
    assert response.status_code == 409
    assert response.json()["error"]["fields"] == {"run": [str(run.pk)]}


def test_a_deleted_source_is_gone_and_its_slug_is_free(owner: Any, client: APIClient) -> None:
    SourceFactory(slug="rivers", owner=owner)
    assert client.delete("/api/sources/rivers/").status_code == 204
    assert client.get("/api/sources/rivers/").status_code == 404
    assert client.post("/api/sources/", SMALLEST, format="json").status_code == 201


def test_a_method_that_makes_no_sense_is_405_in_the_error_shape(client: APIClient) -> None:
    SourceFactory(slug="rivers")
    response = client.put("/api/sources/rivers/", SMALLEST, format="json")
    assert response.status_code == 405
    assert response.json()["error"]["status"] == 405


def test_the_list_is_numbered_and_ordered_by_slug(client: APIClient) -> None:
    for slug in ("c", "a", "b"):
        SourceFactory(slug=slug)
    first = client.get("/api/sources/?size=2").json()
    assert [row["slug"] for row in first["results"]] == ["a", "b"]
    assert (first["success"], first["count"], first["previous"]) == (True, 3, None)
    second = client.get(first["next"]).json()
    assert [row["slug"] for row in second["results"]] == ["c"]
    assert second["next"] is None


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("page=0", "page"),
        ("page=x", "page"),
        ("page=99999999999999999999", "page"),
        ("size=0", "size"),
        ("size=-1", "size"),
        ("size=1001", "size"),
        ("size=²", "size"),
    ],
)
def test_a_wrong_page_or_size_is_a_400_that_names_it(
    client: APIClient, query: str, name: str
) -> None:
    response = client.get(f"/api/sources/?{query}")
    assert response.status_code == 400
    assert list(response.json()["error"]["fields"]) == [name]


def test_a_page_beyond_the_last_is_404(client: APIClient) -> None:
    assert client.get("/api/sources/?page=2").status_code == 404


def test_the_list_costs_the_same_queries_however_long_it_is(
    client: APIClient, django_assert_max_num_queries: Any
) -> None:
    SourceFactory.create_batch(20)
    with django_assert_max_num_queries(4):  # who calls, what has changed, how many, which
        assert client.get("/api/sources/").json()["count"] == 20


def test_an_unknown_parameter_is_ignored(client: APIClient) -> None:
    assert client.get("/api/sources/?colour=red&format=csv").status_code == 200
