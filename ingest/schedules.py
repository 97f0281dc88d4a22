"""Schedules of sources: their cron texts as rows that the beat reads, always in step.

The configuration of a source is the truth; the row follows it in the same transaction, and once
more when the beat starts. A row may be paused in the admin (`enabled`), which is left alone.
"""

from __future__ import annotations

import json
from datetime import datetime
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import transaction
from django_celery_beat.models import CrontabSchedule, PeriodicTask

from ingest.cron import CronInvalid, parse_cron
from ingest.models import Source

TASK = "ingest.tasks.start_scheduled_run"
# A message that no worker took for so long is not worth a run any more: the next one is near.
EXPIRES_SECONDS = 3600


def keep_schedule(source: Source) -> None:
    """Puts the source's row of the beat in step with it. Call it inside a transaction."""
    text = None if source.archived_at else source.configuration.get("schedule")
    rows = PeriodicTask.objects.filter(name=_name_of(source))
    if not text:
        rows.delete()
        return
    crontab = _find_crontab(text)
    row = rows.first()
    if row is None:
        PeriodicTask.objects.create(
            name=_name_of(source),
            task=TASK,
            crontab=crontab,
            args=json.dumps([source.pk]),
            expire_seconds=EXPIRES_SECONDS,
            description=source.slug,
        )
    elif row.crontab_id != crontab.pk:
        # Counted from now: what the new text would have named before is not caught up with.
        row.crontab, row.last_run_at = crontab, None
        row.save()


def keep_all_schedules() -> None:
    """Heals what got out of step, such as by a change of TIME_ZONE."""
    with transaction.atomic():
        sources = {_name_of(source): source for source in Source.objects.filter(archived_at=None)}
        PeriodicTask.objects.filter(task=TASK).exclude(name__in=sources).delete()
        for source in sources.values():
            keep_schedule(source)


def next_due_at(source: Source, *, now: datetime) -> datetime | None:
    """When the next run will be started; None without a schedule, or while it is paused."""
    text = source.configuration.get("schedule")
    if not text or is_paused(source):
        return None
    try:
        return parse_cron(text).next_after(now, zone=ZoneInfo(settings.TIME_ZONE))
    except CronInvalid:
        return None


def is_paused(source: Source) -> bool:
    """Whether somebody has switched the schedule off in the admin."""
    return bool(PeriodicTask.objects.filter(name=_name_of(source), enabled=False).exists())


def _name_of(source: Source) -> str:
    return f"runs of source {source.pk}"


def _find_crontab(text: str) -> CrontabSchedule:
    cron = parse_cron(text)
    fields = {
        "minute": cron.minute,
        "hour": cron.hour,
        "day_of_month": cron.day_of_month,
        "month_of_year": cron.month_of_year,
        "day_of_week": cron.day_of_week,
        "timezone": settings.TIME_ZONE,
    }
    # Nothing in that table is unique.
    return CrontabSchedule.objects.filter(**fields).first() or CrontabSchedule.objects.create(
        **fields
    )
