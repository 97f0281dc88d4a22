"""Runs over JSON: start, watch, ledger, reconciliation, sweep, cancel."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from ingest.models import Request, Run
from ingest.outcomes import Outcome, RunState
from tests.ingest.clients import call_as
from tests.ingest.factories import (
    RequestFactory,
    RunFactory,
    SourceFactory,
    UserFactory,
    configure,
    finish_run,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def owner() -> Any:
    return UserFactory()


@pytest.fixture
def client(owner: Any) -> APIClient:
    return call_as(owner)


def test_a_run_is_planned_as_soon_as_it_is_started(owner: Any, client: APIClient) -> None:
    SourceFactory(slug="cities", owner=owner)
    response = client.post("/api/sources/cities/runs/")
    assert response.status_code == 202
    run = response.json()
    assert response.headers["Location"] == f"/api/runs/{run['id']}/"
    assert run["planned"] == 3
    assert run["outcomes"] == {**dict.fromkeys(Outcome.values, 0), "planned": 3}
    assert run["started_at"] is None
    assert client.get(f"/api/runs/{run['id']}/").json() == run


def test_a_second_run_of_a_source_is_409_with_the_id_of_the_first(
    owner: Any, client: APIClient
) -> None:
    run = RunFactory(source=SourceFactory(slug="cities", owner=owner))
    response = client.post("/api/sources/cities/runs/")
    assert response.status_code == 409
    assert response.json()["error"]["fields"] == {"run": [str(run.pk)]}


def test_a_run_tells_all_ten_outcomes_and_they_add_up(client: APIClient) -> None:
    run = finish_run(SourceFactory(), ["delivered", "delivered", "failed", "empty"])
    answer = client.get(f"/api/runs/{run.pk}/").json()
    assert set(answer) == {
        *("id", "source", "state", "planned", "outcomes", "records"),
        *("started_at", "finished_at", "rate_per_second"),
    }
    assert sum(answer["outcomes"].values()) == answer["planned"] == 4
    assert answer["outcomes"]["delivered"] == 2
    assert answer["rate_per_second"] == 0.4
    assert answer["started_at"] == "2026-03-01T12:00:00Z"


def test_runs_are_listed_newest_first_and_filtered(client: APIClient) -> None:
    cities, rivers = SourceFactory(slug="cities"), SourceFactory(slug="rivers")
    old = finish_run(cities, ["delivered"], state=RunState.COMPLETE)
    new = RunFactory(source=cities)
    other = RunFactory(source=rivers)
    cases: list[tuple[str, list[Run]]] = [
        ("", [other, new, old]),
        ("?source=cities", [new, old]),
        ("?source=cities,rivers", [other, new, old]),
        ("?state=complete", [old]),
        ("?state=complete,planned&source=cities", [new, old]),
        ("?source=nowhere", []),
    ]
    for query, expected in cases:
        results = client.get(f"/api/runs/{query}").json()["results"]
        assert [row["id"] for row in results] == [run.pk for run in expected], query


def test_the_list_says_of_each_run_what_the_run_says_of_itself(client: APIClient) -> None:
    active = RunFactory(state=RunState.FETCHING, planned_total=3, started_at=timezone.now())
    for position, outcome in enumerate(["delivered", "planned", "failed"]):
        RequestFactory(run=active, position=position, outcome=outcome)
    waiting = RunFactory(planned_total=0)
    finished = finish_run(SourceFactory(), ["delivered", "failed"])
    listed = {row["id"]: row for row in client.get("/api/runs/").json()["results"]}
    for run in (active, waiting, finished):
        alone = client.get(f"/api/runs/{run.pk}/").json()
        together = listed[run.pk]
        # The rate of an active run changes between two calls.
        assert (alone.pop("rate_per_second") is None) == (together.pop("rate_per_second") is None)
        assert alone == together


def test_the_list_costs_the_same_queries_however_many_runs_are_active(
    client: APIClient, django_assert_max_num_queries: Any
) -> None:
    for _number in range(12):
        run = RunFactory(state=RunState.FETCHING, started_at=timezone.now())
        RequestFactory.create_batch(2, run=run)
    with django_assert_max_num_queries(4):  # who calls, how many, which, the ledgers' counts
        assert client.get("/api/runs/").json()["count"] == 12


def test_a_wrong_state_is_named(client: APIClient) -> None:
    response = client.get("/api/runs/?state=sleeping")
    assert response.status_code == 400
    assert list(response.json()["error"]["fields"]) == ["state"]


@pytest.mark.parametrize("run_id", [0, 7, 10**30])
def test_a_run_that_is_not_there_is_404(client: APIClient, run_id: int) -> None:
    for suffix in ("", "requests/", "reconciliation/"):
        response = client.get(f"/api/runs/{run_id}/{suffix}")
        assert response.status_code == 404
        assert response.json()["error"]["code"]


def test_the_ledger_comes_in_plan_order_by_cursor_without_gap_or_repeat(client: APIClient) -> None:
    run = finish_run(SourceFactory(), ["delivered"] * 7)
    keys: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        after = {"cursor": cursor} if cursor else {}
        page = client.get(f"/api/runs/{run.pk}/requests/", {"size": "3", **after}).json()
        assert page["success"] is True
        keys += [row["key"] for row in page["results"]]
        cursor = page["next"]
    assert keys == ["1", "2", "3", "4", "5", "6", "7"]


def test_a_ledger_row_has_the_promised_shape_and_no_secret(client: APIClient) -> None:
    source = SourceFactory(
        configuration=configure(
            "cities",
            request={
                "url": "https://api.example.org/{id}",
                "params": {"token": "hush-hush", "page": "1"},
            },
        )
    )
    run = finish_run(source, ["failed"])
    row = client.get(f"/api/runs/{run.pk}/requests/").json()["results"][0]
    assert set(row) == {
        *("key", "url", "outcome", "attempts", "status_code", "latency_ms", "records"),
        *("error", "evidence", "finished_at"),
    }
    # PostgreSQL does not keep the order of a JSON object's keys.
    address, _, query = row["url"].partition("?")
    assert address == "https://api.example.org/1"
    assert sorted(query.split("&")) == ["page=1", "token=***"]


def test_the_ledger_is_filtered_by_outcomes(client: APIClient) -> None:
    run = finish_run(SourceFactory(), ["delivered", "failed", "empty", "failed"])
    address = f"/api/runs/{run.pk}/requests/"
    failed = client.get(f"{address}?outcome=failed").json()["results"]
    assert [row["key"] for row in failed] == ["2", "4"]
    either = client.get(f"{address}?outcome=failed,empty").json()["results"]
    assert [row["key"] for row in either] == ["2", "3", "4"]
    assert client.get(f"{address}?status=2xx").json()["results"][0]["key"] == "1"


@pytest.mark.parametrize("outcome", ["lost", "failed,lost", "FAILED"])
def test_a_wrong_outcome_is_a_400_that_names_the_parameter(client: APIClient, outcome: str) -> None:
    run = RunFactory()
    response = client.get(f"/api/runs/{run.pk}/requests/?outcome={outcome}")
    assert response.status_code == 400
    assert list(response.json()["error"]["fields"]) == ["outcome"]


def test_a_page_of_the_ledger_costs_three_queries(
    client: APIClient, django_assert_max_num_queries: Any
) -> None:
    run = finish_run(SourceFactory(), ["delivered"] * 30)
    with django_assert_max_num_queries(3):  # who calls, the run, the rows
        client.get(f"/api/runs/{run.pk}/requests/")


def test_the_reconciliation_names_each_gap(client: APIClient) -> None:
    run = finish_run(SourceFactory(), ["delivered", "failed", "empty"])
    books = client.get(f"/api/runs/{run.pk}/reconciliation/").json()
    assert set(books) == {
        *("as_of", "planned", "outcomes", "unknown", "upstream_total", "distinct_keys"),
        *("duplicates", "stored", "indexed", "missing", "not_stored", "not_indexed"),
        *("why_ended", "verdict"),
    }
    assert (books["planned"], books["unknown"]) == (3, 0)
    assert [(gap["key"], gap["outcome"]) for gap in books["missing"]] == [
        ("2", "failed"),
        ("3", "empty"),
    ]
    assert all(gap["url"].startswith("https://api.example.org/") for gap in books["missing"])
    assert books["verdict"]["complete"] is False


def test_a_sweep_reopens_a_finished_run(owner: Any, client: APIClient) -> None:
    run = finish_run(SourceFactory(owner=owner), ["delivered", "failed", "missing"])
    response = client.post(f"/api/runs/{run.pk}/sweep/")
    assert response.status_code == 202
    assert response.json()["state"] == RunState.SWEEPING
    assert Request.objects.filter(run=run, due_at__isnull=False).count() == 2


def test_a_sweep_makes_no_sense_while_the_run_goes_on_or_when_nothing_is_missing(
    owner: Any, client: APIClient
) -> None:
    active = RunFactory(source__owner=owner)
    complete = finish_run(SourceFactory(owner=owner), ["delivered"], state=RunState.COMPLETE)
    assert client.post(f"/api/runs/{active.pk}/sweep/").status_code == 409
    assert client.post(f"/api/runs/{complete.pk}/sweep/").status_code == 409


def test_cancel_stops_an_active_run_once(owner: Any, client: APIClient) -> None:
    SourceFactory(slug="cities", owner=owner)
    run_id = client.post("/api/sources/cities/runs/").json()["id"]
    response = client.post(f"/api/runs/{run_id}/cancel/")
    assert response.status_code == 200
    assert response.json()["state"] == RunState.CANCELLED
    assert response.json()["outcomes"]["cancelled"] == 3
    again = client.post(f"/api/runs/{run_id}/cancel/")
    assert again.status_code == 409
    assert Run.objects.get(pk=run_id).state == RunState.CANCELLED
