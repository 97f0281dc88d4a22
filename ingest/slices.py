"""One turn of a worker on a run: lease, fetch, and decide what comes next."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import traceback

from django.conf import settings
from django.db import InterfaceError, InternalError, OperationalError, connection, transaction
from django.db.models import F
from django.utils import timezone

from ingest import ledger, runs
from ingest.errors import LeaseLost
from ingest.fetch.loop import SliceResult, SliceTask, work_on_slice
from ingest.fetch.signs import Signs
from ingest.models import ErrorLog, Run, Slice
from ingest.outcomes import FINAL_STATES
from ingest.runs import NextStep
from ingest.secrets import Redactor, unseal

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0
# PostgreSQL says InternalError where it has ended the transaction of a worker that was paused.
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError)


def run_slice(run_id: int) -> NextStep:
    """Works on the run's due rows for a while. Does nothing where enough slices are at it."""
    step = runs.advance_run(run_id)
    if not step.is_due:
        return step
    held = ledger.open_slice(run_id, worker=_worker_name(), at_most=settings.RUN_SLICES)
    if held is None:
        return NextStep()
    try:
        result = _fetch(held)
    except LeaseLost:
        return NextStep()
    except DATABASE_AWAY:
        # The database is away or too busy: nobody's fault. What was not flushed is sent again when
        # the regular scan finds the run; the lease, should it still stand, runs out by itself.
        logger.warning("Run %d waits for the database.", run_id, exc_info=True)
        with contextlib.suppress(*DATABASE_AWAY):
            connection.close()
            ledger.close_slice(held)
        return NextStep()
    except Exception as error:
        ledger.close_slice(held)
        _note_failure(run_id, error)
        raise
    ledger.close_slice(held)
    return _conclude(run_id, result)


def _fetch(held: Slice) -> SliceResult:
    run = runs.note_first_send(held.run_id)
    assert run.deadline_at is not None  # noqa: S101 - set with the first send
    progress = _Progress(run)
    task = SliceTask(
        held=held,
        source_id=run.source_id,
        configuration=runs.configuration_of(run),
        redact=Redactor(unseal(run.source.sealed_secrets).values()),
        signs=Signs.of(run.signs),
        is_sweep=run.sweeps_done > 0,
        deadline_at=run.deadline_at,
        on_flush=progress.note,
    )
    # The slice's own thread has a connection of its own. One that lies idle here meanwhile may be
    # dead when it is needed again, and a server has only so many.
    connection.close()
    return work_on_slice(task)


class _Progress:
    """Keeps the run's signs and, about once a second, its progress event."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._reported_at = 0.0

    def note(self, signs: Signs) -> None:
        Run.objects.filter(pk=self._run.pk).exclude(state__in=FINAL_STATES).update(
            signs=signs.as_json()
        )
        if time.monotonic() - self._reported_at >= PROGRESS_SECONDS:
            runs.report_progress(self._run)
            self._reported_at = time.monotonic()


def _conclude(run_id: int, result: SliceResult) -> NextStep:
    if result.is_lease_lost:
        # Somebody else is at it, or it was ended: nothing that this slice saw counts any more.
        return NextStep()
    if result.block_reason:
        runs.block_run(run_id, reason=result.block_reason)
        return NextStep()
    if result.is_host_given_up:
        runs.give_up_host(run_id)
        return NextStep()
    if result.is_budget_down:
        return NextStep()  # the regular scan comes back to it
    return runs.advance_run(run_id)


def _note_failure(run_id: int, error: Exception) -> None:
    """An unexpected exception is in the error log; three in a row without an answer end the run."""
    with transaction.atomic():
        Run.objects.filter(pk=run_id).update(failures_in_a_row=F("failures_in_a_row") + 1)
        run = Run.objects.get(pk=run_id)
        ErrorLog.objects.create(
            error_type=type(error).__name__,
            message=f"A slice of run {run_id} failed: {type(error).__name__}",
            trace="".join(traceback.format_tb(error.__traceback__)),
            source_id=run.source_id,
            run=run,
            occurred_at=timezone.now(),
        )
    if run.failures_in_a_row >= runs.MAX_FAILURES_IN_A_ROW:
        runs.crash_run(run_id, reason=f"A slice failed three times: {type(error).__name__}")


def find_idle_runs() -> list[int]:
    """Active runs that want a slice now and have none that lives."""
    found = []
    for run_id in Run.objects.exclude(state__in=FINAL_STATES).values_list("pk", flat=True):
        try:
            if runs.advance_run(run_id).is_due and _has_room(run_id):
                found.append(run_id)
        except Run.DoesNotExist:
            continue
        except DATABASE_AWAY:
            raise
        except Exception:
            # One run that cannot be read must not keep all others from their workers.
            logger.exception("The scan cannot advance run %d.", run_id)
    return found


def _has_room(run_id: int) -> bool:
    live = Slice.objects.filter(run_id=run_id, expires_at__gte=timezone.now()).count()
    return live < settings.RUN_SLICES


def _worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
