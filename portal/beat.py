"""The beat: wakes what is due by the rows of django-celery-beat, which the admin shows.

Rows come from three places: the code (CELERY_BEAT_SCHEDULE), the schedules of sources, and whoever
adds one in the admin.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery.schedules import crontab
from django.db.models import QuerySet
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler, ModelEntry

from ingest.schedules import keep_all_schedules

# How rows that the code defines are told apart from those that somebody added.
FROM_CODE = "defined in the code"


class Scheduler(DatabaseScheduler):  # type: ignore[misc]
    """Writes as little as it can: the beat shares SQLite's one writer with the fetcher.

    Entries of every few seconds are never written back; they are due at every start anyhow. One of
    a cron text is written as soon as it is sent, so that a killed beat does not send it again.
    `--schedule FILE` is a file that each tick touches, for health checks.
    """

    def __init__(self, *args: Any, schedule_filename: str | None = None, **kwargs: Any) -> None:
        self._sign_of_life = Path(schedule_filename) if schedule_filename else None
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        present = self.app.conf.beat_schedule
        PeriodicTask.objects.filter(description=FROM_CODE).exclude(name__in=present).delete()
        keep_all_schedules()
        super().setup_schedule()

    def enabled_models_qs(self) -> QuerySet[PeriodicTask]:
        """All of them. The library leaves out rows of other hours by an offset of time zones that
        knows neither half hours nor summer time."""
        rows: QuerySet[PeriodicTask] = PeriodicTask.objects.enabled()
        return rows

    def reserve(self, entry: ModelEntry) -> ModelEntry:
        reserved: ModelEntry = super().reserve(entry)
        if isinstance(reserved.schedule, crontab):
            self.sync()
        else:
            self._dirty.discard(reserved.name)
        return reserved

    def tick(self, *args: Any, **kwargs: Any) -> float:
        if self._sign_of_life:
            self._sign_of_life.touch()
        seconds: float = super().tick(*args, **kwargs)
        return seconds
