"""The beat: wakes what is due by the rows of django-celery-beat, which the admin shows.

Rows come from three places: the code (CELERY_BEAT_SCHEDULE), the schedules of sources, and whoever
adds one in the admin.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from celery.schedules import schedule
from django.db.models import Q, QuerySet
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler, ModelEntry

from ingest.schedules import keep_all_schedules

# How rows that the code defines are told apart from those that somebody added.
FROM_CODE = "defined in the code"
OFTEN_SECONDS = 60
# The clock of a machine is set right in smaller steps all the time.
CLOCK_SECONDS = 1.0


class Scheduler(DatabaseScheduler):  # type: ignore[misc]
    """Writes as little as it can: the beat shares SQLite's one writer with the fetcher.

    Entries of every few seconds are never written back; they are due soon after every start anyhow.
    Others are written as soon as they are sent: a killed beat does not send them again, and the
    library reads all rows anew every five minutes.
    `--schedule FILE` is a file that each tick touches, for health checks.
    """

    def __init__(self, *args: Any, schedule_filename: str | None = None, **kwargs: Any) -> None:
        self._sign_of_life = Path(schedule_filename) if schedule_filename else None
        self._ticked_at = timezone.now()
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        _forget_future(self._ticked_at)
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
        if isinstance(reserved.schedule, schedule) and reserved.schedule.seconds <= OFTEN_SECONDS:
            self._dirty.discard(reserved.name)
        else:
            self.sync()
        return reserved

    def tick(self, *args: Any, **kwargs: Any) -> float:
        if self._sign_of_life:
            self._sign_of_life.touch()
        now = timezone.now()
        if (self._ticked_at - now).total_seconds() > CLOCK_SECONDS:
            # The clock was set back: until it is there again, nothing would be due, and no change
            # of a row seen.
            self.sync()
            _forget_future(now)
            self._initial_read, self._last_timestamp, self._heap = True, None, None
        self._ticked_at = now
        seconds: float = super().tick(*args, **kwargs)
        return seconds


def _forget_future(now: datetime) -> None:
    """What was sent by a clock that was ahead counts as sent now, not as early once it is due."""
    rows = PeriodicTask.objects.filter(Q(last_run_at__gt=now) | Q(date_changed__gt=now))
    rows.update(last_run_at=now, date_changed=now)
