"""Who may do what, over every endpoint and every kind of caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from django.urls import get_resolver

from ingest.models import Source
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

pytestmark = pytest.mark.django_db

CALLERS = ("anonymous", "stranger", "owner", "staff")
CONFIGURATION = {
    "slug": "new-one",
    "request": {"url": "https://api.example.org/{id}"},
    "plan": {"type": "range", "name": "id", "start": 1, "stop": 2},
}


@dataclass(frozen=True)
class World:
    people: dict[str, Any]
    addresses: dict[str, str]


@pytest.fixture
def world() -> World:
    owner = UserFactory()
    people = {
        "anonymous": None,
        "stranger": UserFactory(),
        "owner": owner,
        "staff": UserFactory(is_staff=True),
    }
    source = SourceFactory(slug="idle", owner=owner)
    incomplete = finish_run(source, ["delivered", "failed"])
    active = RunFactory(source=SourceFactory(slug="busy", owner=owner))
    record = RecordFactory(source=source)
    fetch_error = FetchErrorFactory(request=incomplete.requests.get(outcome="failed"))
    server_error = ServerErrorFactory()
    return World(
        people,
        {
            "sources": "/api/sources/",
            "source": "/api/sources/idle/",
            "source-runs": "/api/sources/idle/runs/",
            "runs": "/api/runs/",
            "run": f"/api/runs/{incomplete.pk}/",
            "run-sweep": f"/api/runs/{incomplete.pk}/sweep/",
            "run-cancel": f"/api/runs/{active.pk}/cancel/",
            "run-requests": f"/api/runs/{incomplete.pk}/requests/",
            "run-reconciliation": f"/api/runs/{incomplete.pk}/reconciliation/",
            "records": "/api/records/",
            "record": f"/api/records/{record.pk}/",
            "errors": "/api/errors/",
            "error": f"/api/errors/{fetch_error.pk}/",
            "server-error": f"/api/errors/{server_error.pk}/",
            "jobs": "/api/jobs/",
            "job": f"/api/jobs/{JobFactory(user=owner).pk}/",
        },
    )


# endpoint, method → the status for each of CALLERS
EXPECTED: dict[tuple[str, str], tuple[int, int, int, int]] = {
    ("sources", "get"): (401, 200, 200, 200),
    ("sources", "post"): (401, 201, 201, 201),
    ("source", "get"): (401, 200, 200, 200),
    ("source", "patch"): (401, 403, 200, 200),
    ("source", "delete"): (401, 403, 204, 204),
    ("source-runs", "post"): (401, 403, 202, 202),
    ("runs", "get"): (401, 200, 200, 200),
    ("run", "get"): (401, 200, 200, 200),
    ("run-sweep", "post"): (401, 403, 202, 202),
    ("run-cancel", "post"): (401, 403, 200, 200),
    ("run-requests", "get"): (401, 200, 200, 200),
    ("run-reconciliation", "get"): (401, 200, 200, 200),
    ("records", "get"): (401, 200, 200, 200),
    ("record", "get"): (401, 200, 200, 200),
    ("errors", "get"): (401, 200, 200, 200),
    ("error", "get"): (401, 404, 200, 200),
    ("server-error", "get"): (401, 404, 404, 200),
    ("jobs", "get"): (401, 200, 200, 200),
    ("job", "get"): (401, 404, 200, 200),
}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("sources", "post"): CONFIGURATION,
    ("source", "patch"): {"limits": {"per_second": 2}},
}


@pytest.mark.parametrize(("endpoint", "method"), EXPECTED)
@pytest.mark.parametrize("caller", CALLERS)
def test_each_caller_gets_what_the_matrix_says(
    world: World, endpoint: str, method: str, caller: str
) -> None:
    client = call_as(world.people[caller])
    body = BODIES.get((endpoint, method), {})
    response = getattr(client, method)(world.addresses[endpoint], body, format="json")
    expected = EXPECTED[endpoint, method][CALLERS.index(caller)]
    assert response.status_code == expected
    if expected >= 400:
        assert response.json()["success"] is False
        assert response.json()["error"]["status"] == expected
    if expected == 401:
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_every_endpoint_is_in_the_matrix() -> None:
    resolver = next(
        pattern
        for pattern in get_resolver().url_patterns
        if getattr(pattern, "app_name", None) == "ingest-api"
    )
    names = {pattern.name for pattern in resolver.url_patterns}  # type: ignore[union-attr]
    assert names == {endpoint for endpoint, _method in EXPECTED} - {"server-error"}


def test_a_foreign_write_changes_nothing() -> None:
    source = SourceFactory(slug="idle")
    stranger = call_as(UserFactory())
    stranger.patch("/api/sources/idle/", {"name": "Mine now"}, format="json")
    stranger.delete("/api/sources/idle/")
    source.refresh_from_db()
    assert (source.name, source.archived_at) == ("idle", None)


def test_who_posts_a_source_owns_it() -> None:
    user = UserFactory()
    call_as(user).post("/api/sources/", CONFIGURATION, format="json")
    assert Source.objects.get(slug="new-one").owner == user


def test_an_owner_cannot_be_named_in_the_body() -> None:
    other = UserFactory()
    response = call_as(UserFactory()).post(
        "/api/sources/", {**CONFIGURATION, "owner": other.pk}, format="json"
    )
    assert response.status_code == 400
    assert list(response.json()["error"]["fields"]) == ["owner"]


def test_the_owner_of_nothing_sees_an_empty_error_list() -> None:
    ServerErrorFactory()
    FetchErrorFactory()
    response = call_as(UserFactory()).get("/api/errors/")
    assert response.json() == {"success": True, "results": [], "next": None}


def test_an_owner_sees_the_fetch_errors_of_own_sources_only() -> None:
    owner = UserFactory()
    FetchErrorFactory()
    ServerErrorFactory()
    own = FetchErrorFactory(request__run__source__owner=owner)
    results = call_as(owner).get("/api/errors/").json()["results"]
    assert [row["id"] for row in results] == [own.pk]


def test_staff_sees_every_error() -> None:
    ids = {FetchErrorFactory().pk, ServerErrorFactory().pk}
    results = call_as(UserFactory(is_staff=True)).get("/api/errors/").json()["results"]
    assert {row["id"] for row in results} == ids


def test_a_job_shows_to_who_asked_for_it_and_to_the_owner_of_its_source() -> None:
    owner, asker, stranger = UserFactory(), UserFactory(), UserFactory()
    run = RunFactory(source=SourceFactory(owner=owner))
    job = JobFactory(user=asker, run=run, total=10, done=5)
    for person, expected in ((owner, [job.pk]), (asker, [job.pk]), (stranger, [])):
        results = call_as(person).get("/api/jobs/").json()["results"]
        assert [row["id"] for row in results] == expected


def test_an_inactive_account_is_anonymous() -> None:
    client = call_as(user := UserFactory())
    user.is_active = False
    user.save()
    assert client.get("/api/sources/").status_code == 401


def test_an_archived_source_is_gone_with_its_runs_and_records() -> None:
    run = RunFactory(source__archived_at="2026-01-01T00:00Z", finished=True)
    RecordFactory(source=run.source)
    client = call_as(UserFactory(is_staff=True))
    assert client.get("/api/sources/").json()["count"] == 0
    assert client.get("/api/runs/").json()["count"] == 0
    assert client.get(f"/api/runs/{run.pk}/").status_code == 404
    assert client.get(f"/api/runs/{run.pk}/requests/").status_code == 404
    assert client.get("/api/records/").json()["results"] == []


def test_secrets_never_come_back() -> None:
    client = call_as(UserFactory())
    body = {
        **CONFIGURATION,
        "request": {
            "url": "https://api.example.org/{id}",
            "headers": {"Authorization": "Bearer hush-hush"},
            "api_key": {"in": "query", "name": "k", "secret": "hush-hush"},
            "proxies": [{"http": "http://me:hush-hush@proxy.example.org"}],
        },
    }
    created = client.post("/api/sources/", body, format="json")
    assert created.status_code == 201
    assert created.json()["request"]["api_key"]["secret"] == {"set": True}
    for response in (created, client.get("/api/sources/new-one/"), client.get("/api/sources/")):
        assert "hush-hush" not in response.content.decode()
