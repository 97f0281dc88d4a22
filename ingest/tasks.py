"""Celery's entrance to ingestion. Messages are wake-up calls: what there is to do stands in the
database, so that a lost or doubled message does no harm."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from celery import shared_task
from django.db.models import QuerySet
from django.utils import timezone

from ingest import hosts, services, slices, stopping
from ingest.models import Delivery, ErrorLog, Record, Request, Run, Source

SCAN_SECONDS = 5
# A worker that is free joins a run at once; one that becomes free later is not held to it.
HELPER_SECONDS = 2
# Longer waits are left to the regular scan.
MAX_COUNTDOWN_SECONDS = 60
PURGE_ROWS = 2_000
# A source may have millions of rows, and what runs and the index wait for needs the same workers.
PURGE_SECONDS = 5.0
TIDY_SECONDS = 3600


@shared_task(ignore_result=True)
def run_slice(run_id: int) -> None:
    """Works on a run for up to SLICE_SECONDS and wakes itself as long as there is work."""

    def call_helper() -> None:
        # Without a broker the regular scan finds the work.
        with contextlib.suppress(run_slice.OperationalError):
            run_slice.apply_async((run_id,), expires=HELPER_SECONDS)

    try:
        step = slices.run_slice(run_id, call_helper=call_helper)
    except Run.DoesNotExist:
        return  # purged with its source
    if step.is_due:
        run_slice.delay(run_id)
    elif step.wake_at:
        wait = (step.wake_at - timezone.now()).total_seconds()
        if wait <= MAX_COUNTDOWN_SECONDS:
            run_slice.apply_async((run_id,), countdown=max(0.0, wait))


@shared_task(ignore_result=True)
def scan_due() -> None:
    """Wakes every run that has due rows and no worker, as after a crash or an outage."""
    for run_id in slices.find_idle_runs():
        # The next scan asks again: while no worker is up, messages must not pile up.
        run_slice.apply_async((run_id,), expires=SCAN_SECONDS * 2)


@shared_task(ignore_result=True)
def start_scheduled_run(source_id: int) -> None:
    """Called by the beat when a source's schedule comes round."""
    services.start_scheduled_run(source_id)


@shared_task(ignore_result=True)
def purge_source(source_id: int) -> None:
    """Deletes an archived source with all that belongs to it, in batches and in turns."""
    source = Source.objects.filter(pk=source_id, archived_at__isnull=False).first()
    if source is None:
        return
    ends_at = time.monotonic() + PURGE_SECONDS
    # Tables before those that they refer to: a cascade would gather a whole run in memory.
    for rows in (
        ErrorLog.objects.filter(source=source),
        Delivery.objects.filter(run__source=source),
        Request.objects.filter(run__source=source),
        Record.objects.filter(source=source),
    ):
        for pks in _read_batches(rows):
            rows.model._default_manager.filter(pk__in=pks).delete()
            if time.monotonic() >= ends_at or stopping.is_asked_to_stop():
                # Without a broker the next round of `tidy_up` goes on.
                with contextlib.suppress(purge_source.OperationalError):
                    purge_source.delay(source_id)
                return
    source.delete()


def _read_batches(rows: QuerySet[Any]) -> Iterator[list[int]]:
    while pks := list(rows.order_by().values_list("pk", flat=True)[:PURGE_ROWS]):
        yield pks


@shared_task(ignore_result=True)
def tidy_up() -> None:
    """Picks up purges whose wake-up was lost, and forgets hosts that nobody asks any more."""
    hosts.forget_unused()
    before = timezone.now() - timedelta(minutes=1)
    for source_id in Source.objects.filter(archived_at__lt=before).values_list("pk", flat=True):
        # The next round asks again: while no worker is up, messages must not pile up.
        purge_source.apply_async((source_id,), expires=TIDY_SECONDS)
