"""The hour tier: always the sum of the minutes, whoever writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.db import DatabaseError, connection, transaction

from analytics.hours import install_triggers, trigger_statements
from analytics.models import HourBucket
from ingest.fetch.answers import Answer, Verdict
from ingest.models import Bucket, Run
from ingest.outcomes import Outcome
from ingest.rollups import add_to_buckets
from tests.analytics.factories import add_bucket
from tests.ingest.factories import RunFactory

HOUR = datetime(2026, 3, 4, 10, tzinfo=UTC)

pytestmark = pytest.mark.django_db


def hours() -> list[tuple[object, ...]]:
    rows = HourBucket.objects.order_by("started_at", "source_id", "outcome")
    return list(
        rows.values_list(
            *("source_id", "started_at", "outcome", "sends", "records"),
            *("latency_ms_sum", "first_run_id", "last_run_id"),
        )
    )


def test_minutes_of_an_hour_add_up_by_source_and_outcome():
    run = RunFactory()
    other = RunFactory()
    add_bucket(run, HOUR, sends=2, latency_ms_max=5)
    add_bucket(run, HOUR + timedelta(minutes=59), sends=3, latency_ms_max=50)
    add_bucket(run, HOUR, outcome=Outcome.FAILED, records=0)
    add_bucket(other, HOUR)
    add_bucket(run, HOUR + timedelta(minutes=60))

    assert hours() == [
        (run.source_id, HOUR, "delivered", 5, 5, 500, run.pk, run.pk),
        (run.source_id, HOUR, "failed", 1, 0, 100, run.pk, run.pk),
        (other.source_id, HOUR, "delivered", 1, 1, 100, other.pk, other.pk),
        (run.source_id, HOUR + timedelta(hours=1), "delivered", 1, 1, 100, run.pk, run.pk),
    ]
    assert HourBucket.objects.get(sends=5).latency_ms_max == 50


def test_the_runs_of_an_hour_are_the_first_and_the_last():
    first = RunFactory(finished=True)
    last = RunFactory(source=first.source)
    add_bucket(last, HOUR)
    add_bucket(first, HOUR)

    assert hours() == [(first.source_id, HOUR, "delivered", 2, 2, 200, first.pk, last.pk)]


def test_hours_follow_updates_and_deletes_and_vanish_with_their_last_minute():
    run = RunFactory()
    minute = add_bucket(run, HOUR, sends=2)
    add_bucket(run, HOUR + timedelta(minutes=1), sends=3)

    Bucket.objects.filter(pk=minute.pk).update(sends=10)
    assert HourBucket.objects.get().sends == 13

    minute.delete()
    assert HourBucket.objects.get().sends == 3

    run.source.delete()
    assert not HourBucket.objects.exists()


def test_a_minute_alone_in_its_hour_can_change():
    minute = add_bucket(RunFactory(), HOUR, sends=2)
    Bucket.objects.filter(pk=minute.pk).update(sends=5, outcome=Outcome.EMPTY)

    assert [row[2:4] for row in hours()] == [("empty", 5)]


def test_what_is_rolled_back_leaves_no_hours():
    with transaction.atomic():
        add_bucket(RunFactory(), HOUR)
        transaction.set_rollback(True)

    assert not HourBucket.objects.exists()


def test_installing_twice_counts_once():
    install_triggers()
    install_triggers()
    add_bucket(RunFactory(), HOUR)

    assert HourBucket.objects.get().sends == 1


def test_an_installation_that_breaks_off_leaves_the_triggers_of_before(
    monkeypatch: pytest.MonkeyPatch,
):
    given = trigger_statements(connection)
    # The first of them takes a trigger away on SQLite.
    monkeypatch.setattr(
        "analytics.hours.trigger_statements", lambda _: [*given, given[0], "nonsense"]
    )
    with pytest.raises(DatabaseError):
        install_triggers()
    add_bucket(RunFactory(), HOUR)

    assert HourBucket.objects.get().sends == 1


def test_the_migration_adds_up_what_was_there_before():
    run = RunFactory()
    add_bucket(run, HOUR, sends=2)
    add_bucket(run, HOUR + timedelta(minutes=5), sends=4)
    expected = hours()
    HourBucket.objects.all().delete()

    import_module("analytics.migrations.0002_fill_hours").fill_hours(
        apps, SimpleNamespace(connection=connection)
    )

    assert hours() == expected


def test_the_flush_writes_both_tiers():
    run = RunFactory()
    at = HOUR + timedelta(minutes=3, seconds=20)
    answers = [answer(run, Outcome.DELIVERED, at), answer(run, Outcome.FAILED, at)]

    add_to_buckets(answers, source_id=run.source_id)
    add_to_buckets(answers[:1], source_id=run.source_id)

    assert [row[1:4] for row in hours()] == [(HOUR, "delivered", 2), (HOUR, "failed", 1)]
    assert Bucket.objects.count() == 2


def answer(run: Run, outcome: Outcome, answered_at: datetime) -> Answer:
    return Answer(
        request_id=1,
        run_id=run.pk,
        position=0,
        key="1",
        url="https://api.example.org/",
        attempts=1,
        pass_attempts=1,
        backoff_step=0,
        verdict=Verdict(outcome=outcome),
        status_code=200,
        latency_ms=12.5,
        answered_at=answered_at,
        due_at=None,
    )
