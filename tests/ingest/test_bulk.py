"""Rows that are written past the ORM must be what the ORM would have written."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from ingest import bulk
from ingest.models import Delivery, ErrorLog, Record, Request
from ingest.outcomes import Outcome
from tests.ingest.factories import RecordFactory, RequestFactory, RunFactory, SourceFactory

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
NAMES = ("key", "data", "weight", "occurred_at", "status_code")
AWKWARD = "quote \" ' back\\slash %s ? :name {} \u2028 ağ \N{GRINNING FACE}"


def store(rows: list[tuple[Any, ...]], **more: Any) -> None:
    source = more.pop("source", None) or SourceFactory()
    shared = {"source_id": source.pk, "content_hash": "1", "stored_at": NOW, "updated_at": NOW}
    bulk.insert_rows(Record, NAMES, rows, shared=shared, **more)


def test_values_come_back_as_they_were_given():
    data = {AWKWARD: [AWKWARD, 1.1, 2**53 + 1, None, True], "": {}}
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    store(
        [
            (AWKWARD, json.dumps(data), 0.1 + 0.2, elsewhere, 200),
            ("b", "null", None, datetime(1, 1, 1, tzinfo=UTC), None),
        ]
    )
    second, first = Record.objects.order_by("key")
    assert (first.key, first.data, first.weight) == (AWKWARD, data, 0.1 + 0.2)
    assert (first.occurred_at, first.stored_at, first.status_code) == (NOW, NOW, 200)
    assert (second.data, second.weight, second.status_code) == (None, None, None)
    assert second.occurred_at == datetime(1, 1, 1, tzinfo=UTC)


def test_columns_that_are_not_named_get_their_default():
    run = RunFactory()
    bulk.insert_rows(Request, ("position", "key"), [(7, "a")], shared={"run_id": run.pk})
    row = Request.objects.get()
    assert (row.outcome, row.attempts, row.role, row.due_at) == (Outcome.PLANNED, 0, "", None)


def test_a_time_is_written_as_the_orm_writes_it():
    """Or comparing and sorting by text, as SQLite does, would go wrong."""
    run = RunFactory()
    for position, moment in enumerate([NOW, NOW.replace(microsecond=0)]):
        written = RequestFactory(run=run, position=position, due_at=moment)
        shared = {"run_id": run.pk, "due_at": moment}
        bulk.insert_rows(Request, ("position", "key"), [(position + 10, "b")], shared=shared)
        bulk.update_rows(Request, ("finished_at", "outcome"), [(moment, "failed", written.pk)])
        assert Request.objects.filter(due_at=moment).count() == 2
        assert Request.objects.get(finished_at=moment).pk == written.pk


@pytest.mark.parametrize("count", [0, 1, 499, 500, 1_337])
@pytest.mark.parametrize("chunk_rows", [None, 100])
def test_any_number_of_rows_is_written_once_and_in_order(count: int, chunk_rows: int | None):
    rows = [(f"{number:05}", "{}", None, NOW, number) for number in range(count)]
    store(rows, chunk_rows=chunk_rows)
    stored = Record.objects.order_by("pk").values_list("key", "status_code")
    assert list(stored) == [(row[0], row[4]) for row in rows]


def test_an_upsert_changes_what_is_there_and_keeps_what_it_does_not_name():
    source = SourceFactory()
    RecordFactory(source=source, key="a", title="kept", status_code=200)
    bulk.upsert_rows(
        Record,
        NAMES,
        [("a", "{}", 1.0, NOW, 201), ("b", "{}", 2.0, NOW, 202)],
        shared={
            "source_id": source.pk, "content_hash": "2", "stored_at": NOW, "updated_at": NOW,
        },
        unique=("source_id", "key"),
        updated=("status_code", "weight"),
    )  # fmt: skip
    first, second = Record.objects.order_by("key")
    assert (first.title, first.status_code, first.weight) == ("kept", 201, 1.0)
    assert (second.key, second.status_code) == ("b", 202)


def test_an_update_touches_the_named_rows_and_columns_only():
    rows = RequestFactory.create_batch(3, attempts=5)
    bulk.update_rows(
        Request,
        ("attempts", "evidence"),
        [(6, json.dumps({"reason": AWKWARD}), rows[0].pk), (7, None, rows[2].pk)],
        shared={"error": "x"},
    )
    found = Request.objects.order_by("pk").values_list("attempts", "evidence", "error", "key")
    assert list(found) == [
        (6, {"reason": AWKWARD}, "x", rows[0].key),
        (5, None, "", rows[1].key),
        (7, None, "x", rows[2].key),
    ]


def test_a_row_that_breaks_a_rule_is_refused_and_one_that_is_there_already_can_be_passed_over():
    row = RequestFactory()
    names = ("request_id", "position", "record_key", "content_hash")
    twice = [(row.pk, 0, "a", ""), (row.pk, 0, "b", "")]
    with pytest.raises(IntegrityError), transaction.atomic():
        bulk.insert_rows(Delivery, names, twice, shared={"run_id": row.run_id})
    for _ in range(2):
        bulk.insert_rows(
            ErrorLog,
            ("request_id", "attempt", "error_type", "message"),
            [(row.pk, 1, "Timeout", "late"), (row.pk, 2, "Timeout", "late")],
            shared={"occurred_at": NOW},
            ignore_conflicts=True,
        )
    assert ErrorLog.objects.count() == 2


def test_after_a_burst_the_database_knows_how_many_rows_there_are():
    run = RunFactory()
    bulk.refresh_statistics(Delivery)
    request = RequestFactory(run=run)
    rows = ((request.pk, position, f"k-{position}", "1") for position in range(3_000))
    names = ("request_id", "position", "record_key", "content_hash")
    bulk.insert_rows(Delivery, names, rows, shared={"run_id": run.pk})
    bulk.refresh_statistics(Delivery)
    of_run = Delivery.objects.filter(run=run).order_by()
    if connection.vendor == "postgresql":
        [plan] = json.loads(of_run.explain(format="json"))
        assert 1_500 < plan["Plan"]["Plan Rows"] < 6_000
    else:
        assert "delivery_run_key (run_id=?)" in of_run.explain()
