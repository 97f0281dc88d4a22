"""The beat: rows from code and sources, few writes, nothing sent twice and no burst."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from portal.beat import FROM_CODE, OFTEN_SECONDS, Scheduler
from portal.celery import app

pytestmark = pytest.mark.django_db(transaction=True)


class Beat(Scheduler):
    """Sends nothing; remembers what it would have sent."""

    def __init__(self, **kwargs: Any) -> None:
        self.sent: list[str] = []
        super().__init__(app, **kwargs)

    def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> None:
        self.sent.append(entry.name)


def cron_row(name: str, *, last_run_at: datetime | None, **fields: str) -> PeriodicTask:
    crontab = CrontabSchedule.objects.create(timezone="UTC", **fields)
    row = PeriodicTask.objects.create(name=name, task="ingest.tasks.scan_due", crontab=crontab)
    PeriodicTask.objects.filter(pk=row.pk).update(last_run_at=last_run_at)
    return row


def work(beat: Beat, ticks: int = 6) -> list[str]:
    for _ in range(ticks):
        beat.tick()
    return beat.sent


def test_what_the_code_defines_is_there_once_also_after_a_restart_and_a_renaming():
    assert {each["description"] for each in settings.CELERY_BEAT_SCHEDULE.values()} == {FROM_CODE}
    PeriodicTask.objects.create(
        name="an older name",
        task="ingest.tasks.scan_due",
        interval=IntervalSchedule.objects.create(every=5, period="seconds"),
        description=FROM_CODE,
    )
    PeriodicTask.objects.filter(name="look for due rows").update(enabled=False)
    for _ in range(2):
        Beat()
    rows = PeriodicTask.objects.filter(description=FROM_CODE)
    assert {row.name for row in rows} == set(settings.CELERY_BEAT_SCHEDULE)
    assert all(row.enabled and row.expire_seconds for row in rows)


def test_what_is_due_every_few_seconds_is_never_written_back(tmp_path: Path):
    beat = Beat(schedule_filename=str(tmp_path / "alive"))
    often = PeriodicTask.objects.filter(description=FROM_CODE, interval__every__lte=OFTEN_SECONDS)
    PeriodicTask.objects.exclude(pk__in=often).delete()
    beat.tick()
    for entry in beat.schedule.values():
        entry.model.last_run_at = entry.last_run_at = datetime.now(UTC) - timedelta(hours=1)
    beat._heap = None
    with CaptureQueriesContext(connection) as queries:
        sent = work(beat)
        beat.sync()
    assert {row.name for row in often} <= set(sent)
    writes = ("INSERT", "UPDATE", "DELETE")
    assert [each["sql"] for each in queries if each["sql"].startswith(writes)] == []
    assert (tmp_path / "alive").exists()


def test_what_was_missed_while_the_beat_was_down_is_not_caught_up_with():
    hour = (datetime.now(UTC) - timedelta(hours=2)).hour
    long_ago = datetime.now(UTC) - timedelta(days=9)
    cron_row("missed", last_run_at=long_ago, minute="0", hour=str(hour))
    assert "missed" not in work(Beat())


def test_a_cron_row_is_written_when_it_is_sent_so_that_a_killed_beat_does_not_repeat_it():
    now = datetime.now(UTC)
    row = cron_row("hourly", last_run_at=now - timedelta(minutes=30), minute=str(now.minute))
    assert work(Beat()).count("hourly") == 1
    row.refresh_from_db()
    assert row.last_run_at >= now
    assert "hourly" not in work(Beat())


def test_rows_of_every_hour_are_read():
    far = (datetime.now(UTC) + timedelta(hours=12)).hour
    cron_row("far", last_run_at=None, minute="0", hour=str(far))
    assert "far" in Beat().schedule


def test_an_hourly_entry_is_sent_once_an_hour_also_when_the_rows_are_read_again():
    beat = Beat()
    PeriodicTask.objects.exclude(name="tidy up").delete()
    PeriodicTask.objects.update(date_changed=datetime.now(UTC) - timedelta(minutes=61))
    for _ in range(3):
        beat._last_full_sync -= timedelta(minutes=6)
        work(beat)
    assert beat.sent.count("tidy up") == 1
    PeriodicTask.objects.update(last_run_at=datetime.now(UTC) - timedelta(minutes=61))
    assert "tidy up" in work(Beat())
    assert "tidy up" not in work(Beat())


def test_a_clock_that_is_set_back_stops_nothing(monkeypatch: pytest.MonkeyPatch):
    ahead = datetime.now(UTC) + timedelta(days=1)
    with monkeypatch.context() as patch:
        patch.setattr("django.utils.timezone.now", lambda: ahead)
        patch.setattr("django_celery_beat.models.now", lambda: ahead)
        patch.setattr("django_celery_beat.schedulers.ModelEntry._default_now", lambda self: ahead)
        beat = Beat()
        work(beat)
    PeriodicTask.objects.update(last_run_at=ahead)
    IntervalSchedule.objects.filter(every=5).update(every=1)
    beat.sent.clear()
    work(beat)
    time.sleep(1.1)
    work(beat)
    assert {"look for due rows", "drain the outbox"} <= set(beat.sent)
    assert not PeriodicTask.objects.filter(last_run_at__gte=ahead).exists()


def test_what_a_clock_that_was_ahead_has_left_stops_no_beat_that_starts_later():
    ahead = datetime.now(UTC) + timedelta(days=1)
    row = cron_row("always", last_run_at=ahead, minute="*")
    Beat()
    row.refresh_from_db()
    assert row.last_run_at is not None
    assert row.last_run_at < ahead
