from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ingest import records
from ingest.models import Outbox, Record
from ingest.outcomes import Outcome
from ingest.records import read_time
from tests.ingest.factories import RecordFactory, RequestFactory, SourceFactory
from tests.ingest.test_ledger import answer, record

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("2026-02-03", datetime(2026, 2, 3, tzinfo=UTC)),
        ("2026-02-03T04:05:06", datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("2026-02-03T04:05:06Z", datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("2026-02-03 04:05:06+02:00", datetime(2026, 2, 3, 2, 5, 6, tzinfo=UTC)),
        ("2026-02-03T04:05:06.123456789Z", datetime(2026, 2, 3, 4, 5, 6, 123456, tzinfo=UTC)),
        ("20260203T040506Z", datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00+05:00", None),
        ("03.02.2026", None),
        ("02/03/2026", None),
        ("now", None),
        ("2026-02-30", None),
        ("", None),
        (1770000000, None),
        (None, None),
        ({}, None),
    ],
)
def test_iso_8601_is_read_as_utc_and_anything_else_is_unreadable(value, read):
    assert read_time(value) == read


@pytest.mark.django_db
def test_a_date_is_read_the_same_whatever_stands_beside_it():
    source = SourceFactory()
    row = RequestFactory(run__source=source)
    times = ["0001-01-01", "2026-02-03T04:05:06.123456789Z", "junk", "2026-02-03", 5, None]
    parsed = [record(str(at), index, occurred_at=at) for index, at in enumerate(times)]
    frame = records.frame_of([answer(row, Outcome.DELIVERED, *parsed)])
    records.upsert_records(frame, source_id=source.pk, now=NOW, chunk_rows=500)
    stored = {each.key: each for each in Record.objects.all()}
    assert stored["2026-02-03"].occurred_at == datetime(2026, 2, 3, tzinfo=UTC)
    assert stored["0001-01-01"].occurred_at == datetime(1, 1, 1, tzinfo=UTC)
    assert stored["junk"].occurred_at == NOW
    assert stored["junk"].occurred_at_noted == "unreadable"
    assert stored["None"].occurred_at_noted == "not given"


@pytest.mark.django_db
def test_new_changed_and_unchanged_are_told_apart_and_only_changes_are_written():
    source = SourceFactory()
    row = RequestFactory(run__source=source)
    RecordFactory(source=source, key="same", content_hash="1" * 32, status_code=200)
    RecordFactory(source=source, key="old", content_hash="0" * 32, status_code=200)
    RecordFactory(key="same", content_hash="0" * 32)  # of another source
    Outbox.objects.all().delete()
    frame = records.frame_of(
        [answer(row, Outcome.DELIVERED, record("same"), record("old", 1), record("new", 2))]
    )
    done = records.upsert_records(frame, source_id=source.pk, now=NOW, chunk_rows=2)
    assert (done.new, done.changed, done.unchanged) == (1, 1, 1)
    touched = set(Outbox.objects.values_list("object_id", flat=True))
    assert touched == set(
        Record.objects.filter(source=source, key__in=["old", "new"]).values_list("pk", flat=True)
    )


@pytest.mark.django_db
def test_an_unreadable_time_stays_at_the_time_first_stored():
    source = SourceFactory()
    row = RequestFactory(run__source=source)
    for now, content in ((NOW, "1" * 32), (NOW + timedelta(days=1), "2" * 32)):
        parsed = record("a", occurred_at="someday", content_hash=content)
        frame = records.frame_of([answer(row, Outcome.DELIVERED, parsed)])
        records.upsert_records(frame, source_id=source.pk, now=now, chunk_rows=500)
    stored = Record.objects.get()
    assert (stored.occurred_at, stored.stored_at) == (NOW, NOW)
    assert stored.updated_at == NOW + timedelta(days=1)


@pytest.mark.django_db
def test_a_record_carries_the_outcome_that_last_delivered_it():
    source = SourceFactory()
    row = RequestFactory(run__source=source)
    for outcome in (Outcome.MALFORMED, Outcome.DELIVERED):
        frame = records.frame_of([answer(row, outcome, record("a"))])
        done = records.upsert_records(frame, source_id=source.pk, now=NOW, chunk_rows=500)
    assert Record.objects.get().outcome == Outcome.DELIVERED
    assert (done.new, done.changed, done.unchanged) == (0, 0, 1)


@pytest.mark.django_db
def test_values_keep_their_type_beside_others():
    source = SourceFactory()
    row = RequestFactory(run__source=source)
    parsed = [
        record("1", 0, data='{"id": 1, "n": 1}', weight=None),
        record("2", 1, data='{"id": 2, "n": null}', weight=2.5),
    ]
    frame = records.join_frames(
        [records.frame_of([answer(row, Outcome.DELIVERED, each)]) for each in parsed]
    )
    records.upsert_records(frame, source_id=source.pk, now=NOW, chunk_rows=500)
    first, second = Record.objects.order_by("key")
    assert (first.data, first.weight) == ({"id": 1, "n": 1}, None)
    assert (second.data, second.weight) == ({"id": 2, "n": None}, 2.5)
