"""Records, errors and jobs over JSON: filters, orders, cursors."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from rest_framework.test import APIClient

from ingest.models import ErrorLog
from tests.ingest.clients import call_as
from tests.ingest.factories import (
    NOON,
    FetchErrorFactory,
    JobFactory,
    RecordFactory,
    RunFactory,
    ServerErrorFactory,
    SourceFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> APIClient:
    return call_as(UserFactory(is_staff=True))


def ids(client: APIClient, address: str, **parameters: Any) -> list[int]:
    response = client.get(address, parameters)
    assert response.status_code == 200, response.json()
    return [row["id"] for row in response.json()["results"]]


def walk(client: APIClient, address: str, **parameters: Any) -> list[int]:
    """Every id of a list, page by page."""
    found: list[int] = []
    while True:
        page = client.get(address, parameters).json()
        found += [row["id"] for row in page["results"]]
        if page["next"] is None:
            return found
        parameters["cursor"] = page["next"]


def test_a_record_comes_whole(client: APIClient) -> None:
    record = RecordFactory(
        source__slug="cities",
        key="42",
        title="Toshkent",
        body="Tashkent",
        data={"id": 42, "n": None},
    )
    answer = client.get(f"/api/records/{record.pk}/").json()
    assert answer == client.get("/api/records/").json()["results"][0]
    assert answer["source"] == "cities"
    assert (answer["key"], answer["title"], answer["text"]) == ("42", "Toshkent", "Tashkent")
    assert answer["data"] == {"id": 42, "n": None}


def test_records_are_filtered_by_source_key_outcome_and_status(client: APIClient) -> None:
    cities, rivers = SourceFactory(slug="cities"), SourceFactory(slug="rivers")
    good = RecordFactory(source=cities, key="a,b", status_code=200)
    partial = RecordFactory(source=cities, outcome="malformed", status_code=206)
    other = RecordFactory(source=rivers, status_code=None)
    for parameters, expected in (
        ({"source": "cities"}, [good, partial]),
        ({"source": "cities,rivers"}, [good, partial, other]),
        ({"key": "a,b"}, [good]),
        ({"outcome": "malformed"}, [partial]),
        ({"status": "206"}, [partial]),
        ({"status": "2xx"}, [good, partial]),
        ({"status": "100..200,404"}, [good]),
        ({"status": "4xx"}, []),
    ):
        assert ids(client, "/api/records/", **parameters) == [r.pk for r in expected], parameters


def test_since_is_inclusive_and_until_is_not(client: APIClient) -> None:
    first, second, third = (RecordFactory(occurred_at=NOON + timedelta(days=d)) for d in range(3))
    for parameters, expected in (
        ({"since": "2026-03-02T12:00:00Z"}, [second, third]),
        ({"until": "2026-03-02T12:00:00Z"}, [first]),
        ({"since": "2026-03-02"}, [second, third]),
        ({"since": "2026-03-02", "until": "2026-03-03"}, [second]),
        ({"since": "2026-03-02T14:00:00+02:00"}, [second, third]),
        ({"since": "2026-03-02T12:00:00.000001"}, [third]),
        ({"since": "2026-03-02", "until": "2026-03-02"}, []),
    ):
        assert ids(client, "/api/records/", **parameters) == [r.pk for r in expected], parameters


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("since=yesterday", "since"),
        ("until=2026-13-01", "until"),
        ("since=0001-01-01T00:00:00%2B23:00", "since"),
        ("since=2026-03-02&until=2026-03-01", "since"),
        ("status=abc", "status"),
        ("status=500..400", "status"),
        ("status=200,,404", "status"),
        ("status=٤٠٤", "status"),
        ("outcome=lost", "outcome"),
        ("ordering=data", "ordering"),
        ("ordering=", "ordering"),
        ("size=x", "size"),
        ("cursor=x", "cursor"),
        ("cursor=", "cursor"),
        ("cursor=%F0%9F%98%80", "cursor"),
        ("source=a%00b", "source"),
    ],
)
@pytest.mark.parametrize("address", ["/api/records/", "/api/errors/"])
def test_a_parameter_that_makes_no_sense_is_named(
    client: APIClient, address: str, query: str, name: str
) -> None:
    response = client.get(f"{address}?{query}")
    assert response.status_code == 400
    assert list(response.json()["error"]["fields"]) == [name]


@pytest.mark.parametrize("ordering", ["id", "-id", "occurred_at", "-occurred_at"])
def test_a_walk_meets_each_record_once_in_order_also_among_equal_times(
    client: APIClient, ordering: str
) -> None:
    source, sortable = SourceFactory(), []
    for number in range(10):
        moment = NOON + timedelta(microseconds=number % 3)
        record = RecordFactory(source=source, occurred_at=moment, updated_at=moment)
        sortable.append((0 if ordering.endswith("id") else number % 3, record.pk))
    expected = [pk for _time, pk in sorted(sortable, reverse=ordering.startswith("-"))]
    for size in (1, 3, 4, 10):
        assert walk(client, "/api/records/", ordering=ordering, size=size) == expected


def test_rows_that_arrive_during_a_walk_neither_shift_nor_repeat_the_rest(
    client: APIClient,
) -> None:
    old = [ServerErrorFactory(occurred_at=NOON + timedelta(seconds=n)).pk for n in range(4)]
    page = client.get("/api/errors/?size=2").json()
    assert [row["id"] for row in page["results"]] == [old[3], old[2]]
    ServerErrorFactory(occurred_at=NOON + timedelta(hours=1))
    rest = client.get("/api/errors/", {"size": 2, "cursor": page["next"]}).json()
    assert [row["id"] for row in rest["results"]] == [old[1], old[0]]
    assert rest["next"] is None


def test_a_cursor_of_another_query_is_refused(client: APIClient) -> None:
    RecordFactory.create_batch(3)
    cursor = client.get("/api/records/?size=1").json()["next"]
    for parameters in ({"ordering": "-id"}, {"outcome": "delivered"}):
        response = client.get("/api/records/", {"cursor": cursor, **parameters})
        assert response.status_code == 400
        assert list(response.json()["error"]["fields"]) == ["cursor"]
    assert client.get("/api/errors/", {"cursor": cursor}).status_code == 400
    # The size may change on the way.
    assert len(ids(client, "/api/records/", cursor=cursor, size=50)) == 2


@pytest.mark.parametrize("values", [[], [None], ["x"], [{}], [[1]], [10**40], ["1", "2"], 5])
def test_a_forged_cursor_is_refused(client: APIClient, values: Any) -> None:
    RecordFactory.create_batch(2)
    good = client.get("/api/records/?size=1").json()["next"]
    fingerprint = json.loads(base64.urlsafe_b64decode(good + "=="))[0]
    forged = [fingerprint, *values] if isinstance(values, list) else values
    text = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode().rstrip("=")
    response = client.get("/api/records/", {"size": "1", "cursor": text})
    # A number beyond every id is a position too: after all rows.
    assert response.status_code == (200 if values == [10**40] else 400)


def test_a_fetch_error_names_its_request_and_a_server_error_its_path(client: APIClient) -> None:
    user = UserFactory()
    fetch = FetchErrorFactory(request__run__source__slug="cities", attempt=2)
    server = ServerErrorFactory(
        user=user, correlation_id="abc", occurred_at=NOON + timedelta(seconds=1)
    )
    rows = client.get("/api/errors/").json()["results"]
    assert rows[0] == {
        "id": server.pk,
        "error_type": "HTTP Error",
        "outcome": None,
        "status_code": 404,
        "message": "Not Found",
        "url": None,
        "path": "/nowhere/",
        "source": None,
        "run": None,
        "attempt": None,
        "request_id": "abc",
        "user": user.pk,
        "occurred_at": "2026-03-01T12:00:01Z",
    }
    assert rows[1] == client.get(f"/api/errors/{fetch.pk}/").json()
    assert (rows[1]["source"], rows[1]["run"], rows[1]["attempt"]) == ("cities", fetch.run_id, 2)


def test_errors_are_filtered_by_run_type_and_status(client: APIClient) -> None:
    fetch = FetchErrorFactory()
    crash = ServerErrorFactory(error_type="ValueError", status_code=500)
    cases: list[tuple[dict[str, Any], list[ErrorLog]]] = [
        ({"run": fetch.run_id}, [fetch]),
        ({"error_type": "ValueError"}, [crash]),
        ({"outcome": "failed"}, [fetch]),
        ({"status": "5xx", "ordering": "id"}, [fetch, crash]),
    ]
    for parameters, expected in cases:
        assert ids(client, "/api/errors/", **parameters) == [e.pk for e in expected], parameters
    for run in ("0", "x", str(10**30)):
        response = client.get("/api/errors/", {"run": run})
        assert list(response.json()["error"]["fields"]) == ["run"]


def test_a_job_tells_how_far_it_is(client: APIClient) -> None:
    job = JobFactory(run=RunFactory(), done=3, total=12, state="running")
    answer = client.get(f"/api/jobs/{job.pk}/").json()
    assert (answer["kind"], answer["state"], answer["progress"]) == ("run", "running", 0.25)
    assert (answer["user"], answer["run"]) == (job.user_id, job.run_id)
    assert ids(client, "/api/jobs/", state="running,queued") == [job.pk]
    assert ids(client, "/api/jobs/", kind="export") == []
    assert client.get("/api/jobs/?state=asleep").status_code == 400


@pytest.mark.parametrize("address", ["/api/records/", "/api/errors/", "/api/jobs/"])
def test_a_list_costs_the_same_queries_however_long_it_is(
    client: APIClient, address: str, django_assert_max_num_queries: Any
) -> None:
    RecordFactory.create_batch(8)
    FetchErrorFactory.create_batch(8)
    JobFactory.create_batch(8)
    with django_assert_max_num_queries(3):
        assert len(ids(client, address)) == 8
