"""GET /api/search/export/: all hits, once each, with a receipt; never short without failing."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from ingest.models import ErrorLog, Job, JobState, Record, Source
from portal.accounts.models import User
from search import tasks
from search.engines.tantivy import TantivyView
from search.errors import SearchUnavailable
from search.export import Format, open_export
from search.query import read_query

pytestmark = pytest.mark.django_db

Store = Callable[..., Record]
Drain = Callable[[], int]
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def ask(user: User | None, **parameters: Any) -> Any:
    client = Client()
    if user:
        client.force_login(user)
    return client.get("/api/search/export/", parameters)


def read(response: Any) -> bytes:
    assert response.status_code == 200, response.content
    return b"".join(response.streaming_content)


def read_ndjson(response: Any) -> list[dict[str, Any]]:
    """The rows, once the receipt has been checked."""
    body = read(response)
    start = body.rindex(b'{"receipt"')
    rows = [json.loads(line) for line in body[:start].splitlines()]
    receipt = json.loads(body[start:])["receipt"]
    assert receipt == {"rows": len(rows), "sha256": hashlib.sha256(body[:start]).hexdigest()}
    return rows


def read_csv(response: Any) -> list[dict[str, str]]:
    body = read(response)
    start = body.rindex(b"# rows=")
    text = body[:start].decode()
    assert text.endswith("\r\n")
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    sha256 = hashlib.sha256(body[:start]).hexdigest()
    assert body[start:].decode() == f"# rows={len(rows)},sha256={sha256}\r\n"
    return rows


@pytest.fixture
def leaves(store: Store, drain: Drain) -> list[Record]:
    rows = [store(f"leaf {n}", occurred_at=T0 + timedelta(seconds=n // 7)) for n in range(130)]
    drain()
    return rows


@pytest.mark.parametrize("sort", ["score", "time", "-time"])
def test_it_holds_every_hit_once_in_the_order_of_the_search(
    leaves: list[Record], reader: User, sort: str
) -> None:
    client = Client()
    client.force_login(reader)
    parameters: dict[str, Any] = {"q": "leaf", "sort": sort, "size": 50}
    paged: list[str] = []
    while True:
        answer = client.get("/api/search/", parameters).json()
        paged += [hit["id"] for hit in answer["results"]]
        if not answer["next"]:
            break
        parameters["cursor"] = answer["next"]

    rows = read_ndjson(ask(reader, q="leaf", sort=sort, size=50, format="ndjson"))

    assert [row["id"] for row in rows] == paged
    assert len(rows) == answer["total"] == 130


def test_a_row_carries_the_record(store: Store, drain: Drain, reader: User) -> None:
    data = {"id": 12345678901234567890123, "name": "İstanbul"}
    record = store("İstanbul", body="long " * 100, data=data, occurred_at=T0)
    drain()

    [row] = read_ndjson(ask(reader, q="istanbul", format="ndjson"))

    assert row["id"] == f"record-{record.pk}"
    assert row["text"] == record.body
    assert row["data"] == data
    assert row["occurred_at"] == "2026-01-01T00:00:00Z"
    assert row["url"] == f"/records/{record.pk}/"
    [cells] = read_csv(ask(reader, q="istanbul"))
    assert json.loads(cells["data"]) == data
    assert {**cells, "data": data, "score": float(cells["score"]), "status_code": None} == row


def test_no_cell_is_a_formula(store: Store, drain: Drain, reader: User) -> None:
    titles = ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\tx", "\uff1d1", 'a,"b"\r\nc\rd']
    for title in titles:
        store(title, body="formula")
    drain()

    shown = {row["title"] for row in read_csv(ask(reader, q="formula"))}

    assert shown == {f"'{title}" for title in titles[:-1]} | {titles[-1]}


def test_it_uses_the_stage_of_a_search_of_the_same_size(
    store: Store, drain: Drain, reader: User
) -> None:
    for _ in range(12):
        store("garden")
    for _ in range(12):
        store("gardem")
    drain()

    assert len(read_ndjson(ask(reader, q="garden ", size=10, format="ndjson"))) == 12
    assert len(read_ndjson(ask(reader, q="garden ", size=20, format="ndjson"))) == 24


def test_what_one_may_not_see_is_not_in_it(
    store: Store, drain: Drain, source: Source, owner: User, reader: User, staff: User
) -> None:
    store("thing")
    ErrorLog.objects.create(error_type="Fetch", message="thing", source=source, occurred_at=T0)
    ErrorLog.objects.create(error_type="Server", message="thing", occurred_at=T0)
    drain()

    counts = [len(read_csv(ask(user, q="thing"))) for user in (reader, owner, staff)]

    assert counts == [1, 2, 3]
    assert ask(None, q="thing").status_code == 401


def test_nothing_found_is_an_export_of_no_rows(engine: Any, reader: User) -> None:
    assert read_csv(ask(reader, q="zzz")) == []
    assert read_ndjson(ask(reader, q="zzz", format="ndjson")) == []


def test_a_new_portal_exports_nothing(reader: User, index_dir: Any) -> None:
    assert read_csv(ask(reader)) == []


def test_a_job_tells_how_it_went(leaves: list[Record], reader: User) -> None:
    response = ask(reader, q="leaf")
    job = Job.objects.get(kind="export")
    assert (job.user, job.state, job.total) == (reader, JobState.RUNNING, 130)

    read(response)

    job.refresh_from_db()
    assert (job.state, job.done) == (JobState.FINISHED, 130)
    assert job.finished_at


def test_an_export_that_breaks_has_no_receipt_and_fails_its_job(
    leaves: list[Record], reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TantivyView.scan

    def break_off(*args: Any, **options: Any) -> Iterator[Any]:
        hits = whole(*args, **options)
        yield from (next(hits) for _ in range(100))
        raise SearchUnavailable("shard 1 of 2 at 10.0.0.1 is gone")

    monkeypatch.setattr(TantivyView, "scan", break_off)
    response = ask(reader, q="leaf", format="ndjson")

    seen: list[bytes] = []
    with pytest.raises(SearchUnavailable):
        seen.extend(response.streaming_content)

    assert b"receipt" not in b"".join(seen)
    job = Job.objects.get(kind="export")
    assert (job.state, job.done) == (JobState.FAILED, 100)
    assert "10.0.0.1" not in job.message
    [error] = ErrorLog.objects.filter(status_code=503)
    assert "100 of 130 rows" in error.message


def test_an_export_that_holds_fewer_rows_than_were_counted_breaks(
    leaves: list[Record], reader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TantivyView.scan
    monkeypatch.setattr(
        TantivyView,
        "scan",
        lambda *args, **options: (hit for n, hit in enumerate(whole(*args, **options)) if n != 7),
    )

    with pytest.raises(Exception, match="130 hits were counted, but 129 read"):
        read(ask(reader, q="leaf"))


@pytest.mark.parametrize("pieces", [0, 1])
def test_a_reader_who_goes_away_ends_it(leaves: list[Record], reader: User, pieces: int) -> None:
    export = open_export(read_query({"q": ["leaf"]}), user=reader, form=Format.CSV)
    export.start_job(user=reader)
    for _ in range(pieces):
        next(iter(export))

    export.close()

    job = Job.objects.get(kind="export")
    assert job.state == JobState.FAILED
    assert "went away" in job.message
    assert not list(export)


def test_an_export_whose_process_was_killed_ends_a_day_later(
    leaves: list[Record], reader: User
) -> None:
    killed, living = (
        open_export(read_query({"q": ["leaf"]}), user=reader, form=Format.CSV) for _ in range(2)
    )
    for export in (killed, living):
        export.start_job(user=reader)
        next(iter(export))
    tasks.tidy_up()
    assert set(Job.objects.values_list("state", flat=True)) == {"running"}
    Job.objects.update(started_at=timezone.now() - timedelta(days=2))
    tasks.tidy_up()
    assert set(Job.objects.values_list("state", "message")) == {("failed", "Its process died.")}
    assert list(living)
    assert list(Job.objects.values_list("state", flat=True)) == ["finished", "failed"]


def test_an_engine_that_is_down_is_a_503_and_no_job(
    store: Store, reader: User, index_dir: Any
) -> None:
    store("not indexed")

    response = ask(reader, q="x")

    assert response.status_code == 503
    assert not Job.objects.filter(kind="export").exists()


@pytest.mark.parametrize(("field", "value"), [("format", "xlsx"), ("size", "0"), ("kind", "x")])
def test_a_wrong_parameter_is_a_400_that_names_it(field: str, value: str, reader: User) -> None:
    response = ask(reader, **{field: value})

    assert response.status_code == 400
    assert list(response.json()["error"]["fields"]) == [field]


def test_its_headers_make_it_a_file(engine: Any, reader: User) -> None:
    client = Client()
    client.force_login(reader)
    for form, content_type in (("csv", "text/csv"), ("ndjson", "application/x-ndjson")):
        response = client.head("/api/search/export/", {"format": form})
        assert response["Content-Type"].startswith(content_type)
        assert response["Content-Disposition"].startswith('attachment; filename="search-')
        assert response["Content-Disposition"].endswith(f'.{form}"')
    assert not Job.objects.exists()
