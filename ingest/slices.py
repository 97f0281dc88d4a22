"""One turn of a worker on a run: lease, fetch, and decide what comes next."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import traceback
from collections.abc import Callable
from datetime import datetime

from django.core.exceptions import ImproperlyConfigured
from django.db import InterfaceError, InternalError, OperationalError, connection, transaction
from django.db.models import F
from django.utils import timezone

from ingest import hosts, ledger, runs
from ingest.configuration import SourceConfiguration
from ingest.errors import LeaseLost
from ingest.fetch.loop import Shared, SliceResult, SliceTask, work_on_slice
from ingest.fetch.rotation import describe_rests
from ingest.fetch.signs import Signs
from ingest.models import ErrorLog, Run, Slice
from ingest.outcomes import FINAL_STATES
from ingest.runs import NextStep
from ingest.secrets import Redactor, unseal

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0
# The most of a slice's time that may go into progress events.
PROGRESS_SHARE = 0.02
# How long a slice may work although another run waits for a worker.
SHORT_TURN_SECONDS = 5.0
# PostgreSQL says InternalError where it has ended the transaction of a worker that was paused.
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError)


def run_slice(run_id: int, *, call_helper: Callable[[], object] = lambda: None) -> NextStep:
    """Works on the run's due rows for a while. Does nothing where enough slices are at it.

    `call_helper` is called where a further worker may join right away.
    """
    step = runs.advance_run(run_id)
    if not step.is_due:
        return step
    held = runs.open_slice(run_id, worker=_worker_name())
    if held is None:
        return NextStep()
    try:
        if runs.wants_worker(run_id):
            call_helper()
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
    except ImproperlyConfigured as error:
        # This worker does not have the keys that the secrets were sealed with. Another may have
        # them, or this one after its restart: it is not the run's fault.
        logger.error("Run %d waits: %s", run_id, error)
        ledger.close_slice(held)
        runs.note_waiting(run_id, reason=str(error))
        return NextStep()
    except Exception as error:
        ledger.close_slice(held)
        _note_failure(run_id, error)
        raise
    ledger.close_slice(held)
    step = _conclude(run_id, result)
    hosts.leave_host(run_id)
    return step


def _fetch(held: Slice) -> SliceResult:
    run = runs.note_first_send(held.run_id)
    assert run.deadline_at is not None  # noqa: S101 - set with the first send
    configuration = runs.configuration_of(run)
    share = _Sharing(held, configuration, source_at=run.source.updated_at)
    task = SliceTask(
        held=held,
        source_id=run.source_id,
        configuration=configuration,
        redact=Redactor(unseal(run.source.sealed_secrets).values()),
        shared=share.begin(),
        is_sweep=run.sweeps_done > 0,
        deadline_at=run.deadline_at,
        share=share,
    )
    # The slice's own thread has a connection of its own. One that lies idle here meanwhile may be
    # dead when it is needed again, and a server has only so many.
    connection.close()
    return work_on_slice(task)


class _Sharing:
    """How the slices of a run tell each other what they see: through the run's row, under its lock.

    A slice that reports knows of everything that the others saw until their own last report; only
    up to the earliest of these is it certain what came between two answers.
    """

    def __init__(
        self, held: Slice, configuration: SourceConfiguration, *, source_at: datetime
    ) -> None:
        self._held = held
        # When the source was changed last, as of when the slice took its keys.
        self._source_at = source_at
        self._configuration = configuration
        self._began_at = time.monotonic()
        self._progress_seconds = PROGRESS_SECONDS

    def begin(self) -> Shared:
        with transaction.atomic():
            ledger.lock_run(self._held.run_id)
            ledger.renew_slice(self._held)
            return self(Signs(), time.time())

    def __call__(self, news: Signs, until: float) -> Shared:
        run = self._read_run()
        others = Slice.objects.filter(run=run, expires_at__gte=timezone.now()).exclude(
            pk=self._held.pk
        )
        signs = Signs.of(run.signs)
        is_outdated = run.source.updated_at != self._source_at
        if is_outdated:
            # Other keys or proxies, perhaps: the next slice has them. What the old ones were told
            # shuts nobody out any more.
            news = news.without_credentials()
        changes = describe_rests(signs.rests, news.rests)
        signs.absorb(news)
        signs.reports = {
            str(pk): signs.reports.get(str(pk), started_at.timestamp())
            for pk, started_at in others.values_list("pk", "started_at")
        }
        is_alone = not signs.reports
        signs.reports[str(self._held.pk)] = until
        signs.judge(self._configuration, at=until, until=min(signs.reports.values()))
        if is_progress_due := until - signs.progress_at >= self._progress_seconds:
            signs.progress_at = until
        run.signs = signs.as_json()
        run.save(update_fields=["signs"])
        for label, reason in changes:
            runs.note_rest(run, label=label, reason=reason)
        if is_progress_due:
            began = time.monotonic()
            runs.add_event(run)
            # It counts the ledger: the larger that is, the seldomer.
            took = time.monotonic() - began
            self._progress_seconds = max(PROGRESS_SECONDS, took / PROGRESS_SHARE)
        is_turn_over = is_outdated or self._is_turn_over()
        return Shared(signs=signs, is_alone=is_alone, is_turn_over=is_turn_over)

    def _read_run(self) -> Run:
        runs_with_source = Run.objects.select_related("source")
        return runs_with_source.only("signs", "source__updated_at").get(pk=self._held.run_id)

    def _is_turn_over(self) -> bool:
        """A run that no worker has time for gets this one soon, not after the whole slice."""
        has_had_turn = time.monotonic() - self._began_at >= SHORT_TURN_SECONDS
        return has_had_turn and runs.is_anybody_waiting(but=self._held.run_id)


def _conclude(run_id: int, result: SliceResult) -> NextStep:
    if result.is_lease_lost:
        # Somebody else is at it, or it was ended: nothing that this slice saw counts any more.
        return NextStep()
    if result.is_budget_down:
        return NextStep()  # the regular scan comes back to it
    if result.parked:
        runs.park_run(run_id, result.parked)
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
            if runs.advance_run(run_id).is_due and runs.wants_worker(run_id):
                found.append(run_id)
        except Run.DoesNotExist:
            continue
        except DATABASE_AWAY:
            raise
        except Exception:
            # One run that cannot be read must not keep all others from their workers.
            logger.exception("The scan cannot advance run %d.", run_id)
    return found


def _worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
